//! `simulate`: runs seeds, and replays one that failed.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool speaks on its standard output"
)]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use clap::Parser;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use unanimity_simulation::{Hits, Report, run, short, watch_panics};

/// Runs seeds of the deterministic simulation.
#[derive(Parser)]
#[command(name = "simulate")]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first one.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Only this one, with its whole trace.
    #[arg(long)]
    seed: Option<u64>,
    /// With `--seed`: prints what the nodes log too, on the standard error; a filter such as `info` or `debug`.
    #[arg(long, requires = "seed")]
    log: Option<String>,
    /// How many at once; as many as there are processors if not said.
    #[arg(long)]
    jobs: Option<usize>,
    /// Runs each so many times and compares the traces' hashes.
    #[arg(long, default_value_t = 1)]
    times: u64,
    /// Goes on after a failure.
    #[arg(long)]
    keep_going: bool,
    /// Prints each seed's hash.
    #[arg(long)]
    hashes: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    watch_panics();
    match arguments.seed {
        Some(seed) => {
            if let Some(filter) = &arguments.log {
                tracing_subscriber::fmt()
                    .with_env_filter(filter)
                    .with_timer(SimulatedTime::default())
                    .with_writer(std::io::stderr)
                    .init();
            }
            replay(seed)
        }
        None => seeds(&arguments),
    }
}

/// Seconds since the first line, as the trace counts them.
#[derive(Default)]
struct SimulatedTime(OnceLock<tokio::time::Instant>);

impl FormatTime for SimulatedTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        let now = tokio::time::Instant::now();
        write!(writer, "{:8.3}", (now - *self.0.get_or_init(|| now)).as_secs_f64())
    }
}

fn replay(seed: u64) -> ExitCode {
    let report = match run(seed, true) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("seed {seed}: {}", report.swarm);
    for line in &report.trace {
        println!("{line}");
    }
    println!("seed {seed}: {:?} simulated, trace {:016x}", report.simulated, report.hash);
    match &report.failure {
        None => ExitCode::SUCCESS,
        Some(why) => {
            println!("FAILED: {why}");
            ExitCode::FAILURE
        }
    }
}

struct Sum {
    hits: Hits,
    failed: Vec<u64>,
    done: u64,
}

fn seeds(arguments: &Arguments) -> ExitCode {
    let jobs = arguments
        .jobs
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let next = AtomicU64::new(arguments.from);
    let end = arguments.from + arguments.seeds;
    let sum = Mutex::new(Sum { hits: Hits::default(), failed: Vec::new(), done: 0 });
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let stop = || sum.lock().is_ok_and(|sum| !sum.failed.is_empty());
                    if seed >= end || (!arguments.keep_going && stop()) {
                        return;
                    }
                    one(seed, arguments, &sum);
                }
            });
        }
    });
    let Ok(sum) = sum.into_inner() else { return ExitCode::FAILURE };
    println!("\n{}", sum.hits.table());
    println!(
        "{} seeds from {} in {:.1} s, {} failed",
        sum.done,
        arguments.from,
        started.elapsed().as_secs_f64(),
        sum.failed.len()
    );
    for seed in sum.failed.iter().take(50) {
        println!("  replay: cargo xtask simulate --seed {seed}");
    }
    let missing = sum.hits.missing();
    // Fewer seeds than that need not meet everything.
    if sum.done >= 2_000 && !missing.is_empty() {
        for hit in &missing {
            println!("never met: {}", hit.words());
        }
        return ExitCode::FAILURE;
    }
    if sum.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(seed: u64, arguments: &Arguments, sum: &Mutex<Sum>) {
    let mut hash = None;
    for _ in 0..arguments.times.max(1) {
        let report = match run(seed, true) {
            Ok(report) => report,
            Err(error) => {
                eprintln!("seed {seed}: {error}");
                return;
            }
        };
        let same = *hash.get_or_insert(report.hash) == report.hash;
        let Ok(mut sum) = sum.lock() else { return };
        if arguments.hashes {
            println!("{seed} {:016x}", report.hash);
        }
        if !same {
            println!("seed {seed}: two runs, two traces");
            sum.failed.push(seed);
        } else if let Some(why) = &report.failure {
            tell(&report, why);
            sum.failed.push(seed);
        }
        sum.hits.merge(&report.hits);
        sum.done += 1;
    }
}

/// What people need first: the invariant, and what happened to the transaction last.
fn tell(report: &Report, why: &str) {
    println!("seed {} FAILED: {why}", report.seed);
    println!("  {}", report.swarm);
    let about = report.trace.iter().rev().find(|line| &*line.who == "FAIL").and_then(|line| line.xid);
    let lines: Vec<_> = report
        .trace
        .iter()
        .filter(|line| about.is_none() || line.xid.is_none() || line.xid == about)
        .collect();
    for line in &lines[lines.len().saturating_sub(40)..] {
        println!("  {line}");
    }
    let of = about.map(|xid| format!(" (of {})", short(xid))).unwrap_or_default();
    println!("  replay{of}: cargo xtask simulate --seed {}", report.seed);
}
