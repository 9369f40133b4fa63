//! Messages: H5, I10, and the rows O1 to O3 and O5 of the crash matrix.

use unanimity_core::{AttentionCode, Command, Event, Persistence, Refusal, ResultOutcome, Timer, pending};
use unanimity_types::{
    AbortReason, BranchId, BranchStatus, CallPolicy, Mode, Operation, Plan, ResolveAs, Status,
};

use super::dispatched;
use crate::fixture::*;

const ASK: Operation = Operation::CheckBack;
const DELIVER: Operation = Operation::Deliver;

fn prepared() -> Driven {
    Driven::unknown().with(message(2, true, false))
}

fn asked() -> Driven {
    prepared().later(TIMEOUT).with(Command::Timer(Timer::Deadline))
}

#[test]
fn h5_a_prepare_waits_and_sends_nothing() {
    let driven = prepared();
    assert!(driven.events.iter().all(|(_, event)| event.persistence() == Persistence::Waits));
    assert_eq!(dispatched(&driven.effects), []);
    assert_eq!(driven.transaction().status(), Status::Active);
}

#[test]
fn h5_at_its_deadline_the_sender_is_asked_and_nothing_is_aborted() {
    let driven = asked();
    assert_eq!(dispatched(&driven.effects), [(1, ASK, 1)]);
    assert_eq!(driven.transaction().decision, None);
    let mut later = driven.later(TIMEOUT);
    for command in [Command::Timer(Timer::Deadline), register(9), Command::Inquire] {
        assert_eq!(later.run(command).events, [], "asked once, and never aborted by the clock");
    }
}

#[test]
fn h5_the_sender_decides() {
    let committed = asked().with(result(1, ASK, ResultOutcome::Done));
    assert_eq!(dispatched(&committed.effects), [(2, DELIVER, 1), (3, DELIVER, 1)]);
    let aborted = asked().with(result(1, ASK, refused()));
    assert_eq!(aborted.transaction().status(), Status::Aborted);
    assert_eq!(aborted.transaction().abort_reason(), Some(AbortReason::Refused));
    assert_eq!(dispatched(&aborted.effects), []);
}

#[test]
fn o5_a_sender_that_cannot_say_yet_is_asked_again() {
    for outcome in [not_yet(), unknown(), unusable(), not_sent()] {
        let mut driven = asked().with(result(1, ASK, outcome));
        assert_eq!(driven.transaction().decision, None);
        driven.now = driven.due(1).expect("again");
        driven.run(retry_timer(1));
        assert!(matches!(dispatched(&driven.effects)[..], [(1, ASK, _)]));
    }
}

#[test]
fn h5_a_submit_stands_also_after_the_deadline() {
    let mut driven = asked().with(COMMIT_ALL);
    assert_eq!(dispatched(&driven.effects), [(2, DELIVER, 1), (3, DELIVER, 1)]);
    assert_eq!(driven.transaction().branches[0].status, BranchStatus::Answered);
    assert_eq!(driven.run(result(1, ASK, refused())).events, [], "a late answer changes nothing (I3)");
}

#[test]
fn o1_a_rolled_back_sender_sends_nothing() {
    let driven = prepared().with(ABORT);
    assert_eq!(driven.transaction().status(), Status::Aborted);
    assert_eq!(dispatched(&driven.effects), []);
    let statuses: Vec<_> = driven.transaction().branches.iter().map(|branch| branch.status).collect();
    assert_eq!(statuses, [BranchStatus::Answered, BranchStatus::Discarded, BranchStatus::Discarded]);
}

#[test]
fn o2_o3_what_was_submitted_is_delivered_by_whoever_recovers_it() {
    let driven = Driven::unknown().with(message(2, false, true));
    let driven = driven.with(result(1, DELIVER, ResultOutcome::Done));
    let mut state = replay(xid(), &driven.events).expect("known");
    assert_eq!(dispatched(&pending(&mut state, context(driven.now))), [(2, DELIVER, 1)]);
}

#[test]
fn a_message_is_submitted_with_its_begin_in_one_block() {
    let mut driven = Driven::unknown();
    let verdict = driven.run(message(1, false, true));
    assert!(matches!(verdict.events.last(), Some(Event::Decided { branches: 1, .. })));
    assert_eq!(dispatched(&driven.effects), [(1, DELIVER, 1)]);
}

#[test]
fn a_dead_letter_is_parked_and_replayed_with_the_same_key() {
    let twice = CallPolicy { give_up_after: Some(2), ..CallPolicy::default() };
    let plan = unanimity_types::MessagePlan {
        check_back: None,
        check_back_payload: bytes::Bytes::new(),
        deliveries: vec![unanimity_types::Delivery { policy: twice, ..delivery(1) }],
        submit: true,
    };
    let begun = || Driven::unknown().with(begin_with(Mode::Message, Plan::Message(plan.clone())));
    let refuses = begun().with(result(1, DELIVER, refused()));
    let mut fails = begun().with(result(1, DELIVER, unknown()));
    fails.now = fails.due(1).expect("again");
    let fails = fails.with(retry_timer(1)).with(result(1, DELIVER, unknown()));
    for driven in [refuses, fails] {
        let branch = driven.transaction().branch(BranchId(1)).expect("a delivery");
        assert!(branch.parked && branch.status == BranchStatus::Delivering);
        assert_eq!(driven.transaction().attention.as_ref().map(|a| a.code), Some(AttentionCode::Parked));
        let mut replayed = driven.with(Command::Retry { by: by() });
        assert_eq!(dispatched(&replayed.effects), [(1, DELIVER, 1)]);
        replayed.run(result(1, DELIVER, ResultOutcome::Done));
        assert_eq!(replayed.transaction().status(), Status::Committed);
    }
}

/// Who looks at 3 a.m. is told of a delivery that is parked, not of one that was.
#[test]
fn a_dead_letter_is_named_as_long_as_it_is_one() {
    let named = |driven: &Driven| driven.transaction().attention.as_ref().and_then(|now| now.branch_id);
    let dead = || {
        Driven::unknown()
            .with(message(2, false, true))
            .with(result(1, Operation::Deliver, refused()))
            .with(result(2, Operation::Deliver, refused()))
    };
    assert_eq!(named(&dead()), Some(BranchId(1)));
    let by_hand = dead().with(resolve(1, ResolveAs::Confirmed));
    assert_eq!(named(&by_hand), Some(BranchId(2)));
    let retried = dead().with(Command::Retry { by: by() });
    assert_eq!(retried.transaction().attention, None, "nothing is parked");
    let again = retried.with(result(1, Operation::Deliver, ResultOutcome::Done)).with(result(
        2,
        Operation::Deliver,
        refused(),
    ));
    assert_eq!(named(&again), Some(BranchId(2)));
    assert_eq!(replay(xid(), &again.events).and_then(|state| state.attention), again.transaction().attention);
    let over = again.with(resolve(2, ResolveAs::Cancelled));
    assert_eq!(over.transaction().status(), Status::Committed);
    let code = over.transaction().attention.as_ref().map(|now| now.code);
    assert_eq!(code, Some(AttentionCode::HeuristicMixed), "it was decided, and one does not have it");
}

#[test]
fn nobody_is_told_to_abort_a_message_whose_sender_may_have_committed() {
    let checking = Driven::unknown().with(message(1, true, false)).later(TIMEOUT);
    let mut checking = checking.with(Command::Timer(Timer::Deadline));
    for n in [1, 2] {
        let Err(Refusal::Illegal { what }) = checking.run(resolve(n, ResolveAs::Cancelled)).answer else {
            panic!("an undecided message has nothing to settle");
        };
        assert!(what.contains("submit it (POST …/commit) if"), "{what}");
    }
}
