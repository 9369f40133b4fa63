//! TCC: what each decision asks of a branch. Its try came from the application, its vote with the
//! commit (protocol 1.3).

use unanimity_types::{BranchStatus, Decision};

/// A branch's status once it is decided.
pub(crate) const fn on_decision(decision: Decision) -> BranchStatus {
    match decision {
        Decision::Commit => BranchStatus::Confirming,
        Decision::Abort => BranchStatus::Cancelling,
    }
}
