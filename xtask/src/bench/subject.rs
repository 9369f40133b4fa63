//! The products that are compared: each a server process of its own, with its own defaults.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::process::{Server, answers, finish, free_port};
use crate::cargo::cargo;
use crate::files;

const READY_MAX: Duration = Duration::from_secs(60);
const MIGRATE_MAX: Duration = Duration::from_secs(60);
/// A release build of everything on a small machine.
const BUILD_MAX: Duration = Duration::from_secs(3_600);
/// What a rival may take at the end to finish what was submitted.
const ENDS_MAX: Duration = Duration::from_secs(60);

/// Where Unanimity's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Log {
    Memory,
    Sqlite,
    Postgres,
}

impl Log {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory log",
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }
}

/// A product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Unanimity(Log),
    /// On PostgreSQL.
    Dtmrs,
    /// On PostgreSQL.
    Dtm,
}

impl Subject {
    pub(super) fn name(self) -> String {
        match self {
            Self::Unanimity(log) => log.name().to_owned(),
            Self::Dtmrs => "dtmrs".to_owned(),
            Self::Dtm => "DTM".to_owned(),
        }
    }
}

/// What is run.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) unanimity: PathBuf,
    pub(super) dtmrs: Option<PathBuf>,
    /// The server, and the file with its tables.
    pub(super) dtm: Option<(PathBuf, PathBuf)>,
}

impl Programs {
    /// Their names; where they lie on this machine is nobody's business.
    pub(super) fn describe(&self) -> Value {
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        json!({
            "unanimity": name(&self.unanimity),
            "dtmrs": self.dtmrs.as_deref().and_then(name),
            "dtm": self.dtm.as_ref().and_then(|(server, _)| name(server)),
        })
    }
}

/// Builds `unanimity` as users build it.
pub(super) fn build(target: &Path) -> anyhow::Result<PathBuf> {
    println!("building unanimity (release)");
    let mut command = cargo();
    command.args(["build", "--release", "--quiet", "-p", "unanimity-coordinator"]).current_dir(files::root());
    finish(command, BUILD_MAX)?;
    Ok(target.join("release").join("unanimity"))
}

/// A product that runs and answers.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) server: Server,
    pub(super) url: String,
    pub(super) is_unanimity: bool,
    /// Goes with it: a log file, a SQLite log.
    _directory: tempfile::TempDir,
}

impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// Starts a product over an empty database and waits until it answers.
pub(super) fn start(
    subject: Subject,
    programs: &Programs,
    cluster: &Cluster,
    database: &str,
) -> anyhow::Result<Running> {
    let directory = tempfile::tempdir_in(cluster.home())?;
    let port = free_port()?;
    let (mut command, ready) = match subject {
        Subject::Unanimity(log) => {
            let url = match log {
                Log::Memory => "memory:".to_owned(),
                Log::Sqlite => format!("sqlite:{}", directory.path().join("unanimity.db").display()),
                Log::Postgres => cluster.url(database),
            };
            (unanimity(&programs.unanimity, log, &url, port)?, "/readyz")
        }
        Subject::Dtmrs => {
            let mut command = Command::new(programs.dtmrs.as_deref().context("no dtmrs")?);
            command
                .env("DTMRS_DB", cluster.url(database))
                .env("DTMRS_ADDR", format!("127.0.0.1:{port}"))
                .env("DTMRS_GRPC_ADDR", format!("127.0.0.1:{}", free_port()?))
                // By default it writes a line for every call.
                .env("RUST_LOG", "warn");
            (command, "/health")
        }
        Subject::Dtm => {
            let (server, tables) = programs.dtm.as_ref().context("no DTM")?;
            cluster.run_file(database, tables).context("making DTM's tables")?;
            let mut command = Command::new(server);
            command
                .env("STORE_DRIVER", "postgres")
                .env("STORE_HOST", "127.0.0.1")
                .env("STORE_PORT", cluster.port().to_string())
                .env("STORE_USER", "postgres")
                .env("STORE_DB", database)
                // Its default is more than PostgreSQL's own max_connections.
                .env("STORE_MAX_OPEN_CONNS", "64")
                .env("STORE_MAX_IDLE_CONNS", "64")
                .env("HTTP_PORT", port.to_string())
                .env("GRPC_PORT", free_port()?.to_string())
                .env("JSON_RPC_PORT", free_port()?.to_string())
                .env("LOG_LEVEL", "warn");
            (command, "/api/dtmsvr/newGid")
        }
    };
    // Whatever it leaves lies in a directory that goes with it.
    command.current_dir(directory.path());
    let mut server = Server::start(&subject.name(), command, directory.path().join("log"), "TERM")?;
    server.until_ready(READY_MAX, || answers(port, ready))?;
    Ok(Running {
        server,
        url: format!("http://127.0.0.1:{port}"),
        is_unanimity: matches!(subject, Subject::Unanimity(_)),
        _directory: directory,
    })
}

fn unanimity(program: &Path, log: Log, url: &str, port: u16) -> anyhow::Result<Command> {
    let command = |name: &str| {
        let mut command = Command::new(program);
        command.arg(name).env("UNANIMITY_DATABASE_URL", url);
        command
    };
    if log != Log::Memory {
        let mut migrate = command("migrate");
        // As many everywhere: what is compared shall differ in the log alone.
        migrate.env("UNANIMITY_PARTITIONS", PARTITIONS);
        finish(migrate, MIGRATE_MAX)?;
    }
    let mut serve = command("serve");
    serve
        .env("UNANIMITY_PARTITIONS", PARTITIONS)
        .env("UNANIMITY_LISTEN", format!("127.0.0.1:{port}"))
        .env("UNANIMITY_CALLBACKS_ALLOW", "loopback")
        .env("UNANIMITY_LOG_LEVEL", "warn");
    Ok(serve)
}

/// PostgreSQL's default.
const PARTITIONS: &str = "16";

/// Looks up in a rival's database how its sagas ended, and waits for the last ones: what its participants
/// saw says nothing of that. Adds what was found to the result.
pub(super) fn check_ends(
    subject: Subject,
    cluster: &Cluster,
    database: &str,
    result: &mut Value,
) -> anyhow::Result<()> {
    let (table, done) = match subject {
        Subject::Unanimity(_) => return Ok(()),
        Subject::Dtmrs => ("trans_global", "succeed"),
        Subject::Dtm => ("dtm.trans_global", "succeed"),
    };
    let count = |which: &str| -> anyhow::Result<u64> {
        let statement = format!("SELECT count(*) FROM {table} {which}");
        cluster.query(database, &statement)?.parse().context("a count")
    };
    let started = Instant::now();
    let others = format!("WHERE lower(status) NOT LIKE '{done}%'");
    let mut open = count(&others)?;
    while open > 0 && started.elapsed() < ENDS_MAX {
        sleep(Duration::from_millis(250));
        open = count(&others)?;
    }
    let all = count("")?;
    result["in_its_database"] = json!({ "transactions": all, "not_succeeded": open });
    if open > 0 {
        bail!("{} of {all} transactions of {} have not succeeded after {ENDS_MAX:?}", open, subject.name());
    }
    if result["committed"].as_u64().is_some_and(|committed| committed > all) {
        bail!("{} knows {all} transactions, fewer than were seen to end", subject.name());
    }
    Ok(())
}
