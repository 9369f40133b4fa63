//! The relay: brings messages from the outbox to the coordinator and learns what became of them.
//!
//! Any number of relays may run on one outbox. Each takes its share of the shards under leases
//! (`leases.rs`) and works on each of them in a task of its own (`shard.rs`). A relay that lost a
//! lease, for example because it was paused, cannot change a row any more: its epoch is too low.
//! What it still hands over by then is a repeat of what its successor hands over.

mod calls;
mod leases;
mod shard;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use unanimity_types::Xid;

use super::handover::{Handover, HandoverError, MessageStatus};
use super::row::{Change, DeadLetter, DeathCause, Found, RelayStats, RowState};
use super::statements::OutboxDatabase;
use super::{Outbox, OutboxError};

/// What everything in a relay shares.
struct Shared<DB: OutboxDatabase> {
    outbox: Outbox<DB>,
    handover: Arc<dyn Handover>,
    settings: Settings,
    /// This instance's name in the lease rows: never used twice.
    name: String,
    /// Hand-overs under way, and so payloads in memory.
    permits: Arc<Semaphore>,
    stop: CancellationToken,
    stats: watch::Sender<RelayStats>,
}

#[derive(Debug, Clone)]
struct Settings {
    lease: Duration,
    poll: Duration,
    call_timeout: Duration,
    in_flight: usize,
    open_max: usize,
    retention: Duration,
    check_every_max: Duration,
    retry_cap: Duration,
}

/// Sets how a [`Relay`] works.
pub struct RelayBuilder<DB: OutboxDatabase> {
    outbox: Outbox<DB>,
    handover: Arc<dyn Handover>,
    settings: Settings,
}

impl<DB: OutboxDatabase> RelayBuilder<DB> {
    /// After how long without a sign another relay takes over; 15 s if not set, at least 100 ms. By
    /// the database's clock.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease.clamp(Duration::from_millis(100), Duration::from_secs(3_600));
        self
    }

    /// How often it looks for messages that nobody told it of; 1 s if not set.
    #[must_use]
    pub fn poll(mut self, every: Duration) -> Self {
        self.settings.poll = every.max(Duration::from_millis(5));
        self
    }

    /// How long one call to the coordinator may take; 15 s if not set.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.settings.call_timeout = timeout;
        self
    }

    /// How many messages are on their way to the coordinator at once, over all shards; 32 if not
    /// set. Each holds its payload in memory and, for a moment, a connection of the pool.
    #[must_use]
    pub fn in_flight(mut self, messages: usize) -> Self {
        self.settings.in_flight = messages.clamp(1, 1_000);
        self
    }

    /// How many messages of one shard may be with the coordinator undelivered; 2,000 if not set.
    /// Beyond it the shard's next messages wait here rather than there.
    #[must_use]
    pub fn open_max(mut self, messages: usize) -> Self {
        self.settings.open_max = messages.clamp(1, 100_000);
        self
    }

    /// How long delivered rows are kept for people; a day if not set.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.settings.retention = retention;
        self
    }

    /// The longest wait between two questions about one message that is long under way; 30 s if not
    /// set.
    #[must_use]
    pub fn check_every(mut self, most: Duration) -> Self {
        self.settings.check_every_max = most.max(Duration::from_millis(5));
        self
    }

    /// The upper end of the waits after calls that failed; 30 s if not set.
    #[must_use]
    pub fn retry_cap(mut self, cap: Duration) -> Self {
        self.settings.retry_cap = cap.max(Duration::from_millis(5));
        self
    }

    /// Starts the relay. Must be called inside a tokio runtime.
    #[must_use]
    pub fn start(self) -> Relay<DB> {
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            permits: Arc::new(Semaphore::new(self.settings.in_flight)),
            name: uuid::Uuid::new_v4().to_string(),
            stats: watch::Sender::new(RelayStats::default()),
            stop: stop.clone(),
            outbox: self.outbox,
            handover: self.handover,
            settings: self.settings,
        });
        let task = tokio::spawn(leases::run(Arc::clone(&shared)));
        Relay { shared, task, stop: stop.drop_guard() }
    }
}

impl<DB: OutboxDatabase> fmt::Debug for RelayBuilder<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Why a dead letter was not replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The outbox has no such message, or it was delivered and its row deleted.
    #[error("the outbox has no message with this id")]
    NotFound,
    /// The message is under way or delivered.
    #[error("the message is not dead")]
    NotDead,
    /// Its transaction was aborted and cannot be brought back: send the message anew.
    #[error("the message's transaction was aborted: send it anew")]
    Aborted,
    /// The coordinator could not be asked, or did not agree.
    #[error("the coordinator did not take the retry: {0}")]
    Handover(#[from] HandoverError),
    /// The outbox's database failed.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}

/// A running relay. Dropping it stops it; [`Relay::shutdown`] also waits for the end and hands its
/// shards over at once.
pub struct Relay<DB: OutboxDatabase> {
    shared: Arc<Shared<DB>>,
    task: JoinHandle<()>,
    stop: DropGuard,
}

impl<DB: OutboxDatabase> Relay<DB> {
    /// A relay from this outbox to the coordinator: a [`Client`](crate::Client), or a [`Handover`] of
    /// your own.
    pub fn builder(outbox: &Outbox<DB>, handover: impl Handover) -> RelayBuilder<DB> {
        RelayBuilder {
            outbox: outbox.clone(),
            handover: Arc::new(handover),
            settings: Settings {
                // Long beside a pause of the machine, short beside what a receiver notices.
                lease: Duration::from_secs(15),
                poll: Duration::from_secs(1),
                call_timeout: Duration::from_secs(15),
                in_flight: 32,
                open_max: 2_000,
                retention: Duration::from_secs(24 * 3_600),
                check_every_max: Duration::from_secs(30),
                retry_cap: Duration::from_secs(30),
            },
        }
    }

    /// How much is not delivered, now.
    ///
    /// # Errors
    /// [`OutboxError::Database`].
    pub async fn stats(&self) -> Result<RelayStats, OutboxError> {
        self.shared.stats().await
    }

    /// How much is not delivered, looked up every few seconds.
    #[must_use]
    pub fn watch_stats(&self) -> watch::Receiver<RelayStats> {
        self.shared.stats.subscribe()
    }

    /// A page of dead letters, in the order of their sends: those behind the place `after` (0 for
    /// the first page), at most `limit` of them, at most 500.
    ///
    /// # Errors
    /// [`OutboxError::Database`].
    pub async fn dead_letters(&self, after: i64, limit: u32) -> Result<Vec<DeadLetter>, OutboxError> {
        let mut connection = self.shared.outbox.pool().acquire().await?;
        DB::dead(&mut connection, after, i64::from(limit.min(500))).await
    }

    /// Brings a dead letter back: the same id, the same keys, so that receivers that have it already
    /// know it again. It is out of its key's order: what was sent after it did not wait.
    ///
    /// # Errors
    /// [`ReplayError`]; then the row is as it was.
    pub async fn replay(&self, id: Xid) -> Result<(), ReplayError> {
        // In a task of its own: a caller that drops us must not leave a transaction open.
        let shared = Arc::clone(&self.shared);
        match tokio::spawn(async move { shared.replay(id).await }).await {
            Ok(result) => result,
            // It panicked, or the runtime ends: the row is as it was.
            Err(_) => Err(OutboxError::from(sqlx::Error::WorkerCrashed).into()),
        }
    }

    /// Stops: what is being written is written, the leases are given back.
    pub async fn shutdown(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the outbox's relay ended badly");
        }
    }
}

impl<DB: OutboxDatabase> fmt::Debug for Relay<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl<DB: OutboxDatabase> Shared<DB> {
    async fn stats(&self) -> Result<RelayStats, OutboxError> {
        let mut connection = self.outbox.pool().acquire().await?;
        DB::stats(&mut connection).await
    }

    async fn replay(&self, id: Xid) -> Result<(), ReplayError> {
        let found = self.find(id).await?;
        let to = match (found.state, found.cause) {
            (RowState::Dead, Some(DeathCause::Refused)) => RowState::Pending,
            (RowState::Dead, Some(DeathCause::Parked)) => self.unpark(id).await?,
            (RowState::Dead, Some(DeathCause::Aborted) | None) => return Err(ReplayError::Aborted),
            _ => return Err(ReplayError::NotDead),
        };
        let mut tx = DB::begin(self.outbox.pool()).await?;
        let epoch = DB::lock_shard(&mut tx, found.shard).await?;
        let change = Change { from: RowState::Dead, to, epoch, death: None };
        if DB::change(&mut tx, &[found.n], change).await? != 1 {
            return Err(ReplayError::NotDead);
        }
        tx.commit().await.map_err(OutboxError::from)?;
        self.outbox.bell.ring_for(found.shard);
        Ok(())
    }

    /// Asks for a retry of a message whose delivery was parked: the state that its row then has.
    async fn unpark(&self, id: Xid) -> Result<RowState, ReplayError> {
        // An operator may have acted on it at the coordinator meanwhile.
        match self.handover.status(&[id]).await?.first() {
            Some(MessageStatus::Delivered | MessageStatus::Forgotten) => Ok(RowState::Delivered),
            Some(MessageStatus::Aborted) => Err(ReplayError::Aborted),
            Some(MessageStatus::Open) => Ok(RowState::Handed),
            Some(MessageStatus::Parked) | None => {
                // Before the row says so: a relay that looked in between would find it still parked.
                self.handover.retry(id).await?;
                Ok(RowState::Handed)
            }
        }
    }

    async fn find(&self, id: Xid) -> Result<Found, ReplayError> {
        let mut connection = self.outbox.pool().acquire().await.map_err(OutboxError::from)?;
        DB::find(&mut connection, id).await?.ok_or(ReplayError::NotFound)
    }
}
