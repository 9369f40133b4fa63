//! Until the decision: registrations, commit, abort, deadline.

use std::collections::BTreeSet;
use std::sync::Arc;

use unanimity_types::mutant::{self, Mutant};
use unanimity_types::{AbortReason, BranchId, BranchKey, BranchKind, Decision, Limits, Mode};

use super::{abort_instead, already, decision_events};
use crate::answer::{Answer, Refusal, Verdict};
use crate::command::{Context, OperatorAction, Registration};
use crate::event::{BranchTraits, Event, held};
use crate::transaction::Transaction;
use crate::two_phase::Newcomer;
use crate::{message, saga, two_phase};

/// Why a transaction does not carry such a branch, if so: what it could not promise for it.
fn not_allowed(mode: Option<Mode>, kind: BranchKind) -> Option<&'static str> {
    match (mode, kind) {
        (Some(Mode::Tcc), BranchKind::Tcc | BranchKind::TwoPhase | BranchKind::Message)
        | (Some(Mode::TwoPhase), BranchKind::TwoPhase | BranchKind::Message) => None,
        (Some(Mode::TwoPhase), BranchKind::Tcc) => {
            Some("a two_phase transaction carries no TCC branches; begin it as tcc, which carries both")
        }
        (Some(Mode::Saga), _) => Some(
            "a saga's branches are its steps, which came with its plan; a step may run a TCC transaction of its own",
        ),
        (Some(Mode::Message), _) => Some("a message's deliveries came with it; nothing more registers"),
        (_, BranchKind::Step) => Some("steps come with the plan of a saga"),
        (_, BranchKind::Sender) => Some("a message's sender comes with its plan"),
        // A presumed abort has no mode; it is decided, which is told before this.
        (None, _) => Some("the transaction never began"),
    }
}

/// A branch registers before the decision, or is refused (I8). The same key is the same branch (H8).
pub(super) fn register(transaction: &Transaction, registration: Registration, context: Context) -> Verdict {
    if transaction.decision.is_some() && !mutant::is(Mutant::RegisterAfterDecision) {
        return Verdict::refused(already(transaction));
    }
    let by_mode = match transaction.mode {
        Some(Mode::TwoPhase) => BranchKind::TwoPhase,
        _ => BranchKind::Tcc,
    };
    let kind = registration.kind.unwrap_or(by_mode);
    if let Some(why) = not_allowed(transaction.mode, kind) {
        return Verdict::refused(Refusal::KindNotAllowed { why });
    }
    // A delegate has the word, also at the deadline (protocol H4).
    if transaction.delegate().is_none() && context.now >= transaction.deadline {
        return abort_instead(transaction, AbortReason::Deadline);
    }
    if let Some(branch) = transaction.branch_by_key(&registration.key) {
        if branch.digest != registration.digest {
            return Verdict::refused(Refusal::BranchKeyReused);
        }
        return Verdict::nothing(Answer::Registered(branch.id));
    }
    if registration.policy.give_up_after.is_some() && kind != BranchKind::Message {
        return Verdict::refused(Refusal::Illegal {
            what: "give_up_after is for deliveries and for steps: what was decided about this branch is tried until it is done",
        });
    }
    if transaction.delegate().is_some() {
        return Verdict::refused(Refusal::Delegated);
    }
    let named = transaction.commit_asked.as_ref().is_none_or(|asked| asked.votes.contains(&registration.key));
    if !named || transaction.preparing.is_some() {
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
    let committed = completes.then(|| {
        let is_late = kind == BranchKind::TwoPhase && !registration.two_phase.early;
        let newcomer = if is_late { Newcomer::Late } else { Newcomer::Ready };
        two_phase::commit_events(transaction, newcomer, context)
    });
    let Registration { key, targets, payload, digest, kind: _, two_phase, policy, lock_keys } = registration;
    let traits = Box::new(BranchTraits { kind, two_phase, policy, lock_keys, step: None });
    let (targets, payload) = (Arc::new(targets), held(&payload));
    let mut events = vec![Event::Registered { branch_id: id, key, targets, payload, digest, traits }];
    for event in committed.into_iter().flatten() {
        events.push(match event {
            // It covers the newcomer as well, which has something to do.
            Event::Decided { decision, reason, by, .. } => {
                Event::Decided { decision, reason, branches: id.0, by }
            }
            Event::Finished => continue,
            other => other,
        });
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
    match transaction.mode {
        Some(Mode::Saga) => {
            return Verdict::refused(Refusal::Illegal {
                what: "a saga commits by itself when its last step is done",
            });
        }
        // Also after its time-out: as long as the sender said nothing else, the submit stands.
        Some(Mode::Message) => {
            return Verdict::events(decision_events(transaction, Decision::Commit, None, None));
        }
        Some(Mode::Tcc | Mode::TwoPhase) | None => {}
    }
    if transaction.preparing.is_some() || transaction.delegate().is_some() {
        return Verdict::nothing(Answer::Undecided);
    }
    if context.now >= transaction.deadline {
        return abort_instead(transaction, AbortReason::Deadline);
    }
    let votes = votes.filter(|_| !mutant::is(Mutant::VotesNotCompared));
    let Some(votes) = votes else {
        if transaction.commit_asked.is_some() {
            // Another commit named branches that are missing: the client's word does not replace them.
            return Verdict::nothing(Answer::Undecided);
        }
        return commit_now(transaction, context);
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
        return commit_now(transaction, context);
    }
    let until = transaction
        .commit_asked
        .as_ref()
        .map_or_else(|| context.now.after(Limits::BRANCH_MISSING_WAIT), |asked| asked.until);
    Verdict { events: vec![Event::CommitAsked { votes, until }], answer: Ok(Answer::Undecided) }
}

/// Nothing speaks against the commit: the decision, or what leads to it.
fn commit_now(transaction: &Transaction, context: Context) -> Verdict {
    let events = two_phase::commit_events(transaction, Newcomer::None, context);
    let decided = matches!(events.first(), Some(Event::Decided { .. }));
    Verdict { events, answer: Ok(if decided { Answer::Status } else { Answer::Undecided }) }
}

/// An abort decides unless a commit did, or nobody can turn back any more.
pub(super) fn abort(transaction: &Transaction, reason: AbortReason, by: Option<OperatorAction>) -> Verdict {
    match transaction.decision.as_ref().map(|record| record.decision) {
        Some(Decision::Abort) => Verdict::nothing(Answer::Status),
        Some(Decision::Commit) => Verdict::refused(already(transaction)),
        None if transaction.delegate().is_some() => Verdict::refused(Refusal::Delegated),
        None => match saga::abort_refused(transaction) {
            Some(refusal) => Verdict::refused(refusal),
            None => Verdict::events(decision_events(transaction, Decision::Abort, Some(reason), by)),
        },
    }
}

/// Undecided at its deadline: aborted, where nobody else has the word.
pub(super) fn deadline(transaction: &Transaction, context: Context) -> Verdict {
    if transaction.decision.is_some() || context.now < transaction.deadline {
        return Verdict::nothing(Answer::Status);
    }
    if transaction.delegate().is_some() {
        return Verdict::nothing(Answer::Status);
    }
    if transaction.mode == Some(Mode::Message) {
        return message::overdue(transaction);
    }
    if let Some(verdict) = saga::overdue(transaction) {
        return verdict;
    }
    if mutant::is(Mutant::CommitOnTimeout) {
        return Verdict::events(decision_events(transaction, Decision::Commit, None, None));
    }
    let reason = Some(AbortReason::Deadline);
    Verdict::events(decision_events(transaction, Decision::Abort, reason, None))
}

/// The votes did not come in time.
pub(super) fn prepare_overdue(transaction: &Transaction, context: Context) -> Verdict {
    let over = transaction.preparing.is_some_and(|until| context.now >= until);
    if transaction.decision.is_some() || !over {
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
