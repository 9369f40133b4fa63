//! An owner that may have lost its partition sends nothing that no decision stands behind (protocol
//! H3, matrix F1 and S8).

use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::engine::{Coordinator, PartitionState, Wait};
use unanimity_coordinator::log::{FaultRates, FaultyLog, MemoryLog};
use unanimity_core::ResultOutcome;
use unanimity_types::{BranchKind, ErrorCode, Mode, Operation, Status, Xid};

use crate::support::*;

const SOON: Duration = Duration::from_secs(60);

/// An owner that has something to send forward when its lease runs out without its noticing: its
/// renewals get nowhere, as if it slept.
async fn sleeper(memory: &MemoryLog, begin: unanimity_coordinator::engine::Begin) -> (FaultyLog, Node, Xid) {
    let faulty = FaultyLog::over_memory(memory.clone(), 1);
    let node = start(Arc::new(faulty.clone())).await;
    node.participants.set(Manner::Holding);
    let xid = node.coordinator.begin(begin).await.unwrap().xid;
    settle_down().await;
    (faulty, node, xid)
}

/// H3 (2), F1, S8: the action is queued behind its block; the lease runs out; another owner turns the
/// saga back and compensates; the first one wakes.
#[tokio::test(start_paused = true)]
async fn h3_f1_s8_a_deposed_owner_does_not_send_the_action_that_it_has_queued() {
    let (memory, log) = memory();
    let steps = vec![step("a", &[]), step("b", &["a"])];
    let (faulty, first, xid) = sleeper(&memory, saga(new_xid(), steps)).await;
    let held = memory.hold_appends();
    first.participants.set(Manner::Willing);
    first.participants.let_go();
    held.until_waiting(1).await;
    // No renewal from here on, and the block with a's end takes longer than the lease.
    faulty.set_rates(FaultRates { lease_failed: 1.0, ..FaultRates::default() });
    tokio::time::sleep(config("a").lease + Duration::from_millis(100)).await;
    drop(held);
    settle_down().await;
    assert_eq!(first.participants.asked(Operation::Action), ["a"], "b is not sent");
    let participants: Arc<Participants> = Arc::default();
    participants.set(Manner::Dead);
    memory.advance(Duration::from_secs(7));
    let second = start_with(log, config("b"), Arc::clone(&participants)).await;
    second.coordinator.abort(xid, Wait::Decided).await.unwrap();
    participants.set(Manner::Willing);
    let view = second.coordinator.get(xid, Wait::Finished, SOON).await.unwrap();
    assert_eq!(view.status, Status::Aborted);
    assert_eq!(participants.asked(Operation::Compensate), ["b", "a"]);
    // The first one's log answers again.
    faulty.set_rates(FaultRates::default());
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(matches!(first.coordinator.info().states[0].state, PartitionState::Waiting(_)));
    assert_eq!(first.participants.asked(Operation::Action), ["a"], "nor when it wakes");
}

/// A hiccup of the lease delays a step and loses nothing.
#[tokio::test(start_paused = true)]
async fn h3_what_was_not_sent_for_want_of_a_lease_goes_out_after_its_renewal() {
    let (memory, _log) = memory();
    let steps = vec![step("a", &[]), step("b", &["a"])];
    let (faulty, node, xid) = sleeper(&memory, saga(new_xid(), steps)).await;
    let held = memory.hold_appends();
    node.participants.set(Manner::Willing);
    node.participants.let_go();
    held.until_waiting(1).await;
    faulty.set_rates(FaultRates { lease_failed: 1.0, ..FaultRates::default() });
    tokio::time::sleep(config("a").lease + Duration::from_millis(100)).await;
    drop(held);
    settle_down().await;
    assert_eq!(node.participants.asked(Operation::Action), ["a"]);
    faulty.set_rates(FaultRates::default());
    let view = finished(&node.coordinator, xid).await;
    assert_eq!(view, Status::Committed);
    // It never left, so it is the first attempt still: a refusal of it would be clean (H2).
    assert_eq!(node.participants.asked(Operation::Action), ["a", "b"]);
}

/// What is decided goes out whoever sends it: the same decision is harmless (matrix F2).
#[tokio::test(start_paused = true)]
async fn f2_a_durable_decision_is_sent_without_a_look_at_the_lease() {
    let (memory, _log) = memory();
    let faulty = FaultyLog::over_memory(memory.clone(), 1);
    let node = start(Arc::new(faulty.clone())).await;
    let xid = begun_with(&node.coordinator, &["stock"]).await;
    let held = memory.hold_appends();
    let committing = tokio::spawn({
        let coordinator = node.coordinator.clone();
        async move { coordinator.commit(commit(xid, Wait::Decided)).await }
    });
    held.until_waiting(1).await;
    faulty.set_rates(FaultRates { lease_failed: 1.0, ..FaultRates::default() });
    tokio::time::sleep(config("a").lease + Duration::from_millis(100)).await;
    drop(held);
    committing.await.unwrap().unwrap();
    assert_eq!(node.participants.asked(Operation::Confirm), ["stock"]);
}

/// A prepare is as little covered by a decision as an action.
#[tokio::test(start_paused = true)]
async fn h3_a_prepare_is_not_sent_without_a_lease() {
    let (memory, _log) = memory();
    let faulty = FaultyLog::over_memory(memory.clone(), 1);
    let node = start(Arc::new(faulty.clone())).await;
    let xid = new_xid();
    node.coordinator
        .begin(unanimity_coordinator::engine::Begin { mode: Mode::TwoPhase, ..begin(xid) })
        .await
        .unwrap();
    for name in ["one", "two"] {
        let mut late = branch(xid, name);
        late.kind = Some(BranchKind::TwoPhase);
        node.coordinator.register(late).await.unwrap();
    }
    let held = memory.hold_appends();
    let committing = tokio::spawn({
        let coordinator = node.coordinator.clone();
        async move { coordinator.commit(commit(xid, Wait::Finished)).await }
    });
    held.until_waiting(1).await;
    faulty.set_rates(FaultRates { lease_failed: 1.0, ..FaultRates::default() });
    tokio::time::sleep(config("a").lease + Duration::from_millis(100)).await;
    drop(held);
    settle_down().await;
    assert!(node.participants.calls().is_empty());
    faulty.set_rates(FaultRates::default());
    assert_eq!(committing.await.unwrap().unwrap().status, Status::Committed);
    assert_eq!(node.participants.asked(Operation::Prepare).len(), 2);
}

async fn finished(coordinator: &Coordinator, xid: Xid) -> Status {
    coordinator.ready(SOON).await.unwrap();
    loop {
        match coordinator.get(xid, Wait::Finished, SOON).await {
            Ok(view) => return view.status,
            // Without a lease nothing is shown from memory (M10).
            Err(error) if error.code == ErrorCode::NotOwner => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// A network that doubles an answer: attempt 1 is answered again while attempt 2 runs. Taken for the answer to that
/// one, it would let the compensation go out beside it.
#[tokio::test(start_paused = true)]
async fn h3_a_doubled_answer_to_an_earlier_attempt_is_none_to_a_later_one() {
    let (_memory, log) = memory();
    let node = start(log).await;
    let unknown = ResultOutcome::Unknown { error: "no answer".into(), retry_after: None };
    let refused = ResultOutcome::Refused { error: "sold out".into() };
    node.participants.say("a", Operation::Action, unknown.clone());
    let xid = node.coordinator.begin(saga(new_xid(), vec![step("a", &[])])).await.unwrap().xid;
    node.participants.set(Manner::Holding);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(node.participants.asked(Operation::Action), ["a", "a#2"]);
    for outcome in [unknown, refused, ResultOutcome::Sealed { error: "sold out".into() }] {
        node.participants.answer_attempt_again(1, &outcome);
        settle_down().await;
    }
    let turned = tokio::spawn({
        let coordinator = node.coordinator.clone();
        async move { coordinator.abort(xid, Wait::Finished).await }
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.participants.answer_attempt_again(1, &ResultOutcome::Done);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(
        node.participants.asked(Operation::Action),
        ["a", "a#2"],
        "no attempt beside the one that runs"
    );
    assert!(node.participants.asked(Operation::Compensate).is_empty(), "attempt 2 still runs");
    node.participants.set(Manner::Willing);
    node.participants.let_go();
    let standing = turned.await.unwrap().unwrap();
    assert_eq!(standing.status, Status::Aborted);
    let done = node.participants.of(xid, "a");
    assert!(done.acted && done.compensated, "{done:?}");
}
