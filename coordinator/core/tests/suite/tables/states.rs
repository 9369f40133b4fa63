//! The rows and columns of the tables.

use std::time::Duration;

use bytes::Bytes;
use unanimity_core::{AttentionCode, Command, Event, ResultOutcome, Timer};
use unanimity_types::{AbortReason, BranchId, Decision, Limits, Operation, ResolveAs, Timestamp, Vote};

use crate::fixture::*;

const DONE: ResultOutcome = ResultOutcome::Done;

/// Representative states. Branches are called k1, k2, …; k1 is what most columns are about.
pub(super) fn states() -> Vec<(&'static str, Driven)> {
    let failed = |operation, driven: Driven| driven.with(result(1, operation, unknown()));
    let confirm = Operation::Confirm;
    let cancel = Operation::Cancel;
    let committing = || Driven::begun(2).with(COMMIT_ALL);
    let aborting = || Driven::begun(2).with(ABORT);
    let due = |driven: Driven| {
        let at = driven.due(1).expect("waits");
        Driven { now: at, ..driven }
    };
    vec![
        ("unknown", Driven::unknown()),
        ("presumed aborted", Driven::unknown().with(Command::Inquire)),
        ("active, no branches", Driven::begun(0)),
        ("active, k1 and k2", Driven::begun(2)),
        ("active, past its deadline", Driven::begun(2).later(TIMEOUT)),
        ("active without branches, past its deadline", Driven::begun(0).later(TIMEOUT)),
        ("commit waits for k3", Driven::begun(2).with(commit(&[1, 2, 3]))),
        ("commit waits for k3 and k4", Driven::begun(2).with(commit(&[1, 2, 3, 4]))),
        (
            "commit waited long enough for k3",
            Driven::begun(2).with(commit(&[1, 2, 3])).later(Limits::BRANCH_MISSING_WAIT),
        ),
        ("commit waits for k3, past the deadline", Driven::begun(2).with(commit(&[1, 2, 3])).later(TIMEOUT)),
        ("committing, both on their way", committing()),
        ("committing, past its deadline", committing().later(TIMEOUT)),
        ("committing, k1 backs off", failed(confirm, committing())),
        ("committing, k1 is due", due(failed(confirm, committing()))),
        ("committing, k1 is deferred and was never tried", committing().with(result(1, confirm, not_sent()))),
        ("committing, k1 is the last", committing().with(result(2, confirm, DONE))),
        ("committing, k1 is settled", committing().with(result(1, confirm, DONE))),
        (
            "committing, k1 refused",
            committing().with(result(1, confirm, refused())).with(Command::Retry { by: by() }),
        ),
        ("committing, k1 confirmed by hand", committing().with(resolve(1, ResolveAs::Confirmed))),
        ("committing, k1 cancelled by hand", committing().with(resolve(1, ResolveAs::Cancelled))),
        (
            "committing, k1 cancelled by hand and contradicted",
            committing().with(resolve(1, ResolveAs::Cancelled)).with(result(1, confirm, DONE)),
        ),
        ("committed", committing().with(result(1, confirm, DONE)).with(result(2, confirm, DONE))),
        ("committed, no branches", Driven::begun(0).with(COMMIT_ALL)),
        (
            "committed, k1 was the last and cancelled by hand",
            committing().with(result(2, confirm, DONE)).with(resolve(1, ResolveAs::Cancelled)),
        ),
        ("aborting, both on their way", aborting()),
        ("aborting, k1 backs off", failed(cancel, aborting())),
        ("aborting, k1 is due", due(failed(cancel, aborting()))),
        ("aborting, k1 is the last", aborting().with(result(2, cancel, DONE))),
        ("aborting, k1 is settled", aborting().with(result(1, cancel, DONE))),
        ("aborting, k1 confirmed by hand", aborting().with(resolve(1, ResolveAs::Confirmed))),
        ("aborting, k1 cancelled by hand", aborting().with(resolve(1, ResolveAs::Cancelled))),
        ("aborted", aborting().with(result(1, cancel, DONE)).with(result(2, cancel, DONE))),
        ("aborted, no branches", Driven::begun(0).with(ABORT)),
        (
            "aborted, k1 was the last and confirmed by hand",
            aborting().with(result(2, cancel, DONE)).with(resolve(1, ResolveAs::Confirmed)),
        ),
    ]
}

/// Every kind of command, in the variants that make a difference.
pub(crate) fn commands(driven: &Driven) -> Vec<(&'static str, Command)> {
    let wake = |n, at| Command::Wake { branch_id: BranchId(n), at };
    let by_operator = Command::Abort { reason: AbortReason::Operator, by: Some(by()) };
    let mut commands = vec![
        ("begin", begin()),
        ("begin otherwise", begin_as(2)),
        ("register k1", register(1)),
        ("register k1 otherwise", register_as(1, 2)),
        ("register k3", register(3)),
        ("register k9", register(9)),
        ("commit", COMMIT_ALL),
        ("commit none", commit(&[])),
        ("commit k1", commit(&[1])),
        ("commit k1 k2", commit(&[1, 2])),
        ("commit k1 k2 k3", commit(&[1, 2, 3])),
        ("commit k1 k2 k9", commit(&[1, 2, 9])),
        ("vote k1 prepared", vote(1, Vote::Prepared)),
        ("vote k9 refused", vote(9, Vote::Refused)),
        ("abort", ABORT),
        ("abort by operator", by_operator),
        ("inquire", Command::Inquire),
        ("deadline", Command::Timer(Timer::Deadline)),
        ("commit wait over", Command::Timer(Timer::CommitWait)),
        ("prepares over", Command::Timer(Timer::Prepare)),
        ("back-off of 1 over", retry_timer(1)),
        ("back-off of 99 over", retry_timer(99)),
        ("wake 1 now", wake(1, driven.now)),
        ("wake 1 in an hour", wake(1, driven.now.after(Duration::from_secs(3_600)))),
        ("wake 99", wake(99, driven.now)),
        ("retry", Command::Retry { by: by() }),
        ("resolve 1 confirmed", resolve(1, ResolveAs::Confirmed)),
        ("resolve 1 cancelled", resolve(1, ResolveAs::Cancelled)),
        ("resolve 99", resolve(99, ResolveAs::Confirmed)),
        ("99 confirmed", result(99, Operation::Confirm, DONE)),
    ];
    let results = [
        (
            "1 tried",
            "try of 1 unknown",
            "try of 1 refused",
            "try of 1 not yet",
            "try of 1 unusable",
            "try of 1 not sent",
        ),
        (
            "1 confirmed",
            "confirm of 1 unknown",
            "confirm of 1 refused",
            "confirm of 1 not yet",
            "confirm of 1 unusable",
            "confirm of 1 not sent",
        ),
        (
            "1 cancelled",
            "cancel of 1 unknown",
            "cancel of 1 refused",
            "cancel of 1 not yet",
            "cancel of 1 unusable",
            "cancel of 1 not sent",
        ),
    ];
    let operations = [Operation::Try, Operation::Confirm, Operation::Cancel];
    for (operation, names) in operations.into_iter().zip(results) {
        commands.push((names.0, result(1, operation, DONE)));
        commands.push((names.1, result(1, operation, unknown())));
        commands.push((names.2, result(1, operation, refused())));
        commands.push((names.3, result(1, operation, not_yet())));
        commands.push((names.4, result(1, operation, unusable())));
        commands.push((names.5, result(1, operation, not_sent())));
    }
    commands
}

/// Every kind of event, in the variants that make a difference.
pub(super) fn events(driven: &Driven) -> Vec<(&'static str, Event)> {
    events_about(driven, 1)
}

/// The same about another branch than k1; the columns' names stay.
pub(super) fn events_about(driven: &Driven, n: u32) -> Vec<(&'static str, Event)> {
    let count = driven.state.as_ref().map_or(0, |transaction| transaction.branches.len());
    let count = u32::try_from(count).expect("small");
    let one = BranchId(n);
    let decided = |decision, reason, branches| Event::Decided { decision, reason, branches, by: None };
    let failed =
        |attempts| Event::AttemptFailed { branch_id: one, attempts, error: "no".into(), next_at: driven.now };
    let resolved = |resolve_as| Event::BranchResolved { branch_id: one, resolve_as, by: by() };
    let snapshot = |driven: Driven| Event::Snapshot(Box::new(driven.transaction().durable()));
    let of_another = {
        let mut other = Driven::begun(1).transaction().durable();
        other.xid = xid_of(2);
        Event::Snapshot(Box::new(other))
    };
    let own = if driven.state.is_some() { driven.clone() } else { Driven::begun(2) };
    let attention = Event::AttentionRaised {
        code: AttentionCode::ParticipantFailing,
        branch_id: Some(one),
        message: "down".into(),
    };
    vec![
        (
            "Begun",
            Event::Begun {
                mode: unanimity_types::Mode::Tcc,
                name: None,
                digest: digest(1),
                deadline: Timestamp(2_000_000),
                decide_hash: None,
            },
        ),
        ("Presumed", Event::Presumed),
        ("Registered as next", registered(count + 1)),
        ("Registered with a gap", registered(99)),
        ("CommitAsked", Event::CommitAsked { votes: keys(&[1, 2, 3]), until: driven.now }),
        ("Decided commit", decided(Decision::Commit, None, count)),
        ("Decided abort", decided(Decision::Abort, Some(AbortReason::Requested), count)),
        ("Decided over too many", decided(Decision::Commit, None, count + 1)),
        ("Dispatched 1", Event::Dispatched { branch_id: one }),
        ("Dispatched 99", Event::Dispatched { branch_id: BranchId(99) }),
        ("AttemptFailed 1", failed(2)),
        ("Deferred 1", Event::Deferred { branch_id: one, next_at: driven.now }),
        ("BranchSettled 1", Event::BranchSettled { branch_id: one, attempts: 1 }),
        ("BranchSettled 0", Event::BranchSettled { branch_id: BranchId(0), attempts: 1 }),
        ("BranchResolved 1 confirmed", resolved(ResolveAs::Confirmed)),
        ("BranchResolved 1 cancelled", resolved(ResolveAs::Cancelled)),
        ("Contradicted 1", Event::Contradicted { branch_id: one, operation: Operation::Confirm }),
        ("AttentionRaised", attention),
        ("RetryRequested", Event::RetryRequested { by: by() }),
        ("PlanAccepted", Event::PlanAccepted { branches: count }),
        ("Voted 1 prepared", Event::Voted { branch_id: one, vote: Vote::Prepared }),
        ("PreparesAsked", Event::PreparesAsked { until: driven.now }),
        ("Delegated 1", Event::Delegated { branch_id: one }),
        ("CheckBackAsked 1", Event::CheckBackAsked { branch_id: one }),
        ("ActionDone 1", Event::ActionDone { branch_id: one, attempts: 1, result: Bytes::new() }),
        ("ActionRefused 1", Event::ActionRefused { branch_id: one, attempts: 1, error: "no".into() }),
        ("Returned 1", Event::Returned { branch_id: one }),
        ("Returned 99", Event::Returned { branch_id: BranchId(99) }),
        ("Parked 1", Event::Parked { branch_id: one, attempts: 3, error: "no".into() }),
        ("Finished", Event::Finished),
        ("Snapshot of itself", snapshot(own)),
        ("Snapshot of when it was active", snapshot(Driven::begun(2))),
        ("Snapshot of another", of_another),
    ]
}
