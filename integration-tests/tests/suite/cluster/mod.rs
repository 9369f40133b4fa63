//! Three coordinators over one log: what a rolling restart, a kill, a freeze and a wrong clock cost those who call them.
//!
//! ```text
//!   customers ──HTTP──► order, inventory, payment ──SDK──┐
//!   callers: SDK, with an account of their own ──────────┤► coordinator-0, -1, -2 ──► one PostgreSQL
//!   callers: HTTP, no repetition, a load balancer ───────┘
//! ```
//! Every story ends with exact sums, nothing open, and a log that verifies.

mod callers;
mod counter;
mod pumps;
pub(crate) mod steps;
mod stories;
mod web;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use integration_tests::coordinator::CoordinatorProcess;
use integration_tests::output::say;
use sqlx::{Connection as _, PgConnection};
use tokio_util::sync::CancellationToken;

use self::callers::Callers;
use self::counter::Counter;
use self::web::Web;
use crate::orders::{Customers, Plan, Stack, seed, verdict};

pub(crate) const NODES: usize = 3;
pub(crate) const PARTITIONS: u16 = 16;
/// Longer than a partition is ever without an owner here: nothing shall end by its deadline.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a node may take to start, and to stop.
pub(crate) const READY_LIMIT: Duration = Duration::from_secs(60);

/// Who works while the story goes on, and what they were told.
pub(crate) struct Load {
    customers: Arc<Customers>,
    callers: Arc<Callers>,
    pub(crate) web: Arc<Web>,
}

/// A story's end.
pub(crate) struct Ended {
    /// What orders came to that neither committed nor were refused by the business.
    pub(crate) orders_failed: Vec<String>,
    pub(crate) sdk: callers::Heard,
    pub(crate) http: web::Heard,
    /// Aborts with the reason `owner_changed`.
    pub(crate) owner_changed: i64,
}

/// Runs a story over three nodes under load, and judges how it ended.
async fn survives(
    test: &str,
    set: impl Fn(usize, CoordinatorProcess) -> CoordinatorProcess,
    story: impl AsyncFnOnce(&mut Stack, &Load) -> anyhow::Result<String>,
) -> Ended {
    survives_from(test, None, set, story).await
}

/// The same over a log that was made by a binary that knows no more than this block format.
pub(crate) async fn survives_from(
    test: &str,
    format: Option<u16>,
    set: impl Fn(usize, CoordinatorProcess) -> CoordinatorProcess,
    story: impl AsyncFnOnce(&mut Stack, &Load) -> anyhow::Result<String>,
) -> Ended {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    say(&format!("{test}: UNANIMITY_SEED={seed} repeats it"));
    let plan = Plan {
        orders: 6_000,
        partitions: PARTITIONS,
        coordinators: NODES,
        timeout: TRANSACTION_TIMEOUT,
        format,
    };
    let mut stack = Stack::start(test, plan, set).await.unwrap();
    let urls: Vec<_> = stack.coordinators.iter().map(CoordinatorProcess::url).collect();
    let counter = Counter::open(stack.scratch.path(), &urls.join(",")).await.unwrap();
    let load = Load {
        customers: Customers::open(&stack).await.unwrap(),
        callers: Arc::new(Callers::new(counter.clone())),
        web: Arc::new(Web::new(&urls).unwrap()),
    };
    let stop = CancellationToken::new();
    let mut tasks = load.customers.start(4, &mut random);
    tasks.extend(load.callers.start(4, &stop));
    tasks.extend(load.web.start(4, &stop));

    let told = story(&mut stack, &load).await;
    stop.cancel();
    load.customers.close();
    for task in tasks {
        task.await.unwrap();
    }
    let told =
        told.with_context(|| format!("seed {seed}, logs in {}", stack.scratch.path().display())).unwrap();
    stack.heal().await.unwrap();
    let (sdk, http) = (load.callers.heard(), load.web.heard());
    counter.settled(&sdk).await.unwrap();
    let verdict = verdict::reach(&mut stack, &load.customers).await;
    let verdict = verdict.with_context(|| format!("seed {seed}")).unwrap();
    let owner_changed = owner_changed(&stack.coordinator_db_url).await.unwrap();
    let orders_failed = load.customers.failed();
    say(&format!(
        "{test}: {told}; {}; SDK calls {}, failed {}; HTTP calls {}, failed {}; orders failed {}; aborted as \
         owner_changed {owner_changed}; settled in {:.1} s; seed {seed}",
        verdict.counts,
        sdk.calls,
        sdk.failed.len(),
        http.calls,
        http.failed.len(),
        orders_failed.len(),
        verdict.settled_in.as_secs_f32()
    ));
    assert!(
        verdict.problems.is_empty(),
        "seed {seed}: {} problems (logs in {}):\n{}",
        verdict.problems.len(),
        stack.scratch.path().display(),
        verdict.problems.join("\n")
    );
    Ended { orders_failed, sdk, http, owner_changed }
}

async fn owner_changed(url: &str) -> anyhow::Result<i64> {
    let mut connection = PgConnection::connect(url).await?;
    let sql = "SELECT count(*) FROM transactions WHERE abort_reason = 'owner_changed'";
    Ok(sqlx::query_scalar(sql).fetch_one(&mut connection).await?)
}
