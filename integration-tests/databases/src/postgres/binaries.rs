//! PostgreSQL from the binaries of this machine: a throw-away cluster in a temporary directory.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, bail};
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;

use super::superuser;
use crate::RUN_VARIABLE;
use crate::ports::free_port;
use crate::system::{Account, children, is_alive, signal, stop, unprivileged_account};

#[derive(Debug)]
pub(super) struct Binaries {
    programs: PathBuf,
    /// Holds the data directory, the password file and the server's log.
    home: TempDir,
    account: Option<Account>,
    arguments: Vec<String>,
    port: u16,
    password: String,
    server: Mutex<Option<Child>>,
}

/// Where `initdb` and `postgres` are: in PATH, else the newest of Debian's directories.
pub(super) fn directory() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut debian: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    debian.sort_by_key(|bin| {
        let version = bin.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        std::cmp::Reverse(version.and_then(|name| name.parse::<u32>().ok()).unwrap_or(0))
    });
    std::env::split_paths(&path)
        .chain(debian)
        .find(|bin| ["initdb", "postgres"].iter().all(|program| bin.join(program).is_file()))
}

impl Binaries {
    pub(super) async fn start(arguments: Vec<String>) -> anyhow::Result<Self> {
        let password = format!("{:016x}", fastrand::u64(..));
        let binaries = Self::prepare(arguments, free_port()?, password)?;
        binaries.initialise().await?;
        binaries.start_again()?;
        Ok(binaries)
    }

    /// A copy of this server that streams from it, under this name, at this port or at a free one.
    pub(super) async fn standby(
        &self,
        name: &str,
        port: Option<u16>,
        arguments: Vec<String>,
    ) -> anyhow::Result<Self> {
        let port = port.map_or_else(free_port, Ok)?;
        let standby = Self::prepare(arguments, port, self.password.clone())?;
        let primary = format!(
            "host=127.0.0.1 port={} user=postgres password={} application_name={name}",
            self.port, self.password
        );
        let mut command = standby.command("pg_basebackup");
        command
            .arg(format!("--dbname={primary}"))
            // With a note where to stream from.
            .args(["--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream", "--no-sync"])
            .arg("--pgdata")
            .arg(standby.data());
        let output =
            tokio::process::Command::from(command).output().await.context("running pg_basebackup")?;
        if !output.status.success() {
            bail!("pg_basebackup failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        standby.start_again()?;
        Ok(standby)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    fn prepare(arguments: Vec<String>, port: u16, password: String) -> anyhow::Result<Self> {
        let programs = directory().context("no initdb and postgres on this machine")?;
        let account = unprivileged_account(&["postgres", "nobody"])?;
        let run = std::env::var(RUN_VARIABLE).unwrap_or_else(|_| "none".to_owned());
        let home = tempfile::Builder::new().prefix(&format!("unanimity-postgres-{run}-")).tempdir()?;
        std::fs::write(home.path().join("password"), &password)?;
        if let Some(account) = account {
            for path in [home.path().to_owned(), home.path().join("password")] {
                std::os::unix::fs::chown(path, Some(account.user), Some(account.group))?;
            }
        }
        let server = Mutex::new(None);
        Ok(Self { programs, home, account, arguments, port, password, server })
    }

    pub(super) fn connect_options(&self) -> PgConnectOptions {
        superuser("127.0.0.1", self.port, &self.password)
    }

    async fn initialise(&self) -> anyhow::Result<()> {
        let mut command = self.command("initdb");
        command
            .args([
                "--username=postgres",
                // Not SCRAM, whose thousands of hashes take a debug build so long that a machine on which everything
                // connects at once does nothing else.
                "--auth=md5",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
            ])
            .arg(format!("--pwfile={}", self.home.path().join("password").display()))
            .arg("--pgdata")
            .arg(self.data());
        let output = tokio::process::Command::from(command).output().await.context("running initdb")?;
        if !output.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    pub(super) fn start_again(&self) -> anyhow::Result<()> {
        let mut server = self.server.lock().expect("no holder panics");
        if server.is_some() {
            bail!("the server runs already: kill it first");
        }
        let log = File::options().create(true).append(true).open(self.log())?;
        let child = self
            .command("postgres")
            .arg("-D")
            .arg(self.data())
            .arg(format!("--port={}", self.port))
            // No Unix socket: its path would have to be short, and a system-wide server may own the usual place.
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            .args(&self.arguments)
            .stdout(log.try_clone()?)
            .stderr(log)
            // A group of its own: an interrupt at the terminal reaches the test, which then cleans up.
            .process_group(0)
            .spawn()
            .context("starting postgres")?;
        *server = Some(child);
        Ok(())
    }

    /// Postmaster first, so that it starts no process that we do not see.
    pub(super) fn pause(&self) -> anyhow::Result<()> {
        let postmaster = self.postmaster()?;
        stop(postmaster)?;
        // A child may have ended meanwhile.
        children(postmaster).into_iter().try_for_each(|child| {
            stop(child).or_else(|error| if is_alive(child) { Err(error) } else { Ok(()) })
        })
    }

    pub(super) fn unpause(&self) -> anyhow::Result<()> {
        let postmaster = self.postmaster()?;
        signal("CONT", &children(postmaster))?;
        signal("CONT", &[postmaster])
    }

    pub(super) async fn kill(&self) -> anyhow::Result<()> {
        let postmaster = self.postmaster()?;
        // Stopped first: a postmaster that lives would replace the children that we kill.
        signal("STOP", &[postmaster])?;
        let mut all = children(postmaster);
        all.push(postmaster);
        signal("KILL", &all)?;
        let child = self.server.lock().expect("no holder panics").take();
        if let Some(mut child) = child {
            child.wait()?;
        }
        // A restart is refused as long as a process holds the cluster's shared memory.
        for _ in 0..200 {
            if !all.iter().any(|pid| is_alive(*pid)) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("processes of the server are alive 10 s after SIGKILL")
    }

    /// The end of the log, where the server is no longer running.
    pub(super) fn ended(&self) -> Option<String> {
        let mut server = self.server.lock().expect("no holder panics");
        let status = server.as_mut()?.try_wait().ok()??;
        *server = None;
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(20).collect();
        Some(format!("{status}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n")))
    }

    /// Ends the server without ceremony; the directory goes when `self` does.
    pub(super) fn remove(&mut self) {
        let Some(mut child) = self.server.lock().expect("no holder panics").take() else { return };
        let mut all = children(child.id());
        all.push(child.id());
        // An error means that they are gone already.
        signal("KILL", &all).ok();
        child.wait().ok();
    }

    fn command(&self, program: &str) -> Command {
        let beside = self.programs.join(program);
        // A folder of links may have the server's programs only; the clients' are then in PATH.
        let mut command = if beside.is_file() { Command::new(beside) } else { Command::new(program) };
        // The account may not enter the directory that the tests run in.
        command.current_dir(self.home.path()).env_remove("PGDATA").stdin(Stdio::null());
        if let Some(account) = self.account {
            command.uid(account.user).gid(account.group);
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.home.path().join("log")
    }

    fn postmaster(&self) -> anyhow::Result<u32> {
        self.server
            .lock()
            .expect("no holder panics")
            .as_ref()
            .map(Child::id)
            .context("the server does not run")
    }
}

impl Drop for Binaries {
    fn drop(&mut self) {
        // Also where the start failed half-way and no TestPostgres came to be.
        self.remove();
    }
}
