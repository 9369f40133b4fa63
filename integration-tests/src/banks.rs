//! The banks of the example and their teller as processes, each bank over a database server of its own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{bail, ensure};

use crate::mariadb::TestMariaDb;
use crate::output::Scratch;
use crate::ports::free_address;
use crate::postgres::{Kind, TestPostgres};
use crate::process::Process;
use crate::programs::Program;
use crate::wait::{http_client, until};

/// The server under a bank.
#[derive(Debug)]
pub enum Server {
    /// PostgreSQL.
    Postgres(TestPostgres),
    /// MariaDB.
    MariaDb(TestMariaDb),
}

impl Server {
    /// Where it comes from.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Postgres(server) => server.kind(),
            Self::MariaDb(server) => server.kind(),
        }
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// It is not ours.
    pub async fn kill(&self) -> anyhow::Result<()> {
        match self {
            Self::Postgres(server) => server.kill().await,
            Self::MariaDb(server) => server.kill().await,
        }
    }

    /// Starts it again, same data, same address, and waits until it answers.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn restart(&self) -> anyhow::Result<()> {
        match self {
            Self::Postgres(server) => server.restart().await,
            Self::MariaDb(server) => server.restart().await,
        }
    }
}

/// One bank.
#[derive(Debug)]
pub struct Bank {
    /// Its name, also its participant's and its database's.
    pub name: &'static str,
    /// Its process. Dropped before its server.
    pub process: Process,
    /// Its server.
    pub server: Server,
    /// Its database.
    pub database_url: String,
    address: SocketAddr,
}

impl Bank {
    /// Describes a bank over a server, with so many accounts of so many cents.
    ///
    /// # Errors
    /// No database, binary or port is to be had.
    pub async fn new(
        scratch: &Scratch,
        name: &'static str,
        server: Server,
        coordinator_url: &str,
        accounts: u32,
        opening: i64,
    ) -> anyhow::Result<Self> {
        let database_url = match &server {
            Server::Postgres(server) => server.create_database(name).await?,
            Server::MariaDb(server) => server.create_database(name).await?,
        };
        let address = free_address()?;
        let process = Process::new(scratch, name, Program::Bank.path()?)
            .variable("LISTEN", address.to_string())
            .variable("COORDINATOR_URL", coordinator_url)
            .variable("DATABASE_URL", &database_url);
        let (accounts, opening) = (accounts.to_string(), opening.to_string());
        let process =
            ["--stop-with-stdin", "--name", name, "--accounts", &accounts, "--opening", opening.as_str()]
                .into_iter()
                .fold(process, Process::argument);
        Ok(Self { name, process, server, database_url, address })
    }

    /// Where it listens, also after a restart.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until it is attached to the coordinator and its database answers it.
    ///
    /// # Errors
    /// Not within `limit`, or it ended.
    pub async fn attached(&mut self, limit: Duration) -> anyhow::Result<()> {
        let url = format!("{}/healthz", self.url());
        let http = http_client(Duration::from_secs(5))?;
        let process = &mut self.process;
        let ended = until(&format!("{} is attached", self.name), limit, async || {
            if let Some(status) = process.ended()? {
                return Ok(Some(status));
            }
            let answer = http.get(&url).send().await?.text().await?;
            let health: serde_json::Value =
                serde_json::from_str(&answer).map_err(|_| anyhow::anyhow!("{answer}"))?;
            // Not by its status: what waits for a decision is no obstacle here.
            ensure!(health["attached"] == true, "{health}");
            let no_errors = health["errors"].as_array().is_some_and(Vec::is_empty);
            ensure!(no_errors, "{health}");
            // Nothing in these stories is a matter for a person.
            ensure!(health["attention"].as_array().is_some_and(Vec::is_empty), "{health}");
            Ok(None)
        })
        .await?;
        match ended {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.process.tail()),
        }
    }
}

/// The teller's process, and its URL, which stays the same after a restart.
///
/// # Errors
/// No binary or port is to be had.
pub fn teller(
    scratch: &Scratch,
    coordinator_url: &str,
    banks: &[Bank],
    transfer_timeout: Duration,
) -> anyhow::Result<(Process, String)> {
    let address = free_address()?;
    let mut process = Process::new(scratch, "teller", Program::Teller.path()?)
        .variable("LISTEN", address.to_string())
        .variable("COORDINATOR_URL", coordinator_url)
        .argument("--stop-with-stdin")
        .argument("--transfer-timeout-ms")
        .argument(transfer_timeout.as_millis().to_string());
    for bank in banks {
        process = process.argument("--bank").argument(format!("{}={}", bank.name, bank.url()));
    }
    Ok((process, format!("http://{address}")))
}
