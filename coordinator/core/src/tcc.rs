//! TCC: what each decision asks of a branch, and what its answers mean.

use unanimity_types::{BranchStatus, Decision, Operation};

/// The operation that brings a decision to a branch.
pub(crate) const fn operation(decision: Decision) -> Operation {
    match decision {
        Decision::Commit => Operation::Confirm,
        Decision::Abort => Operation::Cancel,
    }
}

/// A branch's status while its operation is owed.
pub(crate) const fn owed(decision: Decision) -> BranchStatus {
    match decision {
        Decision::Commit => BranchStatus::Confirming,
        Decision::Abort => BranchStatus::Cancelling,
    }
}

/// A branch's status when its participant did what was decided; `None` if nothing was owed.
pub(crate) const fn settled(status: BranchStatus) -> Option<BranchStatus> {
    match status {
        BranchStatus::Confirming => Some(BranchStatus::Confirmed),
        BranchStatus::Cancelling => Some(BranchStatus::Cancelled),
        BranchStatus::Registered
        | BranchStatus::Confirmed
        | BranchStatus::Cancelled
        | BranchStatus::HeuristicConfirmed
        | BranchStatus::HeuristicCancelled => None,
    }
}

/// The operation that a branch is owed; `None` if nothing is.
pub(crate) const fn owed_operation(status: BranchStatus) -> Option<Operation> {
    match status {
        BranchStatus::Confirming => Some(Operation::Confirm),
        BranchStatus::Cancelling => Some(Operation::Cancel),
        BranchStatus::Registered
        | BranchStatus::Confirmed
        | BranchStatus::Cancelled
        | BranchStatus::HeuristicConfirmed
        | BranchStatus::HeuristicCancelled => None,
    }
}
