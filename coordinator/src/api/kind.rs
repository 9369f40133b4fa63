//! What a branch is, from what its registration says and from its targets.

use unanimity_types::{BranchKind, BranchTargets, ErrorCode};

use crate::engine::{Error, TwoPhase};

/// The branch's kind; `None` if only the transaction's mode says.
///
/// # Errors
/// `invalid_target` if the targets belong to another kind, or one is missing that will be needed.
pub(super) fn branch_kind(
    said: Option<BranchKind>,
    targets: &BranchTargets,
    two_phase: &TwoPhase,
) -> Result<Option<BranchKind>, Error> {
    let shown = match targets {
        BranchTargets::One(_) => None,
        BranchTargets::Tcc { .. } => Some(BranchKind::Tcc),
        BranchTargets::TwoPhase { .. } => Some(BranchKind::TwoPhase),
        BranchTargets::Step { .. } => Some(BranchKind::Step),
    };
    if matches!(targets, BranchTargets::TwoPhase { prepare: None, .. }) && !two_phase.early {
        return Err(Error::new(
            ErrorCode::InvalidTarget,
            "a two-phase branch that does not vote by itself (early) needs a target for prepare",
        ));
    }
    match (said, shown) {
        (Some(said), Some(shown)) if said != shown => Err(Error::new(
            ErrorCode::InvalidTarget,
            format!("the targets are those of a {shown} branch, and the branch is said to be {said}"),
        )),
        _ => Ok(said.or(shown)),
    }
}
