//! Messages: delivered if, and only if, the sender's local transaction committed (I10).
//!
//! The sender prepares the message, commits its local transaction, and submits. A submit that does
//! not come is settled by asking the sender, who makes a "no" impossible to take back before it
//! says it (protocol H5). Deliveries go out on commit only.

use unanimity_types::{AbortReason, BranchKind, BranchStatus, Decision};

use crate::answer::{Answer, Verdict};
use crate::decide::decision_events;
use crate::event::Event;
use crate::transaction::{Branch, Transaction};

/// A delivery's status once it is decided.
pub(crate) const fn on_decision(decision: Decision) -> BranchStatus {
    match decision {
        Decision::Commit => BranchStatus::Delivering,
        Decision::Abort => BranchStatus::Discarded,
    }
}

/// The sender's branch, if it can be asked.
pub(crate) fn sender(transaction: &Transaction) -> Option<&Branch> {
    transaction.branches.iter().find(|branch| branch.kind == BranchKind::Sender)
}

/// The submit did not come in time: ask.
pub(crate) fn overdue(transaction: &Transaction) -> Verdict {
    match sender(transaction) {
        Some(branch) if branch.status == BranchStatus::Registered => {
            Verdict::events(vec![Event::CheckBackAsked { branch_id: branch.id }])
        }
        // It is being asked.
        Some(_) => Verdict::nothing(Answer::Status),
        // Nobody to ask: a plan without a sender is submitted at once.
        None => {
            let reason = Some(AbortReason::Deadline);
            Verdict::events(decision_events(transaction, Decision::Abort, reason, None))
        }
    }
}

/// What the sender said decides.
pub(crate) fn answered(transaction: &Transaction, committed: bool) -> Verdict {
    let (decision, reason) =
        if committed { (Decision::Commit, None) } else { (Decision::Abort, Some(AbortReason::Refused)) };
    Verdict::events(decision_events(transaction, decision, reason, None))
}
