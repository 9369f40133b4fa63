//! Sagas: steps in the order of a plan, forward until all are done or back in reverse order.
//!
//! ```text
//!   registered ─ all before it done ─► running ─► done          (all done: Commit)
//!        │                                │  └ refused: did nothing ┐
//!        │ skipped                        │ unknown, done           ├─ Abort: the saga turns back
//!        ▼                                ▼                         ▼
//!     (settled)                     to_compensate ─ all after it settled ─► compensating ─► compensated
//!                                          └ nothing to undo ─► kept
//! ```
//! A step that may run is `to_compensate` also if it has nothing to undo: what comes before it waits
//! until no attempt of it can run any more.
//!
//! After Garcia-Molina and Salem, "Sagas" (1987), with a pivot and forward-only ("retriable") steps
//! after Mehrotra et al. (1992). A step is dispatched when the completions and results of all steps
//! before it are durable, so the log always bounds what may have run (protocol C6). Past the pivot's
//! dispatch only its own clean refusal turns back (H14).

mod act;
mod order;

pub(crate) use act::{
    abort_refused, end_if_last, ended_after_turn, gave_up, overdue, overdue_message, refused, sealed,
    step_done,
};
pub(crate) use order::{ready_to_compensate, ready_to_run, turned};

use unanimity_types::mutant::{self, Mutant};
use unanimity_types::{BranchStatus, StepRole};

use crate::transaction::{Branch, Transaction};

/// Whether the saga can only go forward: its pivot, or a step past it, was dispatched and did not
/// say that it did nothing.
pub(crate) fn no_way_back(transaction: &Transaction) -> bool {
    !mutant::is(Mutant::PivotTurnsBack)
        && transaction.branches.iter().any(|branch| {
            let decides = matches!(branch.role(), Some(StepRole::Pivot | StepRole::ForwardOnly));
            decides && !matches!(branch.status, BranchStatus::Registered | BranchStatus::Refused)
        })
}

/// Whether those after the step may go on: it is done, or somebody settled it by hand. A pivot that was
/// cancelled by hand turns the saga back, in the same verdict.
pub(crate) fn is_passed(branch: &Branch) -> bool {
    match branch.status {
        BranchStatus::Done | BranchStatus::HeuristicConfirmed => true,
        BranchStatus::HeuristicCancelled => branch.role() == Some(StepRole::ForwardOnly),
        _ => false,
    }
}

/// Whether a refusal means "did nothing": only as the answer to the first attempt there can have been
/// (protocol H2).
pub(crate) fn is_clean(branch: &Branch, attempt: u32) -> bool {
    mutant::is(Mutant::RefusalAlwaysClean) || attempt == 1 && branch.attempts == 0 && !branch.tainted
}
