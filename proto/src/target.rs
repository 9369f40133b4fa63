//! Targets between the wire and the domain.

use unanimity_types::{BranchTargets, ErrorCode, Limits, Name, Target};

use crate::convert::InvalidWire;
use crate::v1;

/// A target for the wire.
#[must_use]
pub fn target_to_wire(target: &Target) -> v1::Target {
    let kind = match target {
        Target::Participant { participant, operation } => {
            v1::target::Kind::Participant(v1::ParticipantTarget {
                participant: participant.to_string(),
                operation: operation.to_string(),
            })
        }
        Target::Grpc(url) => v1::target::Kind::Grpc(url.to_string()),
        Target::Http(url) => v1::target::Kind::Url(url.to_string()),
    };
    v1::Target { kind: Some(kind) }
}

/// A target from the wire. Whether an address may be called is for the allow list to say.
///
/// # Errors
/// If it is empty, too long, or a name in it is not one.
pub fn target_from_wire(target: v1::Target) -> Result<Target, InvalidWire> {
    match target.kind {
        Some(v1::target::Kind::Participant(target)) => Ok(Target::Participant {
            participant: Name::new(target.participant)?,
            operation: Name::new(target.operation)?,
        }),
        Some(v1::target::Kind::Grpc(url)) => address(url).map(Target::Grpc),
        Some(v1::target::Kind::Url(url)) => address(url).map(Target::Http),
        None => Err(InvalidWire::new(ErrorCode::InvalidTarget, "a target is one of participant, grpc, url")),
    }
}

fn address(url: String) -> Result<Box<str>, InvalidWire> {
    let scheme_fits = url.starts_with("http://") || url.starts_with("https://");
    if !scheme_fits || url.len() > Limits::TARGET_BYTES_MAX || url.chars().any(|c| c.is_control() || c == ' ')
    {
        return Err(InvalidWire::new(
            ErrorCode::InvalidTarget,
            "an address begins with http:// or https:// and has at most 2,048 bytes without spaces",
        ));
    }
    Ok(url.into_boxed_str())
}

/// A branch's targets for the wire. A step's travel in its plan, never here.
#[must_use]
pub fn targets_to_wire(targets: &BranchTargets) -> v1::BranchTargets {
    let some = |target: &Target| Some(target_to_wire(target));
    match targets {
        BranchTargets::One(target) => v1::BranchTargets { one: some(target), ..Default::default() },
        BranchTargets::Tcc { confirm, cancel } => {
            v1::BranchTargets { confirm: some(confirm), cancel: some(cancel), ..Default::default() }
        }
        BranchTargets::TwoPhase { prepare, commit, rollback } => v1::BranchTargets {
            prepare: prepare.as_ref().map(target_to_wire),
            commit: some(commit),
            rollback: some(rollback),
            ..Default::default()
        },
        BranchTargets::Step { .. } => v1::BranchTargets::default(),
    }
}

/// A branch's targets from the wire.
///
/// # Errors
/// If a target is not one, or they do not make a set: one for all operations, or `confirm` and
/// `cancel`, or `commit` and `rollback` (with or without `prepare`).
pub fn targets_from_wire(targets: v1::BranchTargets) -> Result<BranchTargets, InvalidWire> {
    let v1::BranchTargets { one, confirm, cancel, prepare, commit, rollback } = targets;
    match (one, confirm, cancel, prepare, commit, rollback) {
        (Some(one), None, None, None, None, None) => Ok(BranchTargets::One(target_from_wire(one)?)),
        (None, Some(confirm), Some(cancel), None, None, None) => {
            Ok(BranchTargets::Tcc { confirm: target_from_wire(confirm)?, cancel: target_from_wire(cancel)? })
        }
        (None, None, None, prepare, Some(commit), Some(rollback)) => Ok(BranchTargets::TwoPhase {
            prepare: prepare.map(target_from_wire).transpose()?,
            commit: target_from_wire(commit)?,
            rollback: target_from_wire(rollback)?,
        }),
        _ => Err(InvalidWire::new(
            ErrorCode::InvalidTarget,
            "a branch has one target for all operations, or both of confirm and cancel (TCC), or both of commit and rollback (two-phase)",
        )),
    }
}
