//! Until the decision, and that it stays: what waits, presumption, votes, registrations, repetitions.

use std::time::Duration;

use unanimity_core::{Answer, Command, Effect, Event, Persistence, Refusal, ResultOutcome, Timer, pending};
use unanimity_types::{
    AbortReason, BranchId, DecideHash, Decision, Limits, Mode, Operation, ResolveAs, Status,
};

use super::dispatched;
use crate::fixture::*;

fn presumed() -> Refusal {
    Refusal::AlreadyDecided { status: Status::Aborted, reason: Some(AbortReason::Presumed) }
}

fn aborted(status: Status, reason: AbortReason) -> Refusal {
    Refusal::AlreadyDecided { status, reason: Some(reason) }
}

/// A decided transaction of so many branches whose operations are on their way.
fn decided(branches: u32, decision: Decision) -> Driven {
    let command = match decision {
        Decision::Commit => COMMIT_ALL,
        Decision::Abort => ABORT,
    };
    Driven::begun(branches).with(command)
}

// --- 1.1, C1: what waits

#[test]
fn c1_every_abort_is_an_event_that_waits_before_its_cancels() {
    let aborts = [
        Driven::begun(2).with(ABORT),
        Driven::begun(2).with(commit(&[1])),
        Driven::begun(2).later(TIMEOUT).with(Command::Timer(Timer::Deadline)),
        Driven::begun(2).later(TIMEOUT).with(COMMIT_ALL),
        Driven::begun(2)
            .with(commit(&[1, 2, 3]))
            .later(Limits::BRANCH_MISSING_WAIT)
            .with(Command::Timer(Timer::CommitWait)),
    ];
    for driven in aborts {
        let (_, last) = driven.events.last().expect("there are some");
        assert!(matches!(last, Event::Decided { decision: Decision::Abort, branches: 2, .. }));
        assert_eq!(last.persistence(), Persistence::Waits);
        assert_eq!(dispatched(&driven.effects), [(1, Operation::Cancel, 1), (2, Operation::Cancel, 1)]);
    }
}

#[test]
fn p1_1_only_what_may_be_lost_is_not_written() {
    let volatile = [
        Event::CommitAsked { votes: keys(&[1]), until: BEGIN },
        Event::Dispatched { branch_id: BranchId(1) },
        Event::Deferred { branch_id: BranchId(1), next_at: BEGIN },
    ];
    for event in volatile {
        assert_eq!(event.persistence(), Persistence::Volatile);
    }
    let begun = |decide_hash| Event::Begun {
        mode: Mode::Tcc,
        name: None,
        digest: digest(1),
        deadline: BEGIN,
        decide_hash,
    };
    let lazy = [
        Event::BranchSettled { branch_id: BranchId(1), attempts: 1 },
        // Only who waits for the end hurries its block: the driver's matter.
        Event::Finished,
        begun(Some(Box::new(DecideHash([7; 32])))),
    ];
    for event in lazy {
        assert_eq!(event.persistence(), Persistence::Lazy, "{event:?}");
    }
    let waits = [
        begun(None),
        Event::Presumed,
        registered(1),
        Event::Decided { decision: Decision::Commit, reason: None, branches: 0, by: None },
        Event::BranchResolved { branch_id: BranchId(1), resolve_as: ResolveAs::Confirmed, by: by() },
        Event::Contradicted { branch_id: BranchId(1), operation: Operation::Confirm },
        Event::RetryRequested { by: by() },
    ];
    for event in waits {
        assert_eq!(event.persistence(), Persistence::Waits, "{event:?}");
    }
}

#[test]
fn c1_nothing_is_dispatched_before_the_decision() {
    let mut driven = Driven::unknown();
    for command in [begin(), register(1), register(2), commit(&[1, 2, 3]), retry_timer(1)] {
        driven.run(command);
        assert_eq!(dispatched(&driven.effects), []);
    }
    driven.run(Command::Retry { by: by() });
    assert_eq!(dispatched(&driven.effects), []);
}

// --- C2

#[test]
fn c2_an_inquiry_for_an_unknown_xid_aborts_it() {
    let mut driven = Driven::unknown();
    let verdict = driven.run(Command::Inquire);
    assert_eq!(verdict.events, [Event::Presumed]);
    assert_eq!(verdict.answer, Ok(Answer::Status));
    assert_eq!(Event::Presumed.persistence(), Persistence::Waits);
    assert_eq!(driven.transaction().status(), Status::Aborted);
    assert_eq!(driven.transaction().abort_reason(), Some(AbortReason::Presumed));
}

#[test]
fn c2_a_commit_or_a_registration_for_an_unknown_xid_aborts_it() {
    for command in [COMMIT_ALL, commit(&[1]), register(1)] {
        let mut driven = Driven::unknown();
        let verdict = driven.run(command);
        assert_eq!(verdict.events, [Event::Presumed]);
        assert_eq!(verdict.answer, Err(presumed()));
    }
}

#[test]
fn c2_what_was_presumed_aborted_stays_so_for_whoever_comes_late() {
    let mut driven = Driven::unknown().with(Command::Inquire);
    for command in [begin(), register(1), COMMIT_ALL, commit(&[])] {
        let verdict = driven.run(command);
        assert_eq!(verdict.events, []);
        assert_eq!(verdict.answer, Err(presumed()));
    }
    assert_eq!(driven.run(ABORT).answer, Ok(Answer::Status));
}

#[test]
fn c2_what_cannot_act_on_the_answer_leaves_no_tombstone() {
    let mut driven = Driven::unknown();
    let commands = [
        Command::Timer(Timer::Deadline),
        result(1, Operation::Confirm, ResultOutcome::Done),
        Command::Wake { branch_id: BranchId(1), at: BEGIN },
        Command::Retry { by: by() },
        resolve(1, ResolveAs::Confirmed),
    ];
    for command in commands {
        let verdict = driven.run(command);
        assert_eq!((verdict.events, verdict.answer), (vec![], Err(Refusal::NotFound)));
    }
}

// --- 1.3, H1

#[test]
fn h1_a_commit_needs_the_vote_of_every_registered_branch() {
    let mut driven = Driven::begun(2);
    let verdict = driven.run(commit(&[1]));
    assert_eq!(verdict.answer, Err(aborted(Status::Aborting, AbortReason::BranchNotVoted)));
    assert_eq!(driven.transaction().abort_reason(), Some(AbortReason::BranchNotVoted));
}

#[test]
fn p1_3_a_commit_that_names_the_registered_ones_is_decided_at_once() {
    let mut driven = Driven::begun(2);
    let verdict = driven.run(commit(&[2, 1]));
    assert_eq!(verdict.answer, Ok(Answer::Status));
    assert_eq!(driven.transaction().status(), Status::Committing);
    assert_eq!(dispatched(&driven.effects), [(1, Operation::Confirm, 1), (2, Operation::Confirm, 1)]);
}

#[test]
fn p1_3_without_a_list_registered_is_voted() {
    assert_eq!(decided(2, Decision::Commit).transaction().status(), Status::Committing);
    assert_eq!(decided(0, Decision::Commit).transaction().status(), Status::Committed);
}

#[test]
fn p1_3_a_late_registration_completes_a_waiting_commit() {
    let mut driven = Driven::begun(1);
    assert_eq!(driven.run(commit(&[1, 2, 3])).answer, Ok(Answer::Undecided));
    let until = driven.now.after(Limits::BRANCH_MISSING_WAIT);
    assert_eq!(driven.effects, [Effect::SetTimer { at: until, timer: Timer::CommitWait }]);
    assert_eq!(driven.run(register(3)).answer, Ok(Answer::Registered(BranchId(2))));
    assert_eq!(driven.transaction().status(), Status::Active);
    let verdict = driven.run(register(2));
    assert_eq!(verdict.answer, Ok(Answer::Registered(BranchId(3))));
    assert_eq!(driven.transaction().status(), Status::Committing);
    assert_eq!(dispatched(&driven.effects).len(), 3, "the list of branches is in the decision");
}

#[test]
fn p1_3_branch_missing() {
    let mut driven = Driven::begun(1).with(commit(&[1, 2]));
    driven.now = driven.now.after(Limits::BRANCH_MISSING_WAIT - Duration::from_millis(1));
    assert_eq!(driven.run(Command::Timer(Timer::CommitWait)).events, [], "not yet");
    driven.now = driven.now.after(Duration::from_millis(1));
    driven.run(Command::Timer(Timer::CommitWait));
    assert_eq!(driven.transaction().abort_reason(), Some(AbortReason::BranchMissing));
    assert_eq!(driven.run(register(2)).answer, Err(aborted(Status::Aborting, AbortReason::BranchMissing)));
    assert_eq!(
        driven.run(commit(&[1, 2])).answer,
        Err(aborted(Status::Aborting, AbortReason::BranchMissing))
    );
}

#[test]
fn p1_3_a_repeated_commit_does_not_wait_longer() {
    let mut driven = Driven::begun(1).with(commit(&[1, 2])).later(Duration::from_millis(900));
    assert_eq!(driven.run(commit(&[1, 2])).answer, Ok(Answer::Undecided));
    let mut driven = driven.later(Duration::from_millis(100));
    driven.run(Command::Timer(Timer::CommitWait));
    assert_eq!(driven.transaction().abort_reason(), Some(AbortReason::BranchMissing));
}

#[test]
fn p1_3_no_other_branch_registers_while_a_commit_waits() {
    let mut driven = Driven::begun(1).with(commit(&[1, 2]));
    assert_eq!(driven.run(register(3)).answer, Err(Refusal::CommitInProgress));
    assert_eq!(driven.run(register(1)).answer, Ok(Answer::Registered(BranchId(1))), "the same branch");
}

#[test]
fn p1_3_a_second_commit_does_not_leave_out_what_the_first_one_named() {
    for second in [COMMIT_ALL, commit(&[1])] {
        let mut driven = Driven::begun(1).with(commit(&[1, 2]));
        assert_eq!(driven.run(second).answer, Ok(Answer::Undecided));
        assert_eq!(driven.transaction().status(), Status::Active, "branch 2 has voted and is not there");
        driven.run(register(2));
        assert_eq!(driven.transaction().status(), Status::Committing);
        assert_eq!(driven.transaction().branches.len(), 2);
    }
}

#[test]
fn p1_3_a_second_commit_may_name_more() {
    let mut driven = Driven::begun(1).with(commit(&[1, 2])).with(commit(&[1, 3]));
    driven.run(register(3));
    assert_eq!(driven.transaction().status(), Status::Active);
    driven.run(register(2));
    assert_eq!(driven.transaction().status(), Status::Committing);
}

#[test]
fn i2_a_crash_forgets_a_commit_that_waits_and_decides_nothing() {
    let driven = Driven::begun(1).with(commit(&[1, 2]));
    let mut after = Driven { state: replay(xid(), &driven.events), ..driven };
    assert_eq!(after.transaction().commit_asked, None);
    let owed = pending(after.state.as_mut().expect("known"), context(after.now));
    assert_eq!(owed, [Effect::SetTimer { at: BEGIN.after(TIMEOUT), timer: Timer::Deadline }]);
    assert_eq!(after.run(commit(&[1, 2])).answer, Ok(Answer::Undecided), "the client repeats its commit");
}

// --- I3, I8, deadlines

#[test]
fn i8_no_branch_registers_after_the_decision() {
    for (decision, status) in [(Decision::Commit, Status::Committing), (Decision::Abort, Status::Aborting)] {
        let mut driven = decided(1, decision);
        for command in [register(1), register(2)] {
            let verdict = driven.run(command);
            assert_eq!(verdict.events, []);
            assert!(
                matches!(verdict.answer, Err(Refusal::AlreadyDecided { status: true_one, .. }) if true_one == status)
            );
        }
    }
}

#[test]
fn i3_a_decision_never_changes() {
    let mut committed = decided(1, Decision::Commit);
    assert_eq!(
        committed.run(ABORT).answer,
        Err(Refusal::AlreadyDecided { status: Status::Committing, reason: None })
    );
    assert_eq!(committed.run(COMMIT_ALL).answer, Ok(Answer::Status), "a repetition");
    let mut after = committed.later(TIMEOUT);
    assert_eq!(after.run(Command::Timer(Timer::Deadline)).events, [], "its deadline is over");
    let mut aborted_one = decided(1, Decision::Abort);
    assert_eq!(aborted_one.run(COMMIT_ALL).answer, Err(aborted(Status::Aborting, AbortReason::Requested)));
    assert_eq!(aborted_one.run(ABORT).answer, Ok(Answer::Status), "a repetition");
}

#[test]
fn m2_at_its_deadline_in_partition_time_it_is_aborted_by_whoever_comes_first() {
    let early = Driven::begun(1).later(TIMEOUT - Duration::from_millis(1));
    assert_eq!(early.clone().run(Command::Timer(Timer::Deadline)).events, []);
    assert_eq!(early.clone().with(COMMIT_ALL).transaction().status(), Status::Committing);
    let late = early.later(Duration::from_millis(1));
    for command in [Command::Timer(Timer::Deadline), COMMIT_ALL, commit(&[1, 2]), register(1), register(2)] {
        let driven = late.clone().with(command);
        assert_eq!(driven.transaction().abort_reason(), Some(AbortReason::Deadline));
        assert_eq!(driven.transaction().status(), Status::Aborting);
    }
}

// --- M1, H8, M4

#[test]
fn m1_a_repeated_begin_is_answered_as_the_first_time() {
    let mut driven = Driven::begun(0);
    let verdict = driven.run(begin());
    assert_eq!((verdict.events, verdict.answer), (vec![], Ok(Answer::Status)));
    driven.run(ABORT);
    assert_eq!(driven.run(begin()).answer, Ok(Answer::Status), "its status by now");
}

#[test]
fn m1_a_begin_with_another_body_is_a_reuse_of_the_xid() {
    let mut driven = Driven::begun(0);
    let verdict = driven.run(begin_as(2));
    assert_eq!((verdict.events, verdict.answer), (vec![], Err(Refusal::XidReused)));
}

#[test]
fn h8_the_same_key_is_the_same_branch() {
    let mut driven = Driven::begun(2);
    let verdict = driven.run(register(1));
    assert_eq!((verdict.events, verdict.answer), (vec![], Ok(Answer::Registered(BranchId(1)))));
    assert_eq!(driven.transaction().branches.len(), 2);
}

#[test]
fn h8_a_repetition_with_another_body_is_refused() {
    let mut driven = Driven::begun(1);
    let verdict = driven.run(register_as(1, 2));
    assert_eq!((verdict.events, verdict.answer), (vec![], Err(Refusal::BranchKeyReused)));
}

#[test]
fn m4_a_presumed_abort_is_an_outcome_that_settles() {
    let driven = Driven::unknown().with(ABORT);
    assert_eq!(driven.transaction().status(), Status::Aborted);
    assert_eq!(driven.effects, [Effect::Decided(Decision::Abort), Effect::Finished]);
}

#[test]
fn the_number_of_branches_is_bounded() {
    let max = u32::try_from(Limits::BRANCHES_MAX).expect("small");
    let mut state = Driven::begun(0);
    for n in 1..=max {
        let mut effects = Vec::new();
        unanimity_core::apply(&mut state.state, xid(), registered(n), BEGIN, &mut effects).expect("legal");
    }
    let refusal = Err(Refusal::TooManyBranches { max: Limits::BRANCHES_MAX });
    assert_eq!(state.run(register(max + 1)).answer, refusal);
    assert_eq!(state.run(register(max)).answer, Ok(Answer::Registered(BranchId(max))));
    let too_many: Vec<u32> = (1..=max + 1).collect();
    assert_eq!(state.run(commit(&too_many)).answer, refusal);
    assert_eq!(state.transaction().status(), Status::Active);
}
