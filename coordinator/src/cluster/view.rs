//! What a node knows of its cluster.

use std::collections::BTreeMap;

use unanimity_types::PartitionId;

use super::balance::plan;
use crate::log::{ClusterView, NodeRow};

/// The cluster as a node saw it last, and what it made of that. Advice, never a proof: the log decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// The node that looked.
    pub node: String,
    /// What it saw.
    pub cluster: ClusterView,
    /// The node that each partition is planned for.
    pub planned: BTreeMap<PartitionId, String>,
    /// Why the cluster does not have the node that looked, if it does not: another process bears its name, or it knows
    /// too little.
    pub refused: Option<String>,
    /// Why the node has not seen its cluster for a lease, if so: owners may have changed since without a word, so who owns
    /// what is not known any more.
    pub stale: Option<String>,
}

impl View {
    /// What `node` makes of what it saw.
    #[must_use]
    pub fn new(node: &str, cluster: ClusterView) -> Self {
        let planned = plan(&cluster);
        Self { node: node.to_owned(), cluster, planned, refused: None, stale: None }
    }

    /// The nodes that live.
    pub fn living(&self) -> impl Iterator<Item = &NodeRow> {
        self.cluster.nodes.iter().filter(|node| node.alive)
    }

    /// A node's row.
    #[must_use]
    pub fn row(&self, node: &str) -> Option<&NodeRow> {
        self.cluster.nodes.iter().find(|row| row.node == node)
    }

    /// Who holds a partition's lease: name and address. A partition that nobody holds has none, and of a stale view
    /// none is known.
    #[must_use]
    pub fn owner(&self, partition: PartitionId) -> Option<(&str, &str)> {
        if self.stale.is_some() {
            return None;
        }
        let row = self.cluster.partitions.iter().find(|row| row.partition == partition)?;
        if row.remaining.is_zero() {
            return None;
        }
        Some((row.owner.as_deref()?, row.address.as_deref().unwrap_or_default()))
    }

    /// Why there is no node for a partition, where there are nodes (protocol H10).
    #[must_use]
    pub fn unserved(&self, partition: PartitionId) -> Option<String> {
        let row = self.cluster.partitions.iter().find(|row| row.partition == partition)?;
        if self.planned.contains_key(&partition) || !self.living().any(|node| !node.leaving) {
            return None;
        }
        Some(format!(
            "its log is on server {:?}, which no living node reaches: mend the way there, or add it to \
             database.servers",
            row.server
        ))
    }

    /// Who is to own a partition.
    #[must_use]
    pub fn planned_for(&self, partition: PartitionId) -> Option<&str> {
        self.planned.get(&partition).map(String::as_str)
    }
}
