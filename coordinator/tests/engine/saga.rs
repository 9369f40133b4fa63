//! Sagas behind their blocks: what a crash at each point of the matrix (S1 to S5, S7 to S9) leads to.

use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::engine::{EngineConfig, Wait};
use unanimity_core::{AttentionCode, ResultOutcome};
use unanimity_types::{AbortReason, BranchStatus, ErrorCode, Operation, Status, StepRole};

use crate::support::*;

const SOON: Duration = Duration::from_secs(60);

fn refused() -> ResultOutcome {
    ResultOutcome::Refused { error: "sold out".into() }
}

fn unknown() -> ResultOutcome {
    ResultOutcome::Unknown { error: "no answer".into(), retry_after: None }
}

/// How long a compensation waits after a takeover for what the earlier owner may have sent.
fn hold(config: &EngineConfig) -> Duration {
    config.lease + config.call_timeout
}

#[tokio::test(start_paused = true)]
async fn a_saga_runs_in_its_order_and_later_steps_get_what_earlier_ones_brought() {
    let (_memory, log) = memory();
    let node = start(log).await;
    let steps = vec![step("a", &[]), step("b", &[]), step("c", &["a", "b"])];
    let xid = node.coordinator.begin(saga(new_xid(), steps)).await.unwrap().xid;
    let view = node.coordinator.get(xid, Wait::Finished, SOON).await.unwrap();
    assert_eq!(view.status, Status::Committed);
    assert_eq!(node.participants.asked(Operation::Action), ["a", "b", "c"]);
    let last = node.participants.calls().pop().unwrap();
    let inputs: Vec<_> = last.inputs.iter().map(|(key, result)| (key.as_str(), &result[..])).collect();
    assert_eq!(inputs, [("a", &b"result of a"[..]), ("b", b"result of b")]);
}

/// C6, S7: a step runs only behind what the log holds.
#[tokio::test(start_paused = true)]
async fn c6_s7_a_step_waits_until_the_one_before_is_durable() {
    for crashes in [false, true] {
        let (memory, log) = memory();
        let node = start(log.clone()).await;
        node.participants.set(Manner::Holding);
        let steps = vec![step("a", &[]), step("b", &["a"])];
        let xid = node.coordinator.begin(saga(new_xid(), steps)).await.unwrap().xid;
        settle_down().await;
        let held = memory.hold_appends();
        node.participants.set(Manner::Willing);
        node.participants.let_go();
        held.until_waiting(1).await;
        settle_down().await;
        assert_eq!(node.participants.asked(Operation::Action), ["a"], "b goes out behind a's block");
        let look = tokio::time::timeout(
            Duration::from_millis(500),
            node.coordinator.get(xid, Wait::Accepted, Duration::ZERO),
        );
        assert!(look.await.is_err(), "nor is a's result shown before (C5)");
        let node = if crashes {
            // The block is lost with its owner.
            let participants = node.kill();
            memory.advance(Duration::from_secs(7));
            let next = start_unready(log, config("b"), participants);
            drop(held);
            next.coordinator.ready(SOON).await.unwrap();
            next
        } else {
            drop(held);
            node
        };
        let view = node.coordinator.get(xid, Wait::Finished, SOON).await.unwrap();
        assert_eq!(view.status, Status::Committed);
        let b = node.participants.calls().into_iter().find(|call| call.key == key("b")).unwrap();
        assert_eq!(b.inputs, [(key("a"), "result of a".into())]);
    }
}

#[tokio::test(start_paused = true)]
async fn s1_s2_a_step_that_may_have_run_is_called_again_under_the_same_key() {
    for ran in [false, true] {
        let (_memory, log) = memory();
        let node = start(log.clone()).await;
        node.participants.set(Manner::Holding);
        let steps = vec![step("a", &[]), step("b", &["a"])];
        let xid = node.coordinator.begin(saga(new_xid(), steps)).await.unwrap().xid;
        settle_down().await;
        let coordinator = node.coordinator.clone();
        let participants = Arc::clone(&node.participants);
        // S1: it dies before the call got there. S2: before the answer got back.
        let participants = if ran {
            drop(node.engine);
            participants.let_go();
            participants
        } else {
            node.kill()
        };
        drop(coordinator);
        assert_eq!(participants.of(xid, "a").acted, ran);
        participants.set(Manner::Willing);
        let node = start_with(log, config("a"), participants).await;
        let view = node.coordinator.get(xid, Wait::Finished, SOON).await.unwrap();
        assert_eq!(view.status, Status::Committed);
        assert_eq!(node.participants.asked(Operation::Action), ["a", "a", "b"]);
        assert!(node.participants.calls().iter().all(|call| call.operation == Operation::Action));
    }
}

/// S3, H2: seen, but not durable: the next owner knows nothing of it, and what it sees is no clean
/// refusal any more.
#[tokio::test(start_paused = true)]
async fn s3_h2_a_refusal_that_was_not_durable_is_asked_for_again_and_is_not_clean_then() {
    for refuses_again in [false, true] {
        let (memory, log) = memory();
        let node = start(log.clone()).await;
        node.participants.set(Manner::Holding);
        let steps = vec![step("a", &[]), step("b", &["a"])];
        let xid = node.coordinator.begin(saga(new_xid(), steps)).await.unwrap().xid;
        settle_down().await;
        // a's end becomes durable, and b's does not.
        node.participants.let_go();
        settle_down().await;
        assert_eq!(node.participants.asked(Operation::Action), ["a", "b"]);
        let held = memory.hold_appends();
        node.participants.say("b", Operation::Action, refused());
        node.participants.let_go();
        held.until_waiting(1).await;
        settle_down().await;
        assert!(node.participants.asked(Operation::Compensate).is_empty(), "not before it is durable");
        let participants = node.kill();
        participants.set(Manner::Willing);
        memory.advance(Duration::from_secs(7));
        if refuses_again {
            participants.say("b", Operation::Action, refused());
        }
        let next = start_unready(log, config("b"), participants);
        // The dead owner's block waits for nobody.
        settle_down().await;
        drop(held);
        next.coordinator.ready(SOON).await.unwrap();
        let view = next.coordinator.get(xid, Wait::Finished, SOON).await.unwrap();
        let compensated = next.participants.asked(Operation::Compensate);
        let statuses: Vec<_> = view.branches.iter().map(|branch| branch.status).collect();
        match view.abort_reason {
            // One direction, whichever block won.
            None => {
                assert!(!refuses_again);
                assert_eq!((view.status, compensated.len()), (Status::Committed, 0));
            }
            Some(reason) => {
                assert_eq!((view.status, reason), (Status::Aborted, AbortReason::Refused));
                if statuses[1] == BranchStatus::Refused {
                    assert_eq!(compensated, ["a"], "the first owner's clean refusal was there after all");
                } else {
                    assert_eq!(compensated, ["b", "a"], "an earlier attempt may have run");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn h2_a_clean_refusal_needs_no_compensation_and_a_later_one_does() {
    for attempts in [1, 2] {
        let (_memory, log) = memory();
        let node = start(log).await;
        for _ in 1..attempts {
            node.participants.say("b", Operation::Action, unknown());
        }
        node.participants.say("b", Operation::Action, refused());
        let steps = vec![step("a", &[]), step("b", &["a"]), step("c", &["b"])];
        let xid = node.coordinator.begin(saga(new_xid(), steps)).await.unwrap().xid;
        let view = node.coordinator.get(xid, Wait::Finished, SOON).await.unwrap();
        assert_eq!((view.status, view.abort_reason), (Status::Aborted, Some(AbortReason::Refused)));
        let compensated: &[&str] = if attempts == 1 { &["a"] } else { &["b", "a"] };
        assert_eq!(node.participants.asked(Operation::Compensate), compensated);
        let call = node.participants.calls().pop().unwrap();
        assert_eq!(call.result, Some("result of a".into()), "its own result comes with it");
    }
}

/// S4: nobody knows whether it ran: it is compensated, and the abort's block comes first (C1).
#[tokio::test(start_paused = true)]
async fn c1_s4_a_step_of_unknown_outcome_is_compensated_behind_the_aborts_block() {
    let (memory, log) = memory();
    let node = start(log).await;
    let mut b = step("b", &["a"]);
    b.policy.give_up_after = Some(3);
    for _ in 0..3 {
        node.participants.say("b", Operation::Action, unknown());
    }
    let xid = node.coordinator.begin(saga(new_xid(), vec![step("a", &[]), b])).await.unwrap().xid;
    while node.participants.asked(Operation::Action).len() < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let held = memory.hold_appends();
    held.until_waiting(1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(node.participants.asked(Operation::Compensate).is_empty());
    drop(held);
    let view = node.coordinator.get(xid, Wait::Finished, SOON).await.unwrap();
    assert_eq!((view.status, view.abort_reason), (Status::Aborted, Some(AbortReason::GaveUp)));
    assert_eq!(node.participants.asked(Operation::Compensate), ["b", "a"]);
}

/// S5: done and not logged: it is done twice, in the same order.
#[tokio::test(start_paused = true)]
async fn s5_a_compensation_that_was_not_logged_is_repeated() {
    let (_memory, log) = memory();
    let node = start(log.clone()).await;
    node.participants.say("c", Operation::Action, refused());
    node.participants.say("a", Operation::Compensate, unknown());
    let steps = vec![step("a", &[]), step("b", &["a"]), step("c", &["b"])];
    let xid = node.coordinator.begin(saga(new_xid(), steps)).await.unwrap().xid;
    while node.participants.asked(Operation::Compensate).len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // b's end may be in the log or not; a's is not.
    let participants = node.kill();
    let node = start_with(log, config("a"), participants).await;
    let view = node.coordinator.get(xid, Wait::Finished, SOON).await.unwrap();
    assert_eq!(view.status, Status::Aborted);
    assert!(node.participants.of(xid, "a").compensated && node.participants.of(xid, "b").compensated);
    let order = node.participants.asked(Operation::Compensate);
    let last = order.last().unwrap();
    assert!(last.starts_with('a'), "in reverse order again: {order:?}");
}

/// S6: parked, through a crash, until an operator asks.
#[tokio::test(start_paused = true)]
async fn s6_a_refused_compensation_is_parked_through_a_crash_and_resumed_by_hand() {
    let (_memory, log) = memory();
    let node = start(log.clone()).await;
    node.participants.say("b", Operation::Action, refused());
    node.participants.say("a", Operation::Compensate, refused());
    let steps = vec![step("a", &[]), step("b", &["a"])];
    let xid = node.coordinator.begin(saga(new_xid(), steps)).await.unwrap().xid;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let node = start_with(log, config("a"), node.kill()).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    let view = node.coordinator.get(xid, Wait::Accepted, Duration::ZERO).await.unwrap();
    assert!(view.branches[0].parked && view.status == Status::Aborting);
    assert_eq!(view.attention.unwrap().code, AttentionCode::Parked);
    assert_eq!(node.participants.asked(Operation::Compensate).len(), 1, "no more until somebody asks");
    let action = unanimity_coordinator::engine::OperatorAction {
        operator: "ops".to_owned(),
        reason: "mended".to_owned(),
    };
    node.coordinator.retry(xid, action).await.unwrap();
    let view = node.coordinator.get(xid, Wait::Finished, SOON).await.unwrap();
    assert_eq!((view.status, view.attention), (Status::Aborted, None));
}

/// S9, H14: from the pivot's dispatch on there is no way back, at the deadline and after a crash.
#[tokio::test(start_paused = true)]
async fn s9_h14_a_pivot_of_unknown_outcome_is_not_turned_back_at_the_deadline() {
    let (_memory, log) = memory();
    let node = start(log.clone()).await;
    node.participants.set(Manner::Holding);
    let mut pivot = step("pay", &["a"]);
    pivot.compensate = None;
    pivot.role = StepRole::Pivot;
    let mut mail = step("mail", &["pay"]);
    mail.compensate = None;
    mail.role = StepRole::ForwardOnly;
    let begin = saga(new_xid(), vec![step("a", &[]), pivot, mail]);
    let xid = node.coordinator.begin(begin).await.unwrap().xid;
    settle_down().await;
    node.participants.set(Manner::Dead);
    node.participants.let_go();
    while node.participants.asked(Operation::Action).len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let node = start_with(log, config("a"), node.kill()).await;
    // Beyond its deadline of a minute.
    tokio::time::sleep(Duration::from_secs(90)).await;
    let view = node.coordinator.get(xid, Wait::Accepted, Duration::ZERO).await.unwrap();
    assert_eq!(view.status, Status::Active);
    assert_eq!(view.attention.unwrap().code, AttentionCode::Overdue);
    let refused = node.coordinator.abort(xid, Wait::Decided).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::NoWayBack);
    node.participants.set(Manner::Willing);
    let view = node.coordinator.get(xid, Wait::Finished, SOON).await.unwrap();
    assert_eq!(view.status, Status::Committed);
    assert!(node.participants.asked(Operation::Compensate).is_empty());
}

/// H3 (1): what the dead owner sent may still run, as long as its lease and its call's time last.
#[tokio::test(start_paused = true)]
async fn h3_after_a_takeover_a_compensation_waits_for_what_the_earlier_owner_may_have_sent() {
    let (_memory, log) = memory();
    let node = start(log.clone()).await;
    node.participants.set(Manner::Holding);
    let steps = vec![step("a", &[]), step("b", &["a"])];
    let xid = node.coordinator.begin(saga(new_xid(), steps)).await.unwrap().xid;
    settle_down().await;
    let participants = node.kill();
    let settings = config("a");
    let wait = hold(&settings);
    let node = start_with(log, settings, participants).await;
    let aborting = tokio::spawn({
        let coordinator = node.coordinator.clone();
        async move { coordinator.abort(xid, Wait::Decided).await }
    });
    settle_down().await;
    aborting.await.unwrap().unwrap();
    // The new owner's own attempt ends at once; the old owner's may not have.
    node.participants.set(Manner::Willing);
    node.participants.say("a", Operation::Action, unknown());
    node.participants.let_go();
    tokio::time::sleep(wait - Duration::from_millis(500)).await;
    assert!(node.participants.asked(Operation::Compensate).is_empty(), "too early");
    let view = node.coordinator.get(xid, Wait::Finished, SOON).await.unwrap();
    assert_eq!(view.status, Status::Aborted);
    assert_eq!(node.participants.asked(Operation::Compensate), ["a"]);
}

/// H3 (1), two owners ago: the second owner's attempt was answered, the first one's may still arrive. What
/// has a known result is held like what has none, from the last takeover on.
#[tokio::test(start_paused = true)]
async fn h3_a_known_result_does_not_end_the_wait_for_what_an_owner_before_may_have_sent() {
    let (_memory, log) = memory();
    let node = start(log.clone()).await;
    node.participants.set(Manner::Holding);
    let steps = vec![step("a", &[]), step("b", &["a"])];
    let xid = node.coordinator.begin(saga(new_xid(), steps)).await.unwrap().xid;
    settle_down().await;
    let node = start_with(log.clone(), config("a"), node.kill()).await;
    settle_down().await;
    // a's end becomes durable at the second owner, and b runs there.
    node.participants.let_go();
    settle_down().await;
    let settings = config("a");
    let wait = hold(&settings);
    let node = start_with(log, settings, node.kill()).await;
    node.participants.set(Manner::Willing);
    node.participants.say("b", Operation::Action, refused());
    node.coordinator.abort(xid, Wait::Decided).await.unwrap();
    node.participants.let_go();
    tokio::time::sleep(wait - Duration::from_millis(500)).await;
    assert!(node.participants.asked(Operation::Compensate).is_empty(), "too early");
    let view = node.coordinator.get(xid, Wait::Finished, SOON).await.unwrap();
    assert_eq!(view.status, Status::Aborted);
    assert_eq!(node.participants.asked(Operation::Compensate), ["b", "a"]);
}
