//! After the decision: attempts, back-offs, recovery, and what operators do.

use std::time::Duration;

use unanimity_core::{
    Answer, AttentionCode, Command, Effect, Event, Persistence, Refusal, ResultOutcome, Timer, pending,
};
use unanimity_types::{BranchId, BranchStatus, Decision, Limits, Operation, ResolveAs, Status};

use super::dispatched;
use crate::fixture::*;

/// A decided transaction of so many branches whose operations are on their way.
fn decided(branches: u32, decision: Decision) -> Driven {
    let command = match decision {
        Decision::Commit => COMMIT_ALL,
        Decision::Abort => ABORT,
    };
    Driven::begun(branches).with(command)
}

/// Lets the branch fail so often, each time as soon as it is tried again.
fn fail(driven: &mut Driven, n: u32, times: u32, outcome: &ResultOutcome) {
    let operation = match driven.transaction().status().decision() {
        Some(Decision::Commit) => Operation::Confirm,
        _ => Operation::Cancel,
    };
    for _ in 0..times {
        if let Some(due) = driven.due(n) {
            driven.now = due;
            driven.run(retry_timer(n));
        }
        driven.run(result(n, operation, outcome.clone()));
    }
}

// --- K8 and results

#[test]
fn k8_a_confirm_before_its_try_has_ended_is_tried_again_and_settles_nothing() {
    let mut driven = decided(1, Decision::Commit);
    fail(&mut driven, 1, 4, &not_yet());
    let branch = driven.transaction().branch(BranchId(1)).expect("registered");
    assert_eq!((branch.status, branch.attempts), (BranchStatus::Confirming, 4));
    assert_eq!(driven.transaction().attention, None, "a slow try is no trouble");
    driven.run(result(1, Operation::Confirm, ResultOutcome::Done));
    assert_eq!(driven.transaction().status(), Status::Committed);
}

#[test]
fn unknown_is_not_failure() {
    for decision in [Decision::Commit, Decision::Abort] {
        let mut driven = decided(1, decision);
        fail(&mut driven, 1, 100, &unknown());
        assert_eq!(driven.transaction().status().decision(), Some(decision));
        assert_eq!(driven.transaction().unsettled(), 1);
        assert!(driven.due(1).is_some(), "again, for ever");
        let attention = driven.transaction().attention.as_ref().expect("after the policy's attempts");
        assert_eq!(attention.code, AttentionCode::ParticipantFailing);
        let raised = driven.events.iter().filter(|(_, event)| matches!(event, Event::AttentionRaised { .. }));
        assert_eq!(raised.count(), 1, "once");
    }
}

#[test]
fn a_refusal_after_the_decision_is_trouble_at_once_and_tried_again() {
    let mut driven = decided(1, Decision::Commit);
    fail(&mut driven, 1, 1, &refused());
    let attention = driven.transaction().attention.as_ref().expect("at once");
    assert_eq!(attention.code, AttentionCode::ParticipantRefuses);
    assert!(driven.due(1).is_some());
    let mut driven = decided(1, Decision::Commit);
    fail(&mut driven, 1, 1, &unusable());
    let attention = driven.transaction().attention.as_ref().expect("at once");
    assert_eq!(attention.code, AttentionCode::TargetUnusable);
}

#[test]
fn two_branches_in_different_trouble_do_not_take_turns_in_calling() {
    let mut driven = decided(2, Decision::Commit);
    for _ in 0..20 {
        fail(&mut driven, 1, 1, &refused());
        fail(&mut driven, 2, 1, &unusable());
    }
    let raised = driven.events.iter().filter(|(_, event)| matches!(event, Event::AttentionRaised { .. }));
    assert_eq!(raised.count(), 2, "each once, the graver one last");
    let attention = driven.transaction().attention.as_ref().expect("raised");
    assert_eq!(attention.code, AttentionCode::TargetUnusable);
}

#[test]
fn what_never_left_the_node_is_no_attempt() {
    let mut driven = decided(1, Decision::Commit);
    driven.run(result(1, Operation::Confirm, not_sent()));
    assert_eq!(driven.transaction().branch(BranchId(1)).expect("registered").attempts, 0);
    driven.now = driven.due(1).expect("again");
    driven.run(retry_timer(1));
    assert_eq!(dispatched(&driven.effects), [(1, Operation::Confirm, 1)]);
}

#[test]
fn a_participant_may_ask_for_patience_but_not_for_ever() {
    let ask = |wait| {
        let mut driven = decided(1, Decision::Commit);
        let outcome = ResultOutcome::Unknown { error: "busy".into(), retry_after: Some(wait) };
        driven.run(result(1, Operation::Confirm, outcome));
        driven.due(1).expect("again").since(driven.now)
    };
    assert_eq!(ask(Duration::from_secs(60)), Duration::from_secs(60));
    assert!(ask(Duration::ZERO) > Duration::ZERO, "never sooner than the back-off");
    assert_eq!(ask(Duration::from_secs(3_000_000_000)), Duration::from_secs(3_600));
    assert_eq!(ask(Duration::MAX), Duration::from_secs(3_600));
}

#[test]
fn a_late_result_of_an_older_attempt_settles_and_its_failure_does_not_count() {
    let mut driven = decided(1, Decision::Commit);
    fail(&mut driven, 1, 1, &unknown());
    let before = driven.state.clone();
    driven.run(result(1, Operation::Confirm, unknown()));
    assert_eq!(driven.state, before, "the attempt was counted when it was given up");
    driven.run(result(1, Operation::Confirm, ResultOutcome::Done));
    assert_eq!(driven.transaction().status(), Status::Committed);
}

#[test]
fn an_answer_to_another_operation_than_the_owed_one_settles_nothing() {
    let mut driven = decided(1, Decision::Commit);
    for operation in [Operation::Cancel, Operation::Try] {
        let verdict = driven.run(result(1, operation, ResultOutcome::Done));
        assert_eq!((verdict.events, verdict.answer), (vec![], Ok(Answer::Status)));
    }
}

// --- M7, M9

#[test]
fn m7_what_is_owed_after_recovery_is_what_was_owed_before() {
    let mut driven = decided(4, Decision::Abort);
    driven.run(result(2, Operation::Cancel, ResultOutcome::Done));
    fail(&mut driven, 3, 3, &unknown());
    driven.run(result(4, Operation::Cancel, not_sent()));
    let mut state = replay(xid(), &driven.events).expect("known");
    let owed = pending(&mut state, context(driven.now));
    assert_eq!(dispatched(&owed), [(1, Operation::Cancel, 1), (4, Operation::Cancel, 1)]);
    assert_eq!(owed.len(), 3);
    let waits =
        owed.iter().any(|effect| matches!(effect, Effect::SetTimer { timer: Timer::Retry(BranchId(3)), .. }));
    assert!(waits, "tried before: after a back-off");
    assert!(state.branch(BranchId(3)).expect("registered").next_attempt_at.is_some());
}

#[test]
fn m7_nothing_is_owed_to_what_is_over() {
    let driven = decided(1, Decision::Commit).with(result(1, Operation::Confirm, ResultOutcome::Done));
    let mut state = replay(xid(), &driven.events).expect("known");
    assert_eq!(pending(&mut state, context(driven.now)), []);
    let mut tombstone = Driven::unknown().with(Command::Inquire).state.expect("known");
    assert_eq!(pending(&mut tombstone, context(BEGIN)), []);
}

#[test]
fn m9_sparse_attempts_keep_the_magnitude() {
    for attempts in 1..=40_u32 {
        let mut driven = decided(1, Decision::Commit);
        fail(&mut driven, 1, attempts, &unknown());
        let written = driven.events.iter().filter(|(_, event)| {
            matches!(event, Event::AttemptFailed { .. }) && event.persistence() != Persistence::Volatile
        });
        assert_eq!(
            u32::try_from(written.count()).expect("small"),
            attempts.ilog2() + 1,
            "1st, 2nd, 4th, 8th …"
        );
        let mut state = replay(xid(), &driven.events).expect("known");
        let known = state.branch(BranchId(1)).expect("registered").attempts;
        assert_eq!(known, 1 << attempts.ilog2(), "at least half of them are known");
        let now = driven.now;
        let _ = pending(&mut state, context(now));
        let due = state.branch(BranchId(1)).expect("registered").next_attempt_at.expect("waits");
        assert!(due > now && due.since(now) <= context(now).retry.bound(known) + Duration::from_millis(1));
    }
}

#[test]
fn m9_a_herd_spreads_after_recovery() {
    let mut driven = decided(100, Decision::Commit);
    for n in 1..=100 {
        fail(&mut driven, n, 1, &unknown());
    }
    let mut state = replay(xid(), &driven.events).expect("known");
    let _ = pending(&mut state, context(driven.now));
    let dues: std::collections::BTreeSet<_> =
        state.branches.iter().map(|branch| branch.next_attempt_at).collect();
    assert!(dues.len() > 50, "{} different moments", dues.len());
}

#[test]
fn m9_a_wake_is_sooner_and_never_later() {
    let mut driven = decided(1, Decision::Commit);
    fail(&mut driven, 1, 8, &unknown());
    let planned = driven.due(1).expect("waits");
    let later = Command::Wake { branch_id: BranchId(1), at: planned.after(Duration::from_secs(1)) };
    assert_eq!(driven.run(later).events, []);
    let soon = driven.now.after(Duration::from_millis(1));
    driven.run(Command::Wake { branch_id: BranchId(1), at: soon });
    assert_eq!(driven.due(1), Some(soon.min(planned)));
}

// --- M14 and operators

#[test]
fn m14_a_contradiction_of_what_was_settled_by_hand_is_recorded_once() {
    let mut driven = decided(2, Decision::Commit).with(resolve(1, ResolveAs::Cancelled));
    let attention = driven.transaction().attention.clone().expect("against the decision");
    assert_eq!(attention.code, AttentionCode::HeuristicMixed);
    let late = result(1, Operation::Confirm, ResultOutcome::Done);
    let verdict = driven.run(late.clone());
    assert!(matches!(verdict.events[..], [Event::Contradicted { .. }, Event::AttentionRaised { .. }]));
    assert_eq!(verdict.answer, Ok(Answer::Status));
    let branch = driven.transaction().branch(BranchId(1)).expect("registered");
    assert_eq!(branch.status, BranchStatus::HeuristicCancelled, "what was said stays");
    assert!(branch.resolved.as_ref().expect("by hand").contradicted);
    assert_eq!(driven.run(late).events, [], "once");
    let attention = driven.transaction().attention.as_ref().expect("for ever");
    assert_eq!(attention.code, AttentionCode::HeuristicContradicted);
}

#[test]
fn m14_a_late_answer_that_agrees_is_no_news() {
    let mut driven = decided(2, Decision::Commit).with(resolve(1, ResolveAs::Confirmed));
    assert_eq!(driven.transaction().attention, None);
    assert_eq!(driven.run(result(1, Operation::Confirm, ResultOutcome::Done)).events, []);
    assert_eq!(driven.run(result(1, Operation::Confirm, unknown())).events, []);
}

#[test]
fn m14_graver_trouble_is_not_covered_up() {
    let mut driven = decided(3, Decision::Commit).with(resolve(1, ResolveAs::Cancelled));
    driven.run(result(1, Operation::Confirm, ResultOutcome::Done));
    driven.run(resolve(2, ResolveAs::Cancelled));
    fail(&mut driven, 3, 1, &unusable());
    let attention = driven.transaction().attention.as_ref().expect("raised");
    assert_eq!(attention.code, AttentionCode::HeuristicContradicted);
    driven.run(result(3, Operation::Confirm, ResultOutcome::Done));
    assert_eq!(driven.transaction().status(), Status::Committed);
    assert!(driven.transaction().attention.is_some(), "shown for ever");
}

#[test]
fn m14_nobody_settles_a_branch_by_hand_before_the_decision_or_twice() {
    let mut driven = Driven::begun(1);
    assert!(matches!(driven.run(resolve(1, ResolveAs::Cancelled)).answer, Err(Refusal::Illegal { .. })));
    driven.run(ABORT);
    driven.run(resolve(1, ResolveAs::Confirmed));
    assert_eq!(driven.run(resolve(1, ResolveAs::Confirmed)).answer, Ok(Answer::Status), "a repetition");
    assert!(matches!(driven.run(resolve(1, ResolveAs::Cancelled)).answer, Err(Refusal::Illegal { .. })));
    assert_eq!(driven.transaction().status(), Status::Aborted);
    assert!(driven.transaction().has_heuristic());
}

#[test]
fn trouble_with_a_participant_is_over_when_the_transaction_is() {
    let mut driven = decided(1, Decision::Commit);
    fail(&mut driven, 1, 1, &refused());
    driven.run(result(1, Operation::Confirm, ResultOutcome::Done));
    assert_eq!(driven.transaction().attention, None);
}

#[test]
fn an_operators_retry_brings_forward_what_waits_and_leaves_what_is_on_its_way() {
    let mut driven = decided(2, Decision::Commit);
    fail(&mut driven, 2, 3, &unknown());
    driven.run(Command::Retry { by: by() });
    assert_eq!(dispatched(&driven.effects), [(2, Operation::Confirm, 4)]);
    driven.run(Command::Retry { by: by() });
    assert_eq!(dispatched(&driven.effects), []);
}

// --- bounds

#[test]
fn errors_and_timelines_are_bounded() {
    let mut driven = decided(1, Decision::Commit);
    let long = ResultOutcome::Unknown { error: "ü".repeat(5_000).into(), retry_after: None };
    fail(&mut driven, 1, 1, &long);
    let error = driven.transaction().branch(BranchId(1)).and_then(|branch| branch.last_error.clone());
    assert!(error.expect("kept").len() <= Limits::ERROR_BYTES_MAX);
    for _ in 0..2_000 {
        driven.run(Command::Retry { by: by() });
    }
    assert!(driven.transaction().timeline.len() <= 2 * unanimity_core::TIMELINE_MAX);
    driven.run(result(1, Operation::Confirm, ResultOutcome::Done));
    let last = driven.transaction().timeline.last().expect("there are some");
    assert_eq!(last.kind, unanimity_core::TimelineKind::Finished, "the end is always there");
}
