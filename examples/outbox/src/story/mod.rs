//! The story: a coordinator, a shop, two relays, a warehouse, customers, and what breaks in the middle.

mod chaos;
mod customers;
mod letters;
mod plan;
mod report;
mod stack;
mod vouchers;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::check::{Report, check};
use crate::relay::Dead;

pub use chaos::Kill;
pub use customers::{Answer, OrderStory};
pub use stack::{Member, Stack};
pub use vouchers::{VoucherStory, Way};

/// How long everything may take to settle when the last order was answered.
const SETTLE_MAX: Duration = Duration::from_secs(90);

/// What the story is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How many orders are placed
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub orders: u32,
    /// How many customers order at the same time
    #[arg(long, value_name = "C", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub concurrency: u32,
    /// How often a process is killed: the shop, a relay, the warehouse, in turn
    #[arg(long, value_name = "K", default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=50))]
    pub kills: u32,
    /// Decides what is ordered, and what is killed when; random if not set
    #[arg(long)]
    pub seed: Option<u64>,
    /// Keep all databases in this new or empty directory
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// The shop's database instead of a SQLite file: postgres://… or mysql://… (then without vouchers)
    #[arg(long, value_name = "URL")]
    pub shop_database_url: Option<String>,
    /// The warehouse's database instead of a SQLite file: postgres://…
    #[arg(long, value_name = "URL")]
    pub warehouse_database_url: Option<String>,
    /// Print one JSON object as the last line
    #[arg(long)]
    pub json: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            orders: 300,
            concurrency: 4,
            kills: 4,
            seed: None,
            keep: None,
            shop_database_url: None,
            warehouse_database_url: None,
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
    /// The dead letters as they were found; they were replayed after that.
    pub dead: Vec<Dead>,
    /// The vouchers; none if the shop's database can hold no fence.
    pub vouchers: Vec<VoucherStory>,
    /// What the two databases say.
    pub report: Report,
    /// Messages that are not delivered.
    pub undelivered: u64,
    /// Customers who were told something else than what happened.
    pub contradictions: Vec<String>,
    /// From the first order until everything was settled.
    pub elapsed: Duration,
    /// Where the databases are, if they are kept.
    pub kept: Option<PathBuf>,
}

impl Summary {
    /// How many orders were answered so.
    #[must_use]
    pub fn count(&self, answer: Answer) -> usize {
        self.orders.iter().filter(|order| order.answer == answer).count()
    }

    /// Whether each message took effect once and in its turn, none was made up, and every customer was
    /// told the truth.
    #[must_use]
    pub fn held(&self) -> bool {
        self.report.held() && self.contradictions.is_empty()
    }

    /// What is not settled.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        let missing = u64::try_from(self.report.missing).unwrap_or(u64::MAX);
        let unknown = u64::try_from(self.count(Answer::Unknown)).unwrap_or(u64::MAX);
        self.undelivered.max(missing).max(unknown)
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
        summary = run(options, &program) => summary?,
        // Dropping the story kills the services that it started.
        // 130 is what shells report for an interrupted process.
        _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(130)),
    };
    if json {
        report::print_json(&summary);
    } else {
        report::print(&summary);
    }
    let well = summary.held() && summary.unfinished() == 0;
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the story. `program` is this package's binary: the services are children of its own kind.
///
/// # Errors
/// If something could not be started.
pub async fn run(options: Options, program: &Path) -> anyhow::Result<Summary> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let (directory, _temporary) = directory(options.keep.as_deref())?;
    let mut stack = Stack::start(&directory, &options, program).await?;

    let started = Instant::now();
    let plan = plan::Plan::new(seed, options.orders, options.kills);
    let customers = customers::Customers::new(&stack.url(Member::Shop), plan.orders, options.concurrency)?;
    // Both at once; the chaos watches how far the customers are.
    let (orders, kills) =
        tokio::join!(customers.run(), chaos::run(&mut stack, &plan.kills, customers.progress()));
    let (orders, kills) = (orders?, kills?);

    let mut undelivered = letters::settle(&stack, SETTLE_MAX).await?;
    let dead = letters::mend(&stack).await?;
    if !dead.is_empty() {
        undelivered = letters::settle(&stack, SETTLE_MAX).await?;
    }
    let vouchers = if stack.has_vouchers() { vouchers::issue(&mut stack).await? } else { Vec::new() };
    let elapsed = started.elapsed();

    let replayed: BTreeSet<String> = dead.iter().map(|letter| letter.id.to_string()).collect();
    let [shop_db, warehouse_db] = stack.database_urls();
    let report = check(shop_db, warehouse_db, &replayed).await?;
    let contradictions = customers::contradictions(&orders, &stack).await?;
    stack.stop().await?;
    let kept = options.keep;
    Ok(Summary { seed, orders, kills, dead, vouchers, report, undelivered, contradictions, elapsed, kept })
}

/// The directory for all databases, and what deletes it in the end if nobody wants it.
fn directory(keep: Option<&Path>) -> anyhow::Result<(PathBuf, Option<tempfile::TempDir>)> {
    let Some(keep) = keep else {
        let temporary = tempfile::Builder::new().prefix("outbox-example-").tempdir()?;
        return Ok((temporary.path().to_owned(), Some(temporary)));
    };
    std::fs::create_dir_all(keep).with_context(|| format!("cannot make {}", keep.display()))?;
    if std::fs::read_dir(keep)?.next().is_some() {
        // What is in it would be counted too.
        bail!("{} is not empty; give --keep a new directory", keep.display());
    }
    Ok((keep.canonicalize()?, None))
}
