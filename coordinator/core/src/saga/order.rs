//! The order of steps, forward and back.

use bytes::Bytes;
use unanimity_types::mutant::{self, Mutant};
use unanimity_types::{BranchId, BranchKey, BranchStatus, StepRole};

use super::is_passed;
use crate::transaction::{Branch, Transaction};

/// The steps whose turn has come: all before them are passed, and for forward-only ones everything
/// that could still turn back.
pub(crate) fn ready_to_run(transaction: &Transaction) -> Vec<BranchId> {
    let can_turn_back = transaction
        .branches
        .iter()
        .any(|branch| branch.role() != Some(StepRole::ForwardOnly) && !is_passed(branch));
    let passed = |id: &BranchId| transaction.branch(*id).is_some_and(is_passed);
    transaction
        .branches
        .iter()
        .filter(|branch| branch.status == BranchStatus::Registered)
        .filter(|branch| {
            branch.step.as_ref().is_some_and(|step| {
                step.after.iter().all(passed) && !(step.role == StepRole::ForwardOnly && can_turn_back)
            })
        })
        .map(|branch| branch.id)
        .collect()
}

/// The steps whose turn to be undone has come: everything after them is settled, and no attempt of their
/// action runs here (protocol H3).
pub(crate) fn ready_to_compensate(transaction: &Transaction) -> Vec<BranchId> {
    // Not the direct ones alone: between two steps there may be one that has nothing to undo.
    let unsettled = transaction.branches.iter().filter(|branch| !branch.status.is_settled());
    let blocked = before(transaction, unsettled);
    transaction
        .branches
        .iter()
        .zip(blocked)
        .filter(|(_, blocked)| !blocked || mutant::is(Mutant::CompensationOrder))
        .filter(|(branch, _)| branch.status == BranchStatus::ToCompensate && branch.next_attempt_at.is_none())
        .filter(|(branch, _)| !branch.in_flight || mutant::is(Mutant::CompensationOvertakes))
        .map(|(branch, _)| branch.id)
        .collect()
}

/// For each step, in the plan's order, whether it comes before any of some. Asked with every event and for
/// plans with thousands of edges: by place, without a look-up.
fn before<'a>(transaction: &Transaction, some: impl Iterator<Item = &'a Branch>) -> Vec<bool> {
    let mut before = vec![false; transaction.branches.len()];
    let mut look: Vec<BranchId> = some.flat_map(steps_before).collect();
    while let Some(id) = look.pop() {
        let place = usize::try_from(id.0).ok().and_then(|number| number.checked_sub(1));
        let Some(known) = place.and_then(|place| before.get_mut(place)) else { continue };
        if !std::mem::replace(known, true) {
            look.extend(transaction.branch(id).into_iter().flat_map(steps_before));
        }
    }
    before
}

/// The steps that come directly before one.
fn steps_before(branch: &Branch) -> impl Iterator<Item = BranchId> {
    branch.step.iter().flat_map(|step| step.after.iter().copied())
}

/// What becomes of a step with this status when its saga turns back.
pub(crate) fn turned(branch: &Branch, status: BranchStatus) -> BranchStatus {
    match status {
        BranchStatus::Registered => BranchStatus::Skipped,
        // Also if it has nothing to undo: what comes before it waits until no attempt of it runs.
        BranchStatus::Running => BranchStatus::ToCompensate,
        BranchStatus::Done if branch.has_compensation() => BranchStatus::ToCompensate,
        BranchStatus::Done => BranchStatus::Kept,
        other => other,
    }
}

impl Transaction {
    /// The results of all steps that come before a step, by name: what its action and its compensation
    /// are given. In the plan's order; steps without a result are left out.
    #[must_use]
    pub fn inputs_of(&self, branch: &Branch) -> Vec<(BranchKey, Bytes)> {
        self.branches
            .iter()
            .zip(before(self, std::iter::once(branch)))
            .filter(|(_, before)| *before)
            .filter_map(|(branch, _)| {
                let result = branch.step.as_ref()?.result.as_ref()?;
                (!result.is_empty()).then(|| (branch.key.clone(), result.clone()))
            })
            .collect()
    }
}
