//! The coordinator as its sessions see it.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use unanimity_types::{LogId, LogPosition, Name};

use crate::cluster::TopologyNews;
use crate::engine::{self, Coordinator};

/// What a session needs to know of the coordinator that it belongs to. Implemented by
/// [`Coordinator`]; a trait so that sessions can be tested without an engine.
pub trait Home: std::fmt::Debug + Send + Sync + 'static {
    /// The log's identity.
    fn log_id(&self) -> LogId;
    /// How many partitions the log has.
    fn partitions(&self) -> u16;
    /// This node's name.
    fn node(&self) -> String;
    /// The last durable place of every partition.
    fn positions(&self) -> Vec<LogPosition>;
    /// Takes a participant's word for what the log held once (protocol H6).
    fn witness(&self, positions: Vec<LogPosition>) -> BoxFuture<'_, Result<(), engine::Error>>;
    /// An instance attached: what waits for its participant is tried soon.
    fn participant_available(&self, participant: Name) -> BoxFuture<'_, ()>;
    /// What a session is told about the other nodes; none without a cluster.
    fn topology(&self) -> Option<TopologyNews> {
        None
    }
}

impl Home for Coordinator {
    fn log_id(&self) -> LogId {
        Self::log_id(self)
    }

    fn partitions(&self) -> u16 {
        self.info().partitions
    }

    fn node(&self) -> String {
        self.info().node
    }

    fn positions(&self) -> Vec<LogPosition> {
        Self::positions(self)
    }

    fn witness(&self, positions: Vec<LogPosition>) -> BoxFuture<'_, Result<(), engine::Error>> {
        async move { Self::witness(self, &positions).await }.boxed()
    }

    fn participant_available(&self, participant: Name) -> BoxFuture<'_, ()> {
        Box::pin(async move { Self::participant_available(self, &participant).await })
    }
}
