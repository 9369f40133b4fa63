//! Two owners: one wins, the other writes nothing and says so.

use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::engine::{PartitionState, Wait};
use unanimity_coordinator::log::{Fault, FaultyLog};
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

/// An owner whose last append landed without its knowing, deposed by one that then trimmed: all is
/// well, no tail was lost.
#[tokio::test(start_paused = true)]
async fn h17_a_deposed_owner_whose_last_blocks_were_trimmed_accuses_nobody() {
    for look_fails in [false, true] {
        let (memory, log) = memory();
        let faulty = FaultyLog::over_memory(memory.clone(), 1);
        let first = start(Arc::new(faulty.clone())).await;
        let xid = begun_with(&first.coordinator, &["stock"]).await;
        // Its commit lands; it is told "unknown", and then the log is out of its sight.
        faulty.script(Fault::AppendDoneUnknown);
        let stale = tokio::spawn({
            let coordinator = first.coordinator.clone();
            async move { coordinator.commit(commit(xid, Wait::Decided)).await }
        });
        while faulty.fired(Fault::AppendDoneUnknown) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        faulty.set_unavailable(true);
        memory.advance(Duration::from_secs(7));
        let mut eager = config("b");
        eager.trim_blocks = 4;
        let second = start_with(log, eager, Arc::default()).await;
        for _ in 0..20 {
            let xid = begun_with(&second.coordinator, &["stock"]).await;
            second.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
        if look_fails {
            // The lease's renewal goes first or not at all; the look into the log fails once.
            faulty.script(Fault::ReadFailed);
        }
        faulty.set_unavailable(false);
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(stale.await.unwrap().unwrap_err().code, ErrorCode::OutcomeUnknown);
        // The second goes down; the first takes over again and finds nothing amiss.
        second.engine.shutdown(Duration::from_secs(10)).await;
        first.coordinator.ready(Duration::from_secs(60)).await.unwrap();
        let standing = first.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
        assert_eq!(standing.status, Status::Committed);
    }
}

/// What a stale owner does not know of is no proof of a lost tail before its own block says so.
#[tokio::test(start_paused = true)]
async fn c1_h6_a_stale_owner_finds_no_lost_tail_and_no_missing_transaction() {
    let (memory, log) = memory();
    let first = start(log.clone()).await;
    memory.advance(Duration::from_secs(7));
    let mut quick = config("b");
    quick.project_open_after = Duration::from_millis(50);
    quick.project_every = Duration::from_millis(10);
    let second = start_with(log, quick, Arc::default()).await;
    let xid = begun_with(&second.coordinator, &["stock"]).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    // History has it as open by now, and the first knows nothing of that.
    assert!(matches!(first.coordinator.info().states[0].state, PartitionState::Running));
    let told = first.coordinator.commit(commit(xid, Wait::Decided)).await.unwrap_err();
    assert_eq!(told.code, ErrorCode::NotOwner, "{told}");
    let asked = first.coordinator.inquire(None, vec![xid]).await.unwrap_err();
    assert_eq!(asked.code, ErrorCode::NotOwner, "{asked}");
    let shown = first.coordinator.witness(&second.coordinator.positions()).await.unwrap_err();
    assert_eq!(shown.code, ErrorCode::OutcomeUnknown, "{shown}");
    assert!(second.coordinator.is_ready());
}
