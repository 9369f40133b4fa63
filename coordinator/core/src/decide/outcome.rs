//! After the decision: results of operations, back-offs, and when to call for people.

use unanimity_types::{BranchId, BranchStatus, Operation, Timestamp};

use super::is_last;
use crate::answer::{Answer, Refusal, Verdict};
use crate::apply::clip;
use crate::command::{Context, ResultOutcome};
use crate::event::Event;
use crate::retry::RETRY_AFTER_MAX;
use crate::tcc;
use crate::transaction::{AttentionCode, Branch, Transaction};

/// A dispatched operation ended.
pub(super) fn result(
    transaction: &Transaction,
    branch_id: BranchId,
    operation: Operation,
    attempt: u32,
    outcome: ResultOutcome,
    context: Context,
) -> Verdict {
    let Some(branch) = transaction.branch(branch_id) else {
        return Verdict::refused(Refusal::BranchNotFound { branch_id });
    };
    if tcc::owed_operation(branch.status) != Some(operation) {
        return late(branch, operation, &outcome);
    }
    match outcome {
        ResultOutcome::Done => done(transaction, branch, attempt),
        // Of an attempt that was given up or repeated meanwhile: its newer sibling's answer counts.
        _ if branch.next_attempt_at.is_some() => Verdict::nothing(Answer::Status),
        ResultOutcome::NotSent { retry_after, .. } => {
            let next_at = context.now.after(retry_after);
            Verdict::events(vec![Event::Deferred { branch_id, next_at }])
        }
        ResultOutcome::Refused { error } => {
            let attention = Some((AttentionCode::ParticipantRefuses, 1));
            failed(transaction, branch, error, None, attention, context)
        }
        ResultOutcome::Unusable { error } => {
            let attention = Some((AttentionCode::TargetUnusable, 1));
            failed(transaction, branch, error, None, attention, context)
        }
        ResultOutcome::Unknown { error, retry_after } => {
            let after = retry_after.map(|wait| context.now.after(wait.min(RETRY_AFTER_MAX)));
            let attention = Some((AttentionCode::ParticipantFailing, context.retry.attention_after));
            failed(transaction, branch, error, after, attention, context)
        }
        ResultOutcome::NotYet { error } => {
            let attention = Some((AttentionCode::ParticipantFailing, context.retry.attention_after));
            failed(transaction, branch, error, None, attention, context)
        }
    }
}

/// The branch's participant did it, now or before.
fn done(transaction: &Transaction, branch: &Branch, attempt: u32) -> Verdict {
    let attempts = branch.attempts.max(attempt);
    let mut events = vec![Event::BranchSettled { branch_id: branch.id, attempts }];
    if is_last(transaction, branch.status) {
        events.push(Event::Finished);
    }
    Verdict::events(events)
}

/// An attempt ended without a result: again later, for ever; and people are told after so many.
fn failed(
    transaction: &Transaction,
    branch: &Branch,
    error: Box<str>,
    not_before: Option<Timestamp>,
    attention: Option<(AttentionCode, u32)>,
    context: Context,
) -> Verdict {
    let error = clip(error);
    let attempts = branch.attempts.saturating_add(1);
    let planned = context.now.after(context.retry.wait(context.xid, branch.id, attempts));
    let next_at = not_before.map_or(planned, |earliest| earliest.max(planned));
    let raised = attention.filter(|(code, after)| {
        // Of equal or graver trouble people know already: two branches in different trouble do not
        // take turns, with an entry in the log for each attempt.
        let known = transaction.attention.as_ref().is_some_and(|now| now.code >= *code);
        attempts >= *after && !known
    });
    let mut events =
        vec![Event::AttemptFailed { branch_id: branch.id, attempts, error: error.clone(), next_at }];
    if let Some((code, _)) = raised {
        let message = format!("branch {} ({}): {error}", branch.id, branch.key).into();
        events.push(Event::AttentionRaised { code, branch_id: Some(branch.id), message });
    }
    Verdict::events(events)
}

/// An answer to what is not owed (any more): a repetition, or a contradiction of what was settled by
/// hand (protocol M14). Never more than a record.
fn late(branch: &Branch, operation: Operation, outcome: &ResultOutcome) -> Verdict {
    let contradicts = match (branch.status, operation) {
        (BranchStatus::HeuristicConfirmed, Operation::Cancel)
        | (BranchStatus::HeuristicCancelled, Operation::Confirm) => *outcome == ResultOutcome::Done,
        _ => false,
    };
    let recorded = branch.resolved.as_ref().is_none_or(|resolved| resolved.contradicted);
    if !contradicts || recorded {
        return Verdict::nothing(Answer::Status);
    }
    let message = format!(
        "branch {} ({}) was settled by hand as {}, but its participant did {operation}",
        branch.id, branch.key, branch.status
    );
    Verdict::events(vec![
        Event::Contradicted { branch_id: branch.id, operation },
        Event::AttentionRaised {
            code: AttentionCode::HeuristicContradicted,
            branch_id: Some(branch.id),
            message: message.into(),
        },
    ])
}

/// A back-off may be over.
pub(super) fn retry_due(transaction: &Transaction, branch_id: BranchId, context: Context) -> Verdict {
    let due = transaction.branch(branch_id).is_some_and(|branch| {
        tcc::owed_operation(branch.status).is_some()
            && branch.next_attempt_at.is_some_and(|at| at <= context.now)
    });
    if due {
        Verdict::events(vec![Event::Dispatched { branch_id }])
    } else {
        Verdict::nothing(Answer::Status)
    }
}

/// The participant can be reached again: sooner than planned, never later.
pub(super) fn wake(transaction: &Transaction, branch_id: BranchId, at: Timestamp) -> Verdict {
    let sooner = transaction.branch(branch_id).is_some_and(|branch| {
        tcc::owed_operation(branch.status).is_some()
            && branch.next_attempt_at.is_some_and(|planned| planned > at)
    });
    if sooner {
        Verdict::events(vec![Event::Deferred { branch_id, next_at: at }])
    } else {
        Verdict::nothing(Answer::Status)
    }
}
