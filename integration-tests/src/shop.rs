//! The three services of the example as processes, each with a PostgreSQL database of its own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;

use crate::output::Scratch;
use crate::ports::free_address;
use crate::postgres::TestPostgres;
use crate::process::Process;
use crate::programs::Program;
use crate::wait::{http_client, until};

/// A service of the example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Begins and decides the transactions, and owns a branch of each.
    Order,
    /// Holds the money.
    Payment,
    /// Holds the stock.
    Inventory,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Order, Self::Payment, Self::Inventory];

    /// What it is called: also its database and its participant.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Payment => "payment",
            Self::Inventory => "inventory",
        }
    }

    const fn program(self) -> Program {
        match self {
            Self::Order => Program::Order,
            Self::Payment => Program::Payment,
            Self::Inventory => Program::Inventory,
        }
    }
}

/// One running service.
#[derive(Debug)]
struct Member {
    service: Service,
    process: Process,
    address: SocketAddr,
    database_url: String,
}

/// The three services.
#[derive(Debug)]
pub struct Shop {
    /// In the order of [`Service::ALL`].
    members: Vec<Member>,
    http: reqwest::Client,
}

impl Shop {
    /// Describes the services: databases on `postgres`, which are made, goods and money for about so many orders.
    ///
    /// # Errors
    /// No databases, binaries or ports are to be had.
    pub async fn new(
        scratch: &Scratch,
        postgres: &TestPostgres,
        coordinator_url: &str,
        orders: u32,
        transaction_timeout: Duration,
    ) -> anyhow::Result<Self> {
        let addresses = [free_address()?, free_address()?, free_address()?];
        let [_, payment, inventory] = addresses;
        let mut members = Vec::new();
        for (service, address) in Service::ALL.into_iter().zip(addresses) {
            let database_url = postgres.create_database(service.name()).await?;
            let mut process = Process::new(scratch, service.name(), service.program().path()?)
                .variable("LISTEN", address.to_string())
                .variable("COORDINATOR_URL", coordinator_url)
                .variable("DATABASE_URL", &database_url)
                .variable("INVENTORY_URL", format!("http://{inventory}"))
                .variable("PAYMENT_URL", format!("http://{payment}"));
            let timeout_ms = transaction_timeout.as_millis().to_string();
            for argument in [
                "--stop-with-stdin",
                "--transaction-timeout-ms",
                &timeout_ms,
                "--demo-orders",
                &orders.to_string(),
            ] {
                process = process.argument(argument);
            }
            members.push(Member { service, process, address, database_url });
        }
        Ok(Self { members, http: http_client(Duration::from_secs(5))? })
    }

    /// Where a service listens, also after a restart.
    #[must_use]
    pub fn url(&self, service: Service) -> String {
        format!("http://{}", self.member(service).address)
    }

    /// A service's database.
    #[must_use]
    pub fn database_url(&self, service: Service) -> &str {
        &self.member(service).database_url
    }

    /// A service's process.
    #[must_use]
    pub fn process(&mut self, service: Service) -> &mut Process {
        let member = self.members.iter_mut().find(|member| member.service == service);
        &mut member.expect("all services are members").process
    }

    /// Waits until a service is attached to the coordinator.
    ///
    /// # Errors
    /// Not within `limit`, or it ended.
    pub async fn attached(&mut self, service: Service, limit: Duration) -> anyhow::Result<()> {
        let url = format!("{}/healthz", self.url(service));
        let what = format!("{} is attached", service.name());
        let http = self.http.clone();
        let process = self.process(service);
        let ended = until(&what, limit, async || {
            if let Some(status) = process.ended()? {
                return Ok(Some(status));
            }
            let answer = http.get(&url).send().await?.text().await?;
            // Not by its status: what waits for a decision is no obstacle here.
            let answer: serde_json::Value = serde_json::from_str(&answer)?;
            ensure!(answer["attached"] == true, "{answer}");
            Ok(None)
        })
        .await?;
        match ended {
            None => Ok(()),
            Some(status) => anyhow::bail!("{} ended with {status}:\n{}", service.name(), process.tail()),
        }
    }

    fn member(&self, service: Service) -> &Member {
        self.members.iter().find(|member| member.service == service).expect("all services are members")
    }
}
