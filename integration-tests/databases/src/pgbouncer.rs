//! pgbouncer before a PostgreSQL server, from the machine's binaries.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tempfile::TempDir;

use crate::RUN_VARIABLE;
use crate::ports::free_port;
use crate::system::unprivileged_account;

const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// When a client's connection to the server goes to another client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// When the client leaves.
    Session,
    /// After each transaction.
    Transaction,
}

/// A running pgbouncer. Dropped, it is killed.
#[derive(Debug)]
pub struct Pgbouncer {
    home: TempDir,
    process: Child,
    port: u16,
}

/// The program, in PATH or where Debian puts servers.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join("pgbouncer"))
        .find(|program| program.is_file())
}

/// Whether it is installed.
#[must_use]
pub fn is_available() -> bool {
    program().is_some()
}

impl Pgbouncer {
    /// Starts one before the server of this URL, for all of its databases, with at most `servers` connections for
    /// each, and waits until it answers.
    ///
    /// # Errors
    /// It is not installed, the URL has no password, or it does not come up.
    pub async fn start(url: &str, pooling: Pooling, servers: u32) -> anyhow::Result<Self> {
        let program = program().context("no pgbouncer on this machine")?;
        let account = unprivileged_account(&["postgres", "nobody"])?;
        let server: PgConnectOptions = url.parse()?;
        let password = password_of(url).context("the server's URL has no password")?;
        let port = free_port()?;
        let run = std::env::var(RUN_VARIABLE).unwrap_or_else(|_| "none".to_owned());
        let home = tempfile::Builder::new().prefix(&format!("unanimity-pgbouncer-{run}-")).tempdir()?;
        let user = server.get_username();
        std::fs::write(home.path().join("users"), format!("\"{user}\" \"{password}\"\n"))?;
        let pool_mode = match pooling {
            Pooling::Session => "session",
            Pooling::Transaction => "transaction",
        };
        let settings = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = plain\nauth_file = {}\npool_mode = {pool_mode}\n\
             default_pool_size = {servers}\nmax_client_conn = 200\nignore_startup_parameters = extra_float_digits\n",
            server.get_host(),
            server.get_port(),
            home.path().join("users").display(),
        );
        std::fs::write(home.path().join("settings"), settings)?;
        if let Some(account) = account {
            for file in ["users", "settings", ""] {
                std::os::unix::fs::chown(home.path().join(file), Some(account.user), Some(account.group))?;
            }
        }
        let log = File::create(home.path().join("log"))?;
        let mut command = Command::new(program);
        command
            .arg(home.path().join("settings"))
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        if let Some(account) = account {
            command.uid(account.user).gid(account.group);
        }
        let process = command.spawn().context("starting pgbouncer")?;
        let mut pgbouncer = Self { home, process, port };
        pgbouncer.wait_until_ready(url).await?;
        Ok(pgbouncer)
    }

    /// The URL of the same database by way of this pgbouncer.
    ///
    /// # Errors
    /// It is no URL of a database.
    pub fn url(&self, direct: &str) -> anyhow::Result<String> {
        let options: PgConnectOptions = direct.parse()?;
        let address = format!("{}:{}", options.get_host(), options.get_port());
        Ok(direct.replacen(&address, &format!("127.0.0.1:{}", self.port), 1))
    }

    async fn wait_until_ready(&mut self, direct: &str) -> anyhow::Result<()> {
        let url = self.url(direct)?;
        let started = Instant::now();
        loop {
            let answered = tokio::time::timeout(Duration::from_secs(3), PgConnection::connect(&url)).await;
            let error = match answered {
                Ok(Ok(connection)) => return Ok(connection.close().await?),
                Ok(Err(error)) => anyhow::Error::from(error),
                Err(late) => anyhow::Error::from(late),
            };
            if let Some(status) = self.process.try_wait()? {
                bail!("pgbouncer ended with {status}: {}", self.log());
            }
            if started.elapsed() > READY_TIMEOUT {
                return Err(error.context(format!("pgbouncer does not answer: {}", self.log())));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Pgbouncer {
    fn drop(&mut self) {
        // An error means that it is gone already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The password of a URL as it stands there: tests' passwords need no encoding.
fn password_of(url: &str) -> Option<&str> {
    let (credentials, _) = url.split_once("://")?.1.rsplit_once('@')?;
    Some(credentials.split_once(':')?.1)
}
