//! What an action's end means: forward, back, or neither.

use bytes::Bytes;
use unanimity_types::{AbortReason, BranchStatus, Decision, Limits, StepRole};

use super::{is_clean, no_way_back};
use crate::answer::{Answer, Refusal, Verdict};
use crate::apply::clip;
use crate::command::{Context, ResultOutcome};
use crate::decide::{decision_events, decision_events_after, is_last, park};
use crate::event::Event;
use crate::transaction::{AttentionCode, Branch, Transaction};

/// The action is done; with the last one, the saga.
pub(crate) fn step_done(
    transaction: &Transaction,
    branch: &Branch,
    attempt: u32,
    result: Bytes,
    context: Context,
) -> Verdict {
    if let Some(error) = too_large(transaction, &result) {
        // It ran, so it must be undone: no clean refusal.
        return turn_or_park(transaction, branch, error, AbortReason::Refused, context);
    }
    let attempts = branch.attempts.max(attempt);
    let mut events = vec![Event::ActionDone { branch_id: branch.id, attempts, result }];
    events.extend(end_if_last(transaction, branch));
    Verdict::events(events)
}

/// The saga's end, if this was the last step that anybody waited for.
pub(crate) fn end_if_last(transaction: &Transaction, branch: &Branch) -> Vec<Event> {
    if transaction.decision.is_some() || !is_last(transaction, branch.status) {
        return Vec::new();
    }
    decision_events(transaction, Decision::Commit, None, None)
}

fn too_large(transaction: &Transaction, result: &Bytes) -> Option<Box<str>> {
    let (one, all) = (Limits::RESULT_BYTES_MAX, Limits::RESULTS_BYTES_MAX);
    if result.len() > one {
        return Some(format!("its result is larger than the limit of {one} bytes").into());
    }
    let results = transaction.branches.iter().filter_map(|branch| branch.step.as_ref()?.result.as_ref());
    let held: usize = results.map(Bytes::len).sum();
    (held + result.len() > all)
        .then(|| format!("the saga's results together are larger than the limit of {all} bytes").into())
}

/// The participant says no. Only as the first answer of all it means that nothing was done (H2).
pub(crate) fn refused(
    transaction: &Transaction,
    branch: &Branch,
    attempt: u32,
    error: Box<str>,
    context: Context,
) -> Verdict {
    if !is_clean(branch, attempt) {
        return turn_or_park(transaction, branch, clip(error), AbortReason::Refused, context);
    }
    sealed(transaction, branch, attempt, error, context)
}

/// The step did nothing, and will not.
pub(crate) fn sealed(
    transaction: &Transaction,
    branch: &Branch,
    attempt: u32,
    error: Box<str>,
    context: Context,
) -> Verdict {
    let error = clip(error);
    if branch.role() == Some(StepRole::ForwardOnly) {
        return turn_or_park(transaction, branch, error, AbortReason::Refused, context);
    }
    let mut events = vec![Event::ActionRefused { branch_id: branch.id, attempts: attempt, error }];
    let (changed, reason) = (Some((branch.id, BranchStatus::Refused)), Some(AbortReason::Refused));
    events.extend(decision_events_after(transaction, changed, Decision::Abort, reason, None));
    Verdict::events(events)
}

/// The step may have run, and no more attempts are to be made.
pub(crate) fn gave_up(
    transaction: &Transaction,
    branch: &Branch,
    error: Box<str>,
    context: Context,
) -> Verdict {
    turn_or_park(transaction, branch, error, AbortReason::GaveUp, context)
}

/// Turns the saga back, or parks the step where there is no way back.
fn turn_or_park(
    transaction: &Transaction,
    branch: &Branch,
    error: Box<str>,
    reason: AbortReason,
    context: Context,
) -> Verdict {
    if no_way_back(transaction) {
        return park(transaction, branch, error);
    }
    let attempts = branch.attempts.saturating_add(1);
    // Only for the record: the step turns in the same verdict.
    let failed = Event::AttemptFailed { branch_id: branch.id, attempts, error, next_at: context.now };
    let mut events = vec![failed];
    events.extend(decision_events(transaction, Decision::Abort, Some(reason), None));
    Verdict::events(events)
}

/// An action ended after the saga had turned: its compensation waited for that (protocol H3).
pub(crate) fn ended_after_turn(
    transaction: &Transaction,
    branch: &Branch,
    attempt: u32,
    outcome: ResultOutcome,
) -> Verdict {
    let returned = || Verdict::events(vec![Event::Returned { branch_id: branch.id }]);
    match outcome {
        ResultOutcome::Done => done_after_turn(branch, attempt, Bytes::new()),
        ResultOutcome::Result(result) if too_large(transaction, &result).is_none() => {
            done_after_turn(branch, attempt, result)
        }
        ResultOutcome::Sealed { error } => refused_after_turn(transaction, branch, attempt, error),
        ResultOutcome::Refused { error } if is_clean(branch, attempt) => {
            refused_after_turn(transaction, branch, attempt, error)
        }
        ResultOutcome::Result(_)
        | ResultOutcome::Voted(_)
        | ResultOutcome::Refused { .. }
        | ResultOutcome::Unknown { .. }
        | ResultOutcome::NotYet { .. }
        | ResultOutcome::Unusable { .. }
        | ResultOutcome::NotSent { .. } => returned(),
    }
}

/// It did nothing, and nothing has to be undone.
fn refused_after_turn(transaction: &Transaction, branch: &Branch, attempt: u32, error: Box<str>) -> Verdict {
    let refused = Event::ActionRefused { branch_id: branch.id, attempts: attempt, error: clip(error) };
    let mut events = vec![refused];
    if is_last(transaction, branch.status) {
        events.push(Event::Finished);
    }
    Verdict::events(events)
}

/// What it brought is what its compensation needs to know.
fn done_after_turn(branch: &Branch, attempt: u32, result: Bytes) -> Verdict {
    Verdict::events(vec![Event::ActionDone { branch_id: branch.id, attempts: attempt, result }])
}

/// Why a saga cannot be aborted, if it cannot (protocol H14).
pub(crate) fn abort_refused(transaction: &Transaction) -> Option<Refusal> {
    no_way_back(transaction).then_some(Refusal::NoWayBack)
}

/// Undecided at its deadline: the saga turns back, or people are told where it cannot.
pub(crate) fn overdue(transaction: &Transaction) -> Option<Verdict> {
    if !no_way_back(transaction) {
        return None;
    }
    let known = transaction.attention.as_ref().is_some_and(|now| now.code >= AttentionCode::Overdue);
    if known {
        return Some(Verdict::nothing(Answer::Status));
    }
    Some(Verdict::events(vec![Event::AttentionRaised {
        code: AttentionCode::Overdue,
        branch_id: None,
        message: overdue_message(transaction),
    }]))
}

/// What people are told of a saga that is past its deadline and cannot turn back.
pub(crate) fn overdue_message(transaction: &Transaction) -> Box<str> {
    let waits = transaction
        .branches
        .iter()
        .find(|branch| branch.status == BranchStatus::Running)
        .map_or_else(String::new, |branch| format!("; step {} is running", branch.key));
    format!("the deadline passed after the pivot, so the saga goes on forward{waits}").into()
}
