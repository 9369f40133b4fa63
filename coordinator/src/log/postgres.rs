//! The log in PostgreSQL, or in a database that speaks its protocol and its SQL.
//!
//! Nothing beyond a primary key and a conditional insert is used on the hot path: no advisory locks,
//! no LISTEN/NOTIFY. Every statement begins with a comment that names its purpose, so that it can be
//! found in the server's logs and statistics.
//!
//! Every call runs in a task of its own, appends in tasks that they share. Its caller may be dropped at
//! any moment (a gRPC deadline); the statement is not: it ends, or its connection is closed and the
//! server ends it.

mod blocks;
mod checks;
mod connections;
mod error;
mod history;
mod hosts;
mod leases;
mod migrate;
mod nodes;
mod placement;
mod pooler;
mod retention;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use unanimity_types::{PartitionId, Seq, Timestamp, Xid};

use self::checks::Settings;
use self::connections::Connections;
use self::hosts::Hosts;
pub use self::migrate::{migrate_postgres, migrate_postgres_server};
use super::gather::{BlockWriter, CrowdError, Gather};
use super::placed::Place;
use super::{
    Appended, Block, ClusterView, Error, HistoryBatch, HistoryFilter, HistoryKept, HistoryPage, HistoryRow,
    HistoryWatermark, Lease, LogFuture, LogIdentity, NodeBeat, Tip, TransactionLog, chain, detached, rules,
    seal,
};

/// How the log uses its database.
#[derive(Debug, Clone, Copy)]
pub struct PostgresOptions {
    /// Connections for appends only, so that a page of history never delays a decision. Half of them
    /// (rounded up) write what gathered from all partitions, the others what has to be offered alone.
    pub append_connections: u32,
    /// Connections for everything else.
    pub work_connections: u32,
    /// How long to wait for a connection. After it the answer is "unavailable": nothing was sent.
    pub connect_limit: Duration,
    /// How long to wait for an append's answer. After it the answer is "unknown".
    pub append_limit: Duration,
    /// How long to wait for any other statement's answer.
    pub statement_limit: Duration,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            append_connections: 4,
            work_connections: 8,
            connect_limit: Duration::from_secs(5),
            append_limit: Duration::from_secs(10),
            statement_limit: Duration::from_secs(30),
        }
    }
}

/// A log in PostgreSQL.
pub struct PostgresLog {
    identity: LogIdentity,
    /// Which of the log's servers this is.
    server: String,
    place: String,
    hosts: usize,
    limits: PostgresOptions,
    appends: Arc<Gather<Appends>>,
    work: Arc<Connections>,
    trimmed: Arc<blocks::Trimmed>,
    /// Who may write history: see [`HISTORY_WRITERS`].
    history: Arc<Semaphore>,
}

/// Writes of history at once. All partitions' fall due together after a burst, each is the work of some
/// milliseconds for the server, and no decision waits for one: few at a time leave it to the appends.
const HISTORY_WRITERS: usize = 2;

/// Writes to the log's own connections.
struct Appends {
    connections: Arc<Connections>,
    limit: Duration,
    /// This server's name as it stands in a seal.
    here: Vec<u8>,
}

impl BlockWriter for Appends {
    async fn write_many(&self, blocks: &[&Block]) -> Result<Vec<PartitionId>, CrowdError> {
        let lent = self.connections.lend().await.map_err(CrowdError::NotSent)?;
        blocks::append_many(lent, blocks, &self.here, self.limit).await.map_err(CrowdError::during)
    }

    async fn write_one(&self, block: &Block) -> Result<Appended, Error> {
        blocks::append(self.connections.lend().await?, block, &self.here, self.limit).await
    }
}

impl PostgresLog {
    /// Opens the log behind a `postgres://` URL. The schema must be there and be one that this
    /// binary knows; the server must be a primary.
    ///
    /// # Errors
    /// [`Error::Schema`], [`Error::Refused`] with what to do, or [`Error::Unavailable`].
    pub async fn open(url: &str, limits: PostgresOptions) -> Result<Self, Error> {
        let hosts = Arc::new(Hosts::parse(url)?);
        let (place, host_count) = (hosts.describe(), hosts.count());
        let size = limits.append_connections.max(1);
        let connections = Connections::new(Arc::clone(&hosts), size, limits.connect_limit);
        let crowds = usize::try_from(size.div_ceil(2)).unwrap_or(1);
        let alone = usize::try_from(size / 2).unwrap_or(1);
        let work = Connections::new(hosts, limits.work_connections.max(2), limits.connect_limit);
        pooler::refuse(&work, limits.statement_limit).await?;
        let mut lent = work.lend().await?;
        let check = async {
            Settings::read(lent.connection()).await?.check()?;
            migrate::check_schema(lent.connection()).await
        };
        let (identity, server) = match tokio::time::timeout(limits.statement_limit, check).await {
            Ok(identity) => identity?,
            Err(_) => return Err(Error::Unavailable(format!("{place} does not answer"))),
        };
        lent.give_back();
        let here = seal::behind_its_length(&server);
        let appends = Gather::new(Appends { connections, limit: limits.append_limit, here }, crowds, alone);
        Ok(Self {
            identity,
            server,
            place,
            hosts: host_count,
            limits,
            appends,
            work,
            trimmed: Arc::default(),
            history: Arc::new(Semaphore::new(HISTORY_WRITERS)),
        })
    }
}

/// What a log over several servers needs of each of them.
impl PostgresLog {
    /// Which of its log's servers this is.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Takes or renews a lease, if the partition is on one of these servers.
    pub(super) async fn lease_placed(
        &self,
        partition: PartitionId,
        node: &str,
        address: &str,
        duration: Duration,
        reachable: Vec<String>,
    ) -> Result<(Lease, Place), Error> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        let (node, address) = (node.to_owned(), address.to_owned());
        detached(async move {
            leases::take(work.lend().await?, partition, node, address, duration, reachable, limit).await
        })
        .await
    }

    /// Every partition's place, and the servers that partitions left.
    pub(super) async fn places(&self) -> Result<(Vec<Place>, Vec<(PartitionId, String)>), Error> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        detached(async move { placement::places(work.lend().await?, limit).await }).await
    }

    /// Whether a server of this name joined the log.
    pub(super) async fn knows_server(&self, name: &str) -> Result<bool, Error> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        let name = name.to_owned();
        detached(async move { placement::knows_server(work.lend().await?, name, limit).await }).await
    }

    /// The further servers that each living node that stays says that it reaches; nothing from one that does not say.
    pub(super) async fn reached_servers(&self) -> Result<Vec<Option<Vec<String>>>, Error> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        detached(async move { placement::reached_servers(work.lend().await?, limit).await }).await
    }

    /// Notes that a partition's log is on another server, unless somebody noted something later.
    pub(super) async fn flip(
        &self,
        partition: PartitionId,
        from: &str,
        to: &str,
        seal: Seq,
    ) -> Result<(), Error> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        let (from, to) = (from.to_owned(), to.to_owned());
        detached(async move { placement::flip(work.lend().await?, partition, from, to, seal, limit).await })
            .await
    }

    /// Whether what is committed here stays (protocol M16).
    pub(super) async fn check_commits(&self) -> Result<(), Error> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        detached(async move { placement::check_commits(work.lend().await?, limit).await }).await
    }

    /// Makes sure that whatever stands in a partition's log is durable.
    pub(super) async fn barrier(&self, partition: PartitionId) -> Result<(), Error> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        detached(async move { placement::barrier(work.lend().await?, partition, limit).await }).await
    }

    /// Takes over a partition's chain as it is.
    pub(super) async fn import(&self, chain: &[Block], watermark: HistoryWatermark) -> Result<(), Error> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        if let Some(first) = chain.first() {
            self.trimmed.forget(first.partition);
        }
        let chain = chain.to_vec();
        detached(async move { placement::import(work.lend().await?, &chain, watermark, limit).await }).await
    }

    /// Drops the rows of a partition's open transactions: it went to another server.
    pub(super) async fn drop_open_history(&self, partition: PartitionId) -> Result<(), Error> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        detached(async move { placement::drop_open_history(work.lend().await?, partition, limit).await })
            .await
    }

    /// A page of history in which only these partitions' open transactions count.
    pub(super) async fn list_here(
        &self,
        filter: &HistoryFilter,
        open_of: Vec<PartitionId>,
    ) -> Result<HistoryPage, Error> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        let filter = filter.clone();
        detached(async move { history::list(work.lend().await?, filter, Some(open_of), limit).await }).await
    }
}

impl fmt::Debug for PostgresLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresLog")
            .field("identity", &self.identity)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl TransactionLog for PostgresLog {
    fn identity(&self) -> LogIdentity {
        self.identity
    }

    fn describe(&self) -> String {
        self.place.clone()
    }

    fn now(&self) -> LogFuture<'_, Timestamp> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        detached(async move { leases::now(work.lend().await?, limit).await })
    }

    fn append<'a>(&'a self, block: &'a Block) -> LogFuture<'a, Appended> {
        Box::pin(async move {
            chain::check_offer(self.identity, block)?;
            Arc::clone(&self.appends).append(block.clone()).await
        })
    }

    fn tip(&self, partition: PartitionId) -> LogFuture<'_, Tip> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        detached(async move { blocks::tip(work.lend().await?, partition, limit).await })
    }

    fn read(&self, partition: PartitionId) -> LogFuture<'_, Vec<Block>> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        let log_id = self.identity.log_id;
        self.trimmed.forget(partition);
        detached(async move { blocks::read(work.lend().await?, log_id, partition, limit).await })
    }

    fn block_at(&self, partition: PartitionId, seq: Seq) -> LogFuture<'_, Option<Block>> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        detached(async move { blocks::block_at(work.lend().await?, partition, seq, limit).await })
    }

    fn trim(&self, partition: PartitionId, floor: Seq) -> LogFuture<'_, u64> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        let trimmed = Arc::clone(&self.trimmed);
        detached(async move { blocks::trim(work.lend().await?, partition, floor, &trimmed, limit).await })
    }

    fn lease<'a>(
        &'a self,
        partition: PartitionId,
        node: &'a str,
        address: &'a str,
        duration: Duration,
    ) -> LogFuture<'a, Lease> {
        Box::pin(async move {
            let here = vec![self.server.clone()];
            Ok(self.lease_placed(partition, node, address, duration, here).await?.0)
        })
    }

    fn release<'a>(&'a self, partition: PartitionId, node: &'a str) -> LogFuture<'a, ()> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        let node = node.to_owned();
        detached(async move { leases::release(work.lend().await?, partition, node, limit).await })
    }

    fn hand_over<'a>(
        &'a self,
        partition: PartitionId,
        node: &'a str,
        to: &'a str,
        address: &'a str,
        duration: Duration,
    ) -> LogFuture<'a, bool> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        let (node, heir) = (node.to_owned(), leases::Heir::new(to, address, duration));
        detached(async move { leases::hand_over(work.lend().await?, partition, node, heir, limit).await })
    }

    fn heartbeat<'a>(&'a self, beat: &'a NodeBeat, duration: Duration) -> LogFuture<'a, ClusterView> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        let beat = beat.clone();
        detached(async move { nodes::beat(work.lend().await?, beat, duration, limit).await })
    }

    fn set_draining<'a>(&'a self, node: &'a str, draining: bool) -> LogFuture<'a, bool> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        let node = node.to_owned();
        detached(async move { nodes::set_draining(work.lend().await?, node, draining, limit).await })
    }

    fn write_history(&self, batch: HistoryBatch) -> LogFuture<'_, ()> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        let partitions = self.identity.partitions;
        let writers = Arc::clone(&self.history);
        detached(async move {
            rules::check_batch(partitions, &batch)?;
            // Never closed. A permit comes back within the limits of a connection and a statement.
            let _permit = writers.acquire().await;
            history::write(work.lend().await?, batch, limit).await
        })
    }

    fn history_watermark(&self, partition: PartitionId) -> LogFuture<'_, HistoryWatermark> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        detached(async move { history::watermark(work.lend().await?, partition, limit).await })
    }

    fn find_history<'a>(&'a self, xids: &'a [Xid]) -> LogFuture<'a, Vec<HistoryRow>> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        let xids = xids.to_vec();
        detached(async move { history::find(work.lend().await?, xids, limit).await })
    }

    fn history_floor(&self, _: PartitionId) -> LogFuture<'_, Timestamp> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        detached(async move { retention::floor(work.lend().await?, limit).await })
    }

    fn keep_history(&self, retention: Duration) -> LogFuture<'_, HistoryKept> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        detached(async move { retention::keep(work.lend().await?, retention, limit).await })
    }

    fn list_history<'a>(&'a self, filter: &'a HistoryFilter) -> LogFuture<'a, HistoryPage> {
        let (work, limit) = (Arc::clone(&self.work), self.limits.statement_limit);
        let filter = filter.clone();
        detached(async move { history::list(work.lend().await?, filter, None, limit).await })
    }

    fn warnings(&self) -> LogFuture<'_, Vec<String>> {
        let (work, hosts) = (Arc::clone(&self.work), self.hosts);
        detached(async move {
            let mut lent = work.lend().await?;
            let settings = Settings::read(lent.connection()).await?;
            lent.give_back();
            Ok(settings.warnings(hosts))
        })
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            tokio::join!(self.appends.writer().connections.close(), self.work.close());
        })
    }
}
