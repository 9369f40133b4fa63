//! The cluster for people: what a node sees, and what the owners say about their partitions.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;
use unanimity_proto::v1::coordinator_client::CoordinatorClient;
use unanimity_proto::{position_from_wire, v1};
use unanimity_types::{LogPosition, PartitionId};

use super::route::Router;
use crate::engine::PartitionInfo;
use crate::log::NodeRow;
use crate::telemetry::{state_detail, state_word};

/// How long an owner is waited for: people look at it.
const OWNER_WAIT: Duration = Duration::from_secs(3);

/// The cluster as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    /// That node.
    pub node: String,
    /// The block format that every living node knows.
    pub format: u32,
    /// By name.
    pub nodes: Vec<NodeState>,
    /// By number.
    pub partitions: Vec<PartitionPlace>,
    /// Owners that did not say how their partitions are.
    pub missing: Vec<String>,
    /// Why the node has not seen its cluster for a lease; empty if it has.
    pub stale: String,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// Its name.
    pub node: String,
    /// Where it is reached.
    pub address: String,
    /// Its version of Unanimity.
    pub version: String,
    /// The highest block format that it knows.
    pub formats: u32,
    /// The further servers of the log that it reaches.
    pub servers: Vec<String>,
    /// `alive`, `draining`, `leaving`, `silent` (not heard of for a lease) or `gone` (it said so).
    pub state: &'static str,
    /// How long ago it was heard of.
    pub silent_for: Duration,
    /// Partitions whose lease it has.
    pub partitions: u32,
}

/// Where a partition is, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionPlace {
    /// The partition.
    pub partition: PartitionId,
    /// Who has its lease; empty if nobody does.
    pub owner: String,
    /// Who is to have it; empty if nobody is there.
    pub planned: String,
    /// How much of the lease is left.
    pub remaining: Duration,
    /// The server that holds its log.
    pub server: String,
    /// Why no node can have it; empty if one can.
    pub unserved: String,
    /// How it is; nothing if its owner did not say.
    pub info: Option<OwnerSays>,
}

/// How a partition is, as its owner says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerSays {
    /// A word for what it does.
    pub state: String,
    /// Why, if it does not work.
    pub detail: String,
    /// The last durable place.
    pub position: Option<LogPosition>,
    /// Open transactions.
    pub open: u64,
    /// Those that are over and not yet in history.
    pub history_lag: u64,
}

impl OwnerSays {
    /// Whether only an owner is in that state.
    fn is_owner(&self) -> bool {
        matches!(self.state.as_str(), "running" | "recovering" | "stopped")
    }
}

impl Router {
    /// Looks around: at this node's view, its own partitions, and what the other living nodes say about theirs.
    pub async fn census(&self) -> Census {
        let view = self.view();
        let mut missing = Vec::new();
        let mut says: BTreeMap<(String, PartitionId), OwnerSays> = BTreeMap::new();
        let own = self.here().info();
        for info in own.states {
            says.insert((own.node.clone(), info.partition), here(&info));
        }
        let others = view.living().filter(|row| row.node != view.node).map(|row| async {
            let node = row.node.clone();
            let Ok(lane) = self.lane(&row.address) else { return Err(node) };
            let mut client = CoordinatorClient::new(lane.channel.clone());
            match timeout(OWNER_WAIT, client.get_info(v1::GetInfoRequest {})).await {
                Ok(Ok(info)) => Ok((node, info.into_inner())),
                Ok(Err(_)) | Err(_) => Err(node),
            }
        });
        for answer in join_all(others).await {
            match answer {
                Ok((node, info)) => {
                    let there = info.partition_states.into_iter().filter_map(there);
                    says.extend(there.map(|(partition, says)| ((node.clone(), partition), says)));
                }
                Err(node) => missing.push(node),
            }
        }
        let partitions = view.cluster.partitions.iter().map(|row| {
            // Who says that it has it knows better than a look of a moment ago.
            let has = says.iter().find(|((_, of), says)| *of == row.partition && says.is_owner());
            let has = has.map(|((node, _), _)| node.clone());
            let seen = view.owner(row.partition).map(|(owner, _)| owner.to_owned());
            let owner = has.or(seen).unwrap_or_default();
            let info = says.remove(&(owner.clone(), row.partition));
            let planned = view.planned_for(row.partition).unwrap_or_default().to_owned();
            let server = row.server.clone();
            PartitionPlace {
                partition: row.partition,
                owner,
                planned,
                remaining: row.remaining,
                server,
                unserved: view.unserved(row.partition).unwrap_or_default(),
                info,
            }
        });
        let partitions: Vec<PartitionPlace> = partitions.collect();
        let nodes = view.cluster.nodes.iter().map(|row| node(row, &partitions)).collect();
        let stale = view.stale.clone().unwrap_or_default();
        Census { node: view.node.clone(), format: view.cluster.format, nodes, partitions, missing, stale }
    }
}

fn node(row: &NodeRow, partitions: &[PartitionPlace]) -> NodeState {
    let state = match (row.alive, row.leaving, row.draining) {
        (true, true, _) => "leaving",
        (true, false, true) => "draining",
        (true, false, false) => "alive",
        (false, true, _) => "gone",
        (false, false, _) => "silent",
    };
    let owned = partitions.iter().filter(|place| place.owner == row.node);
    NodeState {
        node: row.node.clone(),
        address: row.address.clone(),
        version: row.version.clone(),
        formats: row.formats,
        servers: row.servers.clone().unwrap_or_default(),
        state,
        silent_for: row.silent_for,
        partitions: u32::try_from(owned.count()).unwrap_or(u32::MAX),
    }
}

fn here(info: &PartitionInfo) -> OwnerSays {
    OwnerSays {
        state: state_word(&info.state).to_owned(),
        detail: state_detail(&info.state).to_owned(),
        position: info.position,
        open: info.open,
        history_lag: info.history_lag,
    }
}

fn there(info: v1::PartitionInfo) -> Option<(PartitionId, OwnerSays)> {
    let partition = PartitionId(u16::try_from(info.partition).ok()?);
    let says = OwnerSays {
        state: info.state,
        detail: info.detail,
        position: info.position.as_ref().and_then(|position| position_from_wire(position).ok()),
        open: info.open_transactions,
        history_lag: info.history_lag,
    };
    Some((partition, says))
}
