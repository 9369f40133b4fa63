//! The story: a coordinator, banks in databases of different kinds, a teller, clients, and services that are killed in
//! the middle.

mod chaos;
mod clients;
mod plan;
mod report;
mod servers;
mod stack;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::audit::{Report, audit};
use crate::teller::{Outcome, named_url};

pub use chaos::Kill;
pub use clients::TransferStory;

/// How long everything may take to settle when the last transfer was answered.
const SETTLE_MAX: Duration = Duration::from_secs(90);

/// What the story is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How many transfers are ordered
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub transfers: u32,
    /// How many clients order at the same time
    #[arg(long, value_name = "C", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub concurrency: u32,
    /// How often a service is killed; by default twice, and once more for each 1,000 transfers, at most 8 times
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(0..=50))]
    pub kills: Option<u32>,
    /// Decides what is transferred, and what is killed when; random if not set
    #[arg(long)]
    pub seed: Option<u64>,
    /// A bank's database (postgres://… or mariadb://…), twice or more; without it servers are started
    #[arg(long = "database", value_name = "NAME=URL", value_parser = named_url)]
    pub databases: Vec<(String, String)>,
    /// Print one JSON object as the last line
    #[arg(long)]
    pub json: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { transfers: 300, concurrency: 8, kills: None, seed: None, databases: Vec::new(), json: false }
    }
}

/// What happened.
#[derive(Debug)]
pub struct Summary {
    /// The seed that it can be repeated with.
    pub seed: u64,
    /// The banks, and the kinds of their databases.
    pub banks: Vec<(String, &'static str)>,
    /// Every transfer, and what its client heard.
    pub transfers: Vec<TransferStory>,
    /// Every kill.
    pub kills: Vec<Kill>,
    /// What the databases say.
    pub report: Report,
    /// Transfers that the coordinator still has open.
    pub open_transactions: usize,
    /// Clients who were told something else than what happened.
    pub contradictions: Vec<String>,
    /// From the first transfer to the last answer.
    pub ordering: Duration,
    /// From the first transfer until everything was settled.
    pub elapsed: Duration,
}

impl Summary {
    /// How many transfers ended so.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.transfers.iter().filter(|story| story.outcome == outcome).count()
    }

    /// Whether the databases add up, and every client was told the truth.
    #[must_use]
    pub fn invariants_held(&self) -> bool {
        self.report.violations.is_empty() && self.contradictions.is_empty()
    }

    /// What is not settled: transfers without an outcome, open or still prepared somewhere.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.count(Outcome::Unknown).max(self.open_transactions).max(self.report.prepared())
    }
}

/// Runs the story and prints what happened; fails if something does not add up.
///
/// # Errors
/// If the story could not be told to its end.
pub async fn run_and_print(options: Options) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find this program to start it again")?;
    let json = options.json;
    let summary = tokio::select! {
        summary = run(options, &program) => summary?,
        // Dropping the story kills the services and servers that it started.
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

/// Runs the story, with the services as processes of `program`: this package's binary `bank-transfer`.
///
/// # Errors
/// If something could not be started.
pub async fn run(options: Options, program: &Path) -> anyhow::Result<Summary> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let directory = tempfile::Builder::new().prefix("bank-transfer-").tempdir()?;
    let databases = servers::Databases::open(&options.databases).await?;
    let banks = databases.kinds();
    if !options.json {
        report::print_beginning(&options, &banks);
    }
    let mut stack = stack::Stack::start(directory.path(), program, &databases.urls).await?;

    let started = Instant::now();
    let names: Vec<String> = banks.iter().map(|(name, _)| name.clone()).collect();
    let plan = plan::Plan::new(seed, &names, options.transfers, options.kills);
    let clients = clients::Clients::new(&stack.teller_url(), plan.transfers, options.concurrency)?;
    // Both at once; the chaos watches how far the clients are.
    let (transfers, kills) =
        tokio::join!(clients.run(), chaos::run(&mut stack, &plan.kills, clients.progress()));
    let kills = kills?;
    let ordering = started.elapsed();

    let (report, open_transactions) = settle(&stack, &databases.urls).await?;
    let elapsed = started.elapsed();
    let contradictions = clients::contradictions(&transfers, &report.whole);
    stack.stop().await?;
    Ok(Summary {
        seed,
        banks,
        transfers,
        kills,
        report,
        open_transactions,
        contradictions,
        ordering,
        elapsed,
    })
}

/// Waits until nothing is under way any more, or too long.
async fn settle(stack: &stack::Stack, databases: &[(String, String)]) -> anyhow::Result<(Report, usize)> {
    let end = Instant::now() + SETTLE_MAX;
    loop {
        let open = stack.open_transactions().await?;
        let report = audit(databases, stack.log()).await?;
        if open == 0 && report.prepared() == 0 || Instant::now() >= end {
            return Ok((report, open));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
