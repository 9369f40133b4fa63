//! Until the decision: registrations, commit, abort, deadline.

use std::collections::BTreeSet;

use unanimity_types::{AbortReason, BranchId, BranchKey, Decision, Limits};

use super::{abort_instead, already, decision_events};
use crate::answer::{Answer, Refusal, Verdict};
use crate::command::{Context, OperatorAction, Registration};
use crate::event::Event;
use crate::transaction::Transaction;

/// A branch registers before the decision, or is refused (I8). The same key is the same branch (H8).
pub(super) fn register(transaction: &Transaction, registration: Registration, context: Context) -> Verdict {
    if transaction.decision.is_some() {
        return Verdict::refused(already(transaction));
    }
    if context.now >= transaction.deadline {
        return abort_instead(transaction, AbortReason::Deadline);
    }
    if let Some(branch) = transaction.branch_by_key(&registration.key) {
        if branch.digest != registration.digest {
            return Verdict::refused(Refusal::BranchKeyReused);
        }
        return Verdict::nothing(Answer::Registered(branch.id));
    }
    if let Some(asked) = &transaction.commit_asked
        && !asked.votes.contains(&registration.key)
    {
        return Verdict::refused(Refusal::CommitInProgress);
    }
    if transaction.branches.len() >= Limits::BRANCHES_MAX {
        return Verdict::refused(Refusal::TooManyBranches { max: Limits::BRANCHES_MAX });
    }
    let id = BranchId(u32::try_from(transaction.branches.len() + 1).unwrap_or(u32::MAX));
    let completes = transaction.commit_asked.as_ref().is_some_and(|asked| {
        // Every registered branch is among the named ones, so counting is comparing.
        asked.votes.len() == transaction.branches.len() + 1
    });
    let Registration { key, targets, payload, digest } = registration;
    let mut events = vec![Event::Registered { branch_id: id, key, targets, payload, digest }];
    if completes {
        events.push(Event::Decided { decision: Decision::Commit, reason: None, branches: id.0, by: None });
    }
    Verdict { events, answer: Ok(Answer::Registered(id)) }
}

/// The commit names its votes, and the registered set must equal the named one (protocol 1.3).
pub(super) fn commit(
    transaction: &Transaction,
    votes: Option<BTreeSet<BranchKey>>,
    context: Context,
) -> Verdict {
    match transaction.decision.as_ref().map(|record| record.decision) {
        Some(Decision::Commit) => return Verdict::nothing(Answer::Status),
        Some(Decision::Abort) => return Verdict::refused(already(transaction)),
        None => {}
    }
    if context.now >= transaction.deadline {
        return abort_instead(transaction, AbortReason::Deadline);
    }
    let Some(votes) = votes else {
        if transaction.commit_asked.is_some() {
            // Another commit named branches that are missing: the client's word does not replace them.
            return Verdict::nothing(Answer::Undecided);
        }
        return Verdict::events(decision_events(transaction, Decision::Commit, None, None));
    };
    if transaction.branches.iter().any(|branch| !votes.contains(&branch.key)) {
        return abort_instead(transaction, AbortReason::BranchNotVoted);
    }
    // What a commit that waits has named has voted: a later, shorter list does not take it back.
    let votes = match &transaction.commit_asked {
        Some(asked) => &asked.votes | &votes,
        None => votes,
    };
    if votes.len() > Limits::BRANCHES_MAX {
        return Verdict::refused(Refusal::TooManyBranches { max: Limits::BRANCHES_MAX });
    }
    // Every registered branch is named; are all the named ones registered?
    if votes.len() == transaction.branches.len() {
        return Verdict::events(decision_events(transaction, Decision::Commit, None, None));
    }
    let until = transaction
        .commit_asked
        .as_ref()
        .map_or_else(|| context.now.after(Limits::BRANCH_MISSING_WAIT), |asked| asked.until);
    Verdict { events: vec![Event::CommitAsked { votes, until }], answer: Ok(Answer::Undecided) }
}

/// An abort decides unless a commit did.
pub(super) fn abort(transaction: &Transaction, reason: AbortReason, by: Option<OperatorAction>) -> Verdict {
    match transaction.decision.as_ref().map(|record| record.decision) {
        Some(Decision::Abort) => Verdict::nothing(Answer::Status),
        Some(Decision::Commit) => Verdict::refused(already(transaction)),
        None => Verdict::events(decision_events(transaction, Decision::Abort, Some(reason), by)),
    }
}

/// Undecided at its deadline: aborted.
pub(super) fn deadline(transaction: &Transaction, context: Context) -> Verdict {
    if transaction.decision.is_some() || context.now < transaction.deadline {
        return Verdict::nothing(Answer::Status);
    }
    let reason = Some(AbortReason::Deadline);
    Verdict::events(decision_events(transaction, Decision::Abort, reason, None))
}

/// A commit waited long enough for the branches that it named.
pub(super) fn commit_wait(transaction: &Transaction, context: Context) -> Verdict {
    let waited = transaction.commit_asked.as_ref().is_some_and(|asked| context.now >= asked.until);
    if transaction.decision.is_some() || !waited {
        return Verdict::nothing(Answer::Status);
    }
    let reason = Some(AbortReason::BranchMissing);
    Verdict::events(decision_events(transaction, Decision::Abort, reason, None))
}
