//! Everything that the story runs: the coordinator in this process, the banks and the teller in theirs.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use unanimity_coordinator::Node;
use unanimity_coordinator::engine::ListFilter;
use unanimity_sdk::{LogId, Status};

use super::plan::{ACCOUNTS, OPENING};
use crate::services::process::ServiceProcess;
use crate::services::{Role, http_client};
use crate::{bank, teller};

/// How long the banks may take to attach to the coordinator.
const ATTACH_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Stack {
    node: Node,
    banks: Vec<ServiceProcess>,
    teller: ServiceProcess,
}

impl Stack {
    /// Starts everything: the coordinator's log in a directory, a bank over each of the databases.
    pub(super) async fn start(
        directory: &Path,
        program: &Path,
        databases: &[(String, String)],
    ) -> anyhow::Result<Self> {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let log = directory.join("unanimity.db");
        let node = Node::builder().sqlite(log).listen(any_port).start().await.context("the coordinator")?;
        node.ready(Duration::from_secs(20)).await.context("the coordinator")?;
        let url = node.url().context("the coordinator does not listen")?;
        let mut banks = Vec::new();
        for (name, database) in databases {
            let options = bank::Options {
                name: name.clone(),
                database: database.clone(),
                accounts: ACCOUNTS,
                opening: OPENING,
            };
            banks.push(ServiceProcess::spawn(program, Role::Bank(options), &url).await?);
        }
        let options = teller::Options {
            banks: banks.iter().map(|bank| (bank.name().to_owned(), bank.url())).collect(),
            transfer_timeout_ms: 5_000,
        };
        let teller = ServiceProcess::spawn(program, Role::Teller(options), &url).await?;
        let stack = Self { node, banks, teller };
        stack.attached().await?;
        Ok(stack)
    }

    /// Where transfers are ordered.
    pub(super) fn teller_url(&self) -> String {
        self.teller.url()
    }

    /// The identity of the coordinator's log.
    pub(super) fn log(&self) -> LogId {
        self.node.coordinator().log_id()
    }

    /// How many transfers the coordinator has not finished.
    pub(super) async fn open_transactions(&self) -> anyhow::Result<usize> {
        let mut open = 0;
        for status in [Status::Active, Status::Preparing, Status::Committing, Status::Aborting] {
            let filter = ListFilter { status: Some(status), limit: 100, ..ListFilter::default() };
            open += self.node.coordinator().list(filter).await?.transactions.len();
        }
        Ok(open)
    }

    pub(super) fn service(&mut self, name: &str) -> &mut ServiceProcess {
        let bank = self.banks.iter_mut().find(|bank| bank.name() == name);
        bank.unwrap_or(&mut self.teller)
    }

    /// Stops everything in good order, the coordinator last.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        for mut service in std::iter::once(self.teller).chain(self.banks) {
            service.stop().await?;
        }
        self.node.shutdown().await;
        Ok(())
    }

    /// Waits until every bank is attached.
    async fn attached(&self) -> anyhow::Result<()> {
        let http = http_client()?;
        let end = Instant::now() + ATTACH_MAX;
        for bank in &self.banks {
            let url = format!("{}/healthz", bank.url());
            loop {
                let answer = match http.get(&url).send().await {
                    Ok(answer) if answer.status().is_success() => break,
                    Ok(answer) => answer.text().await.unwrap_or_default(),
                    Err(error) => error.to_string(),
                };
                if Instant::now() >= end {
                    bail!("{} does not work (RUST_LOG=info says more): {answer}", bank.name());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }
}
