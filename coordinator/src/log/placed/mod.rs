//! One log over several PostgreSQL servers (protocol H10).
//!
//! ```text
//!                       ┌─ home ── leases, nodes, placement; the partitions that were born there
//!  engine ── PlacedLog ─┼─ b ───── partitions 3, 7, …      each with its blocks and its history
//!                       └─ c ───── partitions 4, 9, …
//! ```
//!
//! Placement is data in the home database, never configuration: a node's configuration only says where a name is found, and
//! that it is the right server is checked by the log's id and the name that `migrate` bore there. What a node
//! believes about placement may be old. That harms nothing: a partition that moved left a sealing block behind, and no
//! server takes a block after a seal that names another one.

mod history;
mod moving;
mod places;
mod server;

pub(super) use places::Place;

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use unanimity_types::{PartitionId, Seq, Timestamp, Xid};

use self::places::Places;
use self::server::Server;
use super::{
    Appended, Block, ClusterView, Error, HOME_SERVER, HistoryBatch, HistoryFilter, HistoryKept, HistoryPage,
    HistoryRow, HistoryWatermark, Lease, LogFuture, LogIdentity, NodeBeat, PostgresLog, PostgresOptions, Tip,
    TransactionLog,
};

/// A log whose partitions lie on several servers.
pub struct PlacedLog {
    home: Arc<PostgresLog>,
    servers: BTreeMap<String, Arc<Server>>,
    places: Places,
}

impl PlacedLog {
    /// Opens the log whose home is behind this URL; `servers` says where the further ones are found. They are opened
    /// when they are needed.
    ///
    /// # Errors
    /// As [`PostgresLog::open`]; [`Error::Refused`] if the URL is of another server than the home.
    pub async fn open(
        home: &str,
        servers: BTreeMap<String, String>,
        limits: PostgresOptions,
    ) -> Result<Self, Error> {
        let home = Arc::new(PostgresLog::open(home, limits).await?);
        if home.server() != HOME_SERVER {
            let what = format!(
                "{} is server {:?} of a log, not its home: give the home's address as database_url",
                home.describe(),
                home.server()
            );
            return Err(Error::Refused(what));
        }
        let identity = home.identity();
        let server = |name: String, url| (name.clone(), Server::new(name, url, identity, limits));
        let servers = servers.into_iter().map(|(name, url)| server(name, url)).collect();
        let places = Places::new(identity.partitions);
        Ok(Self { home, servers, places })
    }

    /// One server of the log, alone: for tools that look at it.
    ///
    /// # Errors
    /// [`Error::Refused`] for a name without an address or a server that is another one; as
    /// [`PostgresLog::open`] otherwise.
    pub async fn server(&self, name: &str) -> Result<Arc<PostgresLog>, Error> {
        if name == HOME_SERVER {
            return Ok(Arc::clone(&self.home));
        }
        self.servers.get(name).ok_or_else(|| unknown_server(name))?.open().await
    }

    /// The names that this node can reach.
    fn known(&self) -> Vec<String> {
        std::iter::once(HOME_SERVER.to_owned()).chain(self.servers.keys().cloned()).collect()
    }

    /// The server that holds a partition's log, as far as this node knows.
    async fn at(&self, partition: PartitionId) -> Result<Arc<PostgresLog>, Error> {
        if partition.0 >= self.identity().partitions {
            // It knows what to say about a partition that there is not.
            return Ok(Arc::clone(&self.home));
        }
        let name = self.places.of(&self.home, partition).await?;
        self.server(&name).await
    }
}

/// The error for a server whose address this node was not told.
fn unknown_server(name: &str) -> Error {
    Error::Refused(format!(
        "this node does not know where server {name:?} of the log is: add it to database.servers"
    ))
}

impl fmt::Debug for PlacedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // URLs may hold passwords.
        f.debug_struct("PlacedLog")
            .field("home", &self.home)
            .field("servers", &self.servers.keys())
            .finish_non_exhaustive()
    }
}

impl TransactionLog for PlacedLog {
    fn identity(&self) -> LogIdentity {
        self.home.identity()
    }

    fn describe(&self) -> String {
        let names: Vec<&str> = self.servers.keys().map(String::as_str).collect();
        match names.as_slice() {
            [] => self.home.describe(),
            names => format!("{}, and the servers {}", self.home.describe(), names.join(", ")),
        }
    }

    fn now(&self) -> LogFuture<'_, Timestamp> {
        self.home.now()
    }

    fn append<'a>(&'a self, block: &'a Block) -> LogFuture<'a, Appended> {
        Box::pin(async move { self.at(block.partition).await?.append(block).await })
    }

    fn tip(&self, partition: PartitionId) -> LogFuture<'_, Tip> {
        Box::pin(async move { self.at(partition).await?.tip(partition).await })
    }

    fn read(&self, partition: PartitionId) -> LogFuture<'_, Vec<Block>> {
        Box::pin(async move { self.at(partition).await?.read(partition).await })
    }

    fn block_at(&self, partition: PartitionId, seq: Seq) -> LogFuture<'_, Option<Block>> {
        Box::pin(async move { self.at(partition).await?.block_at(partition, seq).await })
    }

    fn trim(&self, partition: PartitionId, floor: Seq) -> LogFuture<'_, u64> {
        Box::pin(async move { self.at(partition).await?.trim(partition, floor).await })
    }

    fn lease<'a>(
        &'a self,
        partition: PartitionId,
        node: &'a str,
        address: &'a str,
        duration: Duration,
    ) -> LogFuture<'a, Lease> {
        Box::pin(async move {
            let known = self.known();
            let (lease, place) = self.home.lease_placed(partition, node, address, duration, known).await?;
            self.places.heard(partition, &place);
            Ok(lease)
        })
    }

    fn release<'a>(&'a self, partition: PartitionId, node: &'a str) -> LogFuture<'a, ()> {
        self.home.release(partition, node)
    }

    fn hand_over<'a>(
        &'a self,
        partition: PartitionId,
        node: &'a str,
        to: &'a str,
        address: &'a str,
        duration: Duration,
    ) -> LogFuture<'a, bool> {
        self.home.hand_over(partition, node, to, address, duration)
    }

    fn heartbeat<'a>(&'a self, beat: &'a NodeBeat, duration: Duration) -> LogFuture<'a, ClusterView> {
        self.home.heartbeat(beat, duration)
    }

    fn set_draining<'a>(&'a self, node: &'a str, draining: bool) -> LogFuture<'a, bool> {
        self.home.set_draining(node, draining)
    }

    fn servers(&self) -> Pin<Box<dyn Future<Output = Vec<String>> + Send + '_>> {
        Box::pin(server::reached(self.servers.values()))
    }

    fn check_move<'a>(&'a self, partition: PartitionId, server: &'a str) -> LogFuture<'a, ()> {
        Box::pin(self.check_target(partition, server))
    }

    fn follow_seal<'a>(&'a self, seal: &'a Block) -> LogFuture<'a, ()> {
        Box::pin(self.follow(seal))
    }

    fn write_history(&self, batch: HistoryBatch) -> LogFuture<'_, ()> {
        Box::pin(async move { self.at(batch.partition).await?.write_history(batch).await })
    }

    fn history_watermark(&self, partition: PartitionId) -> LogFuture<'_, HistoryWatermark> {
        Box::pin(async move { self.at(partition).await?.history_watermark(partition).await })
    }

    fn find_history<'a>(&'a self, xids: &'a [Xid]) -> LogFuture<'a, Vec<HistoryRow>> {
        Box::pin(self.find_everywhere(xids))
    }

    fn history_floor(&self, partition: PartitionId) -> LogFuture<'_, Timestamp> {
        Box::pin(self.highest_floor(partition))
    }

    fn keep_history(&self, retention: Duration) -> LogFuture<'_, HistoryKept> {
        Box::pin(self.keep_everywhere(retention))
    }

    fn list_history<'a>(&'a self, filter: &'a HistoryFilter) -> LogFuture<'a, HistoryPage> {
        Box::pin(self.list_everywhere(filter))
    }

    fn warnings(&self) -> LogFuture<'_, Vec<String>> {
        Box::pin(async move {
            let mut warnings = self.home.warnings().await?;
            for name in self.servers.keys() {
                let theirs = match self.server(name).await {
                    Ok(server) => server.warnings().await,
                    Err(error) => Err(error),
                };
                match theirs {
                    Ok(theirs) => {
                        warnings.extend(theirs.into_iter().map(|what| format!("server {name}: {what}")));
                    }
                    Err(error) => warnings.push(format!("server {name} cannot be used: {error}")),
                }
            }
            let places = self.places.all(&self.home).await?;
            for place in places.iter().filter(|place| place.server != HOME_SERVER) {
                if !self.servers.contains_key(&place.server) {
                    let partition = place.partition;
                    warnings.push(format!("partition {partition}: {}", unknown_server(&place.server)));
                }
            }
            Ok(warnings)
        })
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            let opened = self.servers.values().filter_map(|server| server.opened());
            tokio::join!(self.home.close(), futures::future::join_all(opened.map(|server| server.close())));
        })
    }
}
