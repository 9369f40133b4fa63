//! Everything that a test of the outbox runs: coordinator, shop, two relays, warehouse, and their databases.

use std::time::Duration;

use anyhow::ensure;
use integration_tests::coordinator::{CoordinatorProcess, migrate_to};
use integration_tests::mariadb::TestMariaDb;
use integration_tests::output::Scratch;
use integration_tests::ports::free_address;
use integration_tests::postgres::TestPostgres;
use integration_tests::process::Process;
use integration_tests::programs::Program;
use integration_tests::wait::{http_client, until};

/// How long a process may take until it works again: seconds on a busy machine, whose log is thousands of blocks.
pub(super) const READY_LIMIT: Duration = Duration::from_secs(60);
/// Customers, and so keys: enough that messages flow side by side, few enough that each key has a long queue.
const CUSTOMERS: u32 = 64;
/// A killed relay's shards wait so long for the other one.
const LEASE_MS: u32 = 1_000;
/// The longest wait between two attempts: a receiver that comes back shall not wait long for its turn.
const RETRY_CAP_MS: &str = "500";
const PARTITIONS: u16 = 4;

/// Who may be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Victim {
    Shop,
    FirstRelay,
    SecondRelay,
    Coordinator,
    Warehouse,
}

impl Victim {
    pub(super) const ALL: [Self; 5] =
        [Self::Shop, Self::FirstRelay, Self::SecondRelay, Self::Coordinator, Self::Warehouse];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Shop => "shop",
            Self::FirstRelay => "first-relay",
            Self::SecondRelay => "second-relay",
            Self::Coordinator => "coordinator",
            Self::Warehouse => "warehouse",
        }
    }

    const fn command(self) -> &'static str {
        match self {
            Self::FirstRelay | Self::SecondRelay => "relay",
            _ => self.name(),
        }
    }
}

/// One service of the example.
struct Service {
    victim: Victim,
    process: Process,
    url: String,
}

/// Fields are dropped from top to bottom: processes, then their databases, then their logs.
pub(super) struct Stack {
    pub(super) coordinator: CoordinatorProcess,
    services: Vec<Service>,
    _postgres: TestPostgres,
    _mariadb: Option<TestMariaDb>,
    pub(super) coordinator_db: String,
    pub(super) shop_db: String,
    pub(super) warehouse_db: String,
    http: reqwest::Client,
    scratch: Scratch,
}

impl Stack {
    /// Describes everything; the shop's database may be another server's.
    pub(super) async fn new(
        scratch: Scratch,
        postgres: TestPostgres,
        mariadb: Option<TestMariaDb>,
        shop_db: String,
    ) -> anyhow::Result<Self> {
        let coordinator_db = postgres.create_database("unanimity").await?;
        let warehouse_db = postgres.create_database("warehouse").await?;
        migrate_to(&coordinator_db, PARTITIONS).await?;
        // A name, so that a restarted node has its leases back at once.
        let coordinator = CoordinatorProcess::new(&scratch, Victim::Coordinator.name(), &coordinator_db)?
            .set("UNANIMITY_RETRY_CAP_MS", RETRY_CAP_MS);
        let mut services = Vec::new();
        // The shop before its relays: it makes their tables.
        for victim in [Victim::Shop, Victim::Warehouse, Victim::FirstRelay, Victim::SecondRelay] {
            let address = free_address()?;
            let database = if victim == Victim::Warehouse { &warehouse_db } else { &shop_db };
            let process = Process::new(&scratch, victim.name(), Program::Outbox.path()?)
                .argument(victim.command())
                .argument("--stop-with-stdin")
                .argument(format!("--customers={CUSTOMERS}"))
                .argument(format!("--lease-ms={LEASE_MS}"))
                .variable("LISTEN", address.to_string())
                .variable("COORDINATOR_URL", coordinator.url())
                .variable("DATABASE_URL", database);
            services.push(Service { victim, process, url: format!("http://{address}") });
        }
        let http = http_client(Duration::from_secs(5))?;
        Ok(Self {
            coordinator,
            services,
            _postgres: postgres,
            _mariadb: mariadb,
            coordinator_db,
            shop_db,
            warehouse_db,
            http,
            scratch,
        })
    }

    /// Starts everything and waits until it works.
    pub(super) async fn start(&mut self) -> anyhow::Result<()> {
        self.coordinator.process.start()?;
        self.coordinator.ready(READY_LIMIT).await?;
        for place in 0..self.services.len() {
            self.services[place].process.start()?;
            self.answers(place).await?;
        }
        Ok(())
    }

    /// Waits until everything works again.
    pub(super) async fn heal(&mut self) -> anyhow::Result<()> {
        self.coordinator.ready(READY_LIMIT).await?;
        for place in 0..self.services.len() {
            self.answers(place).await?;
        }
        Ok(())
    }

    /// Where a service listens, also after a restart.
    pub(super) fn url(&self, victim: Victim) -> &str {
        let service = self.services.iter().find(|service| service.victim == victim);
        &service.expect("all but the coordinator are services").url
    }

    pub(super) fn process(&mut self, victim: Victim) -> &mut Process {
        match self.services.iter_mut().find(|service| service.victim == victim) {
            Some(service) => &mut service.process,
            None => &mut self.coordinator.process,
        }
    }

    pub(super) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Waits until a service answers: a warehouse may answer that something needs a look.
    async fn answers(&mut self, place: usize) -> anyhow::Result<()> {
        let http = self.http.clone();
        let Service { victim, process, url } = &mut self.services[place];
        let url = format!("{url}/healthz");
        until(&format!("{} answers", victim.name()), READY_LIMIT, async || {
            ensure!(process.ended()?.is_none(), "it ended:\n{}", process.tail());
            http.get(&url).send().await?;
            Ok(())
        })
        .await
    }
}
