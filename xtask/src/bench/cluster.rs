//! A PostgreSQL of its own, from the binaries of this machine, with the settings that it ships with.
//!
//! Nothing is set but the port and where it listens: `fsync`, `synchronous_commit` and the sizes stay as
//! they are, for everybody who is measured on it. The files lie on a disk: PostgreSQL's own default would
//! be worth nothing in a file system in memory, so that is refused.

use std::cell::Cell;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::process::{Server, finish, free_port};

const USER: &str = "postgres";
/// Initialising with fsync took 4 s on a slow disk.
const INIT_MAX: Duration = Duration::from_secs(120);
const READY_MAX: Duration = Duration::from_secs(60);
/// A checkpoint after a run writes all that it left dirty.
const STATEMENT_MAX: Duration = Duration::from_secs(120);
/// What a reader wants to know of the durability and the sizes.
const SETTINGS: &[&str] = &[
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "commit_delay",
    "shared_buffers",
    "max_wal_size",
    "max_connections",
];

/// A running server with an empty cluster. Dropped, it and its files go.
#[derive(Debug)]
pub(super) struct Cluster {
    /// Before the directory: it is dropped first.
    server: Server,
    home: tempfile::TempDir,
    programs: PathBuf,
    port: u16,
    databases: Cell<u32>,
}

impl Cluster {
    /// Makes a cluster below `parent` and starts it.
    pub(super) fn start(parent: &Path) -> anyhow::Result<Self> {
        let programs = programs()?;
        std::fs::create_dir_all(parent)?;
        let account = account()?;
        let home = tempfile::Builder::new().prefix("unanimity-bench-").tempdir_in(parent)?;
        refuse_memory(home.path())?;
        let data = home.path().join("data");
        std::fs::create_dir(&data)?;
        if let Some((user, group)) = account {
            std::os::unix::fs::chown(&data, Some(user), Some(group))?;
            // The account has to get through, not to look around.
            let mut permissions = std::fs::metadata(home.path())?.permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o711);
            std::fs::set_permissions(home.path(), permissions)?;
        }
        let command = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.current_dir(&data).env_remove("PGDATA");
            if let Some((user, group)) = account {
                command.uid(user).gid(group);
            }
            command
        };
        let mut initdb = command("initdb");
        // Reached over the loopback interface by whoever is on this machine, for some minutes.
        initdb
            .args(["--username", USER, "--auth=trust", "--encoding=UTF8", "--no-locale", "--pgdata"])
            .arg(&data);
        finish(initdb, INIT_MAX).with_context(|| {
            format!("initdb in {} (where its account must get through: --data-dir)", data.display())
        })?;
        let port = free_port()?;
        let mut postgres = command("postgres");
        postgres
            .arg("-D")
            .arg(&data)
            .arg(format!("--port={port}"))
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            // An interrupt at the terminal reaches the comparison, which then stops it.
            .process_group(0);
        // INT is its fast shutdown: sessions are cut, nothing is lost.
        let server = Server::start("PostgreSQL", postgres, home.path().join("postgres.log"), "INT")?;
        let mut cluster = Self { server, home, programs, port, databases: Cell::new(0) };
        let psql = cluster.psql("postgres", "SELECT 1");
        let (program, arguments) =
            (psql.get_program().to_owned(), psql.get_args().map(ToOwned::to_owned).collect::<Vec<_>>());
        cluster.server.until_ready(READY_MAX, || {
            let mut look = Command::new(&program);
            look.args(&arguments);
            finish(look, STATEMENT_MAX).is_ok()
        })?;
        Ok(cluster)
    }

    /// Where files for the comparison may lie: on the same disk.
    pub(super) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn postmaster(&self) -> u32 {
        self.server.pid()
    }

    pub(super) fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// A client program of PostgreSQL, told where the server is.
    pub(super) fn client(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.args(["-h", "127.0.0.1", "-U", USER, "-p", &self.port.to_string()]);
        command
    }

    fn psql(&self, database: &str, statement: &str) -> Command {
        let mut command = self.client("psql");
        // Nobody's start-up file; one value a line.
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statement]);
        command
    }

    /// Runs a statement and answers what it gives.
    pub(super) fn query(&self, database: &str, statement: &str) -> anyhow::Result<String> {
        Ok(finish(self.psql(database, statement), STATEMENT_MAX)?.trim().to_owned())
    }

    /// Runs a file of statements.
    pub(super) fn run_file(&self, database: &str, file: &Path) -> anyhow::Result<()> {
        let mut command = self.client("psql");
        command.args(["-Xq", "-v", "ON_ERROR_STOP=1", "-d", database, "-f"]).arg(file);
        finish(command, STATEMENT_MAX).map(drop)
    }

    pub(super) fn checkpoint(&self) -> anyhow::Result<()> {
        self.query("postgres", "CHECKPOINT").map(drop)
    }

    /// An empty database with a name of its own.
    pub(super) fn create_database(&self) -> anyhow::Result<String> {
        self.databases.set(self.databases.get() + 1);
        let name = format!("bench_{}", self.databases.get());
        self.query("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(name)
    }

    pub(super) fn drop_database(&self, name: &str) -> anyhow::Result<()> {
        self.query("postgres", &format!("DROP DATABASE {name} WITH (FORCE)")).map(drop)
    }

    /// Version and settings.
    pub(super) fn describe(&self) -> anyhow::Result<Value> {
        let mut described = json!({ "version": self.query("postgres", "SHOW server_version")? });
        for setting in SETTINGS {
            described[*setting] = json!(self.query("postgres", &format!("SHOW {setting}"))?);
        }
        Ok(described)
    }
}

/// The folder with everything that is needed: in PATH, else the newest of Debian's.
fn programs() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut debian: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path()).collect())
        .unwrap_or_default();
    let number = |version: &Path| version.file_name()?.to_str()?.parse::<u32>().ok();
    debian.sort_by_key(|version| std::cmp::Reverse(number(version)));
    std::env::split_paths(&path)
        .chain(debian.into_iter().map(|version| version.join("bin")))
        .find(|bin| ["initdb", "postgres", "psql", "pgbench"].iter().all(|program| bin.join(program).is_file()))
        .context("no PostgreSQL on this machine: initdb, postgres, psql and pgbench are looked for in PATH and /usr/lib/postgresql/*/bin")
}

/// User and group to run the server as, where we are root, which it refuses.
fn account() -> anyhow::Result<Option<(u32, u32)>> {
    if std::fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd")?;
    let found = ["postgres", "nobody"].iter().find_map(|name| account_in(&passwd, name));
    found
        .map(Some)
        .context("PostgreSQL does not run as root, and there is neither an account postgres nor nobody")
}

fn account_in(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.first() == Some(&name)).then_some(())?;
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    })
}

fn refuse_memory(directory: &Path) -> anyhow::Result<()> {
    let kind = super::machine::file_system(directory)?;
    if matches!(kind.as_str(), "tmpfs" | "ramfs") {
        bail!(
            "{} lies in memory ({kind}), where nothing is durable: --data-dir names a place on a disk",
            directory.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_read_from_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres:x:104:107:,,,:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(account_in(passwd, "postgres"), Some((104, 107)));
        assert_eq!(account_in(passwd, "nobody"), None);
    }
}
