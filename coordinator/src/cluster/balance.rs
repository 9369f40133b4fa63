//! Which node is to own which partition: the same answer on every node that sees the same view.
//!
//! Pure: no clock, no chance, no state of its own. Nodes that see different views for a while may disagree; leases
//! keep them from fighting, and the log decides.

use std::collections::{BTreeMap, BTreeSet};

use unanimity_types::PartitionId;

use crate::log::{ClusterView, NodeRow, PartitionRow};

/// The node that each partition is planned for. A partition that no node can serve is left out.
///
/// A partition goes only to a node that reaches the server with its log (protocol H10). Counts differ by at most one as
/// far as that allows, and no more moves than that asks for: what a node has it keeps, as long as it does not have more
/// than its share. A node that drains gets nothing as long as there is one that does not; one that leaves, or does not
/// live, gets nothing at all.
#[must_use]
pub fn plan(view: &ClusterView) -> BTreeMap<PartitionId, String> {
    let mut planned = BTreeMap::new();
    let mut loads: BTreeMap<&str, usize> = BTreeMap::new();
    // Those with the least choice first: the others fill up what is left.
    for ((_, nodes), rows) in groups(view) {
        for (partition, node) in spread(&nodes, &rows, &loads) {
            *loads.entry(node).or_default() += 1;
            planned.insert(partition, node.to_owned());
        }
    }
    planned
}

/// The partitions by the nodes that may have them, fewest nodes first.
type Groups<'a> = BTreeMap<(usize, BTreeSet<&'a str>), Vec<&'a PartitionRow>>;

fn groups(view: &ClusterView) -> Groups<'_> {
    let mut by_server: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut groups = Groups::new();
    for row in &view.partitions {
        let nodes = by_server.entry(&row.server).or_insert_with(|| eligible(&view.nodes, &row.server));
        if !nodes.is_empty() {
            groups.entry((nodes.len(), nodes.clone())).or_default().push(row);
        }
    }
    groups
}

/// Spreads partitions over nodes that have so many others already.
fn spread<'a>(
    nodes: &BTreeSet<&'a str>,
    rows: &[&PartitionRow],
    loads: &BTreeMap<&str, usize>,
) -> Vec<(PartitionId, &'a str)> {
    let mut kept: BTreeMap<&'a str, Vec<PartitionId>> =
        nodes.iter().map(|node| (*node, Vec::new())).collect();
    let mut loose = BTreeSet::new();
    for row in rows {
        match row.owner.as_deref().and_then(|owner| kept.get_mut(owner)) {
            Some(has) => has.push(row.partition),
            None => {
                loose.insert(row.partition);
            }
        }
    }
    let shares = shares(&kept, loads, rows.len());
    for (node, has) in &mut kept {
        has.sort_unstable();
        let share = shares.get(node).copied().unwrap_or(0);
        loose.extend(has.drain(share.min(has.len())..));
    }
    let mut planned = Vec::with_capacity(rows.len());
    for (node, has) in kept {
        let share = shares.get(node).copied().unwrap_or(0);
        let room = share.saturating_sub(has.len());
        let taken = std::iter::from_fn(|| loose.pop_first()).take(room);
        planned.extend(has.into_iter().chain(taken).map(|partition| (partition, node)));
    }
    planned
}

/// Who may own something on a server, by name.
fn eligible<'a>(nodes: &'a [NodeRow], server: &str) -> BTreeSet<&'a str> {
    let able = |node: &&NodeRow| node.alive && !node.leaving && node.reaches(server);
    let willing: BTreeSet<&str> =
        nodes.iter().filter(able).filter(|node| !node.draining).map(|node| node.node.as_str()).collect();
    if !willing.is_empty() {
        return willing;
    }
    // Better with one that drains than with nobody.
    nodes.iter().filter(able).map(|node| node.node.as_str()).collect()
}

/// How many more each node is to own, so that all come as near to one level as they can. What does not divide goes to
/// nodes that have more than that already: each of them keeps one more that need not move. A node's claim to that
/// does not change while partitions are on their way as planned.
fn shares<'a>(
    has: &BTreeMap<&'a str, Vec<PartitionId>>,
    loads: &BTreeMap<&str, usize>,
    partitions: usize,
) -> BTreeMap<&'a str, usize> {
    let load = |node: &str| loads.get(node).copied().unwrap_or(0);
    let room = |level: usize| has.keys().map(|node| level.saturating_sub(load(node))).sum::<usize>();
    // The highest level to which there are enough.
    let mut level = (partitions + has.keys().map(|node| load(node)).sum::<usize>()) / has.len();
    while room(level) > partitions {
        level -= 1;
    }
    let rest = partitions - room(level);
    let even = |node: &str| level.saturating_sub(load(node));
    let low = has.iter().filter(|(node, _)| load(node) <= level);
    let mut order: Vec<(&'a str, bool)> = low.map(|(node, has)| (*node, has.len() > even(node))).collect();
    order.sort_by_key(|(node, has_more)| (!has_more, *node));
    let more: BTreeSet<&str> = order.into_iter().take(rest).map(|(node, _)| node).collect();
    has.keys().map(|node| (*node, even(node) + usize::from(more.contains(node)))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::log::HOME_SERVER;

    fn node(name: usize) -> NodeRow {
        NodeRow {
            node: format!("node-{name}"),
            address: String::new(),
            version: String::new(),
            formats: 1,
            servers: Some(Vec::new()),
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
            eligible(&view.nodes, HOME_SERVER).into_iter().map(|node| (node.to_owned(), 0)).collect();
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
        let eligible = eligible(&view.nodes, HOME_SERVER);
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
                if !eligible(&view.nodes, HOME_SERVER).is_empty() {
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

    /// Some nodes reach some servers, and the partitions lie on all of them.
    fn over_servers(random: &mut fastrand::Rng) -> ClusterView {
        let mut view = view(random.usize(1..7), random.u16(1..40));
        let servers = ["b", "c", "d"];
        for node in &mut view.nodes {
            let says = random.u8(..8) > 0;
            let reached = servers.iter().filter(|_| random.u8(..3) > 0).map(|name| (*name).to_owned());
            node.servers = Some(reached.collect()).filter(|_| says);
            node.draining = random.u8(..6) == 0;
        }
        for row in &mut view.partitions {
            let place = random.usize(..=servers.len());
            row.server = servers.get(place).map_or(HOME_SERVER, |name| name).to_owned();
            row.owner = random.bool().then(|| format!("node-{}", random.usize(..9)));
        }
        view
    }

    #[test]
    fn h10_a_partition_goes_only_to_a_node_that_reaches_its_server() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..300 {
            let mut view = over_servers(&mut random);
            let what = format!("seed {seed} round {round}: {view:?}");
            let planned = plan(&view);
            for row in &view.partitions {
                let able = eligible(&view.nodes, &row.server);
                match planned.get(&row.partition) {
                    Some(node) => assert!(able.contains(node.as_str()), "{what}"),
                    None => assert!(able.is_empty(), "left out although it can be served: {what}"),
                }
            }
            // Those with the most choice fill up what is left: nobody who got one of them has two more than another.
            if let Some(((_, nodes), rows)) = groups(&view).last_key_value() {
                let count = |node: &str| planned.values().filter(|name| *name == node).count();
                let most = rows.iter().map(|row| count(&planned[&row.partition])).max();
                let least = nodes.iter().map(|node| count(node)).min();
                assert!(most <= least.map(|least| least + 1), "{what}: {planned:?}");
            }
            let mut turned = view.clone();
            turned.nodes.reverse();
            turned.partitions.reverse();
            assert_eq!(plan(&turned), planned, "rows in another order: {what}");
            // On the way there, in any order, and when it was carried out, the plan stays.
            let mut order: Vec<usize> = (0..view.partitions.len()).collect();
            random.shuffle(&mut order);
            for place in order {
                let partition = view.partitions[place].partition;
                view.partitions[place].owner = planned.get(&partition).cloned();
                assert_eq!(plan(&view), planned, "{what}");
            }
        }
    }
}
