//! Two-phase commit: H4, M11, the votes' rules, late prepares, and the rows C4, C5, C11 to C13.

use std::time::Duration;

use unanimity_core::{
    Answer, AttentionCode, Command, Effect, Event, Persistence, Refusal, ResultOutcome, Timer, pending,
};
use unanimity_types::{
    AbortReason, BranchId, BranchKind, BranchStatus, Decision, Limits, Mode, Operation, Plan, ResolveAs,
    Status, Vote,
};

use super::dispatched;
use crate::fixture::*;

const PREPARE: Operation = Operation::Prepare;
const ONE_PHASE: Operation = Operation::CommitOnePhase;

fn begun(mode: Mode) -> Driven {
    Driven::unknown().with(begin_with(mode, Plan::Open))
}

fn late(n: u32) -> Command {
    register_two_phase(n, two_phase(false, false))
}

fn two() -> Driven {
    begun(Mode::TwoPhase).with(late(1)).with(late(2))
}

fn voted(n: u32, vote: Vote) -> Command {
    result(n, PREPARE, ResultOutcome::Voted(vote))
}

fn one_phase() -> Driven {
    begun(Mode::TwoPhase).with(register_two_phase(1, two_phase(false, true)))
}

fn delegated() -> Driven {
    one_phase().with(COMMIT_ALL)
}

fn takeover(driven: Driven) -> Driven {
    let mut state = replay(xid(), &driven.events);
    let effects = pending(state.as_mut().expect("known"), context(driven.now));
    Driven { state, effects, ..driven }
}

#[test]
fn h4_delegation_is_durable_before_the_request() {
    let mut driven = one_phase();
    let verdict = driven.run(COMMIT_ALL);
    assert_eq!(verdict.events, [Event::Delegated { branch_id: BranchId(1) }]);
    assert_eq!(verdict.answer, Ok(Answer::Undecided));
    assert_eq!(verdict.events[0].persistence(), Persistence::Waits);
    assert_eq!(dispatched(&driven.effects), [(1, ONE_PHASE, 1)]);
    assert_eq!(driven.transaction().status(), Status::Preparing);
}

#[test]
fn h4_from_the_delegation_neither_abort_nor_deadline_nor_takeover_decides() {
    for driven in [delegated(), delegated().with(result(1, ONE_PHASE, unknown()))] {
        for by in [None, Some(by())] {
            let verdict = driven.clone().run(Command::Abort { reason: AbortReason::Operator, by });
            assert_eq!((verdict.events, verdict.answer), (vec![], Err(Refusal::Delegated)));
        }
        let mut overdue = driven.clone().later(TIMEOUT);
        let commands = [
            Command::Timer(Timer::Deadline),
            Command::Timer(Timer::Prepare),
            Command::Timer(Timer::CommitWait),
            COMMIT_ALL,
            register_two_phase(1, two_phase(false, true)),
            late(2),
            vote(1, Vote::Refused),
            Command::Inquire,
        ];
        for command in commands {
            assert_eq!(overdue.run(command.clone()).events, [], "{command:?}");
        }
        assert_eq!(takeover(overdue).transaction().decision, None);
    }
    let asked = takeover(delegated());
    assert_eq!(dispatched(&asked.effects), [(1, ONE_PHASE, 1)], "the new owner asks until it knows");
}

#[test]
fn h4_the_branch_decides() {
    let committed = delegated().with(result(1, ONE_PHASE, ResultOutcome::Done));
    assert_eq!(committed.transaction().status(), Status::Committed);
    assert_eq!(dispatched(&committed.effects), []);
    let aborted = delegated().with(result(1, ONE_PHASE, refused()));
    assert_eq!(aborted.transaction().abort_reason(), Some(AbortReason::Refused));
    assert_eq!(
        dispatched(&aborted.effects),
        [(1, Operation::Rollback, 1)],
        "also one that refused is told (H2)"
    );
    for outcome in [unknown(), not_yet(), unusable(), not_sent()] {
        assert_eq!(delegated().with(result(1, ONE_PHASE, outcome)).transaction().decision, None);
    }
}

#[test]
fn h4_no_further_branch_registers_after_the_delegation() {
    assert_eq!(delegated().run(late(2)).answer, Err(Refusal::Delegated));
}

#[test]
fn h4_it_is_delegated_only_to_a_branch_that_stays_alone() {
    // The commit names a second branch, which is no two-phase branch and registers later.
    let mut driven =
        begun(Mode::Tcc).with(register_two_phase(1, two_phase(false, true))).with(commit(&[1, 2]));
    driven.run(register(2));
    assert_eq!(dispatched(&driven.effects), [(1, PREPARE, 1)], "a round of prepares");
    let mut one_of_two = one_phase().with(late(2));
    one_of_two.run(COMMIT_ALL);
    assert_eq!(dispatched(&one_of_two.effects), [(1, PREPARE, 1), (2, PREPARE, 1)]);
}

#[test]
fn m14_a_delegate_can_be_settled_by_hand() {
    let confirmed = delegated().with(resolve(1, ResolveAs::Confirmed));
    assert_eq!(confirmed.transaction().status(), Status::Committed);
    let cancelled = delegated().with(resolve(1, ResolveAs::Cancelled));
    assert_eq!(cancelled.transaction().status(), Status::Aborted);
    let late = cancelled.with(result(1, ONE_PHASE, ResultOutcome::Done));
    assert!(
        late.transaction()
            .branch(BranchId(1))
            .and_then(|b| b.resolved.clone())
            .expect("by hand")
            .contradicted
    );
}

#[test]
fn m11_read_only_is_only_an_answer_to_a_prepare() {
    let early = begun(Mode::TwoPhase).with(register_two_phase(1, two_phase(true, false)));
    for driven in [two(), early] {
        let verdict = driven.clone().run(vote(1, Vote::ReadOnly));
        assert!(verdict.events.is_empty() && matches!(verdict.answer, Err(Refusal::Illegal { .. })));
    }
    let mut asked = two().with(COMMIT_ALL).with(voted(1, Vote::ReadOnly)).with(voted(2, Vote::Prepared));
    assert_eq!(dispatched(&asked.effects), [(2, Operation::Commit, 1)], "it is left out of the second phase");
    asked.run(result(2, Operation::Commit, ResultOutcome::Done));
    assert_eq!(asked.transaction().status(), Status::Committed);
    let nothing = two().with(COMMIT_ALL).with(voted(1, Vote::ReadOnly)).with(voted(2, Vote::ReadOnly));
    assert_eq!(nothing.transaction().status(), Status::Committed, "nothing is left to do");
}

#[test]
fn i2_a_commit_is_decided_when_every_vote_is_in() {
    let mut driven = two().with(COMMIT_ALL).with(voted(1, Vote::Prepared));
    assert_eq!(driven.transaction().decision, None);
    driven.run(voted(2, Vote::Prepared));
    assert_eq!(dispatched(&driven.effects), [(1, Operation::Commit, 1), (2, Operation::Commit, 1)]);
}

#[test]
fn i1_one_refusal_rolls_all_back() {
    let driven = two().with(COMMIT_ALL).with(voted(1, Vote::Prepared)).with(voted(2, Vote::Refused));
    assert_eq!(dispatched(&driven.effects), [(1, Operation::Rollback, 1), (2, Operation::Rollback, 1)]);
    assert_eq!(driven.transaction().abort_reason(), Some(AbortReason::Refused));
}

#[test]
fn an_early_branch_is_not_asked() {
    let driven = begun(Mode::TwoPhase)
        .with(register_two_phase(1, two_phase(true, false)))
        .with(register_two_phase(2, two_phase(true, false)))
        .with(vote(2, Vote::Prepared))
        .with(commit(&[1, 2]));
    assert_eq!(driven.transaction().status(), Status::Committing, "to be named is its vote");
}

#[test]
fn votes_after_the_decision_and_contradictory_votes_are_refused() {
    let mut driven = two().with(COMMIT_ALL).with(vote(1, Vote::Prepared));
    assert_eq!(driven.run(vote(1, Vote::Prepared)).answer, Ok(Answer::Status), "a repetition");
    assert_eq!(
        driven.run(vote(1, Vote::Refused)).answer,
        Err(Refusal::VoteContradicts { before: Vote::Prepared })
    );
    driven.run(ABORT);
    assert_eq!(driven.run(vote(1, Vote::Prepared)).answer, Ok(Answer::Status), "what it said before");
    for command in [vote(1, Vote::Refused), vote(2, Vote::Prepared), vote(9, Vote::Prepared)] {
        assert!(matches!(driven.run(command).answer, Err(Refusal::AlreadyDecided { .. })));
    }
    assert!(matches!(two().run(vote(9, Vote::Prepared)).answer, Err(Refusal::KeyNotFound { .. })));
    let tcc = Driven::begun(1).run(vote(1, Vote::Prepared));
    assert!(matches!(tcc.answer, Err(Refusal::KindNotAllowed { .. })));
}

#[test]
fn a_prepare_that_is_answered_after_its_deadline_aborts() {
    let asked = two().with(COMMIT_ALL).with(voted(2, Vote::Prepared));
    let until = BEGIN.after(Limits::PREPARE_WAIT);
    assert_eq!(asked.transaction().preparing, Some(until));
    let mut early = asked.clone();
    early.now = BEGIN.after(Limits::PREPARE_WAIT - Duration::from_millis(1));
    assert_eq!(early.clone().run(Command::Timer(Timer::Prepare)).events, []);
    assert_eq!(early.with(voted(1, Vote::Prepared)).transaction().status(), Status::Committing);
    for command in [voted(1, Vote::Prepared), vote(1, Vote::Prepared), Command::Timer(Timer::Prepare)] {
        let driven = asked.clone().later(Limits::PREPARE_WAIT).with(command);
        assert_eq!(driven.transaction().abort_reason(), Some(AbortReason::Deadline));
        assert!(dispatched(&driven.effects).contains(&(2, Operation::Rollback, 1)));
    }
    let short = two().later(TIMEOUT - Duration::from_secs(1)).with(COMMIT_ALL);
    assert_eq!(
        short.transaction().preparing,
        Some(BEGIN.after(TIMEOUT)),
        "never beyond the transaction's own"
    );
}

#[test]
fn h3_a_rollback_waits_for_the_prepare_that_runs_here() {
    let driven = two().with(COMMIT_ALL).with(voted(2, Vote::Prepared)).with(ABORT);
    assert_eq!(dispatched(&driven.effects), [(2, Operation::Rollback, 1)]);
    for outcome in [ResultOutcome::Voted(Vote::Prepared), unknown(), refused()] {
        let returned = driven.clone().with(result(1, PREPARE, outcome));
        assert_eq!(dispatched(&returned.effects), [(1, Operation::Rollback, 1)]);
    }
    // Also if the branch voted by itself while it was being asked.
    let by_itself = two().with(COMMIT_ALL).with(vote(1, Vote::Prepared)).with(ABORT);
    assert_eq!(dispatched(&by_itself.effects), []);
    let returned = by_itself.with(voted(1, Vote::Prepared));
    assert_eq!(dispatched(&returned.effects), [(1, Operation::Rollback, 1)]);
}

#[test]
fn c4_c5_prepares_without_a_decision_end_in_an_abort_or_are_asked_again() {
    let asked = two().with(COMMIT_ALL);
    let recovered = takeover(asked);
    assert_eq!(dispatched(&recovered.effects), [(1, PREPARE, 1), (2, PREPARE, 1)], "asked again");
    assert!(
        recovered
            .effects
            .contains(&Effect::SetTimer { at: BEGIN.after(Limits::PREPARE_WAIT), timer: Timer::Prepare })
    );
    let aborted = recovered.later(Limits::PREPARE_WAIT).with(Command::Timer(Timer::Prepare));
    assert_eq!(aborted.transaction().status().decision(), Some(Decision::Abort));
    // The votes and the round were lost with their block.
    let mut forgotten = takeover(two());
    assert_eq!(forgotten.effects, [Effect::SetTimer { at: BEGIN.after(TIMEOUT), timer: Timer::Deadline }]);
    forgotten.run(ABORT);
    assert_eq!(dispatched(&forgotten.effects), [(1, Operation::Rollback, 1), (2, Operation::Rollback, 1)]);
}

#[test]
fn c11_an_abort_that_was_partly_sent_is_finished() {
    let driven = two().with(ABORT).with(result(1, Operation::Rollback, ResultOutcome::Done));
    assert_eq!(dispatched(&takeover(driven).effects), [(2, Operation::Rollback, 1)]);
}

#[test]
fn c12_of_a_deadline_and_a_commit_one_wins() {
    let committed = two().with(COMMIT_ALL).with(voted(1, Vote::Prepared)).with(voted(2, Vote::Prepared));
    assert_eq!(committed.later(TIMEOUT).run(Command::Timer(Timer::Deadline)).events, []);
    let mut aborted = two().later(TIMEOUT).with(Command::Timer(Timer::Deadline));
    assert!(matches!(
        aborted.run(COMMIT_ALL).answer,
        Err(Refusal::AlreadyDecided { reason: Some(AbortReason::Deadline), .. })
    ));
}

#[test]
fn c13_a_registration_that_races_the_commit_is_in_or_refused() {
    let mut asked = two().with(COMMIT_ALL);
    assert_eq!(asked.run(late(3)).answer, Err(Refusal::CommitInProgress));
    let mut named = begun(Mode::TwoPhase).with(late(1)).with(commit(&[1, 3]));
    named.run(late(3));
    assert_eq!(dispatched(&named.effects), [(1, PREPARE, 1), (2, PREPARE, 1)], "it is asked as well");
}

#[test]
fn mixed_the_second_phase_reaches_every_kind() {
    let mail = register_kind(3, BranchKind::Message, two_phase(false, false), 1);
    let mixed = || begun(Mode::Tcc).with(register(1)).with(late(2)).with(mail.clone()).with(COMMIT_ALL);
    let mut committed = mixed();
    assert_eq!(dispatched(&committed.effects), [(2, PREPARE, 1)], "nothing goes out before every vote is in");
    committed.run(voted(2, Vote::Prepared));
    let expected = [(1, Operation::Confirm, 1), (2, Operation::Commit, 1), (3, Operation::Deliver, 1)];
    assert_eq!(dispatched(&committed.effects), expected);
    let aborted = mixed().with(voted(2, Vote::Refused));
    assert_eq!(dispatched(&aborted.effects), [(1, Operation::Cancel, 1), (2, Operation::Rollback, 1)]);
    assert_eq!(
        aborted.transaction().branches[2].status,
        BranchStatus::Discarded,
        "no message of an abort (I10)"
    );
}

#[test]
fn illegal_mixes_are_refused_with_a_reason() {
    let refused = |driven: &Driven, kind| {
        let command = register_kind(9, kind, two_phase(false, false), 1);
        matches!(driven.clone().run(command).answer, Err(Refusal::KindNotAllowed { .. }))
    };
    let saga = Driven::unknown().with(saga(vec![step(1, &[])]));
    let message = Driven::unknown().with(message(1, true, false));
    for kind in BranchKind::ALL {
        assert!(refused(&saga, *kind) && refused(&message, *kind), "{kind}: its branches came with its plan");
        let tcc = matches!(kind, BranchKind::Tcc | BranchKind::TwoPhase | BranchKind::Message);
        assert_eq!(refused(&begun(Mode::Tcc), *kind), !tcc, "{kind}");
        let two_phase = matches!(kind, BranchKind::TwoPhase | BranchKind::Message);
        assert_eq!(refused(&begun(Mode::TwoPhase), *kind), !two_phase, "{kind}");
    }
}

#[test]
fn m14_a_delegates_refusal_contradicts_who_said_that_it_committed() {
    let delegated = Driven::unknown()
        .with(begin_with(Mode::TwoPhase, Plan::Open))
        .with(register_two_phase(1, two_phase(false, true)))
        .with(COMMIT_ALL);
    let mut settled = delegated.with(resolve(1, ResolveAs::Confirmed));
    assert_eq!(settled.transaction().status(), Status::Committed);
    settled.run(result(1, Operation::CommitOnePhase, refused()));
    let attention = settled.transaction().attention.clone().expect("raised");
    assert_eq!(attention.code, AttentionCode::HeuristicContradicted);
    assert!(attention.message.contains("its participant refused commit_one_phase"), "{attention:?}");
}
