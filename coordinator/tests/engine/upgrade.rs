//! A rolling upgrade between two formats of the log (protocol M18): what every node reads is written, and what was written
//! stays readable.

use std::time::Duration;

use unanimity_coordinator::engine::{EngineConfig, Wait};
use unanimity_coordinator::log::{AgreedFormat, Block, BlockKind, MemoryLog};
use unanimity_types::{PartitionId, Status};

use crate::support::*;

const P0: PartitionId = PartitionId(0);
const SOON: Duration = Duration::from_secs(60);

fn agreed(node: &str, format: &AgreedFormat) -> EngineConfig {
    EngineConfig { format: format.clone(), ..config(node) }
}

fn since_birth(memory: &MemoryLog) -> Vec<Block> {
    memory.raw_blocks(P0).into_iter().filter(|block| block.kind != BlockKind::Birth).collect()
}

#[tokio::test(start_paused = true)]
async fn m18_blocks_are_written_in_the_agreed_format_and_read_across_it() {
    let (memory, log) = memory();
    let format = AgreedFormat::at(1);
    let node = start_with(log.clone(), agreed("a", &format), Default::default()).await;
    let over = begun_with(&node.coordinator, &["stock", "payment"]).await;
    node.coordinator.commit(commit(over, Wait::Finished)).await.unwrap();
    let open = begun_with(&node.coordinator, &["stock"]).await;
    assert!(since_birth(&memory).iter().all(|block| block.version == 1), "also epoch blocks");
    // The last old node is gone. The owner goes on in the middle of its life.
    format.raise(2);
    let later = begun_with(&node.coordinator, &["stock"]).await;
    node.coordinator.register(branch(open, "payment")).await.unwrap();
    let versions: Vec<u16> = since_birth(&memory).iter().map(|block| block.version).collect();
    assert!(versions.is_sorted() && versions.ends_with(&[2]), "{versions:?}");
    // A crash, and what both formats say is there.
    let participants = node.kill();
    let node = start_with(log, agreed("a", &format), participants).await;
    for (xid, branches) in [(open, 2), (later, 1)] {
        let view = node.coordinator.get(xid, Wait::Accepted, Duration::ZERO).await.unwrap();
        assert_eq!((view.status, view.branches.len()), (Status::Active, branches));
        node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
    }
    let view = node.coordinator.get(over, Wait::Finished, SOON).await.unwrap();
    assert_eq!(view.status, Status::Committed);
}

/// Cleaning's snapshots, locks and a clean end in the old format: an old binary may be who comes next.
#[tokio::test(start_paused = true)]
async fn m18_everything_that_an_owner_writes_can_be_written_for_an_old_node() {
    let (memory, log) = memory();
    let format = AgreedFormat::at(1);
    let small = EngineConfig { clean_bytes: 2_000, trim_blocks: 4, ..agreed("a", &format) };
    let node = start_with(log.clone(), small.clone(), Default::default()).await;
    let held = new_xid();
    node.coordinator.begin(begin(held)).await.unwrap();
    node.coordinator.register(locking(held, "stock", &["shelf 7"], Duration::ZERO)).await.unwrap();
    for _ in 0..40 {
        let xid = begun_with(&node.coordinator, &["stock", "payment"]).await;
        node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
        settle_down().await;
    }
    let participants = node.participants.clone();
    node.engine.shutdown(Duration::from_secs(10)).await;
    let blocks = since_birth(&memory);
    assert!(blocks.iter().all(|block| block.version == 1));
    assert_eq!(blocks.last().map(|block| block.kind), Some(BlockKind::Closing));
    assert!(blocks.last().is_some_and(|block| block.floor.0 > 2), "it was cleaned");
    let node = start_with(log, small, participants).await;
    let view = node.coordinator.get(held, Wait::Accepted, Duration::ZERO).await.unwrap();
    assert_eq!((view.status, view.branches.len()), (Status::Active, 1));
    node.coordinator.commit(commit(held, Wait::Finished)).await.unwrap();
}
