//! A service as a child process that can be killed and started again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::Role;
use super::cli::LISTENING;

/// How long a service may take to open its database and listen.
const START_MAX: Duration = Duration::from_secs(30);
/// How long a service may take to stop: longer than it gives its own requests.
const STOP_MAX: Duration = Duration::from_secs(45);

/// A service in a process of its own. Dropped, it is killed.
#[derive(Debug)]
pub struct ServiceProcess {
    program: PathBuf,
    name: String,
    role: Role,
    coordinator: String,
    listen: SocketAddr,
    running: Option<(Child, ChildStdin)>,
}

impl ServiceProcess {
    /// Starts `PROGRAM bank …` or `PROGRAM teller …`, where `program` is this package's binary `bank-transfer`.
    ///
    /// # Errors
    /// If it does not listen in time.
    pub async fn spawn(program: &Path, role: Role, coordinator: &str) -> anyhow::Result<Self> {
        let name = match &role {
            Role::Bank(options) => options.name.clone(),
            Role::Teller(_) => "teller".to_owned(),
        };
        let mut process = Self {
            program: program.to_owned(),
            name,
            role,
            coordinator: coordinator.to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            running: None,
        };
        process.start().await?;
        Ok(process)
    }

    /// The bank's name, or `teller`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its URL: the same after a restart.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Kills it as `kill -9` does, in the middle of whatever it is doing.
    ///
    /// # Errors
    /// If the system does not let us.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some((mut child, _stdin)) = self.running.take() {
            child.kill().await.with_context(|| format!("cannot kill {}", self.name))?;
        }
        Ok(())
    }

    /// Starts it again, at the same address and over the same database.
    ///
    /// # Errors
    /// If it does not listen in time.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill().await?;
        self.start().await
    }

    /// Stops it in good order.
    ///
    /// # Errors
    /// If it had to be killed, or ended with an error.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let Some((mut child, stdin)) = self.running.take() else { return Ok(()) };
        drop(stdin);
        match tokio::time::timeout(STOP_MAX, child.wait()).await {
            Ok(status) if status.as_ref().is_ok_and(std::process::ExitStatus::success) => Ok(()),
            Ok(status) => bail!("{} ended with {status:?}", self.name),
            Err(_) => {
                child.kill().await?;
                bail!("{} did not stop and was killed", self.name)
            }
        }
    }

    async fn start(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        match &self.role {
            Role::Bank(options) => {
                command
                    .args(["bank", "--name", &options.name])
                    .args(["--accounts", &options.accounts.to_string()])
                    .args(["--opening", &options.opening.to_string()])
                    // By the environment: it may hold a password, and everybody sees flags.
                    .env("DATABASE_URL", &options.database);
            }
            Role::Teller(options) => {
                command.args(["teller", "--transfer-timeout-ms", &options.transfer_timeout_ms.to_string()]);
                for (name, url) in &options.banks {
                    command.args(["--bank", &format!("{name}={url}")]);
                }
            }
        }
        let mut child = command
            .args(["--stop-with-stdin", "--coordinator", &self.coordinator])
            .args(["--listen", &self.listen.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a child process without pipes")
        };
        let mut line = String::new();
        let read = tokio::time::timeout(START_MAX, BufReader::new(stdout).read_line(&mut line)).await;
        let address = line.trim().strip_prefix(LISTENING).and_then(|url| url.strip_prefix("http://"));
        let (Ok(Ok(_)), Some(address)) = (read, address) else {
            bail!("{} did not start (RUST_LOG=info says more)", self.name)
        };
        self.listen = address.parse().context("the service's address")?;
        self.running = Some((child, stdin));
        Ok(())
    }
}
