//! Logs that forgot: found by witnesses, stopped, and continued only on an operator's word.

use std::time::Duration;

use unanimity_coordinator::engine::{OperatorAction, PartitionState, StopReason, Wait};
use unanimity_types::{ErrorCode, PartitionId, Seq, Status};

use crate::support::*;

const P0: PartitionId = PartitionId(0);

fn action() -> OperatorAction {
    OperatorAction { operator: "op".into(), reason: "the standby was behind".into() }
}

#[tokio::test(start_paused = true)]
async fn h6_c8_a_lost_tail_is_found_by_a_witness_and_stops_until_the_loss_is_accepted() {
    let (memory, log) = memory();
    let node = start(log.clone()).await;
    let kept = begun_with(&node.coordinator, &["stock"]).await;
    let cut = node.coordinator.positions()[0].seq;
    let lost = begun_with(&node.coordinator, &["stock"]).await;
    node.coordinator.commit(commit(lost, Wait::Decided)).await.unwrap();
    let witness = node.coordinator.positions();
    let participants = node.kill();
    memory.lose_tail(P0, cut);

    // A new owner cannot see it by itself.
    let node = start_with(log.clone(), config("a"), participants).await;
    let error = node.coordinator.witness(&witness).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::LogLostTail);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stopped = |node: &Node| {
        matches!(&node.coordinator.info().states[0].state, PartitionState::Stopped(StopReason::LostTail(_)))
    };
    assert!(stopped(&node));
    let refused = node.coordinator.commit(commit(kept, Wait::Decided)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::LogLostTail);

    // A restart does not make it good.
    let participants = node.kill();
    let node = start_unready(log.clone(), config("a"), participants);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(stopped(&node), "{:?}", node.coordinator.info());

    // An operator does, on record; the old witness is forgiven.
    node.coordinator.accept_loss(P0, action()).await.unwrap();
    node.coordinator.ready(Duration::from_secs(10)).await.unwrap();
    node.coordinator.witness(&witness).await.unwrap();
    let standing = node.coordinator.commit(commit(kept, Wait::Finished)).await.unwrap();
    assert_eq!(standing.status, Status::Committed);
    let participants = node.kill();
    let node = start_with(log, config("a"), participants).await;
    node.coordinator.witness(&witness).await.unwrap();
    assert_eq!(
        node.coordinator.accept_loss(P0, action()).await.unwrap_err().code,
        ErrorCode::IllegalTransition
    );
}

#[tokio::test(start_paused = true)]
async fn h6_a_live_owner_is_a_witness_itself() {
    let (memory, log) = memory();
    let node = start(log).await;
    let xid = begun_with(&node.coordinator, &["stock"]).await;
    let durable = node.coordinator.positions()[0].seq;
    memory.lose_tail(P0, Seq(durable.0 - 1));
    let error = node.coordinator.commit(commit(xid, Wait::Decided)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::OutcomeUnknown);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let state = node.coordinator.info().states[0].state.clone();
    assert!(matches!(state, PartitionState::Stopped(StopReason::LostTail(_))), "{state:?}");
    assert!(node.participants.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn h6_an_idle_owner_finds_that_its_log_lost_its_tail() {
    let (memory, log) = memory();
    let node = start(log).await;
    begun_with(&node.coordinator, &["stock"]).await;
    let durable = node.coordinator.positions()[0].seq;
    memory.lose_tail(P0, Seq(durable.0 - 1));
    // Nobody asks for anything: the renewals of its lease look.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let state = node.coordinator.info().states[0].state.clone();
    assert!(matches!(state, PartitionState::Stopped(StopReason::LostTail(_))), "{state:?}");
}

#[tokio::test(start_paused = true)]
async fn c8_a_restored_backup_is_found_by_the_epoch_that_it_never_had() {
    let (memory, log) = memory();
    let node = start(log.clone()).await;
    begun_with(&node.coordinator, &["stock"]).await;
    let backup = memory.fork();
    let participants = node.kill();
    let node = start_with(log, config("a"), participants).await;
    begun_with(&node.coordinator, &["stock"]).await;
    let witness = node.coordinator.positions();
    let participants = node.kill();
    // Restored, and started: it counts the same epoch number again, with another tag.
    let restored: std::sync::Arc<dyn unanimity_coordinator::log::TransactionLog> =
        std::sync::Arc::new(backup);
    let node = start_with(restored, config("a"), participants).await;
    assert_eq!(node.coordinator.positions()[0].epoch, witness[0].epoch);
    assert_eq!(node.coordinator.witness(&witness).await.unwrap_err().code, ErrorCode::LogLostTail);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_or_missing_block_stops_the_partition_with_its_place() {
    for harm in ["damage", "remove"] {
        let (memory, log) = memory();
        let node = start(log.clone()).await;
        begun_with(&node.coordinator, &["stock", "payment"]).await;
        let participants = node.kill();
        let place = Seq(memory.raw_blocks(P0).len() as u64 - 2);
        let harmed = match harm {
            "damage" => memory.damage(P0, place, |block| block.body = vec![1, 2, 3].into()),
            _ => memory.remove(P0, place),
        };
        assert!(harmed);
        let node = start_unready(log, config("a"), participants);
        let error = node.coordinator.ready(Duration::from_secs(30)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::LogDamaged, "{harm}");
        assert!(error.message.contains(&place.to_string()), "{}", error.message);
    }
}

/// A backup from several epochs ago, and no restart between the witness and the operator's word.
#[tokio::test(start_paused = true)]
async fn h6_an_accepted_loss_forgives_epochs_that_this_log_never_counted_to() {
    let (memory, log) = memory();
    let mut node = start(log.clone()).await;
    let backup = memory.fork();
    for _ in 0..4 {
        let participants = node.kill();
        node = start_with(log.clone(), config("a"), participants).await;
    }
    begun_with(&node.coordinator, &["stock"]).await;
    let witness = node.coordinator.positions();
    let participants = node.kill();
    let restored: std::sync::Arc<dyn unanimity_coordinator::log::TransactionLog> =
        std::sync::Arc::new(backup);
    let node = start_with(restored.clone(), config("a"), participants).await;
    assert!(node.coordinator.positions()[0].epoch < witness[0].epoch);
    assert_eq!(node.coordinator.witness(&witness).await.unwrap_err().code, ErrorCode::LogLostTail);
    tokio::time::sleep(Duration::from_secs(1)).await;
    node.coordinator.accept_loss(P0, action()).await.unwrap();
    node.coordinator.ready(Duration::from_secs(10)).await.unwrap();
    node.coordinator.witness(&witness).await.unwrap();
    assert!(node.coordinator.positions()[0].epoch > witness[0].epoch, "no epoch is counted twice");
    let participants = node.kill();
    let node = start_with(restored, config("a"), participants).await;
    node.coordinator.witness(&witness).await.unwrap();
}

/// The partition that stopped goes on in the same process: the witness that stopped it is forgiven,
/// whatever epoch it comes from.
#[tokio::test(start_paused = true)]
async fn h6_an_accepted_loss_forgives_the_witness_that_stopped_the_partition() {
    let (memory, log) = memory();
    let node = start(log.clone()).await;
    begun_with(&node.coordinator, &["stock"]).await;
    let backup = memory.fork();
    let mut participants = node.kill();
    // The true log goes on for some epochs.
    for _ in 0..5 {
        let node = start_with(log.clone(), config("a"), participants).await;
        begun_with(&node.coordinator, &["stock"]).await;
        participants = node.kill();
    }
    let node = start_with(log, config("a"), participants).await;
    let witness = node.coordinator.positions();
    let participants = node.kill();
    let restored: std::sync::Arc<dyn unanimity_coordinator::log::TransactionLog> =
        std::sync::Arc::new(backup);
    let node = start_with(restored, config("a"), participants).await;
    assert!(node.coordinator.positions()[0].epoch < witness[0].epoch);
    assert_eq!(node.coordinator.witness(&witness).await.unwrap_err().code, ErrorCode::LogLostTail);
    tokio::time::sleep(Duration::from_secs(1)).await;
    node.coordinator.accept_loss(P0, action()).await.unwrap();
    node.coordinator.ready(Duration::from_secs(10)).await.unwrap();
    node.coordinator.witness(&witness).await.unwrap();
    assert!(node.coordinator.is_ready());
}

/// The operator's word is in the log; it outlives the trim of the block that it stands in.
#[tokio::test(start_paused = true)]
async fn h6_h17_an_accepted_loss_outlives_the_trim() {
    let (memory, log) = memory();
    let mut eager = config("a");
    eager.trim_blocks = 8;
    let node = start_with(log.clone(), eager.clone(), std::sync::Arc::default()).await;
    let cut = node.coordinator.positions()[0].seq;
    begun_with(&node.coordinator, &["stock"]).await;
    let witness = node.coordinator.positions();
    let participants = node.kill();
    memory.lose_tail(P0, cut);
    let node = start_with(log.clone(), eager.clone(), participants).await;
    node.coordinator.witness(&witness).await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let participants = node.kill();
    let node = start_unready(log.clone(), eager.clone(), participants);
    tokio::time::sleep(Duration::from_secs(5)).await;
    node.coordinator.accept_loss(P0, action()).await.unwrap();
    node.coordinator.ready(Duration::from_secs(10)).await.unwrap();
    for _ in 0..100 {
        let xid = begun_with(&node.coordinator, &["stock"]).await;
        node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    let blocks = memory.raw_blocks(P0).len();
    assert!(blocks < 100, "{blocks} blocks: nothing was trimmed");
    let participants = node.kill();
    let node = start_with(log, eager, participants).await;
    node.coordinator.witness(&witness).await.unwrap();
    assert!(node.coordinator.is_ready());
}

/// A repeated command is answered from history, whose places lack the epoch's tag: whoever shows
/// such a place later accuses nobody.
#[tokio::test(start_paused = true)]
async fn h6_a_place_that_history_told_is_no_witness() {
    let (_memory, log) = memory();
    let node = start(log).await;
    let xid = begun_with(&node.coordinator, &["stock"]).await;
    node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let again = node.coordinator.commit(commit(xid, Wait::Decided)).await.unwrap();
    assert_eq!(again.status, Status::Committed);
    node.coordinator.witness(&[again.position]).await.unwrap();
    let begun = node.coordinator.begin(begin(xid)).await.unwrap();
    node.coordinator.witness(&[begun.position]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(node.coordinator.is_ready());
}
