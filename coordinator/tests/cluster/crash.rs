//! Nodes that die, sleep, or do not reach the database.

use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::engine::Wait;
use unanimity_coordinator::log::{FaultRates, FaultyLog, TransactionLog};
use unanimity_types::{ErrorCode, Status, partition_of};

use crate::nodes::*;
use crate::support::*;

const LEASE: Duration = Duration::from_secs(6);

/// F1: at most lease + 2 s without progress, and what was decided stays so.
#[tokio::test(start_paused = true)]
async fn f1_a_node_that_dies_is_replaced_after_its_lease() {
    let world = World::new();
    let (a, b, c) = (world.node("a").await, world.node("b").await, world.node("c").await);
    balanced(&[&a, &b, &c]).await;
    let mut decided = Vec::new();
    for _ in 0..20 {
        let xid = new_xid();
        at_owner(&[&a, &b, &c], xid, async |c| {
            c.begin(begin(xid)).await?;
            c.register(branch(xid, "stock")).await?;
            c.commit(commit(xid, Wait::Decided)).await
        })
        .await
        .unwrap();
        decided.push(xid);
    }
    tokio::time::sleep(Duration::from_millis(1_700)).await;
    let started = tokio::time::Instant::now();
    a.kill();
    until("the others have all", || b.running().len() + c.running().len() == usize::from(PARTITIONS)).await;
    assert!(started.elapsed() <= LEASE + Duration::from_secs(2), "{:?}", started.elapsed());
    balanced(&[&b, &c]).await;
    for xid in decided {
        let view = at_owner(&[&b, &c], xid, async |c| c.get(xid, Wait::Finished, LEASE).await).await.unwrap();
        assert_eq!(view.status, Status::Committed);
    }
}

#[tokio::test(start_paused = true)]
async fn f1_a_node_that_was_killed_takes_its_own_back_at_once() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    balanced(&[&a, &b]).await;
    let had = a.running();
    a.kill();
    let started = tokio::time::Instant::now();
    let a = world.node("a").await;
    until("they run again", || a.running() == had).await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    balanced(&[&a, &b]).await;
}

/// F2, M10: an owner that is idle and slept through its lease finds out by the renewal of its lease, also if the
/// other owner is gone again by then, and shows nothing from its old memory.
#[tokio::test(start_paused = true)]
async fn f2_m10_an_idle_deposed_owner_finds_out_by_itself() {
    for other_is_gone in [false, true] {
        let (memory, log) = memory();
        let faulty = FaultyLog::over_memory(memory.clone(), 1);
        let first = start_with(Arc::new(faulty.clone()), config("a"), Arc::default()).await;
        let xid = begun_with(&first.coordinator, &["stock"]).await;
        // "Asleep": its renewals get nowhere, and its lease runs out.
        faulty.set_unavailable(true);
        memory.advance(LEASE + Duration::from_secs(1));
        tokio::time::sleep(LEASE + Duration::from_secs(1)).await;
        let second = start_with(log, config("b"), Arc::default()).await;
        let standing = second.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
        assert_eq!(standing.status, Status::Committed);
        if other_is_gone {
            second.engine.shutdown(Duration::from_secs(10)).await;
        }
        let blocks = memory.raw_blocks(unanimity_types::PartitionId(0)).len();
        faulty.set_unavailable(false);
        // It takes no more mail before its renewal, which tells it.
        let told = loop {
            match first.coordinator.get(xid, Wait::Accepted, Duration::ZERO).await {
                Err(error) if error.code == ErrorCode::Unavailable => {}
                told => break told,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        if other_is_gone {
            // It owned the partition again by then, by its log.
            if let Ok(view) = told {
                assert_eq!(view.status, Status::Committed);
            }
        } else {
            assert_eq!(told.unwrap_err().code, ErrorCode::NotOwner);
            assert_eq!(memory.raw_blocks(unanimity_types::PartitionId(0)).len(), blocks, "it wrote nothing");
        }
    }
}

/// A database that is away for all of them changes nothing: who has something keeps it.
#[tokio::test(start_paused = true)]
async fn a_node_whose_beat_cannot_be_written_keeps_what_it_has() {
    let world = World::new();
    let faulty = FaultyLog::over_memory(world.memory.clone(), 1);
    let log: Arc<dyn TransactionLog> = Arc::new(faulty.clone());
    let (a, b) = (world.node_over("a", log.clone()).await, world.node_over("b", log).await);
    balanced(&[&a, &b]).await;
    let (had_a, had_b) = (a.running(), b.running());
    faulty.set_unavailable(true);
    tokio::time::sleep(LEASE * 3).await;
    assert!(!a.coordinator.is_ready() && !b.coordinator.is_ready());
    faulty.set_unavailable(false);
    balanced(&[&a, &b]).await;
    assert_eq!((a.running(), b.running()), (had_a, had_b));
}

/// M10: a node that is cut off from the database knows for a lease who owns what, and then says that it does not.
#[tokio::test(start_paused = true)]
async fn m10_a_node_that_does_not_see_its_cluster_for_a_lease_names_no_owner() {
    let world = World::new();
    let faulty = FaultyLog::over_memory(world.memory.clone(), 1);
    let (a, b) = (world.node("a").await, world.node_over("b", Arc::new(faulty.clone())).await);
    balanced(&[&a, &b]).await;
    let theirs = a.running()[0];
    until("b has seen that", || b.cluster.view().owner(theirs).is_some_and(|(node, _)| node == "a")).await;
    faulty.set_unavailable(true);
    let cut = tokio::time::Instant::now();
    tokio::time::sleep(LEASE / 2).await;
    assert!(b.cluster.view().owner(theirs).is_some(), "a moment says nothing");
    until("b owns up", || b.cluster.view().stale.is_some()).await;
    assert!(cut.elapsed() <= LEASE + Duration::from_secs(1), "{:?}", cut.elapsed());
    let view = b.cluster.view();
    assert!(view.cluster.partitions.iter().all(|row| view.owner(row.partition).is_none()));
    faulty.set_unavailable(false);
    until("b sees again", || b.cluster.view().stale.is_none()).await;
    balanced(&[&a, &b]).await;
    assert!(b.cluster.view().owner(theirs).is_some());
}

/// H10: an owner whose way to its partitions' log is cut, and whose way to the leases is not, gives them to whom they are
/// planned for, though it can write no closing block.
#[tokio::test(start_paused = true)]
async fn h10_an_owner_that_cannot_write_gives_its_partitions_away_all_the_same() {
    let world = World::new();
    let faulty = FaultyLog::over_memory(world.memory.clone(), 1);
    let (a, b) = (world.node_over("a", Arc::new(faulty.clone())).await, world.node("b").await);
    balanced(&[&a, &b]).await;
    faulty.set_rates(FaultRates { append_failed: 1.0, ..FaultRates::default() });
    // Something to write in each of its partitions.
    for partition in a.running() {
        let xid = std::iter::repeat_with(new_xid).find(|xid| partition_of(*xid, PARTITIONS) == partition);
        let (c, xid) = (a.coordinator.clone(), xid.unwrap());
        tokio::spawn(async move { drop(c.begin(begin(xid)).await) });
    }
    assert!(world.memory.set_draining("a", true).await.unwrap());
    until("b has them all", || b.running().len() == usize::from(PARTITIONS)).await;
}

/// A node that starts while the database is away joins when it is back.
#[tokio::test(start_paused = true)]
async fn a_node_joins_when_the_database_is_back() {
    let world = World::new();
    let faulty = FaultyLog::over_memory(world.memory.clone(), 1);
    faulty.set_unavailable(true);
    let a = world.node_over("a", Arc::new(faulty.clone())).await;
    tokio::time::sleep(LEASE).await;
    assert!(a.cluster.view().row("a").is_none() && a.running().is_empty());
    faulty.set_unavailable(false);
    until("it has joined", || a.cluster.view().row("a").is_some()).await;
    balanced(&[&a]).await;
}

/// Two nodes that both believe that everything is theirs: the log decides, and both say what is true.
#[tokio::test(start_paused = true)]
async fn i9_two_nodes_that_race_for_a_partition_do_not_both_have_it() {
    let world = World::new();
    for round in 0..20 {
        let (a, b) = tokio::join!(world.node("a"), world.node("b"));
        balanced(&[&a, &b]).await;
        let xid = new_xid();
        let standing = at_owner(&[&a, &b], xid, async |c| {
            c.begin(begin(xid)).await?;
            c.register(branch(xid, "stock")).await?;
            c.commit(commit(xid, Wait::Finished)).await
        })
        .await
        .unwrap();
        assert_eq!(standing.status, Status::Committed);
        if round % 2 == 0 {
            a.kill();
            b.kill();
        } else {
            tokio::join!(a.stop(), b.stop());
        }
    }
}
