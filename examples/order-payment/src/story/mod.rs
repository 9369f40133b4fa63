//! The story: a coordinator, three services, customers, and something that breaks in the middle.

mod chaos;
mod customers;
mod plan;
mod report;
mod stack;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::invariants::{Report, check_invariants};
use crate::order::Outcome;

pub use chaos::Kill;
pub use customers::{Ending, OrderStory};
pub use stack::{Launch, Stack};

/// How long everything may take to settle when the last order was answered.
const SETTLE_MAX: Duration = Duration::from_secs(90);

/// What the story is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How many orders are placed
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub orders: u32,
    /// How many customers order at the same time
    #[arg(long, value_name = "C", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub concurrency: u32,
    /// How often a service is killed; by default once, and once more for each 1,000 orders, at most 5 times
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(0..=50))]
    pub kills: Option<u32>,
    /// Decides what is ordered, and what is killed when; random if not set
    #[arg(long)]
    pub seed: Option<u64>,
    /// Keep all databases in this new or empty directory
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// PostgreSQL databases instead of SQLite files: postgres://…/shop_{service}, where {service} becomes
    /// order, payment and inventory
    #[arg(long, value_name = "URL", value_parser = database_urls)]
    pub database_url: Option<String>,
    /// Print one JSON object as the last line
    #[arg(long)]
    pub json: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            orders: 60,
            concurrency: 4,
            kills: None,
            seed: None,
            keep: None,
            database_url: None,
            json: false,
        }
    }
}

/// What happened.
#[derive(Debug)]
pub struct Summary {
    /// The seed that it can be repeated with.
    pub seed: u64,
    /// Every order, and what its customer heard.
    pub orders: Vec<OrderStory>,
    /// Every kill.
    pub kills: Vec<Kill>,
    /// What the three databases say.
    pub report: Report,
    /// Transactions that the coordinator still has open.
    pub open_transactions: usize,
    /// Customers who were told something else than what happened.
    pub contradictions: Vec<String>,
    /// From the first order to the last answer.
    pub placing: Duration,
    /// From the first order until everything was settled.
    pub elapsed: Duration,
    /// Where the databases are, if they are kept.
    pub kept: Option<PathBuf>,
}

impl Summary {
    /// How many orders ended so.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.orders.iter().filter(|order| order.ending.outcome == outcome).count()
    }

    /// Whether stock and money add up, and every customer was told the truth.
    #[must_use]
    pub fn invariants_held(&self) -> bool {
        self.report.held() && self.contradictions.is_empty()
    }

    /// What is not settled: orders without an outcome, or with parts under way.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        let under_way = usize::try_from(self.report.open_fence_rows()).unwrap_or(usize::MAX);
        self.count(Outcome::Unknown).max(self.report.unfinished).max(self.open_transactions).max(under_way)
    }
}

/// Runs the story and prints what happened; fails if something does not add up.
///
/// # Errors
/// If the story could not be told to its end.
pub async fn run_and_print(options: Options) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find this program to start it again")?;
    let json = options.json;
    if !json {
        report::print_beginning(&options);
    }
    let summary = tokio::select! {
        summary = run(options, Launch::Processes(program)) => summary?,
        // Dropping the story kills the services that it started.
        // 130 is what shells report for an interrupted process.
        _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(130)),
    };
    if json {
        report::print_json(&summary);
    } else {
        report::print(&summary);
    }
    let well = summary.invariants_held() && summary.unfinished() == 0;
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the story.
///
/// # Errors
/// If something could not be started.
pub async fn run(options: Options, launch: Launch) -> anyhow::Result<Summary> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let (directory, _temporary) = directory(options.keep.as_deref())?;
    let mut stack = Stack::start(&directory, options.database_url.as_deref(), launch, options.orders).await?;

    let started = Instant::now();
    let plan = plan::Plan::new(seed, options.orders, options.kills);
    let customers = customers::Customers::new(&stack.order_url(), plan.orders, options.concurrency)?;
    // Both at once; the chaos watches how far the customers are.
    let (orders, kills) =
        tokio::join!(customers.run(), chaos::run(&mut stack, &plan.kills, customers.progress()));
    let (orders, kills) = (orders?, kills?);
    let placing = started.elapsed();

    let (report, open_transactions) = settle(&stack).await?;
    let elapsed = started.elapsed();
    let contradictions = customers::contradictions(&orders, &stack).await?;
    stack.stop().await?;
    Ok(Summary {
        seed,
        orders,
        kills,
        report,
        open_transactions,
        contradictions,
        placing,
        elapsed,
        kept: options.keep,
    })
}

/// Waits until nothing is under way any more, or too long.
async fn settle(stack: &Stack) -> anyhow::Result<(Report, usize)> {
    let end = Instant::now() + SETTLE_MAX;
    loop {
        let [order, payment, inventory] = stack.database_urls();
        let report = check_invariants(order, payment, inventory).await?;
        let open = stack.open_transactions().await?;
        if (report.settled() && open == 0) || Instant::now() >= end {
            return Ok((report, open));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Checks `--database-url`.
fn database_urls(url: &str) -> Result<String, String> {
    if url.contains("{service}") {
        Ok(url.to_owned())
    } else {
        Err("each service needs a database of its own: put {service} into the URL".to_owned())
    }
}

/// The directory for all databases, and what deletes it in the end if nobody wants it.
fn directory(keep: Option<&std::path::Path>) -> anyhow::Result<(PathBuf, Option<tempfile::TempDir>)> {
    let Some(keep) = keep else {
        let temporary = tempfile::Builder::new().prefix("order-payment-").tempdir()?;
        return Ok((temporary.path().to_owned(), Some(temporary)));
    };
    std::fs::create_dir_all(keep).with_context(|| format!("cannot make {}", keep.display()))?;
    if std::fs::read_dir(keep)?.next().is_some() {
        // What is in it would be counted too.
        bail!("{} is not empty; give --keep a new directory", keep.display());
    }
    Ok((keep.canonicalize()?, None))
}
