//! The cluster as HTTP shows it.

use serde::Serialize;
use utoipa::ToSchema;

use super::answer::PositionBody;
use crate::cluster::{Census, NodeState, PartitionPlace};

/// The cluster as one node sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClusterBody {
    /// The node that answers.
    pub(crate) node: String,
    /// The format that blocks are written in: every living node knows it.
    pub(crate) format: u32,
    pub(crate) nodes: Vec<NodeBody>,
    pub(crate) partitions: Vec<PlaceBody>,
    /// Owners that did not say how their partitions are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) missing_nodes: Vec<String>,
    /// Why the node that answers has not seen its cluster for a lease; missing if it has.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) stale: String,
}

/// A node.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodeBody {
    pub(crate) node: String,
    pub(crate) address: String,
    pub(crate) version: String,
    /// The highest block format that it knows.
    pub(crate) formats: u32,
    /// The further servers of the log that it reaches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) servers: Vec<String>,
    /// `alive`, `draining`, `leaving`, `silent` (not heard of for a lease), `gone` (it said so).
    pub(crate) state: String,
    /// How long ago it was heard of.
    pub(crate) silent_ms: u64,
    /// How many partitions it has.
    pub(crate) partitions: u32,
}

/// Where a partition is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PlaceBody {
    pub(crate) partition: u16,
    /// Who has its lease.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) owner: String,
    /// Who is to have it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) planned: String,
    /// How much of the lease is left.
    pub(crate) lease_ms: u64,
    /// The server that holds its log.
    pub(crate) server: String,
    /// Why no node can have it; missing if one can.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) unserved: String,
    /// `recovering`, `running`, `waiting`, `unavailable`, `stopped`, `closed`; missing if its owner did not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<String>,
    /// Why, if it does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) position: Option<PositionBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) open_transactions: Option<u64>,
    /// Transactions that are over and not yet in history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) history_lag: Option<u64>,
}

impl From<Census> for ClusterBody {
    fn from(census: Census) -> Self {
        Self {
            node: census.node,
            format: census.format,
            nodes: census.nodes.into_iter().map(NodeBody::from).collect(),
            partitions: census.partitions.into_iter().map(PlaceBody::from).collect(),
            missing_nodes: census.missing,
            stale: census.stale,
        }
    }
}

impl From<NodeState> for NodeBody {
    fn from(node: NodeState) -> Self {
        Self {
            node: node.node,
            address: node.address,
            version: node.version,
            formats: node.formats,
            servers: node.servers,
            state: node.state.to_owned(),
            silent_ms: in_ms(node.silent_for),
            partitions: node.partitions,
        }
    }
}

impl From<PartitionPlace> for PlaceBody {
    fn from(place: PartitionPlace) -> Self {
        let info = place.info.as_ref();
        Self {
            partition: place.partition.0,
            lease_ms: in_ms(place.remaining),
            state: info.map(|says| says.state.clone()),
            detail: info.map(|says| says.detail.clone()).filter(|detail| !detail.is_empty()),
            position: info.and_then(|says| says.position).map(PositionBody::from),
            open_transactions: info.map(|says| says.open),
            history_lag: info.map(|says| says.history_lag),
            owner: place.owner,
            planned: place.planned,
            server: place.server,
            unserved: place.unserved,
        }
    }
}

fn in_ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
