//! The tables of the other modes: `saga.txt`, `two_phase.txt` and `message.txt`, and what each event does
//! in each of their states, `modes_events.txt`. Every state has a branch that its columns are about.

use std::time::Duration;

use bytes::Bytes;
use unanimity_core::{Command, ResultOutcome, Timer, apply, decide, pending};
use unanimity_types::{AbortReason, BranchId, Limits, Mode, Operation, Plan, ResolveAs, StepRole, Vote};

use super::states::events_about;
use super::{Table, compare, print};
use crate::fixture::*;

/// A state, and the branch that its columns are about.
type State = (&'static str, u32, Driven);

fn run(command: Command) -> Driven {
    Driven::unknown().with(command)
}

fn done(n: u32, operation: Operation) -> Command {
    result(n, operation, ResultOutcome::Done)
}

/// Goes on to when the branch's next attempt is due.
fn due(n: u32, driven: Driven) -> Driven {
    let at = driven.due(n).expect("waits");
    Driven { now: at, ..driven }.with(retry_timer(n))
}

/// As another owner finds it.
fn taken_over(driven: Driven) -> Driven {
    let mut state = replay(xid(), &driven.events);
    let _ = pending(state.as_mut().expect("known"), context(driven.now));
    Driven { state, ..driven }
}

/// One step after the other: k1, k2 without a compensation, the pivot k3, the forward-only k4.
fn trip() -> Driven {
    run(saga(vec![
        step(1, &[]),
        step_as(2, &[1], StepRole::Compensatable),
        step_as(3, &[2], StepRole::Pivot),
        step_as(4, &[3], StepRole::ForwardOnly),
    ]))
}

fn sagas() -> Vec<State> {
    let action = Operation::Action;
    let compensate = Operation::Compensate;
    let to_pivot = || trip().with(done(1, action)).with(done(2, action));
    let past = || to_pivot().with(done(3, action));
    let unknown_1 = |n, driven: Driven| driven.with(result(n, action, unknown()));
    let refused_late = |n, driven: Driven| due(n, unknown_1(n, driven)).with(result(n, action, refused()));
    let parallel = || run(saga(vec![step(1, &[]), step(2, &[]), step(3, &[1, 2])]));
    let turned = || trip().with(done(1, action)).with(ABORT);
    let back = || trip().with(done(1, action)).with(result(2, action, refused()));
    vec![
        ("k1 runs", 1, trip()),
        ("k1 runs, k2 waits for it", 2, trip()),
        ("k1 runs, past the deadline", 1, trip().later(TIMEOUT)),
        ("k1 backs off", 1, unknown_1(1, trip())),
        ("k1 runs again", 1, due(1, unknown_1(1, trip()))),
        ("k1 runs after a takeover", 1, taken_over(trip())),
        ("k1 is done, k2 runs", 1, trip().with(done(1, action))),
        ("k2 runs, without a compensation", 2, trip().with(done(1, action))),
        ("the pivot runs", 3, to_pivot()),
        ("the pivot runs, past the deadline", 3, to_pivot().later(TIMEOUT)),
        ("the pivot backs off", 3, unknown_1(3, to_pivot())),
        ("the pivot is parked", 3, refused_late(3, to_pivot())),
        ("the forward-only k4 runs", 4, past()),
        ("k4 is parked", 4, past().with(result(4, action, refused()))),
        ("k4 is overdue", 4, past().later(TIMEOUT).with(Command::Timer(Timer::Deadline))),
        ("the pivot was confirmed by hand, k4 runs", 3, to_pivot().with(resolve(3, ResolveAs::Confirmed))),
        ("committed", 1, past().with(done(4, action))),
        ("k1 and k2 run in parallel", 1, parallel()),
        ("turned by k2 while k1 runs", 1, parallel().with(result(2, action, refused()))),
        ("turned by an abort while k1 runs again", 1, due(1, unknown_1(1, trip())).with(ABORT)),
        ("k1 is compensated after k2 refused", 1, back()),
        ("its compensation backs off", 1, back().with(result(1, compensate, unknown()))),
        ("its compensation is parked", 1, back().with(result(1, compensate, refused()))),
        ("its compensation is held after a takeover", 1, taken_over(trip().with(ABORT))),
        (
            "k1 waits for the compensation of k3",
            1,
            parallel().with(done(1, action)).with(done(2, action)).with(ABORT).with(result(
                3,
                action,
                unknown(),
            )),
        ),
        ("k1 was compensated by hand", 1, back().with(resolve(1, ResolveAs::Cancelled))),
        ("aborted, k1 refused", 1, trip().with(result(1, action, refused()))),
        ("aborted, k1 compensated", 1, back().with(done(1, compensate))),
        ("turned while k2 runs, which has nothing to undo", 2, turned()),
        ("k2 ran and has nothing to undo", 2, turned().with(result(2, action, unknown()))),
        ("k2 is kept, k1 is compensated", 2, due(2, turned().with(result(2, action, unknown())))),
    ]
}

/// A transaction with late and early two-phase branches; in mode tcc, with a TCC branch and a message.
fn two_phase_transactions() -> Vec<State> {
    let prepare = Operation::Prepare;
    let begun = |mode| run(begin_with(mode, Plan::Open));
    let late = |n| register_two_phase(n, two_phase(false, false));
    let early = |n| register_two_phase(n, two_phase(true, false));
    let two = || begun(Mode::TwoPhase).with(late(1)).with(late(2));
    let asked = || two().with(COMMIT_ALL);
    let one = || begun(Mode::TwoPhase).with(register_two_phase(1, two_phase(false, true)));
    let delegated = || one().with(COMMIT_ALL);
    let commit_one = Operation::CommitOnePhase;
    let mail = register_kind(2, unanimity_types::BranchKind::Message, two_phase(false, false), 1);
    let mixed = || begun(Mode::Tcc).with(late(1)).with(mail.clone()).with(register(4));
    let voted = |n, vote| result(n, prepare, ResultOutcome::Voted(vote));
    vec![
        ("k1 and k2 are registered", 1, two()),
        ("k1 and k2, past the deadline", 1, two().later(TIMEOUT)),
        ("k1 is early", 1, begun(Mode::TwoPhase).with(early(1))),
        (
            "k1 is early and voted by itself",
            1,
            begun(Mode::TwoPhase).with(early(1)).with(vote(1, Vote::Prepared)),
        ),
        ("k1 and k2 are asked to prepare", 1, asked()),
        ("they are asked, and their time is over", 1, asked().later(Limits::PREPARE_WAIT)),
        ("k1 backs off with its prepare", 1, asked().with(result(1, prepare, unknown()))),
        ("k1 is prepared, k2 is asked", 1, asked().with(voted(1, Vote::Prepared))),
        ("k1 is the last that is asked", 1, asked().with(voted(2, Vote::Prepared))),
        ("k1 is the last, k2 is read-only", 1, asked().with(voted(2, Vote::ReadOnly))),
        ("k1 voted by itself while it was asked", 1, asked().with(vote(1, Vote::Prepared))),
        ("committing", 1, asked().with(voted(1, Vote::Prepared)).with(voted(2, Vote::Prepared))),
        (
            "committing, k1 is read-only",
            1,
            asked().with(voted(1, Vote::ReadOnly)).with(voted(2, Vote::Prepared)),
        ),
        (
            "committed, both read-only",
            1,
            asked().with(voted(1, Vote::ReadOnly)).with(voted(2, Vote::ReadOnly)),
        ),
        ("rolling back, k1 refused", 1, asked().with(voted(1, Vote::Refused))),
        ("rolling back, the prepare of k1 runs", 1, asked().with(ABORT)),
        ("k1 may commit in one phase", 1, one()),
        ("delegated to k1", 1, delegated()),
        ("delegated to k1, past the deadline", 1, delegated().later(TIMEOUT)),
        ("delegated to k1, which backs off", 1, delegated().with(result(1, commit_one, unknown()))),
        ("committed by k1", 1, delegated().with(done(1, commit_one))),
        ("aborted by k1", 1, delegated().with(result(1, commit_one, refused()))),
        ("mixed: k1 late, k2 a message, k4 TCC", 1, mixed()),
        ("mixed, about the message", 2, mixed()),
        ("mixed, k1 is asked", 1, mixed().with(COMMIT_ALL)),
        ("mixed, committing", 2, mixed().with(COMMIT_ALL).with(voted(1, Vote::Prepared))),
        ("mixed, aborting", 2, mixed().with(ABORT)),
    ]
}

fn messages() -> Vec<State> {
    let deliver = Operation::Deliver;
    let check = Operation::CheckBack;
    let prepared = || run(message(2, true, false));
    let checking = || prepared().later(TIMEOUT).with(Command::Timer(Timer::Deadline));
    let submitted = || prepared().with(COMMIT_ALL);
    vec![
        ("prepared, about the sender", 1, prepared()),
        ("prepared, about a delivery", 2, prepared()),
        ("prepared, past the deadline", 1, prepared().later(TIMEOUT)),
        ("the sender is asked", 1, checking()),
        ("the sender cannot say yet", 1, checking().with(result(1, check, not_yet()))),
        ("the sender said yes", 1, checking().with(done(1, check))),
        ("the sender said no", 2, checking().with(result(1, check, refused()))),
        ("submitted", 2, submitted()),
        ("submitted at once", 1, run(message(1, false, true))),
        ("its delivery backs off", 2, submitted().with(result(2, deliver, unknown()))),
        ("its delivery is parked", 2, submitted().with(result(2, deliver, refused()))),
        ("its delivery is the last", 2, submitted().with(done(3, deliver))),
        ("its delivery was given up by hand", 2, submitted().with(resolve(2, ResolveAs::Cancelled))),
        ("delivered", 2, submitted().with(done(2, deliver)).with(done(3, deliver))),
        ("discarded", 2, prepared().with(ABORT)),
    ]
}

/// What random histories begin with.
pub(crate) fn starts() -> Vec<Driven> {
    [sagas(), two_phase_transactions(), messages()]
        .concat()
        .into_iter()
        .map(|(_, _, driven)| driven)
        .collect()
}

/// Every kind of command about a branch, in the variants that make a difference.
pub(crate) fn columns(driven: &Driven, n: u32, operations: &[Operation]) -> Vec<(String, Command)> {
    let id = BranchId(n);
    let by_operator = Command::Abort { reason: AbortReason::Operator, by: Some(by()) };
    let mut again = register(n);
    if let Command::Register(registration) = &mut again {
        registration.kind = None;
    }
    let mut columns = vec![
        ("begin", begin()),
        ("begin otherwise", begin_as(2)),
        ("register again", again),
        ("register k9 (TCC)", register(9)),
        ("register k9 (late two-phase)", register_two_phase(9, two_phase(false, true))),
        (
            "register k9 (message)",
            register_kind(9, unanimity_types::BranchKind::Message, two_phase(false, false), 1),
        ),
        (
            "register k9 (step)",
            register_kind(9, unanimity_types::BranchKind::Step, two_phase(false, false), 1),
        ),
        ("vote prepared", vote(n, Vote::Prepared)),
        ("vote read_only", vote(n, Vote::ReadOnly)),
        ("vote refused", vote(n, Vote::Refused)),
        ("vote of k99", vote(99, Vote::Prepared)),
        ("commit", COMMIT_ALL),
        ("commit k1", commit(&[1])),
        ("commit k1 k2", commit(&[1, 2])),
        ("commit k1 k9", commit(&[1, 9])),
        ("abort", ABORT),
        ("abort by operator", by_operator),
        ("inquire", Command::Inquire),
        ("deadline", Command::Timer(Timer::Deadline)),
        ("commit wait over", Command::Timer(Timer::CommitWait)),
        ("prepares over", Command::Timer(Timer::Prepare)),
        ("back-off over", retry_timer(n)),
        ("wake now", Command::Wake { branch_id: id, at: driven.now }),
        (
            "wake in an hour",
            Command::Wake { branch_id: id, at: driven.now.after(Duration::from_secs(3_600)) },
        ),
        ("retry", Command::Retry { by: by() }),
        ("resolve confirmed", resolve(n, ResolveAs::Confirmed)),
        ("resolve cancelled", resolve(n, ResolveAs::Cancelled)),
    ]
    .into_iter()
    .map(|(name, command)| (name.to_owned(), command))
    .collect::<Vec<_>>();
    let too_large = Bytes::from(vec![b'x'; Limits::RESULT_BYTES_MAX + 1]);
    let outcomes = [
        ("done", ResultOutcome::Done),
        ("done with a result", ResultOutcome::Result(Bytes::from_static(b"seat 7"))),
        ("done with too large a result", ResultOutcome::Result(too_large)),
        ("prepared", ResultOutcome::Voted(Vote::Prepared)),
        ("read_only", ResultOutcome::Voted(Vote::ReadOnly)),
        ("voted to refuse", ResultOutcome::Voted(Vote::Refused)),
        ("refused", refused()),
        ("unknown", unknown()),
        ("not yet", not_yet()),
        ("unusable", unusable()),
        ("not sent", not_sent()),
    ];
    for operation in operations {
        for (name, outcome) in &outcomes {
            columns.push((format!("{operation} {name}"), result(n, *operation, outcome.clone())));
        }
        let again = Command::Result { branch_id: id, operation: *operation, attempt: 2, outcome: refused() };
        columns.push((format!("{operation} refused at attempt 2"), again));
    }
    columns
}

fn check_commands(states: Vec<State>, operations: &[Operation], text: &str) {
    let mut order = Vec::new();
    let mut actual = Table::new();
    for (state_name, n, driven) in states {
        for (name, command) in columns(&driven, n, operations) {
            let verdict = decide(driven.state.as_ref(), command, context(driven.now));
            let mut state = driven.state.clone();
            let mut effects = Vec::new();
            for event in &verdict.events {
                apply(&mut state, xid(), event.clone(), driven.now, &mut effects)
                    .expect("what was decided can be applied");
            }
            let cell = (state_name.to_owned(), name);
            let outcome = print::verdict(&verdict, state.as_ref());
            actual.insert(cell.clone(), format!("{outcome}{}", print::dispatches(&effects)));
            order.push(cell);
        }
    }
    compare(&order, &actual, text);
}

#[test]
fn every_command_in_every_state_of_a_saga() {
    check_commands(sagas(), &[Operation::Action, Operation::Compensate], include_str!("saga.txt"));
}

#[test]
fn every_command_in_every_state_of_a_two_phase_transaction() {
    let operations = [
        Operation::Prepare,
        Operation::Commit,
        Operation::Rollback,
        Operation::CommitOnePhase,
        Operation::Deliver,
    ];
    check_commands(two_phase_transactions(), &operations, include_str!("two_phase.txt"));
}

#[test]
fn every_command_in_every_state_of_a_message() {
    check_commands(messages(), &[Operation::CheckBack, Operation::Deliver], include_str!("message.txt"));
}

#[test]
fn every_event_in_every_state_of_the_other_modes() {
    let mut order = Vec::new();
    let mut actual = Table::new();
    for (mode, states) in
        [("saga", sagas()), ("two-phase", two_phase_transactions()), ("message", messages())]
    {
        for (state_name, n, driven) in states {
            for (name, event) in events_about(&driven, n) {
                let mut state = driven.state.clone();
                let mut effects = Vec::new();
                let outcome = match apply(&mut state, xid(), event, driven.now, &mut effects) {
                    Ok(()) => print::applied(state.as_ref(), &effects),
                    Err(illegal) => {
                        assert_eq!(state, driven.state, "{state_name} / {name}: illegal, so as before");
                        assert_eq!(effects, [], "{state_name} / {name}: illegal, so nothing follows");
                        format!("illegal: {}", illegal.what)
                    }
                };
                let cell = (format!("{mode}: {state_name}"), name.to_owned());
                actual.insert(cell.clone(), outcome);
                order.push(cell);
            }
        }
    }
    compare(&order, &actual, include_str!("modes_events.txt"));
}
