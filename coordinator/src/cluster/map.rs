//! What a node knows of its cluster: who lives, and who owns which partition.

use std::collections::BTreeMap;

use unanimity_proto::v1;
use unanimity_types::PartitionId;

/// A node that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name, unique in the cluster.
    pub node: String,
    /// Where clients and other nodes reach it; empty if it serves its own process only.
    pub address: String,
    /// It hands over what it owns and takes nothing.
    pub draining: bool,
}

/// The cluster as a node saw it last: advice, never a proof. The log decides who owns a partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Map {
    /// The living nodes, this one among them.
    pub members: Vec<Member>,
    /// Who holds each partition's lease: name and address. A partition that nobody holds is missing.
    pub owners: BTreeMap<PartitionId, (String, String)>,
}

impl Map {
    /// The same for clients and participants, told by the node `told_by`.
    #[must_use]
    pub fn to_wire(&self, told_by: &str) -> v1::Topology {
        let nodes = self.members.iter().map(|member| v1::ClusterNode {
            node: member.node.clone(),
            address: member.address.clone(),
            draining: member.draining,
        });
        let owners = self.owners.iter().map(|(partition, (node, _))| v1::PartitionOwner {
            partition: u32::from(partition.0),
            node: node.clone(),
        });
        v1::Topology { nodes: nodes.collect(), owners: owners.collect(), told_by: told_by.to_owned() }
    }
}
