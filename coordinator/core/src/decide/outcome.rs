//! Results of operations, back-offs, and when to call for people.

use bytes::Bytes;
use unanimity_types::mutant::{self, Mutant};
use unanimity_types::{
    AbortReason, BranchId, BranchKind, BranchStatus, Decision, Operation, Timestamp, Vote,
};

use super::{decision_events, is_last, park};
use crate::answer::{Answer, Refusal, Verdict};
use crate::apply::{clip, contradiction};
use crate::command::{Context, ResultOutcome};
use crate::event::Event;
use crate::retry::RETRY_AFTER_MAX;
use crate::transaction::{AttentionCode, Branch, Transaction};
use crate::{message, owed, saga, two_phase};

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
    if owed::operation(branch.status) != Some(operation) {
        if branch.in_flight && operation == Operation::Action && branch.status == BranchStatus::ToCompensate {
            return saga::ended_after_turn(transaction, branch, attempt, outcome);
        }
        if branch.in_flight && operation == Operation::Prepare {
            // Its rollback waited for this: a prepare must not overtake it (protocol H3).
            return Verdict::events(vec![Event::Returned { branch_id }]);
        }
        return late(branch, operation, &outcome);
    }
    match outcome {
        ResultOutcome::Done => done(transaction, branch, attempt, Answered::Plain, context),
        ResultOutcome::Result(result) => {
            done(transaction, branch, attempt, Answered::Result(result), context)
        }
        ResultOutcome::Voted(vote @ (Vote::Prepared | Vote::ReadOnly)) => {
            done(transaction, branch, attempt, Answered::Vote(vote), context)
        }
        // Of an attempt that was given up or repeated meanwhile: its newer sibling's answer counts.
        _ if branch.next_attempt_at.is_some() || branch.parked => Verdict::nothing(Answer::Status),
        ResultOutcome::NotSent { retry_after, .. } => {
            let next_at = context.now.after(retry_after);
            Verdict::events(vec![Event::Deferred { branch_id, next_at }])
        }
        ResultOutcome::Refused { error } => refused(transaction, branch, attempt, error, context),
        ResultOutcome::Sealed { error } if branch.status == BranchStatus::Running => {
            saga::sealed(transaction, branch, attempt, error, context)
        }
        ResultOutcome::Sealed { error } => refused(transaction, branch, attempt, error, context),
        ResultOutcome::Voted(Vote::Refused) => {
            refused(transaction, branch, attempt, "it voted to refuse".into(), context)
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

/// What came with a "done".
enum Answered {
    Plain,
    Result(Bytes),
    Vote(Vote),
}

/// The participant did what it was asked, now or before. What that means depends on what it was.
fn done(
    transaction: &Transaction,
    branch: &Branch,
    attempt: u32,
    answered: Answered,
    context: Context,
) -> Verdict {
    match branch.status {
        BranchStatus::Running => {
            let result = if let Answered::Result(result) = answered { result } else { Bytes::new() };
            saga::step_done(transaction, branch, attempt, result, context)
        }
        BranchStatus::Preparing => {
            let vote = if let Answered::Vote(vote) = answered { vote } else { Vote::Prepared };
            two_phase::answered(transaction, branch, vote, context)
        }
        BranchStatus::Delegated => {
            Verdict::events(decision_events(transaction, Decision::Commit, None, None))
        }
        BranchStatus::Checking => message::answered(transaction, true),
        _ => settled(transaction, branch, attempt),
    }
}

/// The participant says no, clearly.
fn refused(
    transaction: &Transaction,
    branch: &Branch,
    attempt: u32,
    error: Box<str>,
    context: Context,
) -> Verdict {
    match branch.status {
        BranchStatus::Running => saga::refused(transaction, branch, attempt, error, context),
        BranchStatus::Preparing => two_phase::answered(transaction, branch, Vote::Refused, context),
        BranchStatus::Delegated => {
            let reason = Some(AbortReason::Refused);
            Verdict::events(decision_events(transaction, Decision::Abort, reason, None))
        }
        BranchStatus::Checking => message::answered(transaction, false),
        // To ask again what was clearly refused only makes noise.
        BranchStatus::Compensating | BranchStatus::Delivering => park(transaction, branch, clip(error)),
        _ => {
            let attention = Some((AttentionCode::ParticipantRefuses, 1));
            failed(transaction, branch, error, None, attention, context)
        }
    }
}

/// The branch's participant did what was decided, now or before.
fn settled(transaction: &Transaction, branch: &Branch, attempt: u32) -> Verdict {
    let attempts = branch.attempts.max(attempt);
    let mut events = vec![Event::BranchSettled { branch_id: branch.id, attempts }];
    if is_last(transaction, branch.status) {
        events.push(Event::Finished);
    }
    Verdict::events(events)
}

/// An attempt ended without a result: again later, for ever where the branch does not say otherwise;
/// and people are told after so many.
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
    if mutant::is(Mutant::DroppedOnRetryLimit) && attempts >= 3 && transaction.decision.is_some() {
        return settled(transaction, branch, attempts);
    }
    if mutant::is(Mutant::OnePhasePresumesAbort) && branch.status == BranchStatus::Delegated {
        return Verdict::events(decision_events(
            transaction,
            Decision::Abort,
            Some(AbortReason::Presumed),
            None,
        ));
    }
    let policy = context.retry.with(&branch.policy());
    if branch.policy().give_up_after.is_some_and(|most| attempts >= most) {
        match (branch.kind, branch.status) {
            (BranchKind::Step, BranchStatus::Running) => {
                return saga::gave_up(transaction, branch, error, context);
            }
            (BranchKind::Step | BranchKind::Message, _) => return park(transaction, branch, error),
            _ => {}
        }
    }
    let planned = context.now.after(policy.wait(context.xid, branch.id, attempts));
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
        (
            BranchStatus::HeuristicConfirmed,
            Operation::Cancel | Operation::Rollback | Operation::Compensate,
        )
        | (
            BranchStatus::HeuristicCancelled,
            Operation::Confirm
            | Operation::Commit
            | Operation::CommitOnePhase
            | Operation::Action
            | Operation::Deliver,
        ) => matches!(outcome, ResultOutcome::Done | ResultOutcome::Result(_)),
        _ => false,
    };
    let refused_by_delegate = branch.status == BranchStatus::HeuristicConfirmed
        && operation == Operation::CommitOnePhase
        && matches!(outcome, ResultOutcome::Refused { .. });
    let contradicts = contradicts || refused_by_delegate;
    let recorded = branch.resolved.as_ref().is_none_or(|resolved| resolved.contradicted);
    if !contradicts || recorded {
        return Verdict::nothing(Answer::Status);
    }
    let message = format!(
        "branch {} ({}) was settled by hand as {}, but its participant {} {operation}",
        branch.id,
        branch.key,
        branch.status,
        contradiction(branch.status, operation)
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

/// A back-off may be over, or what kept a step from being undone.
pub(super) fn retry_due(transaction: &Transaction, branch_id: BranchId, context: Context) -> Verdict {
    let due = transaction.branch(branch_id).filter(|branch| {
        let waits = owed::operation(branch.status).is_some() || branch.status == BranchStatus::ToCompensate;
        waits && branch.next_attempt_at.is_some_and(|at| at <= context.now)
    });
    match due {
        None => Verdict::nothing(Answer::Status),
        Some(branch) if branch.status == BranchStatus::ToCompensate && !branch.has_compensation() => {
            settled(transaction, branch, branch.attempts)
        }
        Some(_) => Verdict::events(vec![Event::Dispatched { branch_id }]),
    }
}

/// The participant can be reached again: sooner than planned, never later.
pub(super) fn wake(transaction: &Transaction, branch_id: BranchId, at: Timestamp) -> Verdict {
    let sooner = transaction.branch(branch_id).is_some_and(|branch| {
        owed::operation(branch.status).is_some() && branch.next_attempt_at.is_some_and(|planned| planned > at)
    });
    if sooner {
        Verdict::events(vec![Event::Deferred { branch_id, next_at: at }])
    } else {
        Verdict::nothing(Answer::Status)
    }
}
