//! Everything that the story runs: the coordinator in this process, the services in theirs.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use unanimity_coordinator::Node;

use super::Options as StoryOptions;
use crate::services::process::ServiceProcess;
use crate::services::{Kind, Options, http_client};

/// How long the services may take to attach to the coordinator.
const ATTACH_MAX: Duration = Duration::from_secs(20);
/// A killed relay's messages wait so long for the other.
const LEASE_MS: u64 = 1_500;

/// Who may be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Member {
    /// The shop.
    Shop,
    /// One relay.
    FirstRelay,
    /// The warehouse.
    Warehouse,
    /// The other relay.
    SecondRelay,
}

impl Member {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Shop, Self::FirstRelay, Self::Warehouse, Self::SecondRelay];

    const fn index(self) -> usize {
        match self {
            Self::Shop => 0,
            Self::FirstRelay => 1,
            Self::Warehouse => 2,
            Self::SecondRelay => 3,
        }
    }

    const fn kind(self) -> Kind {
        match self {
            Self::Shop => Kind::Shop,
            Self::FirstRelay | Self::SecondRelay => Kind::Relay,
            Self::Warehouse => Kind::Warehouse,
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shop => "shop",
            Self::FirstRelay => "first relay",
            Self::Warehouse => "warehouse",
            Self::SecondRelay => "second relay",
        })
    }
}

/// The coordinator and the services.
#[derive(Debug)]
pub struct Stack {
    node: Node,
    coordinator: String,
    /// In the order of [`Member::ALL`].
    members: Vec<ServiceProcess>,
    database_urls: [String; 2],
}

impl Stack {
    /// Starts everything. Databases are files in a directory, or what the options name.
    ///
    /// # Errors
    /// If something does not start.
    pub(super) async fn start(
        directory: &Path,
        story: &StoryOptions,
        program: &Path,
    ) -> anyhow::Result<Self> {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        // The name that `unanimity dev --data-dir` looks for.
        let log = directory.join("unanimity.db");
        let node = Node::builder().sqlite(log).listen(any_port).start().await.context("the coordinator")?;
        node.ready(Duration::from_secs(20)).await.context("the coordinator")?;
        let coordinator = node.url().context("the coordinator does not listen")?;
        let database = |url: &Option<String>, name: &str| {
            url.clone().unwrap_or_else(|| format!("sqlite://{}", directory.join(name).display()))
        };
        let shop_db = database(&story.shop_database_url, "shop.db");
        let warehouse_db = database(&story.warehouse_database_url, "warehouse.db");
        let mut members = Vec::new();
        for member in Member::ALL {
            let database = if member == Member::Warehouse { &warehouse_db } else { &shop_db };
            let options = Options {
                lease_ms: LEASE_MS,
                allow_crashes: member == Member::Shop,
                ..Options::new(coordinator.as_str(), database.as_str())
            };
            members.push(ServiceProcess::spawn(program, member.kind(), options).await?);
        }
        let stack = Self { node, coordinator, members, database_urls: [shop_db, warehouse_db] };
        stack.attached().await?;
        Ok(stack)
    }

    /// Where a service listens.
    #[must_use]
    pub fn url(&self, member: Member) -> String {
        self.members[member.index()].url()
    }

    /// The coordinator's URL.
    #[must_use]
    pub fn coordinator_url(&self) -> &str {
        &self.coordinator
    }

    /// The databases of shop and warehouse.
    #[must_use]
    pub fn database_urls(&self) -> [&str; 2] {
        self.database_urls.each_ref().map(String::as_str)
    }

    /// Whether the shop's database can hold a fence.
    pub(super) fn has_vouchers(&self) -> bool {
        let url = &self.database_urls[0];
        !url.starts_with("mysql://") && !url.starts_with("mariadb://")
    }

    pub(super) fn process(&mut self, member: Member) -> &mut ServiceProcess {
        &mut self.members[member.index()]
    }

    /// Stops everything in good order, the coordinator last.
    ///
    /// # Errors
    /// If a service did not stop.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        for member in &mut self.members {
            member.stop().await?;
        }
        self.node.shutdown().await;
        Ok(())
    }

    /// Waits until every service works.
    async fn attached(&self) -> anyhow::Result<()> {
        let http = http_client()?;
        let end = Instant::now() + ATTACH_MAX;
        for member in &self.members {
            let url = format!("{}/healthz", member.url());
            while !http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                if Instant::now() >= end {
                    bail!("a service did not attach to the coordinator (RUST_LOG=info says more)");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }
}
