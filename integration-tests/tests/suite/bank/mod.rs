//! Transfers under kills: real processes, two PostgreSQL servers and one MariaDB server with XA branches, and what
//! must be true when the dust has settled.
//!
//! Clients order transfers without a pause while the coordinator, the teller, the banks and all database servers are
//! killed and started again, at moments that follow from a seed (`UNANIMITY_SEED` repeats one; the interleaving is the
//! machine's). What the clients heard, the three databases and the coordinator must then tell one story: see
//! [`verdict`].

mod clients;
mod kills;
mod verdict;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use integration_tests::banks::{Bank, Server, teller};
use integration_tests::coordinator::{CoordinatorProcess, migrate_to};
use integration_tests::mariadb::{self, TestMariaDb};
use integration_tests::output::{Scratch, say};
use integration_tests::postgres::{self, Kind, TestPostgres};
use integration_tests::process::Process;

use self::clients::Clients;
use crate::orders::seed;

/// How long a process may take until it works again.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Not committed for so long, a transfer is aborted: whoever died in the middle leaves accounts locked for so long.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(4);
/// The longest wait between two attempts: a bank that comes back shall not wait long for its turn.
const RETRY_CAP_MS: &str = "500";
/// Enough transfers in flight that every kill hits some in each of their steps, little enough for two cores.
const CONCURRENCY: u64 = 12;
/// Accounts of each bank: enough that transfers seldom wait for each other, few enough that they sometimes do.
const ACCOUNTS: u32 = 24;
/// Cents of each account at the beginning: some run dry.
const OPENING: i64 = 50_000;
/// How many transfers are made, at least.
const TRANSFERS: usize = 2_000;

/// Everything that the test runs. Fields are dropped from top to bottom: processes, then their databases, then their
/// logs.
struct Stack {
    coordinator: CoordinatorProcess,
    teller: Process,
    teller_url: String,
    /// In the order of their names.
    banks: Vec<Bank>,
    coordinator_db: TestPostgres,
    coordinator_db_url: String,
    scratch: Scratch,
}

impl Stack {
    async fn start(test: &str) -> anyhow::Result<Self> {
        let scratch = Scratch::new(test)?;
        let postgres = || TestPostgres::start(postgres::Options::default());
        let coordinator_db = postgres().await?;
        let coordinator_db_url = coordinator_db.create_database("unanimity").await?;
        migrate_to(&coordinator_db_url, 4).await?;
        // A name, so that a restarted node has its leases back at once.
        let mut coordinator = CoordinatorProcess::new(&scratch, "coordinator", &coordinator_db_url)?
            .set("UNANIMITY_RETRY_CAP_MS", RETRY_CAP_MS);
        coordinator.process.start()?;
        let east = Server::MariaDb(TestMariaDb::start(mariadb::Options::default()).await?);
        let servers = [
            ("east", east),
            ("north", Server::Postgres(postgres().await?)),
            ("south", Server::Postgres(postgres().await?)),
        ];
        let mut banks = Vec::new();
        for (name, server) in servers {
            let mut bank = Bank::new(&scratch, name, server, &coordinator.url(), ACCOUNTS, OPENING).await?;
            bank.process.start()?;
            banks.push(bank);
        }
        let (mut teller, teller_url) = teller(&scratch, &coordinator.url(), &banks, TRANSFER_TIMEOUT)?;
        teller.start()?;
        let mut stack =
            Self { coordinator, teller, teller_url, banks, coordinator_db, coordinator_db_url, scratch };
        stack.heal().await?;
        Ok(stack)
    }

    /// Whether all servers are ours to kill.
    fn owns_databases(&self) -> bool {
        self.coordinator_db.kind() != Kind::External
            && self.banks.iter().all(|bank| bank.server.kind() != Kind::External)
    }

    /// Waits until everything works again.
    async fn heal(&mut self) -> anyhow::Result<()> {
        self.coordinator.ready(READY_LIMIT).await?;
        for bank in &mut self.banks {
            bank.attached(READY_LIMIT).await?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_by_xa_survive_kills_of_everything() {
    let test = "transfers_by_xa_survive_kills_of_everything";
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    say(&format!("{test}: UNANIMITY_SEED={seed} repeats it"));
    let mut stack = Stack::start(test).await.unwrap();
    let started = Instant::now();
    let clients = Clients::open(&stack).unwrap();
    let ordering = clients.start(CONCURRENCY, &mut random);

    let killed = kills::of_everything(&mut stack, &clients, &mut random).await;
    clients.close();
    for client in ordering {
        client.await.unwrap();
    }
    let killed = killed.with_context(|| format!("seed {seed}")).unwrap();
    stack.heal().await.unwrap();
    let kills_took = started.elapsed();

    let verdict = verdict::reach(&mut stack, &clients).await;
    let verdict = verdict.with_context(|| format!("seed {seed}")).unwrap();
    say(&format!(
        "{test}: {}; {killed}; databases: {}; {:.0} s, settled in {:.1} s; seed {seed}",
        verdict.counts,
        stack.coordinator_db.kind(),
        kills_took.as_secs_f32(),
        verdict.settled_in.as_secs_f32()
    ));
    assert!(
        verdict.problems.is_empty(),
        "seed {seed}: {} problems (logs in {}):\n{}",
        verdict.problems.len(),
        stack.scratch.path().display(),
        verdict.problems.join("\n")
    );
}
