//! A service as a child process that can be killed and started again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::cli::LISTENING;
use super::{Kind, Options};

/// How long a service may take to open its database and listen.
const START_MAX: Duration = Duration::from_secs(30);
/// How long a service may take to stop: longer than it gives its own requests.
const STOP_MAX: Duration = Duration::from_secs(45);

/// A service in a process of its own. Dropped, it is killed.
#[derive(Debug)]
pub struct ServiceProcess {
    program: PathBuf,
    kind: Kind,
    options: Options,
    running: Option<(Child, ChildStdin)>,
}

impl ServiceProcess {
    /// Starts `PROGRAM KIND …`, where `program` is this package's binary `outbox-example`.
    ///
    /// # Errors
    /// If it does not listen in time.
    pub async fn spawn(program: &Path, kind: Kind, options: Options) -> anyhow::Result<Self> {
        let mut process = Self { program: program.to_owned(), kind, options, running: None };
        process.start().await?;
        Ok(process)
    }

    /// Its URL: the same after a restart.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.options.listen)
    }

    /// Kills it as `kill -9` does, in the middle of whatever it is doing.
    ///
    /// # Errors
    /// If the system does not let us.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some((mut child, _stdin)) = self.running.take() {
            child.kill().await.with_context(|| format!("cannot kill the {}", self.kind))?;
        }
        Ok(())
    }

    /// Waits until it has died by itself.
    ///
    /// # Errors
    /// If it lives on for longer than a start may take.
    pub async fn dead(&mut self) -> anyhow::Result<()> {
        if let Some((mut child, _stdin)) = self.running.take() {
            let ended = tokio::time::timeout(START_MAX, child.wait()).await;
            ended.with_context(|| format!("the {} did not die", self.kind))??;
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
            Ok(status) => bail!("the {} ended with {status:?}", self.kind),
            Err(_) => {
                child.kill().await?;
                bail!("the {} did not stop and was killed", self.kind)
            }
        }
    }

    async fn start(&mut self) -> anyhow::Result<()> {
        let Options { listen, coordinator, database_url, customers, with_relay, lease_ms, allow_crashes } =
            &self.options;
        let mut command = Command::new(&self.program);
        command
            .args([self.kind.name(), "--stop-with-stdin"])
            .args(["--listen", &listen.to_string(), "--coordinator", coordinator])
            .args(["--customers", &customers.to_string(), "--lease-ms", &lease_ms.to_string()])
            .args(with_relay.then_some("--with-relay"))
            .args(allow_crashes.then_some("--allow-crashes"))
            // By the environment: it may hold a password, and everybody sees flags.
            .env("DATABASE_URL", database_url)
            // The story speaks for its children, unless somebody wants to hear them.
            .env("RUST_LOG", std::env::var_os("RUST_LOG").unwrap_or_else(|| "off".into()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a child process without pipes")
        };
        let mut line = String::new();
        let read = tokio::time::timeout(START_MAX, BufReader::new(stdout).read_line(&mut line)).await;
        let address = line.trim().strip_prefix(LISTENING).and_then(|url| url.strip_prefix("http://"));
        let (Ok(Ok(_)), Some(address)) = (read, address) else {
            bail!("the {} did not start (RUST_LOG=info says more)", self.kind)
        };
        let address: SocketAddr = address.parse().context("the service's address")?;
        self.options.listen = address;
        self.running = Some((child, stdin));
        Ok(())
    }
}
