//! Sagas under kills: trips over four services, whose processes and whose coordinator are killed, and whose answers get
//! lost on the way.
//!
//! Customers book without a pause, ask again and cancel, while faults happen at moments that follow from a seed
//! (`UNANIMITY_SEED` repeats one; the interleaving is the machine's). Some trips cannot be paid and are booked at a
//! hotel that refuses their compensation: an operator mends those in the end. What the customers heard, the four
//! databases and the coordinator must then tell one story: see [`verdict`]. Every trip is complete or fully
//! compensated.

mod customers;
mod faults;
mod services;
mod traces;
mod verdict;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use integration_tests::coordinator::{CoordinatorProcess, migrate_to};
use integration_tests::output::{Scratch, say};
use integration_tests::postgres::{Options, TestPostgres};
use integration_tests::proxy::Proxy;

use self::customers::Customers;
use self::services::{Service, Services};

/// How long a process may take until it works again: seconds on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Not charged by then, a trip turns back.
const TRIP_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest wait between two attempts: a participant that comes back shall not wait long for its turn.
const RETRY_CAP_MS: &str = "500";
/// Enough trips in flight that every fault hits some in each of their steps, little enough for two cores.
const CONCURRENCY: u64 = 16;
/// Room for about so many trips: more come while faults go on.
const DEMO_TRIPS: u32 = 2_500;

/// Everything that the test runs. Fields are dropped from top to bottom: processes, their database, their logs.
struct Stack {
    services: Services,
    proxy: Proxy,
    coordinator: CoordinatorProcess,
    /// Holds the server of the coordinator's log.
    _coordinator_db: TestPostgres,
    coordinator_db_url: String,
    scratch: Scratch,
}

impl Stack {
    async fn start(test: &str) -> anyhow::Result<Self> {
        let scratch = Scratch::new(test)?;
        let coordinator_db = TestPostgres::start(Options::default()).await?;
        let coordinator_db_url = coordinator_db.create_database("unanimity").await?;
        migrate_to(&coordinator_db_url, 4).await?;
        // A name, so that a restarted node has its leases back at once.
        let mut coordinator = CoordinatorProcess::new(&scratch, "coordinator", &coordinator_db_url)?
            .set("UNANIMITY_RETRY_CAP_MS", RETRY_CAP_MS);
        coordinator.process.start()?;
        coordinator.ready(READY_LIMIT).await?;
        let address = coordinator.url().trim_start_matches("http://").parse()?;
        let proxy = Proxy::start(address).await?;
        let mut services = Services::new(&scratch, &proxy.url(), DEMO_TRIPS, TRIP_TIMEOUT)?;
        for service in Service::ALL {
            services.process(service).start()?;
        }
        for service in Service::ALL {
            services.attached(service, READY_LIMIT).await?;
        }
        Ok(Self {
            services,
            proxy,
            coordinator,
            _coordinator_db: coordinator_db,
            coordinator_db_url,
            scratch,
        })
    }

    /// Waits until everything works again.
    async fn heal(&mut self) -> anyhow::Result<()> {
        self.coordinator.ready(READY_LIMIT).await?;
        for service in Service::ALL {
            self.services.attached(service, READY_LIMIT).await?;
        }
        Ok(())
    }
}

/// The seed of this run: the one that is asked for, or a new one.
fn seed() -> u64 {
    match std::env::var("UNANIMITY_SEED") {
        Ok(seed) => seed.parse().expect("UNANIMITY_SEED is a whole number"),
        Err(_) => fastrand::u64(..1_000_000_000),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trips_are_complete_or_compensated_whatever_is_killed_or_lost() {
    const TEST: &str = "trips_are_complete_or_compensated_whatever_is_killed_or_lost";
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    say(&format!("{TEST}: UNANIMITY_SEED={seed} repeats it"));
    let mut stack = Stack::start("trips").await.unwrap();
    let started = Instant::now();
    let customers = Customers::new(&stack).unwrap();
    let travelling = customers.start(CONCURRENCY, &mut random);

    let faults = faults::of_everything(&mut stack, &customers, &mut random).await;
    customers.close();
    for customer in travelling {
        customer.await.unwrap();
    }
    let faults = faults.with_context(|| format!("seed {seed}")).unwrap();
    stack.heal().await.unwrap();
    let faults_took = started.elapsed();

    let verdict = verdict::reach(&mut stack, &customers).await;
    let verdict = verdict.with_context(|| format!("seed {seed}")).unwrap();
    say(&format!(
        "{TEST}: {}; {faults}; {:.0} s, settled in {:.1} s; seed {seed}",
        verdict.counts,
        faults_took.as_secs_f32(),
        verdict.settled_in.as_secs_f32()
    ));
    assert!(
        verdict.problems.is_empty(),
        "seed {seed}: {} problems (logs in {}):\n{}",
        verdict.problems.len(),
        stack.scratch.path().display(),
        verdict.problems.join("\n")
    );
    assert!(verdict.mended > 0, "seed {seed}: no compensation was parked and mended");
    assert!(verdict.compensated > 0 && verdict.asked_again > 0, "seed {seed}: the faults hit nothing");
}
