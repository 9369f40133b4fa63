//! Two owners: one wins, the other writes nothing and says so.

use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::engine::{PartitionState, Wait};
use unanimity_types::{ErrorCode, Status};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn a_second_node_waits_for_the_lease_and_takes_over_when_the_first_is_dead() {
    let (memory, log) = memory();
    let first = start(log.clone()).await;
    let xid = begun_with(&first.coordinator, &["stock"]).await;
    let second = start_unready(log, config("b"), Arc::clone(&first.participants));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(
        matches!(&second.coordinator.info().states[0].state, PartitionState::Waiting(who) if who.starts_with('a'))
    );
    assert_eq!(second.coordinator.begin(begin(new_xid())).await.unwrap_err().code, ErrorCode::NotOwner);
    let _participants = first.kill();
    memory.advance(Duration::from_secs(7));
    second.coordinator.ready(Duration::from_secs(30)).await.unwrap();
    let standing = second.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
    assert_eq!(standing.status, Status::Committed);
}

/// C1's interleaving: an owner that slept through its lease wakes with a deadline due.
#[tokio::test(start_paused = true)]
async fn c1_i9_a_deposed_owner_writes_nothing_cancels_nothing_and_says_so() {
    let (memory, log) = memory();
    let first = start(log.clone()).await;
    let xid = begun_with(&first.coordinator, &["stock", "payment"]).await;
    // The first is "paused": its appends get nowhere, its lease runs out.
    let held = memory.hold_appends();
    let stale = tokio::spawn({
        let coordinator = first.coordinator.clone();
        async move { coordinator.abort(xid, Wait::Decided).await }
    });
    held.until_waiting(1).await;
    memory.advance(Duration::from_secs(7));
    let other_log: Arc<dyn unanimity_coordinator::log::TransactionLog> = log.clone();
    let participants: Arc<Participants> = Arc::default();
    let second = start_unready(other_log, config("b"), Arc::clone(&participants));
    // Both owners' blocks wait now; let them race to the same place.
    held.until_waiting(2).await;
    drop(held);
    let first_says = stale.await.unwrap();
    second.coordinator.ready(Duration::from_secs(60)).await.unwrap();
    match first_says {
        // The first's block landed before the second's epoch block: then it is the truth.
        Ok(standing) => {
            let view = second.coordinator.get(xid, Wait::Finished, Duration::from_secs(30)).await.unwrap();
            assert_eq!(standing.status.decision(), view.decision);
        }
        Err(error) => {
            assert_eq!(error.code, ErrorCode::OutcomeUnknown);
            assert!(first.participants.calls().is_empty(), "a deposed owner sends nothing");
            let standing = second.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
            assert_eq!(standing.status, Status::Committed);
        }
    }
    // It learns so at its next append or renewal.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!matches!(first.coordinator.info().states[0].state, PartitionState::Running));
}
