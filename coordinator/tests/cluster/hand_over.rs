//! Partitions change hands under load.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use unanimity_coordinator::engine::{Claim, Coordinator, Error, PartitionState, Wait};
use unanimity_coordinator::log::{Block, BlockKind};
use unanimity_types::{
    Birth, DecideHash, ErrorCode, Mode, Operation, PartitionId, Status, Ticket, Xid, partition_of,
};

use crate::nodes::*;
use crate::support::*;

const SECRET: &[u8] = b"known to its TM alone";

fn birth(c: &Coordinator, ticket: Ticket) -> Birth {
    let Claim { shown, .. } = Claim::showing(None, SECRET);
    Birth {
        log_id: c.log_id(),
        ticket,
        decide_hash: shown.unwrap_or(DecideHash([0; 32])),
        timeout: None,
        name: None,
        mode: Mode::Tcc,
    }
}

/// What the owner of the xid's partition stamps it with, as soon as there is one.
async fn stamp(nodes: &[Coordinator], xid: Xid) -> Birth {
    let partition = partition_of(xid, PARTITIONS);
    loop {
        for c in nodes {
            if let Some((_, ticket)) = c.tickets().into_iter().find(|(of, _)| *of == partition) {
                return birth(c, ticket);
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Asks whichever node owns the partition, until one answers.
async fn ask<T>(
    nodes: &[Coordinator],
    xid: Xid,
    mut call: impl AsyncFnMut(&Coordinator) -> Result<T, Error>,
) -> T {
    let place = usize::from(partition_of(xid, PARTITIONS).0);
    loop {
        for c in nodes {
            if c.info().states[place].state != PartitionState::Running {
                continue;
            }
            match call(c).await {
                Ok(answer) => return answer,
                Err(error) => assert!(
                    matches!(
                        error.code,
                        ErrorCode::NotOwner | ErrorCode::Unavailable | ErrorCode::OutcomeUnknown
                    ),
                    "{xid}: {error:?}"
                ),
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Transactions begun without a call, one after another. Answers those that were committed.
async fn work(nodes: &[Coordinator], stop: &AtomicBool) -> Vec<Xid> {
    let mut committed = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let xid = new_xid();
        let born = stamp(nodes, xid).await;
        let seen = || Claim { birth: Some(Box::new(born.clone())), shown: None };
        for name in ["stock", "payment"] {
            ask(nodes, xid, async |c| c.register_as(branch(xid, name), seen()).await).await;
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..30))).await;
        }
        let own = || Claim::showing(Some(born.clone()), SECRET);
        let naming = || unanimity_coordinator::engine::Commit {
            votes: keys(&["stock", "payment"]),
            ..commit(xid, Wait::Decided)
        };
        let standing = ask(nodes, xid, async |c| c.commit_as(naming(), own()).await).await;
        assert!(matches!(standing.status, Status::Committing | Status::Committed), "{standing:?}");
        committed.push(xid);
    }
    committed
}

/// F4, protocol 1.2: a clean hand-over aborts nothing and loses nothing that was answered, tickets stay valid.
#[tokio::test(start_paused = true)]
async fn f4_t1_2_clean_hand_overs_abort_no_ticketed_transaction_and_lose_no_answer() {
    let world = World::new();
    let (a, b, c) = (world.node("a").await, world.node("b").await, world.node("c").await);
    balanced(&[&a, &b, &c]).await;
    let nodes = [a.coordinator.clone(), b.coordinator.clone(), c.coordinator.clone()];
    let stop = AtomicBool::new(false);
    let workers = (0..8).map(|_| work(&nodes, &stop));
    let moves = async {
        for round in 0..9 {
            let name = ["a", "b", "c"][round % 3];
            assert!(world.log.set_draining(name, true).await.unwrap());
            let drained = [&a, &b, &c][round % 3];
            until("it is drained", || drained.running().is_empty()).await;
            assert!(world.log.set_draining(name, false).await.unwrap());
            balanced(&[&a, &b, &c]).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (committed, ()) = tokio::join!(futures::future::join_all(workers), moves);
    let committed: Vec<Xid> = committed.into_iter().flatten().collect();
    assert!(committed.len() > 100, "{}", committed.len());
    for xid in &committed {
        let view =
            ask(&nodes, *xid, async |c| c.get(*xid, Wait::Finished, Duration::from_secs(30)).await).await;
        assert_eq!(view.status, Status::Committed, "{view:?}");
        assert_eq!(world.participants.done(*xid).iter().filter(|done| done.confirmed).count(), 2);
    }
    // Every end was a clean one: an epoch block says since when tickets are valid, and that never changed.
    for number in 0..PARTITIONS {
        let blocks = world.memory.raw_blocks(PartitionId(number));
        let epochs: Vec<_> = blocks.iter().filter(|block| block.kind == BlockKind::Epoch).collect();
        assert!(epochs.len() >= 4, "partition {number} hardly moved");
        let since: Vec<u64> = epochs.iter().map(|epoch| valid_since(epoch)).collect();
        assert!(since.iter().all(|epoch| *epoch == since[0]), "partition {number}: {since:?}");
    }
}

/// The body of an epoch block ends with it.
fn valid_since(epoch: &Block) -> u64 {
    u64::from_be_bytes(epoch.body[16..24].try_into().unwrap())
}

fn calls_of(world: &World, xid: Xid, operation: Operation) -> usize {
    world.participants.calls().iter().filter(|call| call.xid == xid && call.operation == operation).count()
}

/// M12: a call that is out is waited for, and the partition works meanwhile; the next owner does not make it again.
#[tokio::test(start_paused = true)]
async fn m12_a_hand_over_waits_for_calls_that_are_out_and_works_meanwhile() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    balanced(&[&a, &b]).await;
    let xid = loop {
        let xid = new_xid();
        if a.running().contains(&partition_of(xid, PARTITIONS)) {
            break xid;
        }
    };
    let partition = partition_of(xid, PARTITIONS);
    world.participants.set(Manner::Holding);
    a.coordinator.begin(begin(xid)).await.unwrap();
    a.coordinator.register(branch(xid, "stock")).await.unwrap();
    a.coordinator.commit(commit(xid, Wait::Decided)).await.unwrap();
    until("the call is out", || calls_of(&world, xid, Operation::Confirm) == 1).await;
    assert!(world.log.set_draining("a", true).await.unwrap());
    until("the others are gone", || a.running() == [partition]).await;
    // It works on for its callers, while the call is out.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let other = loop {
        let other = new_xid();
        if partition_of(other, PARTITIONS) == partition {
            break other;
        }
    };
    a.coordinator.begin(begin(other)).await.unwrap();
    a.coordinator.register(branch(other, "stock")).await.unwrap();
    a.coordinator.commit(commit(other, Wait::Decided)).await.unwrap();
    world.participants.set(Manner::Willing);
    world.participants.let_go();
    until("it is handed over", || b.running().len() == usize::from(PARTITIONS)).await;
    for xid in [xid, other] {
        let view = b.coordinator.get(xid, Wait::Finished, Duration::from_secs(30)).await.unwrap();
        assert_eq!(view.status, Status::Committed);
        assert_eq!(calls_of(&world, xid, Operation::Confirm), 1, "each call was made once");
    }
}

/// M12: the wait has an end. What nobody answered is asked again by the next owner.
#[tokio::test(start_paused = true)]
async fn m12_a_call_that_never_ends_does_not_stop_a_hand_over() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    balanced(&[&a, &b]).await;
    let xid = loop {
        let xid = new_xid();
        if a.running().contains(&partition_of(xid, PARTITIONS)) {
            break xid;
        }
    };
    world.participants.set(Manner::Holding);
    a.coordinator.begin(begin(xid)).await.unwrap();
    a.coordinator.register(branch(xid, "stock")).await.unwrap();
    a.coordinator.commit(commit(xid, Wait::Decided)).await.unwrap();
    until("the call is out", || calls_of(&world, xid, Operation::Confirm) == 1).await;
    world.participants.set(Manner::Willing);
    let started = tokio::time::Instant::now();
    assert!(world.log.set_draining("a", true).await.unwrap());
    until("it is handed over", || b.running().len() == usize::from(PARTITIONS)).await;
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    let view = b.coordinator.get(xid, Wait::Finished, Duration::from_secs(30)).await.unwrap();
    assert_eq!(view.status, Status::Committed);
    assert_eq!(calls_of(&world, xid, Operation::Confirm), 2);
}

/// A hand-over that is taken back while calls are out goes on as if nothing had been.
#[tokio::test(start_paused = true)]
async fn a_hand_over_that_is_called_off_leaves_no_trace() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    balanced(&[&a, &b]).await;
    let xid = loop {
        let xid = new_xid();
        if a.running().contains(&partition_of(xid, PARTITIONS)) {
            break xid;
        }
    };
    let partition = partition_of(xid, PARTITIONS);
    world.participants.set(Manner::Holding);
    a.coordinator.begin(begin(xid)).await.unwrap();
    a.coordinator.register(branch(xid, "stock")).await.unwrap();
    a.coordinator.commit(commit(xid, Wait::Decided)).await.unwrap();
    until("the call is out", || calls_of(&world, xid, Operation::Confirm) == 1).await;
    assert!(world.log.set_draining("a", true).await.unwrap());
    until("the others are gone", || a.running() == [partition]).await;
    let other = loop {
        let other = new_xid();
        if partition_of(other, PARTITIONS) == partition {
            break other;
        }
    };
    a.coordinator.begin(begin(other)).await.unwrap();
    a.coordinator.register(branch(other, "stock")).await.unwrap();
    a.coordinator.commit(commit(other, Wait::Decided)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(calls_of(&world, other, Operation::Confirm), 0, "new calls wait");
    assert!(world.log.set_draining("a", false).await.unwrap());
    until("they go out", || calls_of(&world, other, Operation::Confirm) == 1).await;
    world.participants.set(Manner::Willing);
    world.participants.let_go();
    balanced(&[&a, &b]).await;
    for xid in [xid, other] {
        let view =
            at_owner(&[&a, &b], xid, async |c| c.get(xid, Wait::Finished, Duration::from_secs(30)).await)
                .await
                .unwrap();
        assert_eq!(view.status, Status::Committed);
    }
}
