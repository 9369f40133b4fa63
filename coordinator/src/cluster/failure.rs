//! How a call to another node failed, and what that says about whether it was carried out.

use std::error::Error as _;
use std::time::Duration;

use tonic::{Code, Status};
use unanimity_proto::{error_from_status, v1};
use unanimity_types::{ErrorCode, Xid};

use crate::engine::Error;

/// Why a call did not get its answer from a node.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was surely not taken, and another node, or the same one later, may take it.
    NotTaken(Error),
    /// Nobody knows whether it was carried out.
    Broken(Error),
    /// The owner's own answer.
    Refused(Error),
}

impl Failure {
    /// What an error of a partition says, whether it comes from this node or from another one.
    pub(crate) fn of(error: Error) -> Self {
        match error.code {
            ErrorCode::OutcomeUnknown => Self::Broken(error),
            ErrorCode::NotOwner => Self::NotTaken(error),
            // A node that does not know better than to send the call on again; or one that knows that the partition
            // does not work there now. Otherwise it is the owner whose log is away.
            ErrorCode::Unavailable if error.elsewhere || error.owner.is_some() => Self::NotTaken(error),
            _ => Self::Refused(error),
        }
    }

    /// What a status says that came from the node at `address`, or from the way to it.
    pub(crate) fn of_status(status: &Status, address: &str) -> Self {
        if let Some(detail) = error_from_status(status) {
            return Self::of(from_wire(status.message(), &detail));
        }
        if never_sent(status) {
            return Self::NotTaken(unreachable(address));
        }
        match status.code() {
            Code::Unimplemented => {
                let message = format!("the owner at {address} is of a version that does not know this call");
                Self::Refused(Error::new(ErrorCode::Unavailable, message))
            }
            _ => Self::Broken(broke(address)),
        }
    }

    /// The connection to the node at `address` broke before it answered.
    pub(crate) fn broke(address: &str) -> Self {
        Self::Broken(broke(address))
    }

    /// What an error on the way to the node at `address` says.
    pub(crate) fn of_transport(error: &tonic::transport::Error, address: &str) -> Self {
        if caused_by_connect(error.source()) {
            Self::NotTaken(unreachable(address))
        } else {
            Self::Broken(broke(address))
        }
    }
}

/// No connection could be had, so that nothing was sent.
fn never_sent(status: &Status) -> bool {
    caused_by_connect(status.source())
}

fn caused_by_connect(mut cause: Option<&(dyn std::error::Error + 'static)>) -> bool {
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn unreachable(address: &str) -> Error {
    Error::new(ErrorCode::Unavailable, format!("the partition's owner at {address} cannot be reached"))
        .retry_after(Duration::from_secs(1))
        .owned_by(address)
}

/// The call was sent and nobody knows what became of it.
pub(super) fn broke(address: &str) -> Error {
    let message = format!(
        "the connection to the partition's owner at {address} broke; whether the command took effect is not known: \
         repeat it with the same xid"
    );
    Error::new(ErrorCode::OutcomeUnknown, message).retry_after(Duration::from_millis(500)).owned_by(address)
}

/// An error as another node said it, with everything that its caller would have been told.
fn from_wire(message: &str, detail: &v1::ErrorDetail) -> Error {
    // A code of a later version: nothing that this one could act on.
    let code = detail.code.parse().unwrap_or(ErrorCode::Internal);
    let xid: Option<Xid> = detail.xid.parse().ok();
    let mut error = Error::new(code, message);
    match code {
        ErrorCode::LockConflict => error.holder = xid,
        _ => error.xid = xid,
    }
    error.status = detail.status().to_domain();
    error.abort_reason = detail.abort_reason.parse().ok();
    error.retry_after = (detail.retry_after_ms > 0).then(|| Duration::from_millis(detail.retry_after_ms));
    error.owner = Some(detail.owner_address.clone()).filter(|address| !address.is_empty());
    error
}
