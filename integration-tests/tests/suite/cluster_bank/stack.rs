//! Three coordinators over one log, three banks with a database server each, and the ways between all of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use integration_tests::coordinator::{CoordinatorProcess, migrate_to};
use integration_tests::output::Scratch;
use integration_tests::ports::free_address;
use integration_tests::postgres::{Kind, Options, TestPostgres};
use integration_tests::process::Process;
use integration_tests::proxy::{Proxy, Tell};
use integration_tests::wait::{http_client, until};
use serde_json::Value;
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;

use super::callers;
use super::plan::Plan;

/// How long a process may take until it works again.
pub(super) const READY_LIMIT: Duration = Duration::from_secs(90);
/// Cents of each account at the beginning: some run dry.
const OPENING: i64 = 50_000;
/// The longest wait between two attempts: a participant that comes back shall not wait long for its turn.
const RETRY_CAP_MS: &str = "500";
const PARTITIONS: u16 = 16;
const NODES: [&str; 3] = ["ada", "ben", "cas"];
const BANKS: [&str; 3] = ["east", "north", "south"];

/// A coordinator. Everybody else reaches it, and it reaches its log, through proxies.
pub(super) struct Node {
    pub(super) coordinator: CoordinatorProcess,
    /// Its advertised address. Callers of kind 1 are coordinators.
    pub(super) door: Proxy,
    /// Its way to the log's database.
    pub(super) log: Proxy,
}

/// A bank's process.
pub(super) struct Bank {
    pub(super) name: &'static str,
    pub(super) process: Process,
    pub(super) server: TestPostgres,
    pub(super) database_url: String,
    address: SocketAddr,
}

impl Bank {
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// The coordinators, and what leads to them.
pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    /// The processes that run.
    processes: Arc<Mutex<Vec<u32>>>,
    pub(super) log_url: String,
}

/// The banks and all databases. Processes are dropped before their servers.
pub(super) struct Stores {
    pub(super) banks: Vec<Bank>,
    pub(super) log: TestPostgres,
}

/// What everybody may know of a running stack.
#[derive(Debug, Clone)]
pub(super) struct Map {
    /// How many accounts each bank has.
    accounts: u32,
    /// The coordinators' doors.
    pub(super) doors: Vec<String>,
    /// Name and URL of each bank.
    pub(super) banks: Vec<(&'static str, String)>,
}

/// Everything that the test runs. Fields are dropped from top to bottom: processes, their databases, their logs.
pub(super) struct Stack {
    pub(super) cluster: Cluster,
    pub(super) stores: Stores,
    accounts: u32,
    http: reqwest::Client,
    pub(super) scratch: Scratch,
}

impl Stack {
    /// Starts everything; whether it works, [`Stack::heal`] says.
    pub(super) async fn start(test: &str, plan: Plan) -> anyhow::Result<Self> {
        let scratch = Scratch::new(test)?;
        let log = TestPostgres::start(Options::default()).await?;
        let log_url = log.create_database("unanimity").await?;
        migrate_to(&log_url, PARTITIONS).await?;
        let accounts = plan.accounts();
        let processes = Arc::<Mutex<Vec<u32>>>::default();
        let mut nodes = Vec::new();
        for name in NODES {
            nodes.push(Node::new(&scratch, name, &log_url, &processes).await?);
        }
        let doors: Vec<String> = nodes.iter().map(|node| node.door.url()).collect();
        let mut banks = Vec::new();
        for name in BANKS {
            let server = TestPostgres::start(Options::default()).await?;
            let database_url = server.create_database(name).await?;
            let address = free_address()?;
            let program = PathBuf::from(env!("CARGO_BIN_EXE_cluster-bank"));
            let process = Process::new(&scratch, name, program)
                .variable("NAME", name)
                .variable("LISTEN", address.to_string())
                .variable("DATABASE_URL", &database_url)
                .variable("COORDINATOR_URL", doors.join(","))
                .variable("ACCOUNTS", accounts.to_string())
                .variable("OPENING", OPENING.to_string());
            banks.push(Bank { name, process, server, database_url, address });
        }
        let http = http_client(Duration::from_secs(10))?;
        let cluster = Cluster { nodes, processes, log_url };
        let mut stack = Self { cluster, stores: Stores { banks, log }, accounts, http, scratch };
        for node in 0..NODES.len() {
            stack.cluster.start(node)?;
        }
        for bank in &mut stack.stores.banks {
            bank.process.start()?;
        }
        Ok(stack)
    }

    /// What each bank's accounts hold altogether.
    pub(super) fn opening(&self) -> i64 {
        i64::from(self.accounts) * OPENING
    }

    pub(super) fn map(&self) -> Map {
        Map {
            accounts: self.accounts,
            doors: self.cluster.nodes.iter().map(|node| node.door.url()).collect(),
            banks: self.stores.banks.iter().map(|bank| (bank.name, bank.url())).collect(),
        }
    }

    /// Whether the databases are ours to kill.
    pub(super) fn owns_databases(&self) -> bool {
        self.stores.log.kind() != Kind::External
    }

    /// Waits until everything works: every partition, every session of every bank.
    pub(super) async fn heal(&mut self) -> anyhow::Result<()> {
        for node in &mut self.cluster.nodes {
            node.coordinator.ready(READY_LIMIT).await?;
        }
        for place in 0..self.stores.banks.len() {
            let name = self.stores.banks[place].name;
            until(&format!("{name} works"), READY_LIMIT, async || {
                let ended = self.stores.banks[place].process.ended()?;
                ensure!(ended.is_none(), "{name} ended: {}", self.stores.banks[place].process.tail());
                let health = self.health(place).await?;
                let attached = health["attached"].as_u64().unwrap_or(0);
                ensure!(attached == NODES.len() as u64, "{health}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// What a bank says of itself.
    pub(super) async fn health(&self, bank: usize) -> anyhow::Result<Value> {
        let answer = self.http.get(format!("{}/healthz", self.stores.banks[bank].url())).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{}: {status}: {text}", self.stores.banks[bank].name);
        serde_json::from_str(&text).context(text)
    }
}

impl Map {
    /// An account that every bank has.
    pub(super) fn account(&self, random: &mut fastrand::Rng) -> String {
        format!("account-{}", random.u32(..self.accounts))
    }
}

impl Cluster {
    /// Starts a coordinator; the doors know it from now on.
    pub(super) fn start(&mut self, node: usize) -> anyhow::Result<()> {
        self.nodes[node].coordinator.process.start()?;
        let ids = self.nodes.iter().filter_map(|node| node.coordinator.process.id()).collect();
        *self.processes.lock().expect("no holder panics") = ids;
        Ok(())
    }
}

impl Node {
    async fn new(
        scratch: &Scratch,
        name: &str,
        log_url: &str,
        processes: &Arc<Mutex<Vec<u32>>>,
    ) -> anyhow::Result<Self> {
        let options = PgConnectOptions::from_str(log_url)?;
        let server = format!("{}:{}", options.get_host(), options.get_port());
        let server = tokio::net::lookup_host(server).await?.next().context("the log's server")?;
        let log = Proxy::start(server).await?;
        let here = log.address();
        let url = options.host(&here.ip().to_string()).port(here.port()).to_url_lossy().to_string();
        let coordinator = CoordinatorProcess::new(scratch, name, &url)?;
        let known = Arc::clone(processes);
        let tell: Tell = Arc::new(move |from| {
            callers::is_one_of(&known.lock().expect("no holder panics"), from).unwrap_or(false)
        });
        let door = Proxy::telling(coordinator.address(), tell).await?;
        let coordinator =
            coordinator.set("UNANIMITY_ADVERTISE", &door.url()).set("UNANIMITY_RETRY_CAP_MS", RETRY_CAP_MS);
        Ok(Self { coordinator, door, log })
    }
}
