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

/// A branch's targets for the wire.
#[must_use]
pub fn targets_to_wire(targets: &BranchTargets) -> v1::BranchTargets {
    match targets {
        BranchTargets::One(target) => {
            v1::BranchTargets { one: Some(target_to_wire(target)), ..Default::default() }
        }
        BranchTargets::Tcc { confirm, cancel } => v1::BranchTargets {
            confirm: Some(target_to_wire(confirm)),
            cancel: Some(target_to_wire(cancel)),
            ..Default::default()
        },
    }
}

/// A branch's targets from the wire.
///
/// # Errors
/// If a target is not one, or there are neither one target nor both of confirm and cancel.
pub fn targets_from_wire(targets: v1::BranchTargets) -> Result<BranchTargets, InvalidWire> {
    match (targets.one, targets.confirm, targets.cancel) {
        (Some(one), None, None) => Ok(BranchTargets::One(target_from_wire(one)?)),
        (None, Some(confirm), Some(cancel)) => {
            Ok(BranchTargets::Tcc { confirm: target_from_wire(confirm)?, cancel: target_from_wire(cancel)? })
        }
        _ => Err(InvalidWire::new(
            ErrorCode::InvalidTarget,
            "a TCC branch has either one target for all operations, or both of confirm and cancel",
        )),
    }
}
