//! Sagas: C6, H2, H3, H14 and the rows S1 to S9 of the crash matrix.

use std::time::Duration;

use bytes::Bytes;
use unanimity_core::{
    AttentionCode, Command, Effect, Event, Persistence, Refusal, ResultOutcome, Timer, apply, pending,
};
use unanimity_types::{
    AbortReason, BranchId, BranchStatus, CallPolicy, Decision, Limits, Operation, ResolveAs, Status, StepRole,
};

use super::dispatched;
use crate::fixture::*;

const ACTION: Operation = Operation::Action;
const COMPENSATE: Operation = Operation::Compensate;

fn begun(steps: Vec<unanimity_types::SagaStep>) -> Driven {
    Driven::unknown().with(saga(steps))
}

fn done(n: u32, operation: Operation) -> Command {
    result(n, operation, ResultOutcome::Done)
}

fn brings(n: u32, bytes: &'static [u8]) -> Command {
    result(n, ACTION, ResultOutcome::Result(Bytes::from_static(bytes)))
}

fn attempt(n: u32, operation: Operation, attempt: u32, outcome: ResultOutcome) -> Command {
    Command::Result { branch_id: BranchId(n), operation, attempt, outcome }
}

fn again(mut driven: Driven, n: u32) -> Driven {
    driven.now = driven.due(n).expect("backs off");
    driven.with(retry_timer(n))
}

fn status_of(driven: &Driven, n: u32) -> BranchStatus {
    driven.transaction().branch(BranchId(n)).expect("a step").status
}

/// Another owner recovers it; what it sends is left in `effects`.
fn takeover(driven: Driven) -> Driven {
    let mut state = replay(xid(), &driven.events);
    let effects = pending(state.as_mut().expect("known"), context(driven.now));
    Driven { state, effects, ..driven }
}

/// Cleaning writes it again.
fn snapshot(mut driven: Driven) -> Driven {
    let event = Event::Snapshot(Box::new(driven.transaction().durable()));
    apply(&mut driven.state, xid(), event, driven.now, &mut driven.effects).expect("its own");
    driven
}

fn hold() -> Duration {
    LEASE + CALL_TIMEOUT
}

/// k1, then the pivot k2, then the forward-only k3.
fn past_pivot() -> Driven {
    begun(vec![step(1, &[]), step_as(2, &[1], StepRole::Pivot), step_as(3, &[2], StepRole::ForwardOnly)])
        .with(done(1, ACTION))
}

#[test]
fn c6_a_step_is_sent_when_all_before_it_are_done() {
    let mut driven = begun(vec![step(1, &[]), step(2, &[]), step(3, &[1, 2]), step(4, &[3])]);
    assert_eq!(dispatched(&driven.effects), [(1, ACTION, 1), (2, ACTION, 1)], "roots run in parallel");
    driven.run(brings(1, b"seat 7"));
    assert_eq!(dispatched(&driven.effects), []);
    driven.run(brings(2, b"room 9"));
    assert_eq!(dispatched(&driven.effects), [(3, ACTION, 1)]);
    driven.run(done(3, ACTION));
    assert_eq!(dispatched(&driven.effects), [(4, ACTION, 1)]);
    driven.run(done(4, ACTION));
    assert_eq!(driven.transaction().status(), Status::Committed);
}

#[test]
fn c6_results_are_durable_before_they_are_used_and_reach_all_later_steps() {
    let event = Event::ActionDone { branch_id: BranchId(1), attempts: 1, result: Bytes::new() };
    assert_eq!(event.persistence(), Persistence::Waits);
    let driven = begun(vec![step(1, &[]), step(2, &[1]), step(3, &[2])])
        .with(brings(1, b"seat 7"))
        .with(brings(2, b"room 9"));
    let recovered = takeover(driven);
    let transaction = recovered.transaction();
    let inputs = transaction.inputs_of(transaction.branch(BranchId(3)).expect("a step"));
    let expected = [(key(1), Bytes::from_static(b"seat 7")), (key(2), Bytes::from_static(b"room 9"))];
    assert_eq!(inputs, expected, "the same for whoever recovers it");
    assert_eq!(dispatched(&recovered.effects), [(3, ACTION, 1)], "and no step before it runs again");
}

#[test]
fn s7_what_ran_is_compensated_by_whoever_recovers_it() {
    let driven =
        begun(vec![step(1, &[]), step(2, &[1]), step(3, &[2])]).with(done(1, ACTION)).with(done(2, ACTION));
    let mut recovered = takeover(driven).with(ABORT).with(result(3, ACTION, unknown()));
    assert_eq!(dispatched(&recovered.effects), [], "k3 may have run: its compensation is held (H3)");
    recovered = again(recovered, 3).with(done(3, COMPENSATE));
    assert_eq!(dispatched(&recovered.effects), [(2, COMPENSATE, 1)]);
    recovered.run(done(2, COMPENSATE));
    assert_eq!(dispatched(&recovered.effects), [(1, COMPENSATE, 1)]);
    recovered.run(done(1, COMPENSATE));
    assert_eq!(recovered.transaction().status(), Status::Aborted);
}

#[test]
fn h2_a_first_refusal_is_clean() {
    let driven =
        begun(vec![step(1, &[]), step(2, &[1])]).with(done(1, ACTION)).with(result(2, ACTION, refused()));
    assert_eq!(status_of(&driven, 2), BranchStatus::Refused);
    assert_eq!(
        dispatched(&driven.effects),
        [(1, COMPENSATE, 1)],
        "it did nothing: the one before is undone at once"
    );
    assert_eq!(driven.transaction().abort_reason(), Some(AbortReason::Refused));
}

#[test]
fn h2_a_refusal_after_an_unknown_attempt_is_not_clean() {
    let driven = begun(vec![step(1, &[])]).with(result(1, ACTION, unknown()));
    let driven = again(driven, 1).with(attempt(1, ACTION, 2, refused()));
    assert_eq!(dispatched(&driven.effects), [(1, COMPENSATE, 1)], "it may have run");
}

#[test]
fn h2_a_refusal_after_a_takeover_is_not_clean() {
    let driven = takeover(begun(vec![step(1, &[])])).with(result(1, ACTION, refused()));
    assert_eq!(status_of(&driven, 1), BranchStatus::ToCompensate);
    assert_eq!(driven.due(1), Some(BEGIN.after(hold())), "and is undone when no old owner sends it any more");
}

#[test]
fn h2_an_attempt_that_never_left_the_node_does_not_spoil_a_refusal() {
    let driven = begun(vec![step(1, &[])]).with(result(1, ACTION, not_sent()));
    let driven = again(driven, 1).with(result(1, ACTION, refused()));
    assert_eq!(driven.transaction().status(), Status::Aborted);
    assert_eq!(status_of(&driven, 1), BranchStatus::Refused);
}

#[test]
fn h3_a_compensation_waits_for_the_action_that_runs_here() {
    let driven = begun(vec![step(1, &[])]).with(ABORT);
    assert_eq!(dispatched(&driven.effects), []);
    for outcome in [unknown(), unusable(), not_sent(), ResultOutcome::Done] {
        let ended = driven.clone().with(result(1, ACTION, outcome));
        assert_eq!(dispatched(&ended.effects), [(1, COMPENSATE, 1)]);
    }
    let refused_now = driven.with(result(1, ACTION, refused()));
    assert_eq!(refused_now.transaction().status(), Status::Aborted, "it did nothing, and nothing is undone");
}

#[test]
fn h3_what_the_action_brought_after_the_turn_is_given_to_its_compensation() {
    let driven = begun(vec![step(1, &[])]).with(ABORT).with(brings(1, b"seat 7"));
    let recovered = replay(xid(), &driven.events).expect("known");
    let result =
        recovered.branch(BranchId(1)).and_then(|branch| branch.step.clone()).and_then(|step| step.result);
    assert_eq!(result, Some(Bytes::from_static(b"seat 7")));
}

#[test]
fn h3_after_a_takeover_a_compensation_waits_for_the_lease_and_the_longest_attempt() {
    let slow = CallPolicy { timeout: Some(Duration::from_secs(100)), ..CallPolicy::default() };
    for (policy, wait) in [(CallPolicy::default(), hold()), (slow, LEASE + Duration::from_secs(100))] {
        let driven = begun(vec![unanimity_types::SagaStep { policy, ..step(1, &[]) }]).with(ABORT);
        let mut recovered = takeover(driven);
        let until = BEGIN.after(wait);
        assert_eq!(recovered.effects, [Effect::SetTimer { at: until, timer: Timer::Retry(BranchId(1)) }]);
        recovered.now = BEGIN.after(wait - Duration::from_millis(1));
        assert_eq!(recovered.run(retry_timer(1)).events, [], "not yet");
        assert_eq!(
            recovered.run(Command::Wake { branch_id: BranchId(1), at: BEGIN }).events,
            [],
            "no wake is sooner"
        );
        recovered.run(Command::Retry { by: by() });
        assert_eq!(dispatched(&recovered.effects), [], "nor an operator");
        recovered.now = until;
        recovered.run(retry_timer(1));
        assert_eq!(dispatched(&recovered.effects), [(1, COMPENSATE, 1)]);
    }
}

#[test]
fn h3_a_second_attempt_that_is_not_written_holds_the_compensation_too() {
    // The first attempt's end is in the log, the second one's dispatch is not.
    let driven = again(begun(vec![step(1, &[])]).with(result(1, ACTION, unknown())), 1).with(ABORT);
    let now = driven.now;
    let recovered = takeover(driven);
    assert_eq!(dispatched(&recovered.effects), []);
    assert_eq!(recovered.due(1), Some(now.after(hold())));
    let twice = takeover(recovered.later(Duration::from_secs(1)));
    assert_eq!(
        twice.due(1),
        Some(now.after(Duration::from_secs(1)).after(hold())),
        "and a third owner holds it"
    );
}

#[test]
fn h3_what_a_turned_sagas_action_brings_can_be_recovered() {
    let driven = again(begun(vec![step(1, &[])]).with(result(1, ACTION, unknown())), 1).with(ABORT);
    let driven = driven.with(attempt(1, ACTION, 2, ResultOutcome::Done));
    assert!(replay(xid(), &driven.events).is_some());
}

#[test]
fn h3_a_known_result_holds_its_compensation_after_a_takeover_too() {
    // Two takeovers: the first owner's action may still arrive, though the second owner's was answered.
    let second = takeover(begun(vec![step(1, &[]), step(2, &[1])])).with(done(1, ACTION));
    let done_at_takeover = takeover(second.clone()).with(ABORT).with(result(2, ACTION, refused()));
    let turned_at_takeover = takeover(second.with(ABORT).with(brings(2, b"room 9")));
    for mut third in [done_at_takeover, turned_at_takeover] {
        if status_of(&third, 2) == BranchStatus::ToCompensate {
            assert_eq!(dispatched(&third.effects), []);
            third = again(third, 2).with(done(2, COMPENSATE));
            assert_eq!(third.now, BEGIN.after(hold()), "from the takeover on, and no longer");
        }
        assert_eq!(dispatched(&third.effects), [(1, COMPENSATE, 1)]);
    }
}

#[test]
fn h3_without_a_takeover_nothing_waits_and_a_snapshot_is_none() {
    let turn = |driven: Driven| driven.with(done(1, ACTION)).with(result(2, ACTION, refused()));
    let driven = turn(begun(vec![step(1, &[]), step(2, &[1])]));
    assert_eq!(dispatched(&driven.effects), [(1, COMPENSATE, 1)]);
    // What begins after a takeover is not its.
    let mut driven = takeover(begun(vec![step(1, &[]), step(2, &[1]), step(3, &[2])]));
    for command in [done(1, ACTION), done(2, ACTION), result(3, ACTION, refused())] {
        driven.run(command);
    }
    assert_eq!(dispatched(&driven.effects), [(2, COMPENSATE, 1)]);
    driven.run(done(2, COMPENSATE));
    assert_eq!(driven.due(1), Some(BEGIN.after(hold())));
    for taken_over in [false, true] {
        let mut driven = begun(vec![step(1, &[]), step(2, &[1])]).with(done(1, ACTION));
        if taken_over {
            driven = takeover(driven);
        }
        driven = snapshot(driven.later(Duration::from_secs(1)));
        let held = driven.transaction().branch(BranchId(1)).expect("a step").hold_until;
        assert_eq!(held, taken_over.then(|| BEGIN.after(hold())), "not restarted by a snapshot");
    }
}

#[test]
fn h3_a_step_with_nothing_to_undo_is_kept_when_its_action_is_over() {
    let steps = || vec![step(1, &[]), step_as(2, &[1], StepRole::Compensatable)];
    let turned = begun(steps()).with(done(1, ACTION)).with(ABORT);
    assert_eq!((status_of(&turned, 2), dispatched(&turned.effects)), (BranchStatus::ToCompensate, vec![]));
    for outcome in [unknown(), ResultOutcome::Result(Bytes::from_static(b"room 9"))] {
        let known = matches!(outcome, ResultOutcome::Result(_));
        let over = again(turned.clone().with(result(2, ACTION, outcome)), 2);
        assert_eq!(status_of(&over, 2), BranchStatus::Kept);
        assert_eq!(dispatched(&over.effects), [(1, COMPENSATE, 1)], "in reverse order");
        let result = over.transaction().branch(BranchId(2)).and_then(|branch| branch.step.clone()?.result);
        assert_eq!(result.is_some(), known, "what it brought is on record");
        assert!(replay(xid(), &over.events).is_some());
    }
    let refused = turned.clone().with(result(2, ACTION, refused()));
    assert_eq!(status_of(&refused, 2), BranchStatus::Refused, "it did nothing, and that is on record");
    assert_eq!(dispatched(&refused.effects), [(1, COMPENSATE, 1)]);
    // Whoever recovers it waits for attempts of owners before.
    let recovered = takeover(turned);
    assert_eq!((recovered.due(2), dispatched(&recovered.effects)), (Some(BEGIN.after(hold())), vec![]));
    let over = again(recovered, 2);
    assert_eq!(dispatched(&over.effects), [(1, COMPENSATE, 1)]);
    let alone = begun(vec![step_as(1, &[], StepRole::Compensatable)]).with(ABORT);
    assert_eq!(alone.transaction().status(), Status::Aborting, "not over while its action runs");
    let alone = again(alone.with(result(1, ACTION, unknown())), 1);
    assert_eq!(alone.transaction().status(), Status::Aborted);
}

#[test]
fn h3_what_comes_before_a_slow_step_that_is_kept_is_held_as_long() {
    let policy = CallPolicy { timeout: Some(Duration::from_secs(100)), ..CallPolicy::default() };
    let slow = unanimity_types::SagaStep { policy, ..step_as(2, &[1], StepRole::Compensatable) };
    let driven = begun(vec![step(1, &[]), slow, step(3, &[2])]).with(done(1, ACTION)).with(done(2, ACTION));
    let driven = takeover(driven.with(result(3, ACTION, refused())));
    assert_eq!(status_of(&driven, 2), BranchStatus::Kept);
    assert_eq!(driven.due(1), Some(BEGIN.after(LEASE + Duration::from_secs(100))));
}

#[test]
fn i7_compensations_go_in_reverse_order_also_over_a_step_with_nothing_to_undo() {
    let mut driven = begun(vec![step(1, &[]), step_as(2, &[1], StepRole::Compensatable), step(3, &[2])])
        .with(done(1, ACTION))
        .with(done(2, ACTION))
        .with(done(3, ACTION));
    assert_eq!(driven.transaction().status(), Status::Committed, "all of it");
    driven =
        begun(vec![step(1, &[]), step_as(2, &[1], StepRole::Compensatable), step(3, &[2]), step(4, &[3])]);
    for n in 1..=3 {
        driven.run(done(n, ACTION));
    }
    driven.run(result(4, ACTION, refused()));
    assert_eq!(dispatched(&driven.effects), [(3, COMPENSATE, 1)], "not k1 with it");
    assert_eq!(status_of(&driven, 2), BranchStatus::Kept);
    driven.run(done(3, COMPENSATE));
    assert_eq!(dispatched(&driven.effects), [(1, COMPENSATE, 1)]);
}

#[test]
fn a_step_without_compensation_that_fails_in_the_middle_is_kept() {
    let once = CallPolicy { give_up_after: Some(1), ..CallPolicy::default() };
    let middle = unanimity_types::SagaStep { policy: once, ..step_as(2, &[1], StepRole::Compensatable) };
    let driven = begun(vec![step(1, &[]), middle, step(3, &[2])]).with(done(1, ACTION));
    let driven = driven.with(result(2, ACTION, unknown()));
    assert_eq!(driven.transaction().abort_reason(), Some(AbortReason::GaveUp));
    let driven = again(driven, 2);
    assert_eq!(status_of(&driven, 2), BranchStatus::Kept);
    assert_eq!(status_of(&driven, 3), BranchStatus::Skipped);
    assert_eq!(dispatched(&driven.effects), [(1, COMPENSATE, 1)]);
}

#[test]
fn s1_s2_an_action_that_was_called_or_not_is_called_again_with_the_same_key() {
    let recovered = takeover(begun(vec![step(1, &[])]));
    assert_eq!(dispatched(&recovered.effects), [(1, ACTION, 1)]);
}

#[test]
fn s3_a_turn_that_was_not_durable_is_judged_anew_in_one_direction() {
    let driven = begun(vec![step(1, &[])]);
    let lost = driven.clone().with(ABORT);
    assert_eq!(lost.transaction().status().decision(), Some(Decision::Abort));
    let recovered = takeover(driven).with(done(1, ACTION));
    assert_eq!(recovered.transaction().status(), Status::Committed);
}

#[test]
fn s4_a_step_of_unknown_outcome_is_compensated() {
    let twice = CallPolicy { give_up_after: Some(2), ..CallPolicy::default() };
    let driven = begun(vec![unanimity_types::SagaStep { policy: twice, ..step(1, &[]) }]);
    let driven = again(driven.with(result(1, ACTION, unknown())), 1).with(attempt(1, ACTION, 2, unknown()));
    assert_eq!(driven.transaction().abort_reason(), Some(AbortReason::GaveUp));
    assert_eq!(dispatched(&driven.effects), [(1, COMPENSATE, 1)]);
}

#[test]
fn s5_a_compensation_that_was_not_written_is_repeated() {
    let driven =
        begun(vec![step(1, &[]), step(2, &[1])]).with(done(1, ACTION)).with(result(2, ACTION, refused()));
    let before = driven.clone();
    assert_eq!(driven.with(done(1, COMPENSATE)).transaction().status(), Status::Aborted);
    let recovered = again(takeover(before), 1);
    assert_eq!(dispatched(&recovered.effects), [(1, COMPENSATE, 1)]);
}

#[test]
fn s6_a_compensation_that_keeps_failing_is_parked_seen_and_resumed() {
    let twice = CallPolicy { give_up_after: Some(2), ..CallPolicy::default() };
    let policied = unanimity_types::SagaStep { policy: twice, ..step(1, &[]) };
    let turned = || {
        begun(vec![policied.clone(), step(2, &[1])]).with(done(1, ACTION)).with(result(2, ACTION, refused()))
    };
    let refuses = turned().with(result(1, COMPENSATE, refused()));
    let fails =
        again(turned().with(result(1, COMPENSATE, unknown())), 1).with(attempt(1, COMPENSATE, 2, unknown()));
    for driven in [refuses, fails] {
        let branch = driven.transaction().branch(BranchId(1)).expect("a step");
        assert!(branch.parked && branch.next_attempt_at.is_none());
        assert_eq!(driven.transaction().attention.as_ref().map(|a| a.code), Some(AttentionCode::Parked));
        assert_eq!(takeover(driven.clone()).effects, [], "also for whoever recovers it");
        let mut resumed = driven.with(Command::Retry { by: by() });
        assert_eq!(dispatched(&resumed.effects), [(1, COMPENSATE, 1)]);
        resumed.run(done(1, COMPENSATE));
        assert_eq!(resumed.transaction().status(), Status::Aborted);
        assert_eq!(resumed.transaction().attention, None);
    }
}

#[test]
fn h14_s9_from_the_pivots_dispatch_neither_deadline_nor_abort_turns_back() {
    let pivot_runs = past_pivot();
    let pivot_done = past_pivot().with(done(2, ACTION));
    let backs_off = past_pivot().with(result(2, ACTION, unknown()));
    for driven in [pivot_runs, pivot_done, backs_off] {
        for by in [None, Some(by())] {
            let verdict = driven.clone().run(Command::Abort { reason: AbortReason::Requested, by });
            assert_eq!((verdict.events, verdict.answer), (vec![], Err(Refusal::NoWayBack)));
        }
        let mut late = driven.later(TIMEOUT);
        for command in [register(9), COMMIT_ALL] {
            assert_eq!(late.run(command).events, [], "nobody decides it by coming late");
        }
        late.run(Command::Timer(Timer::Deadline));
        assert_eq!(late.transaction().decision, None);
        assert_eq!(late.transaction().attention.as_ref().map(|a| a.code), Some(AttentionCode::Overdue));
        assert_eq!(late.run(Command::Timer(Timer::Deadline)).events, [], "once");
    }
}

#[test]
fn h14_only_its_own_clean_refusal_turns_the_pivot_back() {
    let clean = past_pivot().with(result(2, ACTION, refused()));
    assert_eq!(dispatched(&clean.effects), [(1, COMPENSATE, 1)]);
    let unclean =
        again(past_pivot().with(result(2, ACTION, unknown())), 2).with(attempt(2, ACTION, 2, refused()));
    let after_takeover = takeover(past_pivot()).with(result(2, ACTION, refused()));
    for driven in [unclean, after_takeover] {
        assert_eq!(driven.transaction().decision, None);
        assert!(driven.transaction().branch(BranchId(2)).expect("the pivot").parked);
        assert_eq!(driven.transaction().attention.as_ref().map(|a| a.code), Some(AttentionCode::Parked));
        let retried = driven.with(Command::Retry { by: by() }).with(result(2, ACTION, refused()));
        assert!(
            retried.transaction().decision.is_none(),
            "a refusal of a retried pivot is no clean one either"
        );
    }
}

#[test]
fn h2_h14_a_sealed_refusal_is_clean_whichever_attempt_it_answers() {
    let sealed = || ResultOutcome::Sealed { error: "no money".into() };
    let repeated =
        again(past_pivot().with(result(2, ACTION, unknown())), 2).with(attempt(2, ACTION, 2, sealed()));
    let after_takeover = takeover(past_pivot()).with(result(2, ACTION, sealed()));
    for driven in [repeated, after_takeover] {
        let transaction = driven.transaction();
        assert_eq!(transaction.status(), Status::Aborting);
        assert_eq!(transaction.branch(BranchId(2)).expect("the pivot").status, BranchStatus::Refused);
    }
    // What only goes forward is parked all the same.
    let forward = past_pivot().with(done(2, ACTION)).with(result(3, ACTION, sealed()));
    assert!(forward.transaction().branch(BranchId(3)).expect("a step").parked);
}

#[test]
fn h14_a_forward_only_step_that_refuses_is_parked_and_goes_on_by_retry() {
    let mut driven = past_pivot().with(done(2, ACTION)).with(result(3, ACTION, refused()));
    assert!(driven.transaction().branch(BranchId(3)).expect("a step").parked);
    driven.run(Command::Retry { by: by() });
    assert_eq!(dispatched(&driven.effects), [(3, ACTION, 1)]);
    driven.run(done(3, ACTION));
    assert_eq!(driven.transaction().status(), Status::Committed);
}

#[test]
fn h14_forward_only_steps_wait_for_everything_that_can_turn_back() {
    let mut driven = begun(vec![step(1, &[]), step(2, &[1]), step_as(3, &[], StepRole::ForwardOnly)]);
    assert_eq!(dispatched(&driven.effects), [(1, ACTION, 1)]);
    driven.run(done(1, ACTION));
    assert_eq!(dispatched(&driven.effects), [(2, ACTION, 1)]);
    driven.run(done(2, ACTION));
    assert_eq!(dispatched(&driven.effects), [(3, ACTION, 1)]);
}

#[test]
fn h14_a_pivot_that_is_cancelled_by_hand_turns_back_and_sends_nothing_forward() {
    let driven = past_pivot().with(resolve(2, ResolveAs::Cancelled));
    assert_eq!(dispatched(&driven.effects), [(1, COMPENSATE, 1)], "k3 does not run");
    assert_eq!(status_of(&driven, 3), BranchStatus::Skipped);
    let confirmed = past_pivot().with(resolve(2, ResolveAs::Confirmed));
    assert_eq!(dispatched(&confirmed.effects), [(3, ACTION, 1)]);
}

#[test]
fn a_result_over_the_limit_is_an_unclean_refusal() {
    let large = |len| result(1, ACTION, ResultOutcome::Result(Bytes::from(vec![b'x'; len])));
    let driven = begun(vec![step(1, &[])]).with(large(Limits::RESULT_BYTES_MAX));
    assert_eq!(driven.transaction().status(), Status::Committed);
    let driven = begun(vec![step(1, &[])]).with(large(Limits::RESULT_BYTES_MAX + 1));
    assert_eq!(dispatched(&driven.effects), [(1, COMPENSATE, 1)], "it ran");
    let error = driven.transaction().branch(BranchId(1)).and_then(|branch| branch.last_error.clone());
    assert!(error.expect("said why").contains("larger than the limit"));
}

#[test]
fn results_over_the_limit_together_are_an_unclean_refusal() {
    let most = u32::try_from(Limits::RESULTS_BYTES_MAX / Limits::RESULT_BYTES_MAX).expect("small");
    let mut driven = begun((1..=most + 1).map(|n| step(n, &[])).collect());
    for n in 1..=most {
        driven.run(result(
            n,
            ACTION,
            ResultOutcome::Result(Bytes::from(vec![b'x'; Limits::RESULT_BYTES_MAX])),
        ));
    }
    assert_eq!(driven.transaction().decision, None);
    driven.run(brings(most + 1, b"x"));
    assert_eq!(driven.transaction().abort_reason(), Some(AbortReason::Refused));
    assert_eq!(dispatched(&driven.effects).len() as u32, most + 1, "all of them ran");
}

#[test]
fn h14_a_retry_of_what_is_parked_shows_again_that_the_saga_is_overdue() {
    let code = |driven: &Driven| driven.transaction().attention.as_ref().map(|now| now.code);
    let parked = past_pivot().with(done(2, ACTION)).with(result(3, ACTION, refused())).later(TIMEOUT);
    let parked = parked.with(Command::Timer(Timer::Deadline));
    assert_eq!(code(&parked), Some(AttentionCode::Parked));
    let retried = parked.with(Command::Retry { by: by() });
    assert_eq!(code(&retried), Some(AttentionCode::Overdue));
    assert_eq!(code(&retried.with(done(3, ACTION))), None);
}
