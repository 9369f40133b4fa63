//! The cluster as the log's database knows it: which nodes live, who owns what, and which block format all of
//! them know.
//!
//! Liveness is by the database's clock alone. Nothing here makes the log safe: it tells nodes what to try.

use std::time::Duration;

use unanimity_types::PartitionId;
use uuid::Uuid;

use super::Error;

/// The name of the server that holds what was never moved: the one with leases and nodes (protocol H10).
pub const HOME_SERVER: &str = "home";

/// A node that was not heard of for so long is forgotten when another one joins, unless it is to be kept
/// drained: names may be made anew with each start of a container.
pub(super) const FORGET_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// What a node says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeBeat {
    /// Its name, unique in the cluster.
    pub node: String,
    /// The process that bears the name.
    pub instance: Uuid,
    /// Whether it joins: it takes the name over from an earlier process. Later beats keep it.
    pub joins: bool,
    /// Where other nodes and clients reach it.
    pub address: String,
    /// Its version of Unanimity.
    pub version: String,
    /// The highest block format that it reads and writes (protocol M18).
    pub formats: u32,
    /// The further servers of the log, beside the home, that it knows and could open lately (protocol H10).
    pub servers: Vec<String>,
    /// Whether it stops, and hands over what it owns.
    pub leaving: bool,
}

/// The cluster in one look, by the database's clock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterView {
    /// Every node that is known, by name.
    pub nodes: Vec<NodeRow>,
    /// Every partition of the log, by number.
    pub partitions: Vec<PartitionRow>,
    /// The block format that is to be written: every living node knows it. Only grows.
    pub format: u32,
}

/// A node, as last heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// Its name.
    pub node: String,
    /// Where it is reached.
    pub address: String,
    /// Its version of Unanimity.
    pub version: String,
    /// The highest block format that it knows.
    pub formats: u32,
    /// The further servers of the log that it reaches. A version that does not say is believed to reach all.
    pub servers: Option<Vec<String>>,
    /// An operator wants it to own nothing.
    pub draining: bool,
    /// It stops, and hands over what it owns.
    pub leaving: bool,
    /// It was heard of within its lease.
    pub alive: bool,
    /// How long ago it was heard of.
    pub silent_for: Duration,
    /// How long it counts as living without a further word.
    pub remaining: Duration,
}

impl NodeRow {
    /// Whether it can serve what lies on this server of the log. Who is heard of reaches the home.
    #[must_use]
    pub fn reaches(&self, server: &str) -> bool {
        server == HOME_SERVER
            || self.servers.as_ref().is_none_or(|servers| servers.iter().any(|known| known == server))
    }
}

/// A partition's lease and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionRow {
    /// The partition.
    pub partition: PartitionId,
    /// Who has its lease, or had it last and did not give it back.
    pub owner: Option<String>,
    /// The owner's address.
    pub address: Option<String>,
    /// How much is left of the lease; zero if it is over.
    pub remaining: Duration,
    /// The server that holds its blocks; [`HOME_SERVER`] unless it was moved.
    pub server: String,
}

/// A node that knows less than what is written already could not read it, and one that knew no better would
/// skip what it does not know (protocol M18).
pub(super) fn check_format(beat: &NodeBeat, agreed: u32) -> Result<(), Error> {
    if beat.formats >= agreed {
        return Ok(());
    }
    Err(Error::Schema(format!(
        "this cluster writes block format {agreed}, and this binary knows formats up to {}: \
         use the version of Unanimity that the other nodes run, or a later one",
        beat.formats
    )))
}

/// A name is borne by one living process, which is at this address. Who finds another one under its name has been replaced, for as long as that
/// one is heard of: after a failover that lost what nodes said, everybody finds the process that bore the name before.
pub(super) fn check_instance(beat: &NodeBeat, bears: Option<(Uuid, String)>) -> Result<(), Error> {
    match bears {
        Some((other, address)) if other != beat.instance && !beat.joins => Err(Error::InUse(format!(
            "another process, at {address:?}, has joined the cluster as the node {:?}: names are to be unique",
            beat.node
        ))),
        _ => Ok(()),
    }
}

/// The format that every living node knows, and never less than what was agreed before.
pub(super) fn agree(agreed: u32, nodes: &[NodeRow]) -> u32 {
    let known = nodes.iter().filter(|node| node.alive).map(|node| node.formats).min();
    known.map_or(agreed, |known| known.max(agreed))
}
