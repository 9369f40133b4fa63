//! The log in memory: for tests, for the SDK's testing helpers, and as the model of how a real
//! database interleaves.
//!
//! Clones share one storage, so that an engine can "crash" and another one recover from the same
//! log. It behaves like PostgreSQL at READ COMMITTED where that matters to the protocol:
//!
//! - An append looks at its predecessor first and takes its place second. Between the two other
//!   calls may run, a trim among them ([`MemoryLog::hold_appends`], [`MemoryLog::set_racy`]): with
//!   epoch blocks trimmed, protocol C7's lost fence would show here as it does there.
//! - A trim deletes row by row, ascending, and other calls may run in between.

mod nodes;
mod storage;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;
use unanimity_types::{LogId, PartitionId, Seq, Timestamp, Xid};
use uuid::Uuid;

use self::storage::Storage;
use super::chain::{self, ChainReader};
use super::{
    Appended, Block, BlockKind, ClusterView, Error, HistoryBatch, HistoryFilter, HistoryKept, HistoryPage,
    HistoryRow, HistoryWatermark, Lease, LogFuture, LogIdentity, NodeBeat, Tip, TransactionLog, rules,
};

/// A log that lives as long as its last clone.
#[derive(Clone)]
pub struct MemoryLog {
    shared: Arc<Shared>,
}

struct Shared {
    identity: LogIdentity,
    storage: Mutex<Storage>,
    /// The clock: wall time at creation, then how long that is ago.
    born_at: Timestamp,
    age: Box<dyn Fn() -> Duration + Send + Sync>,
    /// Whether calls give way to others in their middle.
    racy: watch::Sender<bool>,
    /// Whether appends wait between looking at the predecessor and taking their place.
    held: watch::Sender<bool>,
    /// How many wait there.
    waiting: watch::Sender<usize>,
    /// Which server it is: appends under way do not survive a change.
    server: AtomicU64,
}

/// While it lives, appends wait between looking at their predecessor and taking their place.
#[must_use = "appends go on as soon as this is dropped"]
#[derive(Debug)]
pub struct HeldAppends {
    log: MemoryLog,
}

impl Drop for HeldAppends {
    fn drop(&mut self) {
        self.log.shared.held.send_replace(false);
    }
}

impl HeldAppends {
    /// Waits until at least so many appends have seen their predecessor and wait to go on.
    pub async fn until_waiting(&self, count: usize) {
        let mut waiting = self.log.shared.waiting.subscribe();
        // The sender lives in `self.log`: it cannot be gone.
        let _ = waiting.wait_for(|now| *now >= count).await;
    }
}

impl MemoryLog {
    /// A log that was just born, with an id of its own.
    #[must_use]
    pub fn new(partitions: u16) -> Self {
        Self::with_id(partitions, LogId(Uuid::new_v4()))
    }

    /// A log that was just born with this id.
    #[must_use]
    pub fn with_id(partitions: u16, log_id: LogId) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::born_at(partitions, log_id, Timestamp(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)))
    }

    /// A log that is born now, which is this moment by its own clock.
    #[must_use]
    pub fn born_at(partitions: u16, log_id: LogId, born_at: Timestamp) -> Self {
        let storage = Storage::born(partitions, log_id, born_at);
        Self::from_parts(LogIdentity { log_id, partitions }, storage, born_at)
    }

    /// The same, where the runtime's clock is not one: of several runtimes with paused clocks each has its own.
    #[must_use]
    pub fn born_by_clock(
        partitions: u16,
        log_id: LogId,
        born_at: Timestamp,
        age: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        let storage = Storage::born(partitions, log_id, born_at);
        Self::with_age(LogIdentity { log_id, partitions }, storage, born_at, Box::new(age))
    }

    fn from_parts(identity: LogIdentity, storage: Storage, born_at: Timestamp) -> Self {
        // The runtime's monotonic (and pausable) time.
        let born = Instant::now();
        Self::with_age(identity, storage, born_at, Box::new(move || born.elapsed()))
    }

    fn with_age(
        identity: LogIdentity,
        storage: Storage,
        born_at: Timestamp,
        age: Box<dyn Fn() -> Duration + Send + Sync>,
    ) -> Self {
        let shared = Shared {
            identity,
            storage: Mutex::new(storage),
            born_at,
            age,
            racy: watch::Sender::new(false),
            held: watch::Sender::new(false),
            waiting: watch::Sender::new(0),
            server: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A copy with a life of its own: a backup, to be "restored" by using it.
    #[must_use]
    pub fn fork(&self) -> Self {
        let now = self.clock();
        let storage = self.storage().clone();
        Self::from_parts(self.shared.identity, storage, now)
    }

    /// Takes over what another log holds, appends under way here going on: a rival's work in the
    /// middle of them.
    pub fn adopt(&self, other: &Self) {
        let theirs = other.storage().clone();
        *self.storage() = theirs;
    }

    /// Moves the log's clock forward, for leases.
    pub fn advance(&self, by: Duration) {
        self.storage().advanced += by;
    }

    /// Lets calls give way to other tasks in their middle, as a database does.
    pub fn set_racy(&self, racy: bool) {
        self.shared.racy.send_replace(racy);
    }

    /// Holds every append between looking at its predecessor and taking its place: where
    /// PostgreSQL's INSERT waits for a row that somebody else is deleting (protocol C7).
    pub fn hold_appends(&self) -> HeldAppends {
        self.shared.held.send_replace(true);
        HeldAppends { log: self.clone() }
    }

    /// Another server takes over: appends under way in the one before go down with it.
    pub fn change_server(&self) {
        self.shared.server.fetch_add(1, Ordering::Relaxed);
    }

    /// Every row of a partition as it stands, leftovers and damage included.
    #[must_use]
    pub fn raw_blocks(&self, partition: PartitionId) -> Vec<Block> {
        self.storage().blocks(partition).values().cloned().collect()
    }

    /// Changes a row by hand. Answers whether it is there.
    pub fn damage(&self, partition: PartitionId, seq: Seq, harm: impl FnOnce(&mut Block)) -> bool {
        self.storage().blocks_mut(partition).get_mut(&seq).map(harm).is_some()
    }

    /// Deletes a row by hand. Answers whether it was there.
    pub fn remove(&self, partition: PartitionId, seq: Seq) -> bool {
        self.storage().blocks_mut(partition).remove(&seq).is_some()
    }

    /// Forgets every row above `last`: what a failover to an asynchronous standby does
    /// (protocol H6).
    pub fn lose_tail(&self, partition: PartitionId, last: Seq) {
        self.storage().blocks_mut(partition).retain(|seq, _| *seq <= last);
    }

    /// The first half of an append: whether the predecessor is there and is the last, and nobody else claimed the
    /// partition. PostgreSQL answers this from the statement's snapshot. An epoch block is a claim, wherever it ends.
    pub(super) fn sees_its_turn(&self, block: &Block) -> bool {
        let mut storage = self.storage();
        if block.kind == BlockKind::Epoch {
            storage.claim(block);
        }
        storage.is_next(block) && storage.is_claimed_for(block)
    }

    /// The second half: takes the place if it is free, whatever became of the predecessor.
    pub(super) fn take_place(&self, block: &Block) -> Appended {
        self.storage().take_place(block)
    }

    async fn append_in_two_steps(&self, block: &Block) -> Result<Appended, Error> {
        chain::check_offer(self.shared.identity, block)?;
        if !self.sees_its_turn(block) {
            return Ok(self.storage().settle(block));
        }
        let server = self.shared.server.load(Ordering::Relaxed);
        let mut held = self.shared.held.subscribe();
        if *held.borrow() {
            let _here = Waiting::new(&self.shared.waiting);
            // The sender lives in `self.shared`: it cannot be gone.
            let _ = held.wait_for(|held| !held).await;
        }
        self.give_way().await;
        if self.shared.server.load(Ordering::Relaxed) != server {
            return Err(Error::Unknown("the server is gone".to_owned()));
        }
        Ok(self.take_place(block))
    }

    async fn trim_row_by_row(&self, partition: PartitionId, floor: Seq) -> Result<u64, Error> {
        self.storage().check_trim(partition, floor)?;
        let mut deleted = 0;
        while self.storage().delete_first(partition, floor) {
            deleted += 1;
            self.give_way().await;
        }
        Ok(deleted)
    }

    fn read_chain(&self, partition: PartitionId) -> Result<Vec<Block>, Error> {
        let storage = self.storage();
        let blocks = storage.blocks(partition);
        let Some((last, tip)) = blocks.last_key_value() else { return Err(chain::never_born(partition)) };
        let mut reader = ChainReader::new(self.shared.identity.log_id, partition, tip.floor, *last)?;
        for block in blocks.values() {
            reader.push(block.clone())?;
        }
        reader.finish()
    }

    fn clock(&self) -> Timestamp {
        let advanced = self.storage().advanced;
        self.shared.born_at.after((self.shared.age)() + advanced)
    }

    async fn give_way(&self) {
        if *self.shared.racy.borrow() {
            tokio::task::yield_now().await;
        }
    }

    fn storage(&self) -> MutexGuard<'_, Storage> {
        // Every change under the lock is complete or not begun: a panic elsewhere harms nothing.
        self.shared.storage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one append that waits, until it is dropped.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl std::fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryLog").field("identity", &self.shared.identity).finish_non_exhaustive()
    }
}

impl TransactionLog for MemoryLog {
    fn identity(&self) -> LogIdentity {
        self.shared.identity
    }

    fn describe(&self) -> String {
        "memory (nothing survives the process)".to_owned()
    }

    fn now(&self) -> LogFuture<'_, Timestamp> {
        Box::pin(async { Ok(self.clock()) })
    }

    fn append<'a>(&'a self, block: &'a Block) -> LogFuture<'a, Appended> {
        Box::pin(self.append_in_two_steps(block))
    }

    fn tip(&self, partition: PartitionId) -> LogFuture<'_, Tip> {
        Box::pin(async move {
            let storage = self.storage();
            let tip = storage.blocks(partition).last_key_value().map(|(_, block)| block);
            let block = tip.ok_or_else(|| chain::never_born(partition))?;
            Ok(Tip { seq: block.seq, epoch: block.epoch, checksum: block.checksum, time: block.time })
        })
    }

    fn read(&self, partition: PartitionId) -> LogFuture<'_, Vec<Block>> {
        Box::pin(async move { self.read_chain(partition) })
    }

    fn block_at(&self, partition: PartitionId, seq: Seq) -> LogFuture<'_, Option<Block>> {
        Box::pin(async move { Ok(self.storage().blocks(partition).get(&seq).cloned()) })
    }

    fn trim(&self, partition: PartitionId, floor: Seq) -> LogFuture<'_, u64> {
        Box::pin(self.trim_row_by_row(partition, floor))
    }

    fn lease<'a>(
        &'a self,
        partition: PartitionId,
        node: &'a str,
        address: &'a str,
        duration: Duration,
    ) -> LogFuture<'a, Lease> {
        Box::pin(async move {
            let now = self.clock();
            self.storage().lease(partition, node, address, now, duration)
        })
    }

    fn release<'a>(&'a self, partition: PartitionId, node: &'a str) -> LogFuture<'a, ()> {
        Box::pin(async move {
            self.storage().release(partition, node);
            Ok(())
        })
    }

    fn hand_over<'a>(
        &'a self,
        partition: PartitionId,
        node: &'a str,
        to: &'a str,
        address: &'a str,
        duration: Duration,
    ) -> LogFuture<'a, bool> {
        Box::pin(async move {
            let now = self.clock();
            Ok(self.storage().hand_over(partition, node, to, address, now.after(duration)))
        })
    }

    fn heartbeat<'a>(&'a self, beat: &'a NodeBeat, duration: Duration) -> LogFuture<'a, ClusterView> {
        Box::pin(async move {
            let now = self.clock();
            self.storage().heartbeat(beat, now, duration)
        })
    }

    fn set_draining<'a>(&'a self, node: &'a str, draining: bool) -> LogFuture<'a, bool> {
        Box::pin(async move { Ok(self.storage().set_draining(node, draining)) })
    }

    fn write_history(&self, batch: HistoryBatch) -> LogFuture<'_, ()> {
        Box::pin(async move {
            rules::check_batch(self.shared.identity.partitions, &batch)?;
            self.storage().write_history(batch)
        })
    }

    fn history_watermark(&self, partition: PartitionId) -> LogFuture<'_, HistoryWatermark> {
        Box::pin(async move { Ok(self.storage().watermark(partition)) })
    }

    fn find_history<'a>(&'a self, xids: &'a [Xid]) -> LogFuture<'a, Vec<HistoryRow>> {
        Box::pin(async move { Ok(self.storage().find_history(xids)) })
    }

    fn history_floor(&self, _: PartitionId) -> LogFuture<'_, Timestamp> {
        Box::pin(async move { Ok(self.storage().history_floor()) })
    }

    fn keep_history(&self, retention: Duration) -> LogFuture<'_, HistoryKept> {
        Box::pin(async move {
            let now = self.clock();
            Ok(self.storage().keep_history(rules::cut(now, retention)))
        })
    }

    fn list_history<'a>(&'a self, filter: &'a HistoryFilter) -> LogFuture<'a, HistoryPage> {
        Box::pin(async move { Ok(self.storage().list_history(filter)) })
    }

    fn warnings(&self) -> LogFuture<'_, Vec<String>> {
        let warning = "the log is in memory: when this process ends, every transaction is forgotten";
        Box::pin(async move { Ok(vec![warning.to_owned()]) })
    }

    fn close(&self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {})
    }
}
