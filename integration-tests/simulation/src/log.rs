//! A node's way to the database: calls take time, hang when the way is cut, and go on at the database whatever
//! becomes of the node. What the database then holds is shown to the checks.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::oneshot;
use unanimity_coordinator::log::{
    Appended, Block, ClusterView, Error, FaultyLog, HistoryBatch, HistoryFilter, HistoryKept, HistoryPage,
    HistoryRow, HistoryWatermark, Lease, LogFuture, LogIdentity, NodeBeat, Tip, TransactionLog,
};
use unanimity_types::{PartitionId, Seq, Timestamp, Xid};

use crate::hits::Hit;
use crate::world::{Host, World};

/// After so long a client of the database gives a call up.
const CALL_LIMIT: Duration = Duration::from_secs(4);

/// One node's way to the database.
pub(crate) struct NodeLog {
    world: Arc<World>,
    node: usize,
}

impl NodeLog {
    pub(crate) const fn new(world: Arc<World>, node: usize) -> Self {
        Self { world, node }
    }

    fn run<T, F, Fut>(&self, call: F) -> LogFuture<'static, T>
    where
        F: FnOnce(Arc<World>, FaultyLog) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, Error>> + Send + 'static,
        T: Send + 'static,
    {
        let world = Arc::clone(&self.world);
        let node = Host::Node(self.node);
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            // The database's own work: not behind the node's gate.
            tokio::spawn(async move {
                let generation = world.check(|checks| checks.database_generation);
                if world.net.is_cut(node, Host::Database) {
                    tokio::time::sleep(CALL_LIMIT * 2).await;
                    return;
                }
                tokio::time::sleep(world.up_to(world.swarm.log_delay)).await;
                let faulty = world.faulty.clone();
                let result = call(Arc::clone(&world), faulty).await;
                tokio::time::sleep(world.up_to(world.swarm.log_delay)).await;
                let same = world.check(|checks| checks.database_generation) == generation;
                if world.net.is_cut(Host::Database, node) {
                    tokio::time::sleep(CALL_LIMIT * 2).await;
                } else if same {
                    let _ = reply.send(result);
                }
            });
            match tokio::time::timeout(CALL_LIMIT, answer).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(Error::Unknown("the connection broke".to_owned())),
                Err(_) => Err(Error::Unknown("no answer in time".to_owned())),
            }
        })
    }
}

impl World {
    /// Shows new blocks to the checks.
    pub(crate) fn observe(&self, partition: PartitionId) {
        loop {
            let next = self.check(|checks| checks.next_of(partition));
            // In memory, at once.
            let Some(Ok(Some(block))) = self.memory.block_at(partition, next).now_or_never() else { return };
            self.note(Host::Database, None, BlockLine(&block));
            self.check(|checks| checks.block(&block));
        }
    }

    pub(crate) fn observe_all(&self) {
        for partition in 0..self.swarm.partitions {
            self.observe(PartitionId(partition));
        }
    }

    async fn append(self: Arc<Self>, faulty: FaultyLog, block: Block) -> Result<Appended, Error> {
        let answer = faulty.append(&block).await;
        self.observe_all();
        let stalled = self.check(|checks| checks.stalled);
        match &answer {
            // It waits for its standby, which is gone.
            Ok(_) if stalled => return Err(Error::Unknown("the standby does not answer".to_owned())),
            Ok(Appended::Written) => self.check(|checks| checks.acknowledged(&block)),
            Ok(Appended::AlreadyThere) | Err(_) => {}
            Ok(Appended::Conflict) => {
                self.hit(Hit::AppendConflict);
                self.note(Host::Database, None, format_args!("conflict {}", BlockLine(&block)));
            }
        }
        answer
    }
}

struct BlockLine<'a>(&'a Block);

impl fmt::Display for BlockLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Block { partition, seq, epoch, floor, kind, checksum, .. } = self.0;
        write!(f, "block p{partition} {seq} epoch {epoch} floor {floor} {kind:?} {checksum}")
    }
}

impl fmt::Debug for NodeLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeLog").field("node", &self.node).finish_non_exhaustive()
    }
}

impl TransactionLog for NodeLog {
    fn identity(&self) -> LogIdentity {
        self.world.memory.identity()
    }

    fn describe(&self) -> String {
        "simulated".to_owned()
    }

    fn now(&self) -> LogFuture<'_, Timestamp> {
        self.run(|_, log| async move { log.now().await })
    }

    fn append<'a>(&'a self, block: &'a Block) -> LogFuture<'a, Appended> {
        let block = block.clone();
        self.run(move |world, log| world.append(log, block))
    }

    fn tip(&self, partition: PartitionId) -> LogFuture<'_, Tip> {
        self.run(move |_, log| async move { log.tip(partition).await })
    }

    fn read(&self, partition: PartitionId) -> LogFuture<'_, Vec<Block>> {
        self.run(move |_, log| async move { log.read(partition).await })
    }

    fn block_at(&self, partition: PartitionId, seq: Seq) -> LogFuture<'_, Option<Block>> {
        self.run(move |_, log| async move { log.block_at(partition, seq).await })
    }

    fn trim(&self, partition: PartitionId, floor: Seq) -> LogFuture<'_, u64> {
        self.run(move |world, log| async move {
            if world.check(|checks| checks.stalled) {
                return Err(Error::Unknown("the standby does not answer".to_owned()));
            }
            let trimmed = log.trim(partition, floor).await;
            world.observe_all();
            if trimmed.as_ref().is_ok_and(|blocks| *blocks > 0) {
                world.hit(Hit::Trimmed);
            }
            let rows = world.memory.raw_blocks(partition);
            world.check(|checks| checks.rows(partition, &rows));
            trimmed
        })
    }

    fn lease<'a>(
        &'a self,
        partition: PartitionId,
        node: &'a str,
        address: &'a str,
        duration: Duration,
    ) -> LogFuture<'a, Lease> {
        let (node, address) = (node.to_owned(), address.to_owned());
        self.run(move |_, log| async move { log.lease(partition, &node, &address, duration).await })
    }

    fn release<'a>(&'a self, partition: PartitionId, node: &'a str) -> LogFuture<'a, ()> {
        let node = node.to_owned();
        self.run(move |_, log| async move { log.release(partition, &node).await })
    }

    fn hand_over<'a>(
        &'a self,
        partition: PartitionId,
        node: &'a str,
        to: &'a str,
        address: &'a str,
        duration: Duration,
    ) -> LogFuture<'a, bool> {
        let (node, to, address) = (node.to_owned(), to.to_owned(), address.to_owned());
        self.run(move |_, log| async move { log.hand_over(partition, &node, &to, &address, duration).await })
    }

    fn heartbeat<'a>(&'a self, beat: &'a NodeBeat, duration: Duration) -> LogFuture<'a, ClusterView> {
        let beat = beat.clone();
        self.run(move |_, log| async move { log.heartbeat(&beat, duration).await })
    }

    fn set_draining<'a>(&'a self, node: &'a str, draining: bool) -> LogFuture<'a, bool> {
        let node = node.to_owned();
        self.run(move |_, log| async move { log.set_draining(&node, draining).await })
    }

    fn write_history(&self, batch: HistoryBatch) -> LogFuture<'_, ()> {
        self.run(move |world, log| async move {
            if world.check(|checks| checks.stalled) {
                return Err(Error::Unknown("the standby does not answer".to_owned()));
            }
            log.write_history(batch).await
        })
    }

    fn history_watermark(&self, partition: PartitionId) -> LogFuture<'_, HistoryWatermark> {
        self.run(move |_, log| async move { log.history_watermark(partition).await })
    }

    fn find_history<'a>(&'a self, xids: &'a [Xid]) -> LogFuture<'a, Vec<HistoryRow>> {
        let xids = xids.to_vec();
        self.run(move |_, log| async move { log.find_history(&xids).await })
    }

    fn history_floor(&self, partition: PartitionId) -> LogFuture<'_, Timestamp> {
        self.run(move |_, log| async move { log.history_floor(partition).await })
    }

    fn keep_history(&self, retention: Duration) -> LogFuture<'_, HistoryKept> {
        self.run(move |_, log| async move { log.keep_history(retention).await })
    }

    fn list_history<'a>(&'a self, filter: &'a HistoryFilter) -> LogFuture<'a, HistoryPage> {
        let filter = filter.clone();
        self.run(move |_, log| async move { log.list_history(&filter).await })
    }

    fn warnings(&self) -> LogFuture<'_, Vec<String>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {})
    }
}
