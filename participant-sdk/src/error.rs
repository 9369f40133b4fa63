//! Errors of calls to the coordinator.

use std::time::Duration;

use unanimity_proto::{error_from_status, v1};
use unanimity_types::{AbortReason, Decision, ErrorCode, Limits, Status, Xid};

/// Why a call to the coordinator did not bring what it asked for.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The address of the coordinator is no URL that can be called.
    #[error("{url:?} is not an address of a coordinator: {message}")]
    InvalidUrl {
        /// The address as it was given.
        url: String,
        /// What is wrong with it.
        message: String,
    },
    /// The coordinator answered, and the answer is no.
    #[error("the coordinator answered {code}: {message}")]
    Refused {
        /// The stable code; each has a page in docs/errors/.
        code: ErrorCode,
        /// What the coordinator says about it.
        message: String,
        /// The transaction's true status, where that is the reason.
        status: Option<Status>,
        /// Why the transaction was aborted, where that is the reason.
        abort_reason: Option<AbortReason>,
        /// When to try again, if the coordinator says.
        retry_after: Option<Duration>,
    },
    /// Another transaction holds a lock key that a branch wanted (protocol H7): try again in a new
    /// transaction.
    #[error("a lock is held by another transaction: {message}")]
    LockConflict {
        /// Who holds it, if the coordinator says.
        holder: Option<Xid>,
        /// What the coordinator says about it.
        message: String,
        /// When to try again, if the coordinator says.
        retry_after: Option<Duration>,
    },
    /// No answer: whether the call had an effect is unknown.
    #[error("no answer from the coordinator: {message}")]
    NoAnswer {
        /// What the transport says.
        message: String,
    },
    /// The coordinator answered something that makes no sense.
    #[error("the coordinator's answer cannot be understood: {message}")]
    Protocol {
        /// What is wrong with it.
        message: String,
    },
    /// Something that was about to be sent cannot be.
    #[error("not sent: {message}")]
    Invalid {
        /// The stable code that the coordinator would answer with.
        code: ErrorCode,
        /// What is wrong with it.
        message: String,
    },
}

impl ClientError {
    /// Whether the same call, sent again unchanged, may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { code, .. } => code.is_retryable(),
            Self::NoAnswer { .. } | Self::LockConflict { .. } => true,
            Self::InvalidUrl { .. } | Self::Protocol { .. } | Self::Invalid { .. } => false,
        }
    }

    /// The stable code, if the coordinator answered with one or would have.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } | Self::Invalid { code, .. } => Some(*code),
            Self::LockConflict { .. } => Some(ErrorCode::LockConflict),
            Self::InvalidUrl { .. } | Self::NoAnswer { .. } | Self::Protocol { .. } => None,
        }
    }

    /// Whether the coordinator says that the transaction is committed.
    pub(crate) fn is_committed(&self) -> bool {
        matches!(self, Self::Refused { status: Some(status), .. } if status.decision() == Some(Decision::Commit))
    }

    /// How long the coordinator asks to wait before the next attempt.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } | Self::LockConflict { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::Protocol { message: message.into() }
    }

    /// As a coordinator that has too much in hand answers.
    pub(crate) fn too_busy(message: impl Into<String>) -> Self {
        let (code, message) = (ErrorCode::TooBusy, message.into());
        Self::Refused { code, message, status: None, abort_reason: None, retry_after: None }
    }

    pub(crate) fn no_answer(message: impl Into<String>) -> Self {
        Self::NoAnswer { message: message.into() }
    }
}

impl From<tonic::Status> for ClientError {
    fn from(status: tonic::Status) -> Self {
        Self::told(status.code(), status.message(), error_from_status(&status))
    }
}

impl ClientError {
    /// An error as a coordinator tells it: in a status, or on a command stream.
    pub(crate) fn told(code: tonic::Code, message: &str, detail: Option<v1::ErrorDetail>) -> Self {
        let (grpc, message) = (code, shorten(message));
        if let Some(detail) = detail
            && let Ok(code) = detail.code.parse()
        {
            let retry_after = (detail.retry_after_ms > 0)
                // A minute at most: a damaged answer must not park a caller for years.
                .then(|| Duration::from_millis(detail.retry_after_ms.min(60_000)));
            if code == ErrorCode::LockConflict {
                return Self::LockConflict { holder: detail.xid.parse().ok(), message, retry_after };
            }
            return Self::Refused {
                code,
                message,
                status: detail.status().to_domain(),
                abort_reason: detail.abort_reason.parse().ok(),
                retry_after,
            };
        }
        match bare_code(grpc) {
            Some(code) => {
                Self::Refused { code, message, status: None, abort_reason: None, retry_after: None }
            }
            None => Self::NoAnswer { message: format!("{grpc}: {message}") },
        }
    }
}

/// The stable code behind a gRPC code that came without details: from a proxy, or from tonic
/// itself. `None` where nothing is known about the call.
fn bare_code(code: tonic::Code) -> Option<ErrorCode> {
    match code {
        tonic::Code::InvalidArgument => Some(ErrorCode::InvalidRequest),
        tonic::Code::NotFound => Some(ErrorCode::TransactionNotFound),
        tonic::Code::Unimplemented => Some(ErrorCode::RouteNotFound),
        tonic::Code::ResourceExhausted => Some(ErrorCode::TooBusy),
        tonic::Code::OutOfRange => Some(ErrorCode::MessageTooLarge),
        _ => None,
    }
}

/// Cuts a text to what is kept of an error, at a character's border.
pub(crate) fn shorten(text: &str) -> String {
    let mut end = text.len().min(Limits::ERROR_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// The xid in an answer.
pub(crate) fn xid_in_answer(text: &str) -> Result<Xid, ClientError> {
    text.parse().map_err(|_| ClientError::protocol("the answer's xid is not one"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimity_proto::error_to_status;

    #[test]
    fn the_detail_of_a_refusal_is_read() {
        let detail = v1::ErrorDetail {
            status: v1::Status::Aborted.into(),
            retry_after_ms: 250,
            abort_reason: "deadline".into(),
            ..Default::default()
        };
        let error = ClientError::from(error_to_status(ErrorCode::AlreadyDecided, "no", detail));
        assert!(
            matches!(
                &error,
                ClientError::Refused {
                    code: ErrorCode::AlreadyDecided,
                    status: Some(Status::Aborted),
                    abort_reason: Some(AbortReason::Deadline),
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(!error.is_retryable());
        assert_eq!(error.retry_after(), Some(Duration::from_millis(250)));
    }

    #[test]
    fn hostile_details_are_no_answer() {
        let status =
            tonic::Status::with_details(tonic::Code::Unknown, "é".repeat(4_000), vec![0xff; 64].into());
        let error = ClientError::from(status);
        assert!(matches!(error, ClientError::NoAnswer { .. }));
        assert!(error.to_string().len() < 2_000);
    }
}
