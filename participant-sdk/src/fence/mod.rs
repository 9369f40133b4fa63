//! The fence: a table in the participant's own database that makes every operation of a branch
//! happen at most once and in a legal order.
//!
//! Each operation writes its fence row in the **same local transaction** as its effect, so both
//! are there or neither. What the rows say:
//!
//! ```text
//!            try                 confirm
//!   (none) ───────► tried ──────────────► confirmed      confirm without a row: "not yet"
//!      │              │ cancel                           confirm after cancel, cancel after
//!      │ cancel       └─────────────────► cancelled      confirm: refused, somebody is told
//!      └────────────────────────────────► tombstone      try after cancel: an error, no effect
//! ```
//!
//! The same rows, states and rules serve the other kinds of branches:
//!
//! ```text
//!   step     action = try, its result the answer; compensate = cancel; confirmed: its saga is over
//!   message  delivered = confirmed, from nothing, in one local transaction
//!   sender   tried: the local transaction that the message goes with committed;
//!            tombstone: the coordinator was told that it never will (protocol H5)
//! ```
//!
//! **Insert and see.** Who comes first to a branch inserts its row; who comes second conflicts, waits
//! for the first one's transaction (bounded), and reads what it left. Whether a row is there is never
//! concluded from a look: a cancel that changed no row inserts one, and a conflict tells it to change
//! that. No statement keeps others from inserting, so many cancels of one branch cannot deadlock
//! (Seata #6679).
//!
//! **Two round trips, and the begin.** The first statement writes the row as it will be: nobody sees it
//! before the commit. The last message completes it (a try's answer), and commits.
//!
//! **The end is ours.** PostgreSQL answers `COMMIT` in a failed transaction with a rollback and no
//! error, and sqlx does not look: a hook that swallowed a statement's error would otherwise be
//! acknowledged without an effect (measured, reliability 3.1.1). And a hook can end the transaction, or
//! SQLite does by itself (a full disk, `RAISE(ROLLBACK)`), and what follows is outside of it. So before
//! the commit we make sure, by a mark, that it is the transaction of our first statement.

#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "postgres")]
mod postgres_finish;
mod row;
mod rules;
mod sender;
#[cfg(feature = "sqlite")]
mod sqlite;
mod statements;

use std::fmt;
use std::time::Duration;

use sqlx::Pool;

pub(crate) use crate::durability::Durability;
pub(crate) use row::{Claim, Closing, Cursor, FenceRow, FenceState, NewRow, Place, Tally};
pub(crate) use rules::{NO_ANSWER, SecondPhase, TryStart, close, finish, start_second_phase, start_try};
pub(crate) use sender::{SenderSays, check_back, mark_open, mark_sent};
#[cfg(feature = "sqlite")]
pub use sqlite::sqlite_pool;
pub use statements::FenceDatabase;

/// A local transaction of the participant's own database: `sqlx::Transaction`.
pub type LocalTransaction<'c, DB> = sqlx::Transaction<'c, DB>;

/// Stands where the fence's database does in the types of a participant that has none.
#[cfg(feature = "sqlite")]
pub type NoFence = sqlx::Sqlite;
/// Stands where the fence's database does in the types of a participant that has none.
#[cfg(not(feature = "sqlite"))]
pub type NoFence = sqlx::Postgres;

/// How the fence failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FenceError {
    /// The database answered an error, or did not answer.
    #[error("the fence's database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The fence's table could not be made or brought up to date.
    #[error("the fence's table could not be migrated: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The fence's row could not be changed as it must: the hook ended the local transaction, or
    /// swallowed the error of a statement that made the database roll it back.
    #[error("the local transaction did not survive its hook: was it ended, or an error in it swallowed?")]
    TransactionLost,
    /// The row that was there a moment ago is not there now.
    #[error("the fence's row is being changed by another transaction")]
    Contended,
    /// The coordinator was told before that this local transaction did not commit, so it must not
    /// any more: the message is aborted (protocol H5).
    #[error("the coordinator was told that this message's local transaction did not commit: it must not now")]
    MessageRefused,
    /// The message's local transaction committed before.
    #[error("this message's local transaction has committed before")]
    MessageAlreadySent,
    /// The message was prepared longer ago than its timeout: what the coordinator was told about it
    /// may be forgotten here.
    #[error("the message's time is over: prepare another one")]
    MessageTooLate,
    /// The participant was built without a fence.
    #[error("this participant has no fence")]
    Absent,
    /// A row holds something that this version cannot read.
    #[error("a row of the fence cannot be read: {0}")]
    Unreadable(String),
}

impl FenceError {
    /// Whether a lock could not be had in time, so that trying again soon makes sense.
    #[must_use]
    pub fn is_contention(&self) -> bool {
        match self {
            // 55P03 lock_not_available, 40001 and 40P01 serialization and deadlock (PostgreSQL);
            // 5 and 6, busy and locked, with SQLite's extended codes above the first byte.
            Self::Database(sqlx::Error::Database(error)) => error.code().is_some_and(|code| {
                matches!(&*code, "55P03" | "40001" | "40P01")
                    || code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6) && code < 1_000)
            }),
            Self::Contended => true,
            _ => false,
        }
    }
}

/// The fence of a participant: a pool of connections to its database.
///
/// ```no_run
/// # #[cfg(feature = "sqlite")]
/// # async fn f() -> Result<(), unanimity_sdk::FenceError> {
/// use unanimity_sdk::{Fence, sqlite_pool};
///
/// let fence = Fence::new(sqlite_pool("inventory.db").await?);
/// fence.migrate().await?;
/// # Ok(()) }
/// ```
pub struct Fence<DB: FenceDatabase> {
    pool: Pool<DB>,
    lock_timeout: Duration,
}

impl<DB: FenceDatabase> Fence<DB> {
    /// A fence in the database of this pool, which must be the one that the hooks write to.
    ///
    /// A PostgreSQL pool saves a round trip per operation with `test_before_acquire(false)`: the
    /// participant's own operations take another connection when the server has closed theirs.
    #[must_use]
    pub fn new(pool: Pool<DB>) -> Self {
        // Longer than an ordinary transaction holds a row, shorter than the coordinator waits.
        Self { pool, lock_timeout: Duration::from_secs(5) }
    }

    /// How long a statement may wait for a lock, in the fence and in the hooks; 5 s if not set.
    /// An operation that could not get its lock is answered as unknown and comes again.
    ///
    /// PostgreSQL only: SQLite's `busy_timeout` belongs to the pool's connections.
    #[must_use]
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// Makes the fence's table, or brings it up to date. Keeps its own record
    /// (`unanimity_fence_migrations`), beside whatever migrates your tables. May run at every start,
    /// in several processes at once.
    ///
    /// # Errors
    /// [`FenceError::Migrate`], [`FenceError::Database`].
    pub async fn migrate(&self) -> Result<(), FenceError> {
        DB::migrate(&self.pool).await
    }

    /// Settings of the database that can lose a try after it was acknowledged (protocol M13).
    /// Empty: none found. A participant logs them when it starts.
    ///
    /// # Errors
    /// [`FenceError::Database`].
    pub async fn check_durability(&self) -> Result<Vec<Durability>, FenceError> {
        let mut connection = self.pool.acquire().await?;
        DB::check_durability(&mut connection).await
    }

    /// The pool, for your own queries.
    #[must_use]
    pub fn pool(&self) -> &Pool<DB> {
        &self.pool
    }

    /// Begins a local transaction that can write.
    ///
    /// Never call this in a future that may be dropped: sqlx can return a connection with an open
    /// transaction to the pool then (sqlx #4385). All our callers are spawned tasks.
    pub(crate) async fn begin(&self) -> Result<sqlx::Transaction<'static, DB>, FenceError> {
        DB::begin(&self.pool, self.lock_timeout).await
    }
}

impl<DB: FenceDatabase> Clone for Fence<DB> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), lock_timeout: self.lock_timeout }
    }
}

impl<DB: FenceDatabase> fmt::Debug for Fence<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fence").field("lock_timeout", &self.lock_timeout).finish_non_exhaustive()
    }
}
