//! The story: a coordinator, four services, customers, a service that is killed in the middle, and a compensation
//! that somebody has to mend by hand.

mod chaos;
mod customers;
mod mend;
mod plan;
mod report;
mod stack;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use unanimity_sdk::Xid;

use crate::agency::Outcome;
use crate::invariants::{Report, check_invariants};

pub use chaos::Kill;
pub use customers::TripStory;
pub use mend::Mended;
pub use stack::{Launch, Stack};

/// How long everything may take to settle when the last trip was answered.
const SETTLE_MAX: Duration = Duration::from_secs(90);

/// What the story is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How many trips are booked, besides the one that is mended by hand
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub trips: u32,
    /// How many customers book at the same time
    #[arg(long, value_name = "C", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub concurrency: u32,
    /// How often a service is killed; by default once, and once more for each 1,000 trips, at most 5 times
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(0..=50))]
    pub kills: Option<u32>,
    /// Decides what is booked, and what is killed when; random if not set
    #[arg(long)]
    pub seed: Option<u64>,
    /// Keep all databases in this new or empty directory
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Print one JSON object as the last line
    #[arg(long)]
    pub json: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { trips: 60, concurrency: 4, kills: None, seed: None, keep: None, json: false }
    }
}

/// What happened.
#[derive(Debug)]
pub struct Summary {
    /// The seed that it can be repeated with.
    pub seed: u64,
    /// Every trip, and what its customer heard.
    pub trips: Vec<TripStory>,
    /// The trip that was mended by hand; it is in the report, and not in `trips`.
    pub mended: Mended,
    /// Every kill.
    pub kills: Vec<Kill>,
    /// What the four databases say.
    pub report: Report,
    /// Sagas that the coordinator still has open.
    pub open_transactions: usize,
    /// Customers who were told something else than what happened.
    pub contradictions: Vec<String>,
    /// From the first trip to the last answer.
    pub booking: Duration,
    /// From the first trip until everything was settled.
    pub elapsed: Duration,
    /// Where the databases are, if they are kept.
    pub kept: Option<PathBuf>,
}

impl Summary {
    /// How many trips ended so.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.trips.iter().filter(|story| story.outcome == outcome).count()
    }

    /// Whether the databases add up, and every customer was told the truth.
    #[must_use]
    pub fn invariants_held(&self) -> bool {
        self.report.held()
            && self.contradictions.is_empty()
            && self.count(Outcome::Booked) <= self.report.complete
    }

    /// What is not settled: trips without an outcome, or neither complete nor undone.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.count(Outcome::Unknown).max(self.report.under_way.len()).max(self.open_transactions)
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
/// If something could not be started, or the compensation that is to be mended did not fail.
pub async fn run(options: Options, launch: Launch) -> anyhow::Result<Summary> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let (directory, _temporary) = directory(options.keep.as_deref())?;
    let mut stack = Stack::start(&directory, launch, options.trips).await?;

    let started = Instant::now();
    let plan = plan::Plan::new(seed, options.trips, options.kills);
    let customers = customers::Customers::new(&stack.agency_url(), plan.trips, options.concurrency)?;
    // First, while there are seats; what stays parked must survive all that follows.
    let stubborn = plan::stubborn();
    let turned = customers.book(&stubborn).await;
    if turned.outcome != Outcome::TurnedBack {
        bail!("a trip without money was {:?}: {}", turned.outcome, turned.reason);
    }
    // Both at once; the chaos watches how far the customers are.
    let (trips, kills) =
        tokio::join!(customers.run(), chaos::run(&mut stack, &plan.kills, customers.progress()));
    let kills = kills?;
    let booking = started.elapsed();

    let mended = mend::mend(&stack, Xid::new(stubborn.id.unwrap_or_default())).await?;
    let (report, open_transactions) = settle(&stack).await?;
    let elapsed = started.elapsed();
    let contradictions = customers::contradictions(&trips, &stack).await?;
    stack.stop().await?;
    Ok(Summary {
        seed,
        trips,
        mended,
        kills,
        report,
        open_transactions,
        contradictions,
        booking,
        elapsed,
        kept: options.keep,
    })
}

/// Waits until nothing is under way any more, or too long.
async fn settle(stack: &Stack) -> anyhow::Result<(Report, usize)> {
    let end = Instant::now() + SETTLE_MAX;
    loop {
        let open = stack.open_transactions().await?;
        if open == 0 || Instant::now() >= end {
            return Ok((check_invariants(stack.database_urls()).await?, open));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The directory for all databases, and what deletes it in the end if nobody wants it.
fn directory(keep: Option<&Path>) -> anyhow::Result<(PathBuf, Option<tempfile::TempDir>)> {
    let Some(keep) = keep else {
        let temporary = tempfile::Builder::new().prefix("trip-saga-").tempdir()?;
        return Ok((temporary.path().to_owned(), Some(temporary)));
    };
    std::fs::create_dir_all(keep).with_context(|| format!("cannot make {}", keep.display()))?;
    if std::fs::read_dir(keep)?.next().is_some() {
        // What is in it would be counted too.
        bail!("{} is not empty; give --keep a new directory", keep.display());
    }
    Ok((keep.canonicalize()?, None))
}
