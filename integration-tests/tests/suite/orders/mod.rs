//! Orders under kills: real processes, real databases, and what must be true when the dust has settled.
//!
//! Customers place orders without a pause while processes and databases are killed, frozen and started again, at
//! moments that follow from a seed (`UNANIMITY_SEED` repeats one; the interleaving is the machine's). What the
//! customers heard, the three databases and the coordinator must then tell one story: see [`verdict`].

pub(crate) mod customers;
mod kills;
pub(crate) mod verdict;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use integration_tests::coordinator::{CoordinatorProcess, migrate_with};
use integration_tests::output::{Scratch, say};
use integration_tests::postgres::{Kind, Options, TestPostgres};
use integration_tests::shop::{Service, Shop};

pub(crate) use self::customers::{Customers, Heard, Told, told};
use self::verdict::Verdict;

/// Lets a binary play an older one, which knows no block format beyond this (protocol M18).
pub(crate) const FORMAT_VARIABLE: &str = "UNANIMITY_TEST_FORMAT";
/// How long a process may take until it works again: seconds on a busy machine, whose log is thousands of blocks.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// See [`Plan::timeout`].
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest wait between two attempts: a participant that comes back shall not wait long for its turn.
const RETRY_CAP_MS: &str = "500";
/// Enough orders in flight that every kill hits some in each of their steps, little enough for two cores.
const CONCURRENCY: u64 = 12;

/// Everything that a test of this kind runs. Fields are dropped from top to bottom: processes, then their databases,
/// then their logs.
pub(crate) struct Stack {
    pub(crate) coordinators: Vec<CoordinatorProcess>,
    pub(crate) shop: Shop,
    pub(crate) coordinator_db: TestPostgres,
    pub(crate) shop_db: TestPostgres,
    pub(crate) coordinator_db_url: String,
    pub(crate) scratch: Scratch,
}

/// What a stack is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Goods and money for about so many.
    pub(crate) orders: u32,
    pub(crate) partitions: u16,
    /// Nodes over the one log; the services know them all.
    pub(crate) coordinators: usize,
    /// Undecided for so long, an order is aborted: whoever died in the middle leaves a transaction for so long.
    pub(crate) timeout: Duration,
    /// The block format that whoever makes the log knows; the newest unless said.
    pub(crate) format: Option<u16>,
}

impl Stack {
    pub(crate) async fn start(
        test: &str,
        plan: Plan,
        set: impl Fn(usize, CoordinatorProcess) -> CoordinatorProcess,
    ) -> anyhow::Result<Self> {
        let Plan { orders, partitions, .. } = plan;
        let scratch = Scratch::new(test)?;
        let coordinator_db = TestPostgres::start(Options::default()).await?;
        let shop_db = TestPostgres::start(Options::default()).await?;
        let coordinator_db_url = coordinator_db.create_database("unanimity").await?;
        let mut migrates = vec![("UNANIMITY_PARTITIONS", partitions.to_string())];
        migrates.extend(plan.format.map(|format| (FORMAT_VARIABLE, format.to_string())));
        migrate_with(&coordinator_db_url, &migrates).await?;
        // A name, so that a restarted node has its leases back at once.
        let mut coordinators = Vec::new();
        for place in 0..plan.coordinators {
            let name = format!("coordinator-{place}");
            let coordinator = CoordinatorProcess::new(&scratch, &name, &coordinator_db_url)?
                .set("UNANIMITY_RETRY_CAP_MS", RETRY_CAP_MS);
            let mut coordinator = set(place, coordinator);
            coordinator.process.start()?;
            coordinators.push(coordinator);
        }
        for coordinator in &mut coordinators {
            coordinator.ready(READY_LIMIT).await?;
        }
        let urls: Vec<_> = coordinators.iter().map(CoordinatorProcess::url).collect();
        let mut shop = Shop::new(&scratch, &shop_db, &urls.join(","), orders, plan.timeout).await?;
        for service in Service::ALL {
            shop.process(service).start()?;
        }
        for service in Service::ALL {
            shop.attached(service, READY_LIMIT).await?;
        }
        Ok(Self { coordinators, shop, coordinator_db, shop_db, coordinator_db_url, scratch })
    }

    /// Whether the databases are ours to kill.
    fn owns_databases(&self) -> bool {
        self.coordinator_db.kind() != Kind::External
    }

    /// Waits until everything works again.
    pub(crate) async fn heal(&mut self) -> anyhow::Result<()> {
        for coordinator in &mut self.coordinators {
            coordinator.ready(READY_LIMIT).await?;
        }
        for service in Service::ALL {
            self.shop.attached(service, READY_LIMIT).await?;
        }
        Ok(())
    }
}

/// The seed of this run: the one that is asked for, or a new one.
pub(crate) fn seed() -> u64 {
    match std::env::var("UNANIMITY_SEED") {
        Ok(seed) => seed.parse().expect("UNANIMITY_SEED is a whole number"),
        Err(_) => fastrand::u64(..1_000_000_000),
    }
}

/// Runs a story of kills under orders, and judges how it ended.
async fn survives(
    test: &str,
    orders: u32,
    partitions: u16,
    kills: impl AsyncFnOnce(&mut Stack, &Arc<Customers>, &mut fastrand::Rng) -> anyhow::Result<String>,
) -> Verdict {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    say(&format!("{test}: UNANIMITY_SEED={seed} repeats it"));
    let plan = Plan { orders, partitions, coordinators: 1, timeout: TRANSACTION_TIMEOUT, format: None };
    let mut stack = Stack::start(test, plan, |_, coordinator| coordinator).await.unwrap();
    let started = Instant::now();
    let customers = Customers::open(&stack).await.unwrap();
    let shopping = customers.start(CONCURRENCY, &mut random);

    let killed = kills(&mut stack, &customers, &mut random).await;
    customers.close();
    for customer in shopping {
        customer.await.unwrap();
    }
    let killed = killed.with_context(|| format!("seed {seed}")).unwrap();
    stack.heal().await.unwrap();
    let kills_took = started.elapsed();

    let verdict = verdict::reach(&mut stack, &customers).await;
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
    verdict
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_survive_kills_of_the_coordinator() {
    // Few partitions: each has blocks enough that the log is trimmed while its owner is killed.
    let verdict =
        survives("orders_survive_kills_of_the_coordinator", 1_500, 2, kills::of_the_coordinator).await;
    assert!(verdict.trimmed > 0, "the log was never trimmed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_survive_kills_of_services_and_databases() {
    survives("orders_survive_kills_of_services_and_databases", 2_500, 16, kills::of_everything).await;
}
