//! Two-phase commit: prepare, votes, and the delegation of the decision to a single branch.
//!
//! ```text
//!   registered ─ commit asked ─► preparing ─ prepared ─► (decision) ─► committing ─► committed
//!        │ early vote ──────────────────────► prepared ─►      │
//!        │ one phase, alone ─► delegated ──────────────────────┤
//!        │                        └ read_only: left out        └─► rolling_back ─► rolled_back
//! ```
//!
//! Gray and Lamport, "Consensus on Transaction Commit" (2006), section 3, with presumed abort; the
//! one-phase commit is a durable delegation (protocol H4).

use unanimity_types::mutant::{self, Mutant};
use unanimity_types::{AbortReason, BranchKind, BranchStatus, Decision, Limits, Vote};

use crate::answer::{Answer, Refusal, Verdict};
use crate::command::Context;
use crate::decide::{abort_instead, already, decision_events, decision_events_after};
use crate::event::Event;
use crate::transaction::{Branch, Transaction};

/// A branch's status once it is decided: a read-only one is left out, a delegate did it itself.
pub(crate) const fn on_decision(status: BranchStatus, decision: Decision) -> BranchStatus {
    match (status, decision) {
        (BranchStatus::ReadOnly, _) => BranchStatus::ReadOnly,
        (BranchStatus::HeuristicConfirmed | BranchStatus::HeuristicCancelled, _) => status,
        (BranchStatus::Delegated, Decision::Commit) => BranchStatus::Committed,
        (_, Decision::Commit) => BranchStatus::Committing,
        // Also one that refused (protocol H2).
        (_, Decision::Abort) => BranchStatus::RollingBack,
    }
}

/// Whether the coordinator has to ask for the branch's vote.
fn is_late(branch: &Branch) -> bool {
    branch.kind == BranchKind::TwoPhase && !branch.two_phase.early && branch.vote.is_none()
}

/// A branch that registers in the same verdict as the commit that waited for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Newcomer {
    /// There is none.
    None,
    /// It needs no prepare.
    Ready,
    /// It has to be asked for its vote.
    Late,
}

/// The events of a commit that nothing speaks against: the decision, a delegation, or a round of
/// prepares.
pub(crate) fn commit_events(transaction: &Transaction, newcomer: Newcomer, context: Context) -> Vec<Event> {
    let late = transaction.branches.iter().filter(|branch| is_late(branch)).count();
    if late == 0 && newcomer != Newcomer::Late {
        return decision_events(transaction, Decision::Commit, None, None);
    }
    // Alone after this verdict too.
    if newcomer == Newcomer::None
        && let [only] = transaction.branches.as_slice()
        && only.two_phase.one_phase
    {
        return vec![Event::Delegated { branch_id: only.id }];
    }
    let until = context.now.after(Limits::PREPARE_WAIT).min(transaction.deadline);
    vec![Event::PreparesAsked { until }]
}

/// A branch votes by itself.
pub(crate) fn vote(
    transaction: &Transaction,
    key: &unanimity_types::BranchKey,
    vote: Vote,
    context: Context,
) -> Verdict {
    let branch = transaction.branch_by_key(key);
    if transaction.decision.is_some() {
        let same = branch.is_some_and(|branch| branch.vote == Some(vote));
        return if same { Verdict::nothing(Answer::Status) } else { Verdict::refused(already(transaction)) };
    }
    let Some(branch) = branch else {
        return Verdict::refused(Refusal::KeyNotFound { key: key.clone() });
    };
    if branch.kind != BranchKind::TwoPhase {
        return Verdict::refused(Refusal::KindNotAllowed {
            why: "only two-phase branches vote; a TCC branch votes by answering its try",
        });
    }
    match branch.vote {
        Some(before) if before == vote => return Verdict::nothing(Answer::Status),
        Some(before) => return Verdict::refused(Refusal::VoteContradicts { before }),
        None => {}
    }
    if branch.status == BranchStatus::Delegated {
        return Verdict::refused(Refusal::Delegated);
    }
    if is_overdue(transaction, context) {
        return abort_instead(transaction, AbortReason::Deadline);
    }
    // Locks that are released while others are still being taken: not serialisable (protocol M11).
    let asked = branch.status == BranchStatus::Preparing || mutant::is(Mutant::EarlyReadOnly);
    if vote == Vote::ReadOnly && !asked {
        return Verdict::refused(Refusal::Illegal {
            what: "read_only is an answer to a prepare; a branch that was not asked votes prepared or refused",
        });
    }
    Verdict::events(voted(transaction, branch, vote))
}

/// Whether it is too late for votes: whoever comes first then aborts.
fn is_overdue(transaction: &Transaction, context: Context) -> bool {
    let until = transaction.preparing.unwrap_or(transaction.deadline).min(transaction.deadline);
    context.now >= until
}

/// The answer to a prepare.
pub(crate) fn answered(transaction: &Transaction, branch: &Branch, vote: Vote, context: Context) -> Verdict {
    let mut events = vec![Event::Returned { branch_id: branch.id }];
    if is_overdue(transaction, context) {
        let reason = Some(AbortReason::Deadline);
        events.extend(decision_events(transaction, Decision::Abort, reason, None));
    } else {
        events.extend(voted(transaction, branch, vote));
    }
    Verdict::events(events)
}

/// The events of a vote: also the decision, if it is the last one or a refusal.
fn voted(transaction: &Transaction, branch: &Branch, vote: Vote) -> Vec<Event> {
    let mut events = vec![Event::Voted { branch_id: branch.id, vote }];
    if vote == Vote::Refused {
        let reason = Some(AbortReason::Refused);
        events.extend(decision_events(transaction, Decision::Abort, reason, None));
        return events;
    }
    let others_wait = transaction.branches.iter().any(|other| other.id != branch.id && is_late(other));
    if transaction.preparing.is_some() && !others_wait {
        let changed = Some((branch.id, after_vote(vote)));
        events.extend(decision_events_after(transaction, changed, Decision::Commit, None, None));
    }
    events
}

/// A branch's status after its vote.
pub(crate) const fn after_vote(vote: Vote) -> BranchStatus {
    match vote {
        Vote::Prepared => BranchStatus::Prepared,
        Vote::ReadOnly => BranchStatus::ReadOnly,
        Vote::Refused => BranchStatus::Refused,
    }
}

/// The branches whose votes the coordinator has to ask for.
pub(crate) fn to_prepare(transaction: &Transaction) -> Vec<unanimity_types::BranchId> {
    transaction.branches.iter().filter(|branch| is_late(branch)).map(|branch| branch.id).collect()
}
