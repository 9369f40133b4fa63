//! What a branch is asked for: by its kind and the decision, and by its status.

use unanimity_types::{BranchKind, BranchStatus, Decision, Operation, ResolveAs};

use crate::transaction::Branch;
use crate::{message, tcc, two_phase};

/// What becomes of a branch of a kind and status once it is decided. A saga's steps turn in an order of
/// their own.
pub(crate) const fn on_decision(kind: BranchKind, status: BranchStatus, decision: Decision) -> BranchStatus {
    match kind {
        BranchKind::Tcc => tcc::on_decision(decision),
        BranchKind::TwoPhase => two_phase::on_decision(status, decision),
        BranchKind::Message => message::on_decision(decision),
        BranchKind::Sender => BranchStatus::Answered,
        BranchKind::Step => status,
    }
}

/// The status of a branch that an operator settled.
pub(crate) const fn by_hand(resolve_as: ResolveAs) -> BranchStatus {
    match resolve_as {
        ResolveAs::Confirmed => BranchStatus::HeuristicConfirmed,
        ResolveAs::Cancelled => BranchStatus::HeuristicCancelled,
    }
}

/// The operation that a branch is owed; `None` if nothing is, or not yet.
pub(crate) const fn operation(status: BranchStatus) -> Option<Operation> {
    match status {
        BranchStatus::Confirming => Some(Operation::Confirm),
        BranchStatus::Cancelling => Some(Operation::Cancel),
        BranchStatus::Preparing => Some(Operation::Prepare),
        BranchStatus::Committing => Some(Operation::Commit),
        BranchStatus::RollingBack => Some(Operation::Rollback),
        BranchStatus::Delegated => Some(Operation::CommitOnePhase),
        BranchStatus::Running => Some(Operation::Action),
        BranchStatus::Compensating => Some(Operation::Compensate),
        BranchStatus::Checking => Some(Operation::CheckBack),
        BranchStatus::Delivering => Some(Operation::Deliver),
        BranchStatus::Registered
        | BranchStatus::Confirmed
        | BranchStatus::Cancelled
        | BranchStatus::HeuristicConfirmed
        | BranchStatus::HeuristicCancelled
        | BranchStatus::Prepared
        | BranchStatus::ReadOnly
        | BranchStatus::Refused
        | BranchStatus::Committed
        | BranchStatus::RolledBack
        | BranchStatus::Done
        | BranchStatus::ToCompensate
        | BranchStatus::Compensated
        | BranchStatus::Skipped
        | BranchStatus::Kept
        | BranchStatus::Answered
        | BranchStatus::Delivered
        | BranchStatus::Discarded => None,
    }
}

/// A branch's status when its participant did what was decided; `None` if nothing of the kind is owed.
///
/// A step that waits for its turn may have got it without a record: that its action returned is not
/// written.
pub(crate) fn settled(branch: &Branch) -> Option<BranchStatus> {
    match branch.status {
        BranchStatus::Confirming => Some(BranchStatus::Confirmed),
        BranchStatus::Cancelling => Some(BranchStatus::Cancelled),
        BranchStatus::Committing => Some(BranchStatus::Committed),
        BranchStatus::RollingBack => Some(BranchStatus::RolledBack),
        BranchStatus::ToCompensate | BranchStatus::Compensating if !branch.has_compensation() => {
            Some(BranchStatus::Kept)
        }
        BranchStatus::ToCompensate | BranchStatus::Compensating => Some(BranchStatus::Compensated),
        BranchStatus::Delivering => Some(BranchStatus::Delivered),
        BranchStatus::Registered
        | BranchStatus::Confirmed
        | BranchStatus::Cancelled
        | BranchStatus::HeuristicConfirmed
        | BranchStatus::HeuristicCancelled
        | BranchStatus::Preparing
        | BranchStatus::Prepared
        | BranchStatus::ReadOnly
        | BranchStatus::Refused
        | BranchStatus::Committed
        | BranchStatus::RolledBack
        | BranchStatus::Delegated
        | BranchStatus::Running
        | BranchStatus::Done
        | BranchStatus::Compensated
        | BranchStatus::Skipped
        | BranchStatus::Kept
        | BranchStatus::Checking
        | BranchStatus::Answered
        | BranchStatus::Delivered
        | BranchStatus::Discarded => None,
    }
}
