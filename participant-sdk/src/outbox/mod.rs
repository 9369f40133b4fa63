//! The outbox: messages that are written in the sender's own local transaction, and a relay that
//! brings them to the coordinator.
//!
//! ```text
//!   your transaction ─┬─ your rows
//!                     └─ outbox.send ──► unanimity_outbox      no call to anybody
//!                                              │
//!   Relay (one or more) ◄── rows by state ─────┘
//!      │ hand_over: the row's id is the xid
//!      ▼
//!   coordinator ──► receivers, at least once; they dedupe by (xid, key) in their fence
//! ```
//!
//! What holds (I10, H13): a message is delivered if, and only if, its transaction committed. Repeats
//! carry the same id. Messages of one key go one after another: the next when the coordinator says
//! that the one before is *delivered*, or when it became a dead letter. A dead letter that is
//! replayed comes out of order: what was sent after it did not wait.
//!
//! Rows are found by their state, never by a cursor: a transaction that took a lower number may
//! commit later. A row becomes `handed` **before** the coordinator is called, so a relay that takes
//! over from a dead one knows which messages the coordinator may have, and nothing else of their
//! keys goes meanwhile.

mod coordinator;
mod handover;
mod message;
mod migrate;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
mod relay;
mod row;
#[cfg(feature = "sqlite")]
mod sqlite;
mod statements;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::Pool;
use tokio::sync::Notify;
use unanimity_types::{ErrorCode, Xid};

pub use handover::{Handed, Handover, HandoverError, HandoverMessage, MessageStatus, STATUS_IDS_MAX};
pub use message::{Message, MessageTarget};
pub use relay::{Relay, RelayBuilder, ReplayError};
pub use row::{DeadLetter, DeathCause, RelayStats};
pub use statements::OutboxDatabase;
pub use unanimity_types::{CallPolicy, Target};

use row::{NewRow, SHARDS, shard_of};

/// How the outbox failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// The database answered an error, or did not answer.
    #[error("the outbox's database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The outbox's tables could not be made or brought up to date.
    #[error("the outbox's tables could not be migrated: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A message that goes to nobody.
    #[error("the message has no receiver: name one with Message::to")]
    NoReceiver,
    /// The coordinator would refuse the message.
    #[error("the message would be refused with {code}: {message}")]
    Invalid {
        /// The stable code that the coordinator would answer with.
        code: ErrorCode,
        /// What is wrong with it.
        message: String,
    },
    /// A row holds something that this version cannot read.
    #[error("a row of the outbox cannot be read: {0}")]
    Unreadable(String),
}

impl OutboxError {
    pub(crate) fn invalid(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Invalid { code, message: message.into() }
    }
}

/// The outbox of a service: a table in its database.
///
/// ```no_run
/// # #[cfg(feature = "sqlite")]
/// # async fn f(pool: sqlx::SqlitePool, client: unanimity_sdk::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use unanimity_sdk::{Message, MessageTarget, Outbox, Relay};
///
/// let outbox = Outbox::new(pool.clone());
/// outbox.migrate().await?;
/// let relay = Relay::builder(&outbox, client).start();
///
/// let mut tx = pool.begin().await?;
/// sqlx::query("INSERT INTO orders (id) VALUES (7)").execute(&mut *tx).await?;
/// let message = Message::new("order-placed")
///     .key("order-7")?
///     .payload(&7)?
///     .to(MessageTarget::participant("mail", "welcome")?);
/// let id = outbox.send(&mut tx, &message).await?;
/// tx.commit().await?;
/// outbox.wake();
/// # relay.shutdown().await;
/// # Ok(()) }
/// ```
pub struct Outbox<DB: OutboxDatabase> {
    pool: Pool<DB>,
    bell: Arc<Bell>,
}

impl<DB: OutboxDatabase> Outbox<DB> {
    /// The outbox in the database of this pool, which must be the one that the senders write to.
    #[must_use]
    pub fn new(pool: Pool<DB>) -> Self {
        Self { pool, bell: Arc::new(Bell::default()) }
    }

    /// Makes the outbox's tables, or brings them up to date. Keeps its own record
    /// (`unanimity_outbox_migrations`), beside whatever migrates your tables. May run at every start,
    /// in several processes at once.
    ///
    /// # Errors
    /// [`OutboxError::Migrate`], [`OutboxError::Database`].
    pub async fn migrate(&self) -> Result<(), OutboxError> {
        DB::migrate(&self.pool).await
    }

    /// Writes a message in the transaction that is open on this connection. If, and only if, it
    /// commits, the message is delivered. Answers the message's id.
    ///
    /// After the commit [`Outbox::wake`] tells a relay in this process; without it the relay looks by
    /// itself within a second.
    ///
    /// # Errors
    /// [`OutboxError::NoReceiver`], [`OutboxError::Invalid`]: nothing was written and the transaction
    /// is as it was. [`OutboxError::Database`]: the transaction must be rolled back.
    pub async fn send(&self, connection: &mut DB::Connection, message: &Message) -> Result<Xid, OutboxError> {
        let id = Xid::new(uuid::Uuid::new_v4());
        let shard = shard_of(message.ordering_key(), id);
        let out = message.checked()?;
        let (key, plan) = (out.key.unwrap_or_default(), out.plan.as_str());
        let row = NewRow { id, shard, name: out.name, key, plan, payload: out.payload };
        DB::insert(connection, &row).await?;
        self.bell.touch(shard);
        Ok(id)
    }

    /// Tells the relay in this process that a transaction with messages committed.
    pub fn wake(&self) {
        self.bell.ring();
    }

    /// The pool, for your own queries.
    #[must_use]
    pub fn pool(&self) -> &Pool<DB> {
        &self.pool
    }
}

impl<DB: OutboxDatabase> Clone for Outbox<DB> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), bell: Arc::clone(&self.bell) }
    }
}

impl<DB: OutboxDatabase> fmt::Debug for Outbox<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}

/// Tells the relay of this process which shards to look at. Only a hint: what it misses is found
/// when the relay looks by itself.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    /// The shards that were sent to since it rang: one bit each.
    touched: AtomicU32,
    shards: [Notify; SHARDS as usize],
}

impl Bell {
    fn touch(&self, shard: i16) {
        self.touched.fetch_or(1 << shard, Ordering::Relaxed);
    }

    fn ring(&self) {
        let touched = self.touched.swap(0, Ordering::Relaxed);
        for (shard, notify) in self.shards.iter().enumerate() {
            if touched & (1 << shard) != 0 {
                notify.notify_one();
            }
        }
    }

    /// Rings for one shard, whether it was touched or not.
    pub(crate) fn ring_for(&self, shard: i16) {
        if let Some(notify) = usize::try_from(shard).ok().and_then(|shard| self.shards.get(shard)) {
            notify.notify_one();
        }
    }

    /// Waits until it rings for this shard.
    pub(crate) async fn heard(&self, shard: i16) {
        match usize::try_from(shard).ok().and_then(|shard| self.shards.get(shard)) {
            Some(notify) => notify.notified().await,
            None => std::future::pending().await,
        }
    }
}
