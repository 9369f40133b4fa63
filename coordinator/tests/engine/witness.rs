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
