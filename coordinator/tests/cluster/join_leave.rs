//! Nodes come and go.

use std::time::Duration;

use unanimity_coordinator::cluster::{Cluster, ClusterConfig};
use unanimity_coordinator::engine::PartitionState;
use unanimity_coordinator::log::{Error, NodeBeat};
use uuid::Uuid;

use crate::nodes::*;

#[tokio::test(start_paused = true)]
async fn a_single_node_has_all_and_shares_with_those_that_join() {
    let world = World::new();
    let a = world.node("a").await;
    balanced(&[&a]).await;
    let b = world.node("b").await;
    balanced(&[&a, &b]).await;
    let c = world.node("c").await;
    balanced(&[&a, &b, &c]).await;
    for node in [&a, &b, &c] {
        assert!(node.coordinator.is_ready(), "{:?}", node.coordinator.info());
        node.coordinator.ready(Duration::from_secs(1)).await.unwrap();
        let view = node.cluster.view();
        assert_eq!(view.living().count(), 3);
        assert!(view.owner(a.running()[0]).is_some());
    }
    // A joiner moved no more than its share.
    assert!(c.running().len() == 2 || c.running().len() == 3);
    b.stop().await;
    balanced(&[&a, &c]).await;
    a.stop().await;
    balanced(&[&c]).await;
}

/// F4: a hand-over is a matter of the looks that it takes, not of leases.
#[tokio::test(start_paused = true)]
async fn f4_a_node_that_stops_leaves_no_partition_without_an_owner_for_long() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    balanced(&[&a, &b]).await;
    let given: Vec<_> = a.running();
    let started = tokio::time::Instant::now();
    let mut gaps = tokio::task::JoinSet::new();
    for partition in given {
        let (from, to) = (a.coordinator.clone(), b.coordinator.clone());
        let runs = move |node: &unanimity_coordinator::engine::Coordinator| {
            node.info().states[usize::from(partition.0)].state == PartitionState::Running
        };
        gaps.spawn(async move {
            while runs(&from) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let left = tokio::time::Instant::now();
            while !runs(&to) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            left.elapsed()
        });
    }
    a.stop().await;
    let gaps = gaps.join_all().await;
    // Looks are 100 ms apart while partitions move; all of them moved at once.
    assert!(gaps.iter().all(|gap| *gap <= Duration::from_millis(250)), "{gaps:?}");
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    balanced(&[&b]).await;
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_owns_nothing_and_gets_its_share_back() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    balanced(&[&a, &b]).await;
    assert!(world.log.set_draining("a", true).await.unwrap());
    until("a drained", || a.running().is_empty() && b.running().len() == usize::from(PARTITIONS)).await;
    assert!(a.coordinator.is_ready(), "it owns nothing because another node does");
    // The only one that is left keeps what it has, drained or not.
    assert!(world.log.set_draining("b", true).await.unwrap());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(a.running().len() + b.running().len(), usize::from(PARTITIONS));
    assert!(world.log.set_draining("a", false).await.unwrap());
    until("b drained", || b.running().is_empty() && a.running().len() == usize::from(PARTITIONS)).await;
    assert!(world.log.set_draining("b", false).await.unwrap());
    balanced(&[&a, &b]).await;
}

#[tokio::test(start_paused = true)]
async fn all_nodes_restart_one_after_another() {
    let world = World::new();
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(world.node(name).await);
    }
    balanced(&nodes.iter().collect::<Vec<_>>()).await;
    for name in ["a", "b", "c"] {
        nodes.remove(0).stop().await;
        nodes.push(world.node(name).await);
        balanced(&nodes.iter().collect::<Vec<_>>()).await;
    }
}

/// The last one closes in good order: the next start finds clean ends.
#[tokio::test(start_paused = true)]
async fn the_last_node_closes_its_partitions_cleanly() {
    use unanimity_coordinator::log::BlockKind;
    let world = World::new();
    let a = world.node("a").await;
    balanced(&[&a]).await;
    a.stop().await;
    for number in 0..PARTITIONS {
        let blocks = world.memory.raw_blocks(unanimity_types::PartitionId(number));
        assert_eq!(blocks.last().unwrap().kind, BlockKind::Closing);
    }
}

/// The later process of a name has it; the earlier one owns nothing any more, and says so.
#[tokio::test(start_paused = true)]
async fn a_second_process_of_the_same_name_replaces_the_first() {
    let world = World::new();
    let first = world.node("a").await;
    balanced(&[&first]).await;
    let second = world.node("a").await;
    until("the second has all", || {
        second.running().len() == usize::from(PARTITIONS) && first.running().is_empty()
    })
    .await;
    until("the first is told", || first.cluster.view().refused.is_some()).await;
    assert!(second.cluster.view().refused.is_none());
    // No fight: the epochs stay what they are.
    let epochs = || -> Vec<_> {
        (0..PARTITIONS)
            .map(|n| world.memory.raw_blocks(unanimity_types::PartitionId(n)).last().unwrap().epoch)
            .collect()
    };
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = epochs();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(epochs(), before);
}

#[tokio::test(start_paused = true)]
async fn m18_a_node_that_knows_too_little_does_not_join() {
    let world = World::new();
    let later = NodeBeat {
        node: "later".to_owned(),
        instance: Uuid::new_v4(),
        joins: true,
        address: String::new(),
        version: "99".to_owned(),
        formats: 99,
        servers: Vec::new(),
        leaving: false,
    };
    world.log.heartbeat(&later, Duration::from_secs(6)).await.unwrap();
    let config = ClusterConfig::new("a".to_owned(), String::new(), Duration::from_secs(6));
    let refused = Cluster::join(config, world.log.clone()).await;
    assert!(matches!(refused, Err(Error::Schema(_))), "{refused:?}");
}
