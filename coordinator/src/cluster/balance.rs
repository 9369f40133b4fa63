//! Which node is to own which partition: the same answer on every node that sees the same view.
//!
//! Pure: no clock, no chance, no state of its own. Nodes that see different views for a while may disagree; leases
//! keep them from fighting, and the log decides.

use std::collections::{BTreeMap, BTreeSet};

use unanimity_types::PartitionId;

use crate::log::{ClusterView, NodeRow};

/// The node that each partition is planned for. Empty if there is nobody to own anything.
///
/// Counts differ by at most one, and no more moves than that asks for: what a node has it keeps, as long as it does
/// not have more than its share. A node that drains gets nothing as long as there is one that does not; one that
/// leaves, or does not live, gets nothing at all.
#[must_use]
pub fn plan(view: &ClusterView) -> BTreeMap<PartitionId, String> {
    let nodes = eligible(&view.nodes);
    if nodes.is_empty() {
        return BTreeMap::new();
    }
    let mut kept: BTreeMap<&str, Vec<PartitionId>> = nodes.iter().map(|node| (*node, Vec::new())).collect();
    let mut loose = BTreeSet::new();
    for row in &view.partitions {
        match row.owner.as_deref().and_then(|owner| kept.get_mut(owner)) {
            Some(has) => has.push(row.partition),
            None => {
                loose.insert(row.partition);
            }
        }
    }
    let shares = shares(&kept, view.partitions.len());
    for (node, has) in &mut kept {
        has.sort_unstable();
        let share = shares.get(node).copied().unwrap_or(0);
        loose.extend(has.drain(share.min(has.len())..));
    }
    let mut planned = BTreeMap::new();
    for (node, has) in kept {
        let share = shares.get(node).copied().unwrap_or(0);
        let room = share.saturating_sub(has.len());
        let taken = std::iter::from_fn(|| loose.pop_first()).take(room);
        planned.extend(has.into_iter().chain(taken).map(|partition| (partition, node.to_owned())));
    }
    planned
}

/// Who may own something, by name.
fn eligible(nodes: &[NodeRow]) -> BTreeSet<&str> {
    let staying = |node: &&NodeRow| node.alive && !node.leaving;
    let willing: BTreeSet<&str> =
        nodes.iter().filter(staying).filter(|node| !node.draining).map(|node| node.node.as_str()).collect();
    if !willing.is_empty() {
        return willing;
    }
    // Better with one that drains than with nobody.
    nodes.iter().filter(staying).map(|node| node.node.as_str()).collect()
}

/// How many each node is to own. What does not divide goes to nodes that have more than the even share already:
/// each of them keeps one more that need not move. A node's claim to that does not change while partitions are
/// on their way as planned.
fn shares<'a>(has: &BTreeMap<&'a str, Vec<PartitionId>>, partitions: usize) -> BTreeMap<&'a str, usize> {
    let (even, rest) = (partitions / has.len(), partitions % has.len());
    let mut order: Vec<(&'a str, bool)> = has.iter().map(|(node, has)| (*node, has.len() > even)).collect();
    order.sort_by_key(|(node, has_more)| (!has_more, *node));
    let places = order.into_iter().enumerate();
    places.map(|(place, (node, _))| (node, even + usize::from(place < rest))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::log::{HOME_SERVER, PartitionRow};

    fn node(name: usize) -> NodeRow {
        NodeRow {
            node: format!("node-{name}"),
            address: String::new(),
            version: String::new(),
            formats: 1,
            draining: false,
            leaving: false,
            alive: true,
            silent_for: Duration::ZERO,
            remaining: Duration::from_secs(6),
        }
    }

    fn view(nodes: usize, partitions: u16) -> ClusterView {
        let partitions = (0..partitions).map(|number| PartitionRow {
            partition: PartitionId(number),
            owner: None,
            address: None,
            remaining: Duration::ZERO,
            server: HOME_SERVER.to_owned(),
        });
        ClusterView { nodes: (0..nodes).map(node).collect(), partitions: partitions.collect(), format: 1 }
    }

    /// Everything moved as planned.
    fn settle(view: &mut ClusterView) {
        let planned = plan(view);
        for row in &mut view.partitions {
            row.owner = planned.get(&row.partition).cloned();
        }
    }

    fn counts(view: &ClusterView) -> BTreeMap<String, usize> {
        let mut counts: BTreeMap<String, usize> =
            eligible(&view.nodes).into_iter().map(|node| (node.to_owned(), 0)).collect();
        for node in plan(view).into_values() {
            *counts.get_mut(&node).expect("planned for one that may own") += 1;
        }
        counts
    }

    fn moves(view: &ClusterView) -> usize {
        let planned = plan(view);
        view.partitions.iter().filter(|row| row.owner.as_ref() != planned.get(&row.partition)).count()
    }

    /// The fewest moves that lead to balance: what may stay is as much as fits into the shares, the larger shares
    /// given where they keep most.
    fn fewest(view: &ClusterView) -> usize {
        let eligible = eligible(&view.nodes);
        let all = view.partitions.len();
        let (even, rest) = (all / eligible.len(), all % eligible.len());
        let has =
            |name: &str| view.partitions.iter().filter(|row| row.owner.as_deref() == Some(name)).count();
        let kept: usize = eligible.iter().map(|name| has(name).min(even)).sum();
        let more = eligible.iter().filter(|name| has(name) > even).count().min(rest);
        all - kept - more
    }

    fn check(view: &ClusterView, what: &str) {
        let counts = counts(view);
        let (least, most) = (counts.values().min().expect(what), counts.values().max().expect(what));
        assert!(most - least <= 1, "{what}: {counts:?}");
        assert_eq!(counts.values().sum::<usize>(), view.partitions.len(), "{what}");
        assert_eq!(moves(view), fewest(view), "{what}");
        let mut turned = view.clone();
        turned.nodes.reverse();
        turned.partitions.reverse();
        assert_eq!(plan(&turned), plan(view), "{what}: rows in another order");
        let mut settled = view.clone();
        settle(&mut settled);
        assert_eq!(moves(&settled), 0, "{what}: a plan that was carried out is kept");
    }

    #[test]
    fn a_single_node_gets_all_and_nobody_gets_nothing() {
        assert!(counts(&view(1, 16)).values().eq([&16]));
        assert!(plan(&view(0, 16)).is_empty());
        assert!(plan(&view(3, 0)).is_empty());
        let mut gone = view(1, 4);
        gone.nodes[0].leaving = true;
        assert!(plan(&gone).is_empty());
    }

    #[test]
    fn more_nodes_than_partitions() {
        let view = view(5, 2);
        check(&view, "5 nodes");
        assert!(counts(&view).values().eq([&1, &1, &0, &0, &0]));
    }

    #[test]
    fn a_node_that_drains_gets_nothing_unless_there_is_no_other() {
        let mut view = view(3, 7);
        settle(&mut view);
        view.nodes[1].draining = true;
        check(&view, "one drains");
        assert!(!plan(&view).into_values().any(|node| node == "node-1"));
        view.nodes.iter_mut().for_each(|node| node.draining = true);
        check(&view, "all drain");
        assert_eq!(moves(&view), 0, "and nobody is there to take over");
    }

    #[test]
    fn whatever_happened_the_plan_is_balanced_and_moves_no_more_than_must() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..2_000 {
            let mut view = view(random.usize(1..9), random.u16(1..40));
            for _ in 0..random.usize(1..8) {
                let some = random.usize(..view.nodes.len());
                match random.u8(..6) {
                    0 => view.nodes.push(node(view.nodes.len())),
                    1 => view.nodes[some].alive = random.bool(),
                    2 => view.nodes[some].draining = random.bool(),
                    3 => view.nodes[some].leaving = random.bool(),
                    4 => {
                        // By hand, or by views that differed.
                        let owner = random.bool().then(|| format!("node-{}", random.usize(..9)));
                        let row = random.usize(..view.partitions.len());
                        view.partitions[row].owner = owner;
                    }
                    _ => settle(&mut view),
                }
                if !eligible(&view.nodes).is_empty() {
                    check(&view, &format!("seed {seed} round {round}: {view:?}"));
                }
            }
        }
    }

    #[test]
    fn moves_under_way_do_not_change_where_the_others_go() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..500 {
            let mut view = view(random.usize(1..5), random.u16(1..40));
            settle(&mut view);
            let more = random.usize(1..4);
            let first = view.nodes.len();
            view.nodes.extend((first..first + more).map(node));
            let planned = plan(&view);
            let mut order: Vec<usize> = (0..view.partitions.len()).collect();
            random.shuffle(&mut order);
            for place in order {
                let partition = view.partitions[place].partition;
                view.partitions[place].owner = planned.get(&partition).cloned();
                assert_eq!(plan(&view), planned, "seed {seed} round {round}");
            }
        }
    }
}
