//! What the coordinators said of their cluster: its nodes, and who owns which partition.
//!
//! Every node tells how it sees the cluster, on each stream and session. They may differ for a moment, and one that is
//! cut off may be wrong for long, so a node counts while anybody who is heard says that it is there; of its address, and
//! of owners, the last word counts. All of it is advice: a node that is asked about what another one owns passes the call on.

use std::collections::BTreeMap;
use std::sync::Arc;

use unanimity_proto::v1;
use unanimity_types::{Limits, PartitionId, SLOTS};

/// Nodes that are believed in.
const NODES_MAX: usize = 256;

/// Who tells: a stream or a session, from its beginning to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Teller(u64);

#[cfg(test)]
impl Teller {
    pub(crate) fn numbered(number: u64) -> Self {
        Self(number)
    }
}

/// A node, as it is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeAt {
    pub(crate) address: Arc<str>,
    pub(crate) draining: bool,
}

/// The nodes, by name.
pub(crate) type View = BTreeMap<Arc<str>, NodeAt>;

/// Where a partition's owner is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    Node(Arc<str>),
    At(Arc<str>),
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Known {
    told: BTreeMap<Teller, Told>,
    /// By partition.
    owners: Vec<Option<Owner>>,
    last_teller: u64,
    last_word: u64,
}

#[derive(Debug)]
struct Told {
    nodes: View,
    word: u64,
    /// It is not heard of any more. Its word is kept until somebody else has one.
    ended: bool,
}

impl Known {
    pub(super) fn teller(&mut self) -> Teller {
        self.last_teller += 1;
        Teller(self.last_teller)
    }

    /// Takes what somebody tells. What is impossible is left out.
    pub(super) fn hear(&mut self, teller: Teller, topology: &v1::Topology) {
        let nodes: View = topology
            .nodes
            .iter()
            .filter(|told| is_name(&told.node) && told.address.len() <= Limits::TARGET_BYTES_MAX)
            .filter_map(|told| {
                let address: Arc<str> = super::checked(&told.address)?.into();
                Some((told.node.as_str().into(), NodeAt { address, draining: told.draining }))
            })
            .take(NODES_MAX)
            .collect();
        // A node that nobody can call: it runs inside of another process.
        if nodes.is_empty() {
            return;
        }
        self.owners.clear();
        for told in &topology.owners {
            let place = usize::try_from(told.partition).unwrap_or(usize::MAX);
            let Some((node, _)) = nodes.get_key_value(told.node.as_str()) else { continue };
            if place < usize::from(SLOTS) {
                self.set_owner(place, Owner::Node(Arc::clone(node)));
            }
        }
        self.last_word += 1;
        self.told.insert(teller, Told { nodes, word: self.last_word, ended: false });
        self.told.retain(|_, told| !told.ended);
    }

    /// Takes a hint about one partition.
    pub(super) fn hint(&mut self, partition: PartitionId, address: &Arc<str>) {
        let node = self.view().into_iter().find(|(_, at)| at.address == *address).map(|(node, _)| node);
        let owner = node.map_or_else(|| Owner::At(Arc::clone(address)), Owner::Node);
        self.set_owner(usize::from(partition.0), owner);
    }

    fn set_owner(&mut self, place: usize, owner: Owner) {
        if place >= self.owners.len() {
            self.owners.resize(place + 1, None);
        }
        self.owners[place] = Some(owner);
    }

    /// Lets go of what somebody told who is not heard any more, if anybody else is.
    pub(super) fn end(&mut self, teller: Teller) {
        if let Some(told) = self.told.get_mut(&teller) {
            told.ended = true;
        }
        if self.told.values().any(|told| !told.ended) {
            self.told.retain(|_, told| !told.ended);
        }
    }

    pub(super) fn owner(&self, partition: PartitionId) -> Option<&Owner> {
        self.owners.get(usize::from(partition.0))?.as_ref()
    }

    /// All nodes that anybody tells of.
    pub(super) fn view(&self) -> View {
        let mut told: Vec<_> = self.told.values().collect();
        told.sort_by_key(|told| told.word);
        told.into_iter().flat_map(|told| told.nodes.clone()).collect()
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= Limits::NAME_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(nodes: &[(&str, &str)], owners: &[(u32, &str)]) -> v1::Topology {
        let node = |(node, address): &(&str, &str)| v1::ClusterNode {
            node: (*node).into(),
            address: (*address).into(),
            draining: false,
        };
        let owner = |(partition, node): &(u32, &str)| v1::PartitionOwner {
            partition: *partition,
            node: (*node).into(),
        };
        v1::Topology {
            nodes: nodes.iter().map(node).collect(),
            owners: owners.iter().map(owner).collect(),
            told_by: String::new(),
        }
    }

    fn names(known: &Known) -> Vec<String> {
        known.view().iter().map(|(node, at)| format!("{node}@{}", at.address)).collect()
    }

    #[test]
    fn a_node_counts_while_anybody_who_is_heard_tells_of_it() {
        let mut known = Known::default();
        let (a, b) = (known.teller(), known.teller());
        known
            .hear(a, &told(&[("a", "http://a:1"), ("b", "http://b:1")], &[(0, "a"), (1, "b"), (9_999, "b")]));
        known.hear(b, &told(&[("b", "http://b:2/")], &[(0, "b"), (1, "nobody")]));
        assert_eq!(names(&known), ["a@http://a:1", "b@http://b:2"], "of an address the last word counts");
        assert_eq!(known.owner(PartitionId(0)), Some(&Owner::Node("b".into())));
        assert_eq!((known.owner(PartitionId(1)), known.owner(PartitionId(7))), (None, None));
        known.end(a);
        assert_eq!(names(&known), ["b@http://b:2"]);
        known.end(b);
        assert_eq!(names(&known), ["b@http://b:2"], "the last word of all is kept");
        let c = known.teller();
        known.hear(c, &told(&[], &[]));
        known.hear(c, &told(&[("x", "nonsense"), ("", "http://y:1")], &[]));
        assert_eq!(names(&known), ["b@http://b:2"], "nonsense is no news");
        known.hear(c, &told(&[("c", "http://c:1")], &[]));
        assert_eq!(names(&known), ["c@http://c:1"]);
    }

    #[test]
    fn a_hint_names_a_node_or_an_address() {
        let mut known = Known::default();
        let a = known.teller();
        known.hear(a, &told(&[("a", "http://a:1")], &[]));
        known.hint(PartitionId(3), &"http://a:1".into());
        known.hint(PartitionId(4), &"http://b:1".into());
        assert_eq!(known.owner(PartitionId(3)), Some(&Owner::Node("a".into())));
        assert_eq!(known.owner(PartitionId(4)), Some(&Owner::At("http://b:1".into())));
    }
}
