//! The transaction log: the truth.
//!
//! A partition's state is exactly what its log says. The log is a sequence of blocks per partition
//! with one operation that adds to it, a *conditional append*: write block `n` if block `n - 1` is
//! the one that I know and block `n` does not exist. A deposed owner's append hits a taken sequence
//! number and fails: that is the fencing. No lock and no clock is needed for safety.
//!
//! ```text
//!  birth ── epoch 1 ── data ── data ── epoch 2 ── data ── …   seq 0, 1, 2, …
//!    └── checksum ──┘ └─ each block carries the checksum of the one before
//! ```
//!
//! Three implementations (`PostgresLog`, `SqliteLog`, `MemoryLog`) pass one conformance suite;
//! `FaultyLog` wraps any of them and makes what can go wrong go wrong.

mod block;
mod chain;
mod codes;
mod faulty;
mod format;
mod gather;
mod history;
mod memory;
mod nodes;
mod placed;
mod postgres;
mod row;
mod rules;
mod schema;
mod seal;
mod sqlite;

pub use block::{
    BIRTH_FORMAT, Block, BlockHeader, BlockKind, Checksum, DamagedBlock, FORMAT_VERSION, HEADER_BYTES,
};
pub use chain::BLOCK_BYTES_MAX;
pub(crate) use codes::{of_branch_status, to_branch_status};
pub use faulty::{Fault, FaultRates, FaultyLog};
pub use format::{AgreedFormat, known_format};
pub use history::{HistoryBatch, HistoryFilter, HistoryKept, HistoryPage, HistoryRow, HistoryWatermark};
pub use memory::{HeldAppends, MemoryLog};
pub use nodes::{ClusterView, HOME_SERVER, NodeBeat, NodeRow, PartitionRow};
pub use placed::PlacedLog;
pub use postgres::{PostgresLog, PostgresOptions, migrate_postgres, migrate_postgres_server};
#[cfg(test)]
pub(crate) use rules::bare as bare_row;
pub use rules::{HISTORY_PAGE_MAX, UNSTORABLE_TEXT};
pub use schema::{Migrated, PARTITIONS_DEFAULT};
pub use seal::Seal;
pub use sqlite::{SqliteLog, migrate_sqlite};

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use unanimity_types::{Epoch, LogId, PartitionId, Seq, Timestamp, Xid};

/// A boxed future: the trait is used as `dyn TransactionLog`.
pub type LogFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// What a log is: read once when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogIdentity {
    /// Born with the log in `migrate`.
    pub log_id: LogId,
    /// How many partitions it has, for ever.
    pub partitions: u16,
}

/// How a conditional append ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// The block is durable.
    Written,
    /// The very same block (by checksum) is already there: an earlier offer of it had landed. Its
    /// durability on a standby is only as good as a *later* acknowledged append (protocol C4).
    AlreadyThere,
    /// The sequence number is taken by another block, the log has gone on beyond it, or the
    /// predecessor is not the one that the block names: somebody else owns the partition, or the log
    /// lost its tail. Nothing was written.
    Conflict,
}

/// What the log's end looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    /// The last block's sequence number.
    pub seq: Seq,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its checksum.
    pub checksum: Checksum,
    /// Its partition time.
    pub time: Timestamp,
}

/// The right to try to append to a partition, by the database's clock. It keeps two live nodes from
/// fighting; it is not what makes the log safe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Whether the caller holds the lease now.
    pub held: bool,
    /// Who holds it: the caller, or the node that was in the way.
    pub owner: String,
    /// The holder's address, for people and for forwarding.
    pub address: String,
    /// How much of it is left, by the database's clock.
    pub remaining: Duration,
}

/// What can go wrong with a log.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log was asked to do something and did definitely not do it, for a reason that may pass:
    /// no connection could be had, the server refused for want of memory or connections.
    #[error("the log's database is unavailable: {0}")]
    Unavailable(String),
    /// Nobody knows whether it was done: the connection broke or the time ran out after it was sent.
    /// An append is settled only by offering the same block again (protocol C4).
    #[error("the outcome of a write to the log is unknown: {0}")]
    Unknown(String),
    /// The server understood and refused: nothing was written and the same bytes will be refused
    /// again (disk full, no permission, block too large, `synchronous_commit` off).
    #[error("the log's database refused: {0}")]
    Refused(String),
    /// A block does not have the checksum that it should, is missing, or cannot be read.
    #[error("partition {partition} of the log is damaged at block {seq}: {what}")]
    Damaged {
        /// The partition.
        partition: PartitionId,
        /// The block at fault.
        seq: Seq,
        /// What is wrong with it.
        what: String,
    },
    /// The schema is not there, or not one that this binary knows.
    #[error("{0}")]
    Schema(String),
    /// Somebody else has the log open where only one may (SQLite).
    #[error("{0}")]
    InUse(String),
}

impl Error {
    /// Whether to try the same again later makes sense.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unknown(_))
    }
}

/// A durable transaction log with its history.
///
/// # The crash contract
/// - When [`append`](Self::append) returns [`Appended::Written`] the block survives every crash that
///   the database survives. If it returns [`Error::Unknown`], or never returns, the block may be
///   there, may not be, or may *land later*. Only offering the same block again tells.
/// - [`trim`](Self::trim) deletes ascending prefixes only, never a birth, an epoch block or a seal (C7), and
///   only below a floor that a durable block already records (H17). Interrupted half-way it leaves
///   blocks below the floor, which readers ignore.
/// - [`write_history`](Self::write_history) is atomic: rows and watermark together.
pub trait TransactionLog: fmt::Debug + Send + Sync + 'static {
    /// What this log is.
    fn identity(&self) -> LogIdentity;

    /// A few words for people: the kind and where it is, without secrets.
    fn describe(&self) -> String;

    /// The database's own clock: milliseconds since the Unix epoch.
    fn now(&self) -> LogFuture<'_, Timestamp>;

    /// Appends a block on the condition that its predecessor is there and is the last block.
    ///
    /// A *claimant* must not act on [`Appended::Written`] for its epoch block alone. If its view was
    /// old and a trim of the true owner ran at the same moment, its block may have got a place that
    /// the trim freed (protocol C7 covers deposed owners, whose next place is a kept epoch block, not
    /// claimants). It reads the log, or its [`tip`](Self::tip), *after* its epoch block was written,
    /// and owns the partition only if that block is the last: a trim never deletes the last block.
    fn append<'a>(&'a self, block: &'a Block) -> LogFuture<'a, Appended>;

    /// The last block's place and checksum.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the partition has no block at all: it was never born, or all is lost.
    fn tip(&self, partition: PartitionId) -> LogFuture<'_, Tip>;

    /// Every block of a partition in ascending order, in one snapshot: birth and epoch blocks from
    /// the beginning, data blocks from the floor that the last block records. What lies below the
    /// floor is left out. Verifies each block's checksum, the chain from the floor to the end and
    /// that nothing is missing from it.
    fn read(&self, partition: PartitionId) -> LogFuture<'_, Vec<Block>>;

    /// A raw row, whatever its state, for `log dump` and for settling conflicts.
    fn block_at(&self, partition: PartitionId, seq: Seq) -> LogFuture<'_, Option<Block>>;

    /// Deletes blocks below `floor`, ascending, sparing birth and epoch blocks. Answers how many.
    fn trim(&self, partition: PartitionId, floor: Seq) -> LogFuture<'_, u64>;

    /// Takes or renews the lease of a partition for `node`.
    fn lease<'a>(
        &'a self,
        partition: PartitionId,
        node: &'a str,
        address: &'a str,
        duration: Duration,
    ) -> LogFuture<'a, Lease>;

    /// Gives the lease back, so that another node need not wait for its end.
    fn release<'a>(&'a self, partition: PartitionId, node: &'a str) -> LogFuture<'a, ()>;

    /// Gives the lease to another node for so long, so that nobody else takes it before that one does.
    /// Answers whether it was the caller's to give.
    fn hand_over<'a>(
        &'a self,
        partition: PartitionId,
        node: &'a str,
        to: &'a str,
        address: &'a str,
        duration: Duration,
    ) -> LogFuture<'a, bool>;

    /// Says that a node lives for `duration` from now on by the database's clock, and answers how the cluster
    /// is. A beat of zero says that it is gone.
    ///
    /// # Errors
    /// [`Error::Schema`] if the node knows less than the block format that is agreed (protocol M18),
    /// [`Error::InUse`] if another process has joined under its name since it did.
    fn heartbeat<'a>(&'a self, beat: &'a NodeBeat, duration: Duration) -> LogFuture<'a, ClusterView>;

    /// Says that a node is to own nothing, or that it may again. Answers whether there is such a node.
    fn set_draining<'a>(&'a self, node: &'a str, draining: bool) -> LogFuture<'a, bool>;

    /// The further servers of the log, beside the home, that this node knows and could open lately: for its beat. Asked
    /// for the first time it may take a second. A log with one place has none.
    fn servers(&self) -> Pin<Box<dyn Future<Output = Vec<String>> + Send + '_>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    /// Whether the partition's log could be moved to the server of that name: it is another one, is there, and is
    /// this log's (protocol H10).
    ///
    /// # Errors
    /// [`Error::Refused`] says why not. A log with one place refuses.
    fn check_move<'a>(&'a self, partition: PartitionId, server: &'a str) -> LogFuture<'a, ()> {
        Box::pin(async move {
            let what = format!("partition {partition} cannot be moved to {server:?}: this log has one place");
            Err(Error::Refused(what))
        })
    }

    /// Brings a partition's log to where the sealing block at its end says that it goes on. Done already, it does
    /// nothing; interrupted, it is done by asking again, whoever asks.
    ///
    /// # Errors
    /// [`Error::Refused`] if this node cannot reach the servers; others as the databases say.
    fn follow_seal<'a>(&'a self, seal: &'a Block) -> LogFuture<'a, ()> {
        Box::pin(async move {
            let (partition, seq) = (seal.partition, seal.seq);
            let what = format!("block {seq} of partition {partition} seals a log that has one place");
            Err(Error::Refused(what))
        })
    }

    /// Writes history rows and the watermark up to which they speak, atomically. A row replaces one
    /// of the same xid only if its (epoch, seq) is higher, and never a terminal one except by a
    /// recorded heuristic (protocol H12).
    ///
    /// # Errors
    /// [`Error::Refused`] if the log does not hold the block that the batch names, now.
    fn write_history(&self, batch: HistoryBatch) -> LogFuture<'_, ()>;

    /// The watermark of a partition's history.
    fn history_watermark(&self, partition: PartitionId) -> LogFuture<'_, HistoryWatermark>;

    /// The history rows of these xids that exist, in no order. Always from the primary.
    fn find_history<'a>(&'a self, xids: &'a [Xid]) -> LogFuture<'a, Vec<HistoryRow>>;

    /// The moment up to which a partition's history may have been dropped: a transaction that finished before it may
    /// have no row any more. It only grows, and grows before or with what is dropped: whoever finds no row
    /// and reads this *after* that knows whether the row may have been there (protocol C8).
    fn history_floor(&self, partition: PartitionId) -> LogFuture<'_, Timestamp>;

    /// Keeps history in order: makes room for the days to come, and drops some of what finished longer ago
    /// than `retention`, by the database's clock. What is open is never dropped. Bounded in what it does
    /// at once; may be called by several nodes at the same time.
    fn keep_history(&self, retention: Duration) -> LogFuture<'_, HistoryKept>;

    /// A page of history, newest begun first, without branches and timelines.
    fn list_history<'a>(&'a self, filter: &'a HistoryFilter) -> LogFuture<'a, HistoryPage>;

    /// Settings and states that will hurt, as sentences for `unanimity check`.
    fn warnings(&self) -> LogFuture<'_, Vec<String>>;

    /// Closes connections, bounded in time.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// Runs a call in a task of its own: its caller may be dropped, the call ends all the same.
fn detached<T: Send + 'static>(
    call: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> LogFuture<'static, T> {
    Box::pin(async move {
        match crate::task::spawn(call).await {
            Ok(answer) => answer,
            // A bug in the call, or the runtime is shutting down: what was sent is sent.
            Err(died) => Err(Error::Unknown(format!("the call's task ended early: {died}"))),
        }
    })
}
