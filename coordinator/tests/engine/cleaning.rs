//! The log's size follows what is open, not what has passed.

use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::engine::Wait;
use unanimity_coordinator::log::BlockKind;
use unanimity_types::{PartitionId, Status};

use crate::support::*;

const P0: PartitionId = PartitionId(0);

#[tokio::test(start_paused = true)]
async fn h17_what_is_over_is_trimmed_and_what_is_open_survives() {
    let (memory, log) = memory();
    let mut eager = config("a");
    eager.trim_blocks = 16;
    let node = start_with(log.clone(), eager.clone(), Arc::default()).await;
    for _ in 0..300 {
        let xid = begun_with(&node.coordinator, &["stock"]).await;
        node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let data = |memory: &unanimity_coordinator::log::MemoryLog| {
        memory.raw_blocks(P0).iter().filter(|block| block.kind == BlockKind::Data).count()
    };
    assert!(data(&memory) < 100, "{} data blocks left of over 1,000", data(&memory));
    let open = begun_with(&node.coordinator, &["stock"]).await;
    let participants = node.kill();
    let node = start_with(log, eager, participants).await;
    assert_eq!(
        node.coordinator.commit(commit(open, Wait::Finished)).await.unwrap().status,
        Status::Committed
    );
    // Birth and epoch blocks stay for ever (C7).
    let kept = memory.raw_blocks(P0).iter().filter(|block| block.kind.is_kept()).count();
    assert_eq!(kept, 3, "birth and two epochs");
}

#[tokio::test(start_paused = true)]
async fn m8_old_open_transactions_are_reappended_within_bounds() {
    let (memory, log) = memory();
    let mut eager = config("a");
    eager.trim_blocks = 4;
    eager.clean_bytes = 20_000;
    let participants: Arc<Participants> = Arc::default();
    let node = start_with(log.clone(), eager.clone(), participants).await;
    let mut stuck = Vec::new();
    for _ in 0..50 {
        stuck.push(begun_with(&node.coordinator, &["stock", "payment"]).await);
    }
    let mut written = 0;
    let mut top = 0;
    for _ in 0..600 {
        let xid = begun_with(&node.coordinator, &["stock"]).await;
        // Within the timeout of the stuck ones.
        node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let blocks = memory.raw_blocks(P0);
        let size: usize = blocks.iter().map(unanimity_coordinator::log::Block::bytes).sum();
        top = top.max(size);
        written = written.max(blocks.last().unwrap().seq.0);
    }
    // 50 open ones of about 350 bytes live, 20,000 may be dead, and what is on its way.
    assert!(top < 140_000, "the log grew to {top} bytes");
    assert!(written > 1_800, "{written} blocks were written");
    let participants = node.kill();
    let node = start_with(log, eager, participants).await;
    assert_eq!(node.coordinator.info().states[0].open, 50);
    for xid in stuck {
        let view = node.coordinator.get(xid, Wait::Accepted, Duration::ZERO).await.unwrap();
        assert_eq!((view.status, view.branches.len()), (Status::Active, 2));
        let standing = node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
        assert_eq!(standing.status, Status::Committed);
    }
}

/// A block above the floor may hold the end of a transaction that began below it.
#[tokio::test(start_paused = true)]
async fn h17_what_ended_above_the_floor_and_began_below_it_is_no_damage() {
    let (memory, log) = memory();
    let mut eager = config("a");
    eager.trim_blocks = 1;
    let node = start_with(log.clone(), eager.clone(), Arc::default()).await;
    let over = begun_with(&node.coordinator, &["stock"]).await;
    let open = begun_with(&node.coordinator, &["stock"]).await;
    node.coordinator.commit(commit(over, Wait::Finished)).await.unwrap();
    // It goes into history and out of memory; the floor moves up to the open one with the next blocks.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..3 {
        node.coordinator
            .register(branch(open, &format!("more-{}", node.coordinator.positions()[0].seq)))
            .await
            .unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let floor = memory.raw_blocks(P0).last().unwrap().floor;
    let begun = memory
        .raw_blocks(P0)
        .iter()
        .filter(|block| block.kind == BlockKind::Data && block.seq >= floor)
        .flat_map(|block| unanimity_coordinator::engine::decode(block).unwrap())
        .filter(|logged| {
            matches!(&logged.what, unanimity_coordinator::engine::LoggedEvent::Transaction(xid, event)
                if *xid == over && event.is_beginning())
        })
        .count();
    assert_eq!(begun, 0, "its beginning was trimmed");
    let participants = node.kill();
    let node = start_with(log, eager, participants).await;
    let view = node.coordinator.get(over, Wait::Accepted, Duration::ZERO).await.unwrap();
    assert_eq!(view.status, Status::Committed);
    assert_eq!(
        node.coordinator.commit(commit(open, Wait::Finished)).await.unwrap().status,
        Status::Committed
    );
}

/// Few, large blocks: the floor moves when what is dead is too much, not only after so many blocks.
/// Else every block would bring the open ones once more.
#[tokio::test(start_paused = true)]
async fn m8_cleaning_does_not_rewrite_the_same_again_and_again() {
    let (memory, log) = memory();
    let mut eager = config("a");
    eager.trim_blocks = 1_000_000;
    eager.clean_bytes = 20_000;
    let node = start_with(log, eager, Arc::default()).await;
    let stuck = new_xid();
    node.coordinator.begin(begin(stuck)).await.unwrap();
    let mut heavy = branch(stuck, "stock");
    heavy.payload = vec![7; 10_000].into();
    node.coordinator.register(heavy).await.unwrap();
    let mut written = std::collections::BTreeMap::new();
    for _ in 0..300 {
        let xid = begun_with(&node.coordinator, &["stock"]).await;
        node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        for block in memory.raw_blocks(P0) {
            written.insert(block.seq, block.bytes());
        }
    }
    let bytes: usize = written.values().sum();
    let new = 300 * 4 * 300;
    assert!(bytes < 2 * new, "{bytes} bytes were written for about {new} new ones");
}

/// A thousandth of 100,000 stuck transactions and of 64 MB: what cleaning writes again is at most twice what
/// is new, also in the long run.
#[tokio::test(start_paused = true)]
async fn m8_what_cleaning_writes_again_is_at_most_twice_what_is_new() {
    let (memory, log) = memory();
    let mut scaled = config("a");
    scaled.clean_bytes = 64 * 1024;
    let node = start_with(log, scaled, Arc::default()).await;
    for _ in 0..100 {
        let stuck = new_xid();
        let mut open = begin(stuck);
        open.timeout = Some(Duration::from_secs(24 * 3600));
        node.coordinator.begin(open).await.unwrap();
        for to in ["stock", "payment"] {
            let mut register = branch(stuck, to);
            register.payload = vec![7; 64].into();
            node.coordinator.register(register).await.unwrap();
        }
    }
    for _ in 0..1_000 {
        let xid = begun_with(&node.coordinator, &["stock", "payment"]).await;
        node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
        // History is written meanwhile: what is over is dead only then.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let counters = node.coordinator.info().states[0].counters;
    let new = counters.block_bytes - counters.rewritten_bytes;
    println!("{} bytes again for {new} new ones", counters.rewritten_bytes);
    assert!(counters.rewritten_bytes > 0, "cleaning was due");
    assert!(counters.rewritten_bytes <= 2 * new, "{} for {new}", counters.rewritten_bytes);
    // And the log is bounded by what is open.
    let there: usize = memory.raw_blocks(P0).iter().map(|block| block.bytes()).sum();
    assert!(there < 400_000, "{there} bytes are left");
}
