//! Commands are judged here: every pair of state and command has its answer.

mod operator;
mod outcome;
mod phase_one;

use unanimity_types::{AbortReason, BranchStatus, Decision};

use crate::answer::{Answer, Refusal, Verdict};
use crate::command::{BeginSpec, Command, Context, OperatorAction, Timer};
use crate::event::Event;
use crate::transaction::Transaction;

/// Judges a command against a transaction (`None`: nobody knows the xid). Changes nothing.
#[must_use]
pub fn decide(state: Option<&Transaction>, command: Command, context: Context) -> Verdict {
    let Some(transaction) = state else {
        return unknown(command, context);
    };
    match command {
        Command::Begin(spec) => begin_again(transaction, &spec),
        Command::Register(registration) => phase_one::register(transaction, registration, context),
        Command::Commit { votes } => phase_one::commit(transaction, votes, context),
        Command::Abort { reason, by } => phase_one::abort(transaction, reason, by),
        Command::Inquire => Verdict::nothing(Answer::Status),
        Command::Timer(Timer::Deadline) => phase_one::deadline(transaction, context),
        Command::Timer(Timer::CommitWait) => phase_one::commit_wait(transaction, context),
        Command::Timer(Timer::Retry(branch_id)) => outcome::retry_due(transaction, branch_id, context),
        Command::Result { branch_id, operation, attempt, outcome } => {
            outcome::result(transaction, branch_id, operation, attempt, outcome, context)
        }
        Command::Wake { branch_id, at } => outcome::wake(transaction, branch_id, at),
        Command::Retry { by } => operator::retry(transaction, by),
        Command::Resolve { branch_id, resolve_as, by } => {
            operator::resolve(transaction, branch_id, resolve_as, by)
        }
    }
}

/// Nobody knows the xid. To say so to somebody who could act on it is itself a decision, and
/// durable before it is said (protocol C2).
fn unknown(command: Command, context: Context) -> Verdict {
    let presumed_aborted = || Refusal::decided(Decision::Abort, true, Some(AbortReason::Presumed));
    match command {
        Command::Begin(spec) => {
            let deadline = context.now.after(spec.timeout);
            Verdict::events(vec![Event::Begun {
                mode: spec.mode,
                name: spec.name,
                digest: spec.digest,
                deadline,
            }])
        }
        Command::Register(_) | Command::Commit { .. } => {
            Verdict { events: vec![Event::Presumed], answer: Err(presumed_aborted()) }
        }
        Command::Abort { .. } | Command::Inquire => Verdict::events(vec![Event::Presumed]),
        Command::Timer(_)
        | Command::Result { .. }
        | Command::Wake { .. }
        | Command::Retry { .. }
        | Command::Resolve { .. } => Verdict::refused(Refusal::NotFound),
    }
}

/// A begin for an xid that is known: a repetition is answered as the first time (protocol M1).
fn begin_again(transaction: &Transaction, spec: &BeginSpec) -> Verdict {
    if transaction.mode.is_none() {
        // Somebody asked about it before it began; that settled it.
        return Verdict::refused(already(transaction));
    }
    if transaction.digest != spec.digest {
        return Verdict::refused(Refusal::XidReused);
    }
    Verdict::nothing(Answer::Status)
}

/// The refusal that tells the true status of a decided transaction.
fn already(transaction: &Transaction) -> Refusal {
    Refusal::AlreadyDecided { status: transaction.status(), reason: transaction.abort_reason() }
}

/// The events of a decision: with no branch to tell, it is the end at once.
fn decision_events(
    transaction: &Transaction,
    decision: Decision,
    reason: Option<AbortReason>,
    by: Option<OperatorAction>,
) -> Vec<Event> {
    let branches = u32::try_from(transaction.branches.len()).unwrap_or(u32::MAX);
    let mut events = vec![Event::Decided { decision, reason, branches, by }];
    if transaction.branches.is_empty() {
        events.push(Event::Finished);
    }
    events
}

/// An abort that answers a command which wanted something else.
fn abort_instead(transaction: &Transaction, reason: AbortReason) -> Verdict {
    let finished = transaction.branches.is_empty();
    Verdict {
        events: decision_events(transaction, Decision::Abort, Some(reason), None),
        answer: Err(Refusal::decided(Decision::Abort, finished, Some(reason))),
    }
}

/// Whether the branch is the last one that is not settled.
fn is_last(transaction: &Transaction, status: BranchStatus) -> bool {
    !status.is_settled() && transaction.unsettled() == 1
}
