//! The engine's refusals: what a caller is told, and what to do about it.

use std::time::Duration;

use unanimity_types::{ErrorCode, PartitionId, Xid};

use super::error::Error;
use super::handle::Partition;
use super::request::{PartitionState, TransactionView};

pub(super) fn too_busy(partition: &Partition) -> Error {
    let message = format!("partition {} has as much to do as it can queue; try again", partition.id);
    Error::new(ErrorCode::TooBusy, message).retry_after(Duration::from_millis(100))
}

/// Another owner lives, who knows the transaction.
pub(super) fn went_elsewhere(partition: PartitionId, xid: Xid) -> Error {
    Error::new(ErrorCode::NotOwner, format!("partition {partition} went to another owner"))
        .about(xid)
        .retry_after(Duration::from_millis(500))
        .elsewhere()
}

pub(super) fn outcome_unknown(partition: PartitionId, why: &str) -> Error {
    let message = format!(
        "partition {partition}: {why}; whether the command took effect is not known: repeat it with the same xid"
    );
    Error::new(ErrorCode::OutcomeUnknown, message).retry_after(Duration::from_millis(500))
}

pub(super) fn unavailable(error: &crate::log::Error) -> Error {
    match error {
        crate::log::Error::Damaged { .. } => Error::new(ErrorCode::LogDamaged, error.to_string()),
        _ => Error::new(ErrorCode::Unavailable, error.to_string()).retry_after(Duration::from_millis(500)),
    }
}

/// Whoever took the partition over meanwhile knows more.
pub(super) fn lease_over(partition: PartitionId) -> Error {
    let message = format!(
        "this node's lease of partition {partition} has run out, and it shows nothing until it has it again"
    );
    Error::new(ErrorCode::NotOwner, message).retry_after(Duration::from_millis(250)).elsewhere()
}

/// The log has no such partition, or the xid belongs to another one than the sender thinks.
pub(super) fn not_owned(partition: PartitionId) -> Error {
    Error::new(ErrorCode::NotOwner, format!("this node does not run partition {partition}"))
}

pub(super) fn closed() -> Error {
    Error::new(ErrorCode::Unavailable, "this node is shutting down; try another one, or this one later")
        .retry_after(Duration::from_secs(1))
        .elsewhere()
}

pub(super) fn not_running(partition: PartitionId, state: &PartitionState) -> Error {
    use super::request::StopReason;
    let hint = Duration::from_millis(500);
    match state {
        PartitionState::Running | PartitionState::Recovering => {
            Error::new(ErrorCode::Unavailable, format!("partition {partition} is reading its log"))
                .retry_after(hint)
                .elsewhere()
        }
        PartitionState::Waiting(who) => {
            Error::new(ErrorCode::NotOwner, format!("partition {partition} belongs to {who}"))
                .retry_after(hint)
                .elsewhere()
        }
        PartitionState::Unavailable(why) => {
            Error::new(ErrorCode::Unavailable, format!("partition {partition}: {why}; nothing is lost"))
                .retry_after(hint)
        }
        PartitionState::Closed => closed(),
        PartitionState::Stopped(StopReason::LostTail(why)) => Error::new(
            ErrorCode::LogLostTail,
            format!("partition {partition} stopped: {why}; see docs/errors/log_lost_tail.md"),
        ),
        PartitionState::Stopped(StopReason::Damaged(why) | StopReason::Unreadable(why)) => Error::new(
            ErrorCode::LogDamaged,
            format!("partition {partition} stopped: {why}; see docs/errors/log_damaged.md"),
        ),
    }
}

/// Nobody knows it, and it may have been lost with what a restored log does not hold (protocol C8).
pub(super) fn forgotten(xid: Xid) -> Error {
    let message = format!(
        "nobody knows {xid}, and it may be from before the log was restored from a backup: whether it was committed \
         is not known, and nothing is presumed"
    );
    Error::new(ErrorCode::Forgotten, message).about(xid)
}

pub(super) fn already_decided(view: &TransactionView) -> Error {
    let mut error = Error::new(
        ErrorCode::AlreadyDecided,
        match view.abort_reason {
            Some(reason) => format!("{} is {} ({reason})", view.xid, view.status),
            None => format!("{} is {}", view.xid, view.status),
        },
    )
    .about(view.xid);
    error.status = Some(view.status);
    error.abort_reason = view.abort_reason;
    error
}
