//! `cargo xtask bench`: Unanimity beside PostgreSQL alone and beside rivals, in one run.
//!
//! Machines differ, and one machine differs from itself an hour later. So nothing here is compared with a
//! figure from elsewhere: each round runs every subject once, in turn, and what counts is the ratio of the
//! medians. Each subject gets a database of its own, a new process and a warm-up, and shares the machine
//! with nothing but the load generator and PostgreSQL. docs/benchmarks.md has the method and the figures.

mod cluster;
mod load;
mod machine;
mod pgbench;
mod process;
mod report;
mod subject;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};

use self::cluster::Cluster;
use self::load::Load;
use self::report::Report;
use self::subject::{Log, Programs, Subject};
use crate::check::directions;
use crate::files;

/// Options of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often each subject runs; medians are taken.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=101), value_name = "N")]
    rounds: u32,
    /// Seconds that are measured of each run, after a warm-up of a third of that.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600), value_name = "S")]
    seconds: u32,
    /// Transactions under way at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=80), value_name = "N")]
    clients: u32,
    /// One short round: shows that everything works, not how fast.
    #[arg(long)]
    quick: bool,
    /// dtmrs, where it is not in PATH (`cargo install dtmrs`).
    #[arg(long, value_name = "PROGRAM")]
    dtmrs: Option<PathBuf>,
    /// A DTM server's binary.
    #[arg(long, value_name = "PROGRAM", requires = "dtm_sql")]
    dtm: Option<PathBuf>,
    /// The tables that DTM needs: sqls/dtmsvr.storage.postgres.sql of its sources.
    #[arg(long, value_name = "FILE", requires = "dtm")]
    dtm_sql: Option<PathBuf>,
    /// A built `unanimity` to measure, instead of building this checkout's.
    #[arg(long, value_name = "PROGRAM")]
    unanimity: Option<PathBuf>,
    /// Where PostgreSQL's and SQLite's files lie while it runs: on a disk, not in memory. `target` if not given.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Writes everything that was measured to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The kinds of run, in the order of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// pgbench with all clients: the yardstick of throughput.
    Inserts,
    /// pgbench with one client: the yardstick of latency.
    OneInsert,
    /// TCC with two attached branches on this log.
    Tcc(Log),
    /// The same, one client alone.
    OneTcc,
    /// The same at half of the rate that this round reached.
    HalfTcc,
    /// The same, all aborted: who waits for what.
    AbortedTcc,
    /// Two-step sagas with HTTP participants.
    Saga(Subject),
}

impl Kind {
    /// Its name in tables and JSON.
    fn name(self) -> String {
        match self {
            Self::Inserts => "pgbench".to_owned(),
            Self::OneInsert => "pgbench, 1 client".to_owned(),
            Self::Tcc(log) => format!("TCC, {}", log.name()),
            Self::OneTcc => "TCC, PostgreSQL, 1 client".to_owned(),
            Self::HalfTcc => "TCC, PostgreSQL, half rate".to_owned(),
            Self::AbortedTcc => "TCC, PostgreSQL, aborted".to_owned(),
            Self::Saga(subject) => format!("saga, {}", subject.name()),
        }
    }
}

/// Measures, prints the table and writes the file.
pub(crate) fn run(options: &Options) -> anyhow::Result<bool> {
    let target = target_directory()?;
    let programs = Programs {
        unanimity: match &options.unanimity {
            Some(program) => program.clone(),
            None => subject::build(&target)?,
        },
        dtmrs: options.dtmrs.clone().or_else(|| process::in_path("dtmrs")),
        dtm: options.dtm.clone().zip(options.dtm_sql.clone()),
    };
    let (rounds, seconds) = if options.quick { (1, 2) } else { (options.rounds, options.seconds) };
    let data = options.data_dir.clone().unwrap_or_else(|| target.clone());
    let cluster = Cluster::start(&data)?;
    let kinds = kinds(&programs);
    let mut report = Report::new(json!({
        "machine": machine::describe(cluster.home()),
        "postgresql": cluster.describe()?,
        "rounds": rounds,
        "seconds": seconds,
        "clients": options.clients,
        "programs": programs.describe(),
    }));
    println!("{}", report.head());
    let bench = Bench { cluster: &cluster, programs: &programs, seconds, clients: options.clients };
    for round in 1..=rounds {
        for kind in &kinds {
            let name = kind.name();
            let result =
                bench.run_one(*kind, &report, round).with_context(|| format!("round {round}, {name}"))?;
            println!("round {round}/{rounds}  {}", report::line(&name, &result));
            report.add(&name, result);
        }
    }
    println!("\n{}", report.text());
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&report.value())?)
            .with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(true)
}

fn kinds(programs: &Programs) -> Vec<Kind> {
    let mut kinds = vec![
        Kind::Inserts,
        Kind::OneInsert,
        Kind::Tcc(Log::Memory),
        Kind::Tcc(Log::Sqlite),
        Kind::Tcc(Log::Postgres),
        Kind::OneTcc,
        Kind::HalfTcc,
        Kind::AbortedTcc,
        Kind::Saga(Subject::Unanimity(Log::Postgres)),
    ];
    if programs.dtmrs.is_some() {
        kinds.push(Kind::Saga(Subject::Dtmrs));
    } else {
        println!("dtmrs is left out: it is not in PATH (cargo install dtmrs; --dtmrs PROGRAM)");
    }
    if programs.dtm.is_some() {
        kinds.push(Kind::Saga(Subject::Dtm));
    } else {
        println!("DTM is left out: --dtm PROGRAM and --dtm-sql FILE name it");
    }
    kinds
}

/// What the runs of one comparison share.
struct Bench<'a> {
    cluster: &'a Cluster,
    programs: &'a Programs,
    seconds: u32,
    clients: u32,
}

impl Bench<'_> {
    fn run_one(&self, kind: Kind, report: &Report, round: u32) -> anyhow::Result<Value> {
        // What others left dirty is not this one's to write.
        self.cluster.checkpoint()?;
        let database = self.cluster.create_database()?;
        let result = self.measure(kind, report, round, &database);
        self.cluster.drop_database(&database)?;
        result
    }

    fn measure(&self, kind: Kind, report: &Report, round: u32, database: &str) -> anyhow::Result<Value> {
        let postgres = Subject::Unanimity(Log::Postgres);
        let load = Load { clients: self.clients, ..Load::tcc(self.seconds) };
        match kind {
            Kind::Inserts => pgbench::run(self.cluster, database, self.clients, self.seconds),
            Kind::OneInsert => pgbench::run(self.cluster, database, 1, self.seconds),
            Kind::Tcc(log) => self.load(Subject::Unanimity(log), database, &load),
            Kind::OneTcc => self.load(postgres, database, &Load { clients: 1, ..load }),
            Kind::AbortedTcc => self.load(postgres, database, &Load { aborts: 100, ..load }),
            Kind::HalfTcc => {
                let most = report
                    .last(&Kind::Tcc(Log::Postgres).name(), &["per_second", "decided"])
                    .with_context(|| format!("round {round} has no rate to take half of"))?;
                self.load(postgres, database, &Load { rate: Some(half(most)), ..load })
            }
            Kind::Saga(subject) => self.load(subject, database, &Load { saga: true, ..load }),
        }
    }

    fn load(&self, subject: Subject, database: &str, load: &Load) -> anyhow::Result<Value> {
        let running = subject::start(subject, self.programs, self.cluster, database)?;
        let mut result = load.run(&self.programs.unanimity, &running, self.cluster.postmaster())?;
        subject::check_ends(subject, self.cluster, database, &mut result)?;
        Ok(result)
    }
}

/// Half of a rate, at least one in a second.
fn half(rate: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped, and a rate is no exact thing"
    )]
    let half = (rate / 2.0).clamp(1.0, 1_000_000.0) as u32;
    half
}

fn target_directory() -> anyhow::Result<PathBuf> {
    let metadata = directions::metadata(&files::root())?;
    match metadata["target_directory"].as_str() {
        Some(directory) => Ok(PathBuf::from(directory)),
        None => bail!("cargo metadata names no target directory"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_rate_is_one_at_least() {
        assert_eq!((half(0.0), half(9_001.0), half(f64::INFINITY)), (1, 4_500, 1_000_000));
    }
}
