//! A wrapper that makes what can go wrong with a log go wrong.
//!
//! Faults come from a script ([`FaultyLog::script`]), from dice with a seed
//! ([`FaultyLog::set_rates`]) or from a switch ([`FaultyLog::set_unavailable`]). Each is counted where
//! it really happened ([`FaultyLog::fired`]), so that a test can demand that it did (I12). Clones
//! share everything: a new owner may work on the log on which an old owner's append is still under
//! way.

mod plan;

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use unanimity_types::{PartitionId, Seq, Timestamp, Xid};

use self::plan::Plan;
pub use self::plan::{Fault, FaultRates};
use super::{
    Appended, Block, ClusterView, Error, HistoryBatch, HistoryFilter, HistoryKept, HistoryPage, HistoryRow,
    HistoryWatermark, Lease, LogFuture, LogIdentity, MemoryLog, NodeBeat, Tip, TransactionLog,
};

/// A log with faults. See the module's page.
#[derive(Clone)]
pub struct FaultyLog {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Arc<dyn TransactionLog>,
    /// The same log, if it is one whose appends can be cut in two (for races with trims).
    memory: Option<MemoryLog>,
    plan: Mutex<Plan>,
    late: Mutex<VecDeque<Late>>,
    unavailable: AtomicBool,
}

/// An append that is under way although its caller was told "unknown".
struct Late {
    block: Block,
    /// Whether it was its turn when it was sent (known over a memory log only).
    seen: bool,
}

impl FaultyLog {
    /// Wraps a log. Without a script and rates it has no faults.
    #[must_use]
    pub fn new(inner: Arc<dyn TransactionLog>, seed: u64) -> Self {
        Self::from_parts(inner, None, seed)
    }

    /// Wraps a memory log. Beyond [`FaultyLog::new`], a late append that races a trim sees its
    /// predecessor before the trim and takes its place after it, as PostgreSQL lets it.
    #[must_use]
    pub fn over_memory(inner: MemoryLog, seed: u64) -> Self {
        Self::from_parts(Arc::new(inner.clone()), Some(inner), seed)
    }

    fn from_parts(inner: Arc<dyn TransactionLog>, memory: Option<MemoryLog>, seed: u64) -> Self {
        let shared = Shared {
            inner,
            memory,
            plan: Mutex::new(Plan::new(seed)),
            late: Mutex::new(VecDeque::new()),
            unavailable: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Sets how likely each fault is from now on.
    pub fn set_rates(&self, rates: FaultRates) {
        self.plan().set_rates(rates);
    }

    /// Makes this fault come at the next call that it fits. Several come in order.
    pub fn script(&self, fault: Fault) {
        self.plan().script(fault);
    }

    /// Switches the whole log off or on: while off, every call answers [`Error::Unavailable`].
    pub fn set_unavailable(&self, unavailable: bool) {
        self.shared.unavailable.store(unavailable, Ordering::Relaxed);
    }

    /// How often a fault happened.
    #[must_use]
    pub fn fired(&self, fault: Fault) -> u64 {
        self.plan().fired(fault)
    }

    /// How often each fault happened.
    #[must_use]
    pub fn counts(&self) -> Vec<(Fault, u64)> {
        let plan = self.plan();
        Fault::ALL.iter().map(|fault| (*fault, plan.fired(*fault))).collect()
    }

    /// How many appends are under way whose callers were told "unknown".
    #[must_use]
    pub fn late_appends(&self) -> usize {
        self.late().len()
    }

    /// Drops every late append: the server that they had reached is gone. Answers how many.
    pub fn drop_late(&self) -> usize {
        self.late().drain(..).count()
    }

    /// Carries out every late append, in the order in which they were sent. Answers how each ended.
    pub async fn land_late(&self) -> Vec<Result<Appended, Error>> {
        let mut ends = Vec::new();
        while let Some(late) = self.take_late(0) {
            ends.push(self.land(&late.block).await);
        }
        ends
    }

    async fn land(&self, block: &Block) -> Result<Appended, Error> {
        let end = self.shared.inner.append(block).await;
        self.count_landing(&end);
        end
    }

    fn count_landing(&self, end: &Result<Appended, Error>) {
        match end {
            Ok(Appended::Written) => self.hit(Fault::LateLanded),
            Ok(Appended::AlreadyThere | Appended::Conflict) => self.hit(Fault::LateRefused),
            Err(_) => {}
        }
    }

    /// Before each call: the switch and slowness. After it, perhaps, a late append lands.
    async fn enter(&self) -> Result<(), Error> {
        let slow = {
            let mut plan = self.plan();
            plan.choose(&[Fault::Slow]).map(|_| {
                plan.hit(Fault::Slow);
                plan.slowness()
            })
        };
        if let Some(slowness) = slow {
            tokio::time::sleep(slowness).await;
        }
        if self.shared.unavailable.load(Ordering::Relaxed) {
            self.hit(Fault::Unavailable);
            return Err(Error::Unavailable("switched off by FaultyLog".to_owned()));
        }
        Ok(())
    }

    async fn leave(&self) {
        let waiting = self.late_appends();
        let which = {
            let mut plan = self.plan();
            if waiting == 0 || plan.choose(&[Fault::LateLanded]).is_none() {
                return;
            }
            plan.below(waiting)
        };
        if let Some(late) = self.take_late(which) {
            // How it ended is nobody's business: its caller was told "unknown" long ago.
            let _ = self.land(&late.block).await;
        }
    }

    async fn append_faultily(&self, block: &Block) -> Result<Appended, Error> {
        const FITTING: [Fault; 5] = [
            Fault::AppendFailed,
            Fault::AppendRefused,
            Fault::AppendDoneUnknown,
            Fault::AppendLostUnknown,
            Fault::AppendLate,
        ];
        self.enter().await?;
        let fault = self.plan().choose(&FITTING);
        let answer = match fault {
            None => self.shared.inner.append(block).await,
            Some(Fault::AppendFailed) => Err(Error::Unavailable("append failed by FaultyLog".to_owned())),
            Some(Fault::AppendRefused) => Err(Error::Refused("disk full by FaultyLog".to_owned())),
            Some(Fault::AppendDoneUnknown) => {
                let done = self.shared.inner.append(block).await;
                done.and_then(|_| Err(unknown()))
            }
            Some(Fault::AppendLate) => {
                let seen = self.shared.memory.as_ref().is_some_and(|memory| memory.sees_its_turn(block));
                self.late().push_back(Late { block: block.clone(), seen });
                Err(unknown())
            }
            Some(_) => Err(unknown()),
        };
        if let Some(fault) = fault {
            self.hit(fault);
        }
        self.leave().await;
        answer
    }

    async fn trim_faultily(&self, partition: PartitionId, floor: Seq) -> Result<u64, Error> {
        self.enter().await?;
        let raced = self.late_appends() > 0 && self.plan().choose(&[Fault::TrimRaced]).is_some();
        if raced {
            return self.race(partition, floor).await;
        }
        if self.plan().choose(&[Fault::TrimInterrupted]).is_some() {
            self.hit(Fault::TrimInterrupted);
            // Half of the way: an ascending prefix is gone, the rest is left.
            let half = Seq(self.plan().below(usize::try_from(floor.0).unwrap_or(usize::MAX).max(1)) as u64);
            self.shared.inner.trim(partition, half).await?;
            return Err(Error::Unknown("trim interrupted by FaultyLog".to_owned()));
        }
        let trimmed = self.shared.inner.trim(partition, floor).await;
        self.leave().await;
        trimmed
    }

    /// Every late append runs through the trim (protocol C7).
    async fn race(&self, partition: PartitionId, floor: Seq) -> Result<u64, Error> {
        let late: Vec<Late> = self.late().drain(..).collect();
        let mut deleted = 0;
        // Without a log that can be cut, the next best: the append comes between two steps.
        if self.shared.memory.is_none() {
            deleted += self.shared.inner.trim(partition, Seq(floor.0 / 2)).await?;
        } else {
            deleted += self.shared.inner.trim(partition, floor).await?;
        }
        for Late { block, seen } in &late {
            self.hit(Fault::TrimRaced);
            match &self.shared.memory {
                Some(memory) if *seen => self.count_landing(&Ok(memory.take_place(block))),
                _ => drop(self.land(block).await),
            }
        }
        deleted += self.shared.inner.trim(partition, floor).await?;
        Ok(deleted)
    }

    /// A call that only fails or does not.
    async fn pass<T>(&self, fault: Fault, call: LogFuture<'_, T>) -> Result<T, Error> {
        self.enter().await?;
        if self.plan().choose(&[fault]).is_some() {
            self.hit(fault);
            return Err(Error::Unavailable("failed by FaultyLog".to_owned()));
        }
        let answer = call.await;
        self.leave().await;
        answer
    }

    async fn write_faultily(&self, batch: HistoryBatch) -> Result<(), Error> {
        self.enter().await?;
        let fault = self.plan().choose(&[Fault::HistoryFailed, Fault::HistoryDoneUnknown]);
        if let Some(fault) = fault {
            self.hit(fault);
        }
        match fault {
            Some(Fault::HistoryFailed) => Err(Error::Unavailable("failed by FaultyLog".to_owned())),
            Some(_) => {
                self.shared.inner.write_history(batch).await?;
                Err(unknown())
            }
            None => self.shared.inner.write_history(batch).await,
        }
    }

    fn take_late(&self, which: usize) -> Option<Late> {
        self.late().remove(which)
    }

    fn hit(&self, fault: Fault) {
        self.plan().hit(fault);
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.shared.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn late(&self) -> MutexGuard<'_, VecDeque<Late>> {
        self.shared.late.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown() -> Error {
    Error::Unknown("made so by FaultyLog".to_owned())
}

impl fmt::Debug for FaultyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyLog").field("inner", &self.shared.inner).finish_non_exhaustive()
    }
}

impl TransactionLog for FaultyLog {
    fn identity(&self) -> LogIdentity {
        self.shared.inner.identity()
    }

    fn describe(&self) -> String {
        format!("{}, with faults", self.shared.inner.describe())
    }

    fn now(&self) -> LogFuture<'_, Timestamp> {
        Box::pin(self.pass(Fault::ReadFailed, self.shared.inner.now()))
    }

    fn append<'a>(&'a self, block: &'a Block) -> LogFuture<'a, Appended> {
        Box::pin(self.append_faultily(block))
    }

    fn tip(&self, partition: PartitionId) -> LogFuture<'_, Tip> {
        Box::pin(self.pass(Fault::ReadFailed, self.shared.inner.tip(partition)))
    }

    fn read(&self, partition: PartitionId) -> LogFuture<'_, Vec<Block>> {
        Box::pin(self.pass(Fault::ReadFailed, self.shared.inner.read(partition)))
    }

    fn block_at(&self, partition: PartitionId, seq: Seq) -> LogFuture<'_, Option<Block>> {
        Box::pin(self.pass(Fault::ReadFailed, self.shared.inner.block_at(partition, seq)))
    }

    fn trim(&self, partition: PartitionId, floor: Seq) -> LogFuture<'_, u64> {
        Box::pin(self.trim_faultily(partition, floor))
    }

    fn lease<'a>(
        &'a self,
        partition: PartitionId,
        node: &'a str,
        address: &'a str,
        duration: Duration,
    ) -> LogFuture<'a, Lease> {
        let call = self.shared.inner.lease(partition, node, address, duration);
        Box::pin(self.pass(Fault::LeaseFailed, call))
    }

    fn release<'a>(&'a self, partition: PartitionId, node: &'a str) -> LogFuture<'a, ()> {
        Box::pin(self.pass(Fault::LeaseFailed, self.shared.inner.release(partition, node)))
    }

    fn hand_over<'a>(
        &'a self,
        partition: PartitionId,
        node: &'a str,
        to: &'a str,
        address: &'a str,
        duration: Duration,
    ) -> LogFuture<'a, bool> {
        let call = self.shared.inner.hand_over(partition, node, to, address, duration);
        Box::pin(self.pass(Fault::LeaseFailed, call))
    }

    fn heartbeat<'a>(&'a self, beat: &'a NodeBeat, duration: Duration) -> LogFuture<'a, ClusterView> {
        Box::pin(self.pass(Fault::BeatFailed, self.shared.inner.heartbeat(beat, duration)))
    }

    fn set_draining<'a>(&'a self, node: &'a str, draining: bool) -> LogFuture<'a, bool> {
        Box::pin(self.pass(Fault::BeatFailed, self.shared.inner.set_draining(node, draining)))
    }

    fn servers(&self) -> Pin<Box<dyn Future<Output = Vec<String>> + Send + '_>> {
        self.shared.inner.servers()
    }

    fn check_move<'a>(&'a self, partition: PartitionId, server: &'a str) -> LogFuture<'a, ()> {
        Box::pin(self.pass(Fault::ReadFailed, self.shared.inner.check_move(partition, server)))
    }

    fn follow_seal<'a>(&'a self, seal: &'a Block) -> LogFuture<'a, ()> {
        Box::pin(self.pass(Fault::ReadFailed, self.shared.inner.follow_seal(seal)))
    }

    fn write_history(&self, batch: HistoryBatch) -> LogFuture<'_, ()> {
        Box::pin(self.write_faultily(batch))
    }

    fn history_watermark(&self, partition: PartitionId) -> LogFuture<'_, HistoryWatermark> {
        Box::pin(self.pass(Fault::ReadFailed, self.shared.inner.history_watermark(partition)))
    }

    fn find_history<'a>(&'a self, xids: &'a [Xid]) -> LogFuture<'a, Vec<HistoryRow>> {
        Box::pin(self.pass(Fault::ReadFailed, self.shared.inner.find_history(xids)))
    }

    fn history_floor(&self, partition: PartitionId) -> LogFuture<'_, Timestamp> {
        Box::pin(self.pass(Fault::ReadFailed, self.shared.inner.history_floor(partition)))
    }

    fn keep_history(&self, retention: Duration) -> LogFuture<'_, HistoryKept> {
        Box::pin(self.pass(Fault::HistoryFailed, self.shared.inner.keep_history(retention)))
    }

    fn list_history<'a>(&'a self, filter: &'a HistoryFilter) -> LogFuture<'a, HistoryPage> {
        Box::pin(self.pass(Fault::ReadFailed, self.shared.inner.list_history(filter)))
    }

    fn warnings(&self) -> LogFuture<'_, Vec<String>> {
        Box::pin(self.pass(Fault::ReadFailed, self.shared.inner.warnings()))
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.shared.inner.close()
    }
}
