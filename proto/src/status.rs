//! Errors on the gRPC wire: the status code that goes with a stable code, and [`v1::ErrorDetail`] in
//! the status' details.
//!
//! The details are what `grpc-status-details-bin` holds everywhere: a `google.rpc.Status` with the
//! detail packed as `google.protobuf.Any`, so that tools of any language can read them.

use prost::Message as _;
use tonic::{Code, Status};
use unanimity_types::ErrorCode;

use crate::v1;

/// The type URL of [`v1::ErrorDetail`] inside an `Any`.
pub const ERROR_DETAIL_TYPE_URL: &str = "type.googleapis.com/unanimity.v1.ErrorDetail";

/// `google.rpc.Status`: three fields, fixed for ever, not worth a crate of their own.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// The gRPC code that goes with a stable code.
#[must_use]
pub fn grpc_code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::InvalidRequest
        | ErrorCode::InvalidXid
        | ErrorCode::InvalidName
        | ErrorCode::InvalidTarget
        | ErrorCode::InvalidTimeout
        | ErrorCode::InvalidMode
        | ErrorCode::InvalidPlan
        | ErrorCode::BranchKindNotAllowed
        | ErrorCode::PayloadTooLarge
        | ErrorCode::MessageTooLarge => Code::InvalidArgument,
        ErrorCode::TargetNotAllowed | ErrorCode::WrongSecret => Code::PermissionDenied,
        ErrorCode::TransactionNotFound | ErrorCode::BranchNotFound => Code::NotFound,
        ErrorCode::RouteNotFound | ErrorCode::MethodNotAllowed => Code::Unimplemented,
        ErrorCode::AlreadyDecided
        | ErrorCode::CommitInProgress
        | ErrorCode::IllegalTransition
        | ErrorCode::VoteContradicts
        | ErrorCode::NoWayBack
        | ErrorCode::Delegated
        | ErrorCode::NotMine
        | ErrorCode::Forgotten
        | ErrorCode::TooManyBranches
        | ErrorCode::LogLostTail => Code::FailedPrecondition,
        ErrorCode::XidReused | ErrorCode::BranchKeyReused => Code::AlreadyExists,
        ErrorCode::LockConflict => Code::Aborted,
        ErrorCode::TooBusy => Code::ResourceExhausted,
        ErrorCode::LogDamaged => Code::DataLoss,
        ErrorCode::OutcomeUnknown | ErrorCode::Unavailable | ErrorCode::NotOwner => Code::Unavailable,
        ErrorCode::DeadlineExceeded => Code::DeadlineExceeded,
        // `ErrorCode` may grow; a code without a better place is ours to explain.
        _ => Code::Internal,
    }
}

/// A status that carries an error's code and its detail. `detail.code` is set from `code`.
#[must_use]
pub fn error_to_status(code: ErrorCode, message: &str, mut detail: v1::ErrorDetail) -> Status {
    code.as_str().clone_into(&mut detail.code);
    let grpc = grpc_code(code);
    let any = prost_types::Any { type_url: ERROR_DETAIL_TYPE_URL.to_owned(), value: detail.encode_to_vec() };
    let status = RpcStatus { code: grpc as i32, message: message.to_owned(), details: vec![any] };
    Status::with_details(grpc, message, status.encode_to_vec().into())
}

/// The detail of a status that came from a coordinator; `None` if it has none (a proxy's error, a
/// broken connection, another server).
#[must_use]
pub fn error_from_status(status: &Status) -> Option<v1::ErrorDetail> {
    let decoded = RpcStatus::decode(status.details()).ok()?;
    let any = decoded.details.into_iter().find(|any| any.type_url == ERROR_DETAIL_TYPE_URL)?;
    v1::ErrorDetail::decode(any.value.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_travels_and_comes_back() {
        for code in ErrorCode::ALL {
            let detail = v1::ErrorDetail { xid: "x".to_owned(), retry_after_ms: 7, ..Default::default() };
            let status = error_to_status(*code, "what happened", detail);
            assert_ne!(status.code(), Code::Ok);
            assert_eq!(status.message(), "what happened");
            let read = error_from_status(&status).expect("a detail");
            assert_eq!(read.code.parse::<ErrorCode>(), Ok(*code));
            assert_eq!((read.xid.as_str(), read.retry_after_ms), ("x", 7));
        }
    }

    #[test]
    fn only_an_internal_error_is_told_as_one() {
        for code in ErrorCode::ALL {
            assert_eq!(grpc_code(*code) == Code::Internal, *code == ErrorCode::Internal, "{code}");
        }
    }

    #[test]
    fn foreign_statuses_have_no_detail() {
        assert_eq!(error_from_status(&Status::unavailable("a proxy")), None);
        let garbage = Status::with_details(Code::Internal, "x", vec![0xff, 0x01].into());
        assert_eq!(error_from_status(&garbage), None);
    }
}
