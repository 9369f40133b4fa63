//! What a branch is, from what its registration says and from its targets.

use unanimity_types::{BranchKind, BranchTargets, ErrorCode};

use crate::engine::Error;

/// The branch's kind; `None` if only the transaction's mode says.
///
/// # Errors
/// `invalid_target` if the targets belong to another kind.
pub(super) fn branch_kind(
    said: Option<BranchKind>,
    targets: &BranchTargets,
) -> Result<Option<BranchKind>, Error> {
    let shown = match targets {
        BranchTargets::One(_) => None,
        BranchTargets::Tcc { .. } => Some(BranchKind::Tcc),
        BranchTargets::TwoPhase { .. } => Some(BranchKind::TwoPhase),
        BranchTargets::Step { .. } => Some(BranchKind::Step),
    };
    match (said, shown) {
        (Some(said), Some(shown)) if said != shown => Err(Error::new(
            ErrorCode::InvalidTarget,
            format!("the targets are those of a {shown} branch, and the branch is said to be {said}"),
        )),
        _ => Ok(said.or(shown)),
    }
}
