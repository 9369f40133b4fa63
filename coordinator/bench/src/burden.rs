//! What lies on the coordinator before the load begins: transactions that stay pending because a participant is
//! away, or slow.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::future::try_join_all;
use tokio::task::JoinSet;
use unanimity_sdk::{Client, CommitError, NewBranch, StepTarget};

use crate::error::Error;
use crate::options::Options;
use crate::participants::slow;
use crate::places::OPERATION;
use crate::stamp::Stamp;

/// Participants that are away: each owes a share of the stuck transactions.
const AWAY: u32 = 1_000;
/// Transactions under way at once while the burden is laid.
const AT_ONCE: u32 = 256;
/// The participant that takes its time.
const SLOW: &str = "bench-slow";
/// How long it takes for each operation.
const SLOW_TAKES: Duration = Duration::from_secs(10);

/// Keeps the slow participant there. Dropped, it is gone.
pub(crate) struct Burden {
    _tasks: JoinSet<()>,
}

impl Burden {
    /// Lays it: every transaction is committed and none is finished when this returns.
    pub(crate) async fn lay(options: &Options) -> Result<Self, Error> {
        let mut tasks = JoinSet::new();
        if options.slow > 0 {
            slow(&mut tasks, &options.coordinator, SLOW, SLOW_TAKES).await?;
            strand(options, options.slow, |_| StepTarget::participant(SLOW, OPERATION)).await?;
        }
        let away = |number| StepTarget::participant(format!("bench-away-{}", number % AWAY + 1), OPERATION);
        strand(options, options.stuck, away).await?;
        Ok(Self { _tasks: tasks })
    }
}

/// Commits so many transactions of one branch each.
async fn strand(
    options: &Options,
    count: u32,
    target: impl Fn(u32) -> StepTarget + Sync,
) -> Result<(), Error> {
    if count == 0 {
        return Ok(());
    }
    let failed = |what: &'static str, error: &dyn std::fmt::Display| {
        Error::Participants(format!("a transaction that is to stay pending could not be {what}: {error}"))
    };
    let client = Client::connect(options.coordinator.clone()).map_err(|error| failed("begun", &error))?;
    let next = AtomicU32::new(0);
    let lane = async |_| {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            let stamp = Stamp { intended_us: 0, refuse: false };
            let transaction = client.begin("bench-burden").await.map_err(|error| failed("begun", &error))?;
            let target = target(number);
            let branch =
                NewBranch::tcc(target.clone(), target).payload_bytes(stamp.payload(options.payload_bytes()));
            let key = transaction.register(branch).await.map_err(|error| failed("registered", &error))?;
            transaction.vote(key);
            transaction.commit().await.map_err(|error: CommitError| failed("committed", &error))?;
        }
    };
    try_join_all((0..AT_ONCE.min(count)).map(lane)).await.map(drop)
}
