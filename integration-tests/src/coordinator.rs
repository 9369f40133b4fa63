//! The binary `unanimity`: as a server that is killed and comes back, and as commands.

use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::output::Scratch;
use crate::ports::free_address;
use crate::process::Process;
use crate::programs::Program;
use crate::wait::{http_client, until};

/// How long a command may take: opening a log on a busy machine takes seconds.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// How long a request to a coordinator may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);

/// A coordinator (`unanimity serve`) at an address of its own.
#[derive(Debug)]
pub struct CoordinatorProcess {
    /// The process, for its signals and its output.
    pub process: Process,
    address: SocketAddr,
    http: reqwest::Client,
}

impl CoordinatorProcess {
    /// Describes a node of this name over this log. A restarted node of the same name has its lease back at once.
    ///
    /// # Errors
    /// The binary cannot be built, or there is no free port.
    pub fn new(scratch: &Scratch, node: &str, database_url: &str) -> anyhow::Result<Self> {
        let address = free_address()?;
        let process = Process::new(scratch, node, Program::Unanimity.path()?)
            .argument("serve")
            .variable("UNANIMITY_NODE", node)
            .variable("UNANIMITY_LISTEN", address.to_string())
            .variable("UNANIMITY_DATABASE_URL", database_url);
        Ok(Self { process, address, http: http_client(REQUEST_LIMIT)? })
    }

    /// Sets a key of the configuration by its variable (`UNANIMITY_…`).
    #[must_use]
    pub fn set(mut self, variable: &str, value: &str) -> Self {
        self.process = self.process.variable(variable, value);
        self
    }

    /// Where it listens, also after a restart.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, the same after a restart.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until every partition works; answers how long it took.
    ///
    /// # Errors
    /// Not within `limit`, or the process ended.
    pub async fn ready(&mut self, limit: Duration) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let url = format!("{}/readyz", self.url());
        let what = format!("{} is ready", self.process.name());
        let (http, process) = (&self.http, &mut self.process);
        let ended = until(&what, limit, async || {
            if let Some(status) = process.ended()? {
                return Ok(Some(status));
            }
            let answer = http.get(&url).send().await?;
            let status = answer.status();
            ensure!(status.is_success(), "{status}: {}", answer.text().await?);
            Ok(None)
        });
        match ended.await? {
            Some(status) => bail!("{} ended with {status}:\n{}", self.process.name(), self.process.tail()),
            None => Ok(started.elapsed()),
        }
    }

    /// `GET path`: status and JSON.
    ///
    /// # Errors
    /// No answer, or no JSON in it.
    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, Value)> {
        let answer = self.http.get(format!("{}{path}", self.url())).send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    /// `POST path`: status and JSON.
    ///
    /// # Errors
    /// No answer, or no JSON in it.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
        let answer = self.http.post(format!("{}{path}", self.url())).json(body).send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    /// The xids of transactions with this status: the first page, which is enough to tell none from some.
    ///
    /// # Errors
    /// No good answer.
    pub async fn list(&self, status: &str) -> anyhow::Result<Vec<String>> {
        let (code, page) = self.get(&format!("/v1/transactions?status={status}")).await?;
        ensure!(code == 200, "{code}: {page}");
        let listed = page["transactions"].as_array().with_context(|| format!("no list: {page}"))?;
        Ok(listed.iter().filter_map(|one| Some(one["xid"].as_str()?.to_owned())).collect())
    }
}

/// Runs a command of `unanimity` to its end.
///
/// # Errors
/// It cannot be run, or does not end.
pub async fn unanimity(arguments: &[&str], database_url: &str) -> anyhow::Result<Output> {
    run(arguments, database_url, &[]).await
}

async fn run(arguments: &[&str], database_url: &str, set: &[(&str, String)]) -> anyhow::Result<Output> {
    let mut command = tokio::process::Command::new(Program::Unanimity.path()?);
    for (variable, _) in std::env::vars_os() {
        if variable.to_str().is_some_and(|variable| variable.starts_with("UNANIMITY_")) {
            command.env_remove(variable);
        }
    }
    command
        .envs(set.iter().map(|(variable, value)| (variable, value)))
        .args(arguments)
        .env("UNANIMITY_DATABASE_URL", database_url)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    tokio::time::timeout(COMMAND_LIMIT, command.output())
        .await
        .with_context(|| format!("unanimity {arguments:?} does not end"))?
        .context("running unanimity")
}

/// `unanimity migrate`, which must succeed.
///
/// # Errors
/// It does not.
pub async fn migrate(database_url: &str) -> anyhow::Result<()> {
    migrate_with(database_url, &[]).await
}

/// `unanimity migrate` for a log with so many partitions.
///
/// # Errors
/// It does not succeed.
pub async fn migrate_to(database_url: &str, partitions: u16) -> anyhow::Result<()> {
    migrate_with(database_url, &[("UNANIMITY_PARTITIONS", partitions.to_string())]).await
}

/// `unanimity migrate` with these variables.
///
/// # Errors
/// It does not succeed.
pub async fn migrate_with(database_url: &str, set: &[(&str, String)]) -> anyhow::Result<()> {
    let output = run(&["migrate"], database_url, set).await?;
    ensure!(output.status.success(), "unanimity migrate: {output:?}");
    Ok(())
}

/// `unanimity log verify --json`: its exit status and its answer.
///
/// # Errors
/// It does not end, or answers no JSON.
pub async fn log_verify(database_url: &str) -> anyhow::Result<(Option<i32>, Value)> {
    log_verify_with(database_url, &[]).await
}

/// The same with these variables.
///
/// # Errors
/// It does not end, or answers no JSON.
pub async fn log_verify_with(
    database_url: &str,
    set: &[(&str, String)],
) -> anyhow::Result<(Option<i32>, Value)> {
    let output = run(&["log", "verify", "--json"], database_url, set).await?;
    let answer = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    Ok((output.status.code(), answer))
}
