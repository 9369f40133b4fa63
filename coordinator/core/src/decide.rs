//! Commands are judged here: every pair of state and command has its answer.

mod operator;
mod outcome;
mod phase_one;

use unanimity_types::{AbortReason, BranchId, BranchKind, BranchStatus, Decision, Mode, Plan};

use crate::answer::{Answer, Refusal, Verdict};
use crate::apply::parked_message;
use crate::command::{BeginSpec, Command, Context, OperatorAction, Timer};
use crate::event::Event;
use crate::transaction::{AttentionCode, Branch, Transaction};
use crate::{owed, plan, saga, two_phase};

/// Judges a command against a transaction (`None`: nobody knows the xid). Changes nothing.
#[must_use]
pub fn decide(state: Option<&Transaction>, command: Command, context: Context) -> Verdict {
    let Some(transaction) = state else {
        return unknown(command, context);
    };
    match command {
        Command::Begin(spec) => begin_again(transaction, &spec),
        Command::Register(registration) => phase_one::register(transaction, registration, context),
        Command::Vote { key, vote } => two_phase::vote(transaction, &key, vote, context),
        Command::Commit { votes } => phase_one::commit(transaction, votes, context),
        Command::Abort { reason, by } => phase_one::abort(transaction, reason, by),
        Command::Inquire => Verdict::nothing(Answer::Status),
        Command::Timer(Timer::Deadline) => phase_one::deadline(transaction, context),
        Command::Timer(Timer::CommitWait) => phase_one::commit_wait(transaction, context),
        Command::Timer(Timer::Prepare) => phase_one::prepare_overdue(transaction, context),
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
        Command::Begin(spec) => begin(spec, context),
        Command::Register(_) | Command::Vote { .. } | Command::Commit { .. } => {
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

/// A begin for a new xid: with all that its plan brings, or not at all.
fn begin(spec: BeginSpec, context: Context) -> Verdict {
    let BeginSpec { mode, name, digest, timeout, plan, decide_hash } = spec;
    let submit = matches!(&plan, Plan::Message(message) if message.submit);
    let branches = match (mode, plan) {
        (Mode::Tcc | Mode::TwoPhase, Plan::Open) => Ok(Vec::new()),
        (Mode::Saga, Plan::Saga(saga)) => plan::saga(saga),
        (Mode::Message, Plan::Message(message)) => plan::message(message),
        (Mode::Saga, _) => Err("a saga begins with its steps".into()),
        (Mode::Message, _) => Err("a message begins with its deliveries".into()),
        (Mode::Tcc | Mode::TwoPhase, _) => {
            Err("steps belong to mode saga and deliveries to mode message; here branches register".into())
        }
    };
    let planned = match branches {
        Ok(events) => events,
        Err(why) => return Verdict::refused(Refusal::InvalidPlan { why }),
    };
    // All but the last event of a plan are its branches.
    let branches = u32::try_from(planned.len().saturating_sub(1)).unwrap_or(u32::MAX);
    let deadline = context.now.after(timeout);
    let mut events =
        vec![Event::Begun { mode, name, digest, deadline, decide_hash: decide_hash.map(Box::new) }];
    events.extend(planned);
    if submit {
        events.push(Event::Decided { decision: Decision::Commit, reason: None, branches, by: None });
    }
    Verdict::events(events)
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
pub(crate) fn already(transaction: &Transaction) -> Refusal {
    Refusal::AlreadyDecided { status: transaction.status(), reason: transaction.abort_reason() }
}

/// The events of a decision: with no branch to tell, it is the end at once.
pub(crate) fn decision_events(
    transaction: &Transaction,
    decision: Decision,
    reason: Option<AbortReason>,
    by: Option<OperatorAction>,
) -> Vec<Event> {
    decision_events_after(transaction, None, decision, reason, by)
}

/// The same after an event of this verdict that gives a branch another status.
pub(crate) fn decision_events_after(
    transaction: &Transaction,
    changed: Option<(BranchId, BranchStatus)>,
    decision: Decision,
    reason: Option<AbortReason>,
    by: Option<OperatorAction>,
) -> Vec<Event> {
    let branches = u32::try_from(transaction.branches.len()).unwrap_or(u32::MAX);
    let mut events = vec![Event::Decided { decision, reason, branches, by }];
    if is_end(transaction, changed, decision) {
        events.push(Event::Finished);
    }
    events
}

/// Whether the decision leaves nothing to do.
fn is_end(transaction: &Transaction, changed: Option<(BranchId, BranchStatus)>, decision: Decision) -> bool {
    transaction.branches.iter().all(|branch| {
        let status = match changed {
            Some((id, status)) if id == branch.id => status,
            _ => branch.status,
        };
        match (branch.kind, decision) {
            // All steps are done, which is what decided it.
            (BranchKind::Step, Decision::Commit) => true,
            (BranchKind::Step, Decision::Abort) => saga::turned(branch, status).is_settled(),
            _ => owed::on_decision(branch.kind, status, decision).is_settled(),
        }
    })
}

/// An abort that answers a command which wanted something else.
pub(crate) fn abort_instead(transaction: &Transaction, reason: AbortReason) -> Verdict {
    let finished = is_end(transaction, None, Decision::Abort);
    Verdict {
        events: decision_events(transaction, Decision::Abort, Some(reason), None),
        answer: Err(Refusal::decided(Decision::Abort, finished, Some(reason))),
    }
}

/// Whether the branch is the last one that is not settled.
pub(crate) fn is_last(transaction: &Transaction, status: BranchStatus) -> bool {
    !status.is_settled() && transaction.unsettled() == 1
}

/// No more attempts of what the branch is owed, until an operator asks for one.
pub(crate) fn park(transaction: &Transaction, branch: &Branch, error: Box<str>) -> Verdict {
    let attempts = branch.attempts.saturating_add(1);
    let message = parked_message(branch, &error);
    let mut events = vec![Event::Parked { branch_id: branch.id, attempts, error }];
    if transaction.attention.as_ref().is_none_or(|now| now.code < AttentionCode::Parked) {
        let (code, branch_id) = (AttentionCode::Parked, Some(branch.id));
        events.push(Event::AttentionRaised { code, branch_id, message });
    }
    Verdict::events(events)
}
