//! What to measure: the options of `unanimity bench`, and their bounds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::error::OptionError;
use crate::stamp::{PAYLOAD_BYTES_MIN, Stamp};

/// Branches of one transaction: what the growth tests ask for.
const BRANCHES_MAX: u32 = 64;
/// Transactions under way at once, and those that an open loop lets pile up.
pub(crate) const CONCURRENCY_MAX: u32 = 65_536;
/// Far above what one machine begins.
const RATE_MAX: u32 = 1_000_000;
/// The coordinator's own limit.
const PAYLOAD_BYTES_MAX: u32 = 1_048_576;
/// Transactions that are left pending before the load: as many as the largest growth test asks for.
const BURDEN_MAX: u32 = 1_000_000;
/// A day: beyond it is no measurement but a service.
const SECONDS_MAX: f64 = 86_400.0;
/// More processes than a machine for measuring has cores.
const GENERATORS_MAX: u32 = 64;
/// Connections of one generator.
const CONNECTIONS_MAX: u32 = 64;
/// Processes whose time is counted: a handful have names.
const CPU_MAX: usize = 16;

/// What the transactions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// Begin, register the branches, commit naming their votes; each gets its confirm.
    Tcc,
    /// Submit a saga of steps one after another, wait until it is finished.
    Saga,
    /// As tcc, with branches that are prepared before they vote.
    TwoPhase,
    /// Prepare a message to several receivers, submit it; each gets its delivery.
    Message,
}

/// How participants are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Over the session that they opened.
    Attached,
    /// By gRPC, at an address.
    Grpc,
    /// By HTTP, at a URL.
    Http,
}

/// Whose API the load speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Product {
    /// Unanimity's, by its SDK.
    Unanimity,
    /// DTM's HTTP API, which others speak too. For comparisons: sagas with HTTP participants.
    Dtm,
}

impl Product {
    /// Its name in the result.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unanimity => "unanimity",
            Self::Dtm => "dtm",
        }
    }
}

/// Where the participants' branches write to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Database {
    /// Nowhere.
    None,
    /// A SQLite file: its path.
    Sqlite(String),
    /// A PostgreSQL database: its URL.
    Postgres(String),
}

impl Database {
    /// What it is, without a path or a password.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }
}

impl FromStr for Database {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self::None);
        }
        match text.split_once(':') {
            Some(("sqlite", path)) if !path.is_empty() => Ok(Self::Sqlite(path.to_owned())),
            Some(("postgres" | "postgresql", rest)) if rest.starts_with("//") => {
                Ok(Self::Postgres(text.to_owned()))
            }
            Some(("postgres", url)) if !url.is_empty() => Ok(Self::Postgres(url.to_owned())),
            _ => Err("it is none, sqlite:PATH or postgres:URL".to_owned()),
        }
    }
}

/// A process whose CPU time is counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuOf {
    /// What it is called in the result: `coordinator` and `database` have places of their own.
    pub name: String,
    /// Its process id; its children count too.
    pub pid: u32,
}

impl FromStr for CpuOf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || "it is NAME=PID, for example database=4711".to_owned();
        let (name, pid) = text.split_once('=').ok_or_else(wrong)?;
        let pid: u32 = pid.parse().map_err(|_| wrong())?;
        let fits = !name.is_empty() && name.len() <= 32 && name.chars().all(|c| c.is_ascii_alphanumeric());
        if !fits || pid == 0 {
            return Err(wrong());
        }
        if matches!(name, "generator" | "participants") {
            return Err(format!("{name} is counted anyway"));
        }
        Ok(Self { name: name.to_owned(), pid })
    }
}

impl fmt::Display for CpuOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.pid)
    }
}

/// What to measure.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct Options {
    /// The coordinator to measure.
    #[arg(
        long,
        visible_alias = "addr",
        env = "UNANIMITY_ADDR",
        default_value = "http://127.0.0.1:7460",
        value_name = "URL"
    )]
    pub coordinator: String,
    /// What answers there: for comparisons with products that speak DTM's HTTP API.
    #[arg(long, value_enum, default_value_t = Product::Unanimity)]
    pub driver: Product,
    /// What the transactions are.
    #[arg(long, value_enum, default_value_t = Workload::Tcc)]
    pub mode: Workload,
    /// Branches, steps or receivers of each transaction.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub branches: u32,
    /// How the coordinator reaches the participants, which run in a process of their own.
    #[arg(long, value_enum, default_value_t = Reach::Attached)]
    pub participants: Reach,
    /// What the participants write to, through the SDK's fence: none, sqlite:PATH or postgres:URL.
    #[arg(long, default_value = "none", value_name = "DATABASE")]
    pub database: Database,
    /// Participants that the branches are spread over; as many as branches, at most 8, if not given.
    #[arg(long, value_name = "N")]
    pub services: Option<u32>,
    /// Closed loop: so many transactions are under way at every moment, all generators together.
    #[arg(long, default_value_t = 64, value_name = "N", conflicts_with = "rate")]
    pub concurrency: u32,
    /// Open loop: so many transactions begin each second, whatever became of the ones before. Latencies
    /// count from the moment when they were to begin, so that a stall is seen in all that it held up.
    #[arg(long, value_name = "PER SECOND")]
    pub rate: Option<u32>,
    /// Bytes of each branch's payload.
    #[arg(long, default_value_t = 64, value_name = "BYTES")]
    pub payload: u32,
    /// Of a hundred transactions so many abort: by their own manager, or by the last step's refusal.
    #[arg(long, default_value_t = 0, value_name = "PERCENT")]
    pub aborts: u32,
    /// Before the load begins so many transactions are left pending, committed, at 1,000 participants that are
    /// away. They stay: for a coordinator that is thrown away afterwards.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub stuck: u32,
    /// Before the load begins so many transactions are left pending at a participant that takes 10 s for each
    /// operation, of which it does 1,024 at once.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub slow: u32,
    /// Registers the branches one after another instead of all at once.
    #[arg(long)]
    pub sequential: bool,
    /// Seconds before the measured time, under the same load.
    #[arg(long, default_value_t = 3.0, value_name = "S")]
    pub warm_up: f64,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10.0, value_name = "S")]
    pub duration: f64,
    /// Seconds to wait at the end for what is under way. What is not finished then counts as unfinished.
    #[arg(long, default_value_t = 30.0, value_name = "S")]
    pub drain: f64,
    /// Processes that generate load.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub generators: u32,
    /// Connections to the coordinator of each generator.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub connections: u32,
    /// Counts the CPU time of a process and its children, for example database=PID. May be repeated.
    #[arg(long = "cpu", value_name = "NAME=PID")]
    pub cpu: Vec<CpuOf>,
}

impl Options {
    /// Checks that the options fit together and are within their bounds.
    ///
    /// # Errors
    /// [`OptionError`] names the option and what it may be.
    pub fn check(&self) -> Result<(), OptionError> {
        within("--branches", self.branches, 1, BRANCHES_MAX)?;
        if let Some(services) = self.services {
            within("--services", services, 1, self.branches)?;
        }
        within("--concurrency", self.concurrency, 1, CONCURRENCY_MAX)?;
        if let Some(rate) = self.rate {
            within("--rate", rate, 1, RATE_MAX)?;
        }
        within("--payload", self.payload, 0, PAYLOAD_BYTES_MAX)?;
        within("--aborts", self.aborts, 0, 100)?;
        within("--stuck", self.stuck, 0, BURDEN_MAX)?;
        within("--slow", self.slow, 0, BURDEN_MAX)?;
        within("--generators", self.generators, 1, GENERATORS_MAX)?;
        within("--connections", self.connections, 1, CONNECTIONS_MAX)?;
        seconds("--warm-up", self.warm_up, 0.0)?;
        seconds("--duration", self.duration, 0.1)?;
        seconds("--drain", self.drain, 0.0)?;
        let load = self.rate.unwrap_or(self.concurrency);
        if load < self.generators {
            return Err(OptionError(format!(
                "--generators {}: each needs at least one transaction at once, or one each second; there are {load}",
                self.generators
            )));
        }
        if self.cpu.len() > CPU_MAX {
            return Err(OptionError(format!("--cpu: at most {CPU_MAX} processes")));
        }
        for (place, cpu) in self.cpu.iter().enumerate() {
            if self.cpu[..place].iter().any(|known| known.name == cpu.name) {
                return Err(OptionError(format!("--cpu: {} is there twice", cpu.name)));
            }
        }
        if !self.coordinator.starts_with("http://") {
            return Err(OptionError(format!(
                "--coordinator {:?}: it is a URL such as http://127.0.0.1:7460",
                self.coordinator
            )));
        }
        let is_compared = self.mode == Workload::Saga && self.participants == Reach::Http && self.aborts == 0;
        if self.driver == Product::Dtm && (self.stuck > 0 || self.slow > 0) {
            return Err(OptionError("--stuck, --slow: not with --driver dtm".to_owned()));
        }
        if self.driver == Product::Dtm && !is_compared {
            return Err(OptionError(
                "--driver dtm: it goes with --mode saga --participants http, and no --aborts".to_owned(),
            ));
        }
        self.check_database()
    }

    fn check_database(&self) -> Result<(), OptionError> {
        let with_database = self.database != Database::None;
        if with_database && self.participants == Reach::Http {
            return Err(OptionError(
                "--database: participants with a database use the SDK, which is attached or called by gRPC; \
                 not --participants http"
                    .to_owned(),
            ));
        }
        if with_database && self.mode == Workload::TwoPhase {
            return Err(OptionError(
                "--database: the participants of --mode two-phase write nothing; use another mode".to_owned(),
            ));
        }
        if with_database && !Stamp::fits(self.payload_bytes()) {
            return Err(OptionError(format!(
                "--database: its participants read in the payload when a transaction began; --payload {PAYLOAD_BYTES_MIN} \
                 or more"
            )));
        }
        Ok(())
    }

    /// Participants that the branches are spread over.
    pub(crate) fn services(&self) -> u32 {
        /// A session each: more than that many services are rarely called for one request.
        const SERVICES: u32 = 8;
        self.services.unwrap_or(self.branches.min(SERVICES))
    }

    pub(crate) fn payload_bytes(&self) -> usize {
        usize::try_from(self.payload).unwrap_or(usize::MAX)
    }

    /// How long the coordinator may need at the end.
    pub(crate) fn drain_for(&self) -> Duration {
        Duration::from_secs_f64(self.drain)
    }

    /// The part of the load that a generator takes: shares differ by one at most.
    pub(crate) fn share(&self, generator: u32) -> Self {
        let part = |whole: u32| whole / self.generators + u32::from(generator < whole % self.generators);
        Self { concurrency: part(self.concurrency), rate: self.rate.map(part), ..self.clone() }
    }
}

fn within(option: &str, value: u32, least: u32, most: u32) -> Result<(), OptionError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(OptionError(format!("{option} {value}: it is {least} to {most}")))
}

fn seconds(option: &str, value: f64, least: f64) -> Result<(), OptionError> {
    if value >= least && value <= SECONDS_MAX {
        return Ok(());
    }
    Err(OptionError(format!("{option} {value}: it is {least} to {SECONDS_MAX} seconds")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parse(line: &str) -> Result<Options, String> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        let options = Line::try_parse_from(words).map_err(|error| error.to_string())?.options;
        options.check().map_err(|error| error.to_string())?;
        Ok(options)
    }

    #[test]
    fn defaults_fit() {
        let options = parse("").expect("good");
        assert_eq!((options.branches, options.services(), options.concurrency), (2, 2, 64));
        assert_eq!(parse("--branches 64").expect("good").services(), 8);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (line, part) in [
            ("--branches 0", "--branches 0: it is 1 to 64"),
            ("--branches 65", "--branches 65"),
            ("--branches 2 --services 3", "--services 3: it is 1 to 2"),
            ("--concurrency 0", "--concurrency 0"),
            ("--stuck 1000001", "--stuck 1000001: it is 0 to 1000000"),
            ("--driver dtm --mode saga --participants http --slow 1", "not with --driver dtm"),
            ("--rate 0", "--rate 0"),
            ("--rate 10 --concurrency 5", "cannot be used with"),
            ("--payload 1048577", "--payload 1048577: it is 0 to 1048576"),
            ("--aborts 101", "--aborts 101: it is 0 to 100"),
            ("--duration 0", "--duration 0: it is 0.1 to 86400 seconds"),
            ("--duration NaN", "--duration NaN"),
            ("--warm-up=-1", "--warm-up -1: it is 0 to 86400 seconds"),
            ("--generators 3 --concurrency 2", "--generators 3"),
            ("--connections 65", "--connections 65"),
            ("--coordinator ftp://x", "--coordinator \"ftp://x\""),
            ("--mode xa", "--mode"),
            ("--driver dtm", "--mode saga --participants http"),
            ("--driver dtm --mode saga --participants http --aborts 1", "no --aborts"),
            ("--database mysql:x", "none, sqlite:PATH or postgres:URL"),
            ("--database sqlite:x --participants http", "not --participants http"),
            ("--database sqlite:x --mode two-phase", "use another mode"),
            ("--database sqlite:x --payload 16", "--payload 17 or more"),
            ("--cpu database", "NAME=PID"),
            ("--cpu generator=3", "counted anyway"),
            ("--cpu a=3 --cpu a=4", "a is there twice"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn databases_are_read() {
        for (text, database) in [
            ("none", Database::None),
            ("sqlite:a.db", Database::Sqlite("a.db".into())),
            ("postgres:postgres://u@h/d", Database::Postgres("postgres://u@h/d".into())),
            ("postgres://u@h/d", Database::Postgres("postgres://u@h/d".into())),
        ] {
            assert_eq!(text.parse(), Ok(database));
        }
    }

    #[test]
    fn the_load_is_shared_wholly() {
        let options = parse("--rate 1000 --generators 3").expect("good");
        let rates: Vec<_> = (0..3).filter_map(|n| options.share(n).rate).collect();
        assert_eq!(rates, [334, 333, 333]);
    }
}
