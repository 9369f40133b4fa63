//! How a try or a participant's start may fail.

use unanimity_types::{ErrorCode, NameError};

use crate::error::ClientError;
use crate::fence::FenceError;
use crate::wire::InvalidContext;
use crate::xa::XaError;

/// Why a branch was not tried. The handler should fail its request with it: without the branch's
/// vote the transaction aborts.
///
/// With the feature `axum` it is a response (409 for a refusal, 503 for what may work later); it
/// converts into a `tonic::Status` as well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TryError {
    /// The hook says no. Nothing was done.
    #[error("{0}")]
    Refused(String),
    /// The request carries no transaction, or its layer is missing.
    #[error("this request must be part of a transaction: send the header unanimity-xid")]
    NoTransaction,
    /// The request's context cannot be read.
    #[error(transparent)]
    Context(#[from] InvalidContext),
    /// The transaction's deadline has passed, or the try came so late that its cancel may be forgotten.
    #[error("the transaction's time is over")]
    TooLate,
    /// The branch was cancelled before: a late or repeated try has no effect (K3).
    #[error("the branch was cancelled before this try")]
    Cancelled,
    /// The branch's key was used with another operation or payload.
    #[error("the branch's key was used with another operation or payload before")]
    KeyReused,
    /// The payload is larger than 1 MiB, or cannot be written as JSON.
    #[error("the payload cannot be kept: {0}")]
    Payload(String),
    /// No hooks of this type, or more than one set: register them once with the builder.
    #[error("no hooks are registered as {0}")]
    UnknownHooks(String),
    /// The branch could not be registered: it was not tried.
    #[error("the branch could not be registered: {0}")]
    Registration(#[source] ClientError),
    /// The hook failed.
    #[error("the hook failed: {0}")]
    Hook(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The hook panicked.
    #[error("the hook panicked: {0}")]
    Panicked(String),
    /// The hook took longer than it may.
    #[error("the hook took longer than it may")]
    HookTimeout,
    /// The fence failed. If its commit did, whether the try took effect is unknown; its cancel
    /// will tell.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// A two-phase branch could not work or not be prepared; but see [`XaError::PrepareUnknown`] it is
    /// rolled back.
    #[error(transparent)]
    TwoPhase(XaError),
    /// The participant shuts down.
    #[error("the participant shuts down")]
    ShuttingDown,
}

impl TryError {
    /// Whether trying again, in a new transaction, may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Registration(error) => error.is_retryable(),
            Self::TwoPhase(error) => error.is_retryable(),
            Self::Fence(_) | Self::Hook(_) | Self::TooLate | Self::HookTimeout | Self::ShuttingDown => true,
            Self::Refused(_)
            | Self::NoTransaction
            | Self::Context(_)
            | Self::Cancelled
            | Self::KeyReused
            | Self::Payload(_)
            | Self::UnknownHooks(_)
            | Self::Panicked(_) => false,
        }
    }

    /// Whether this is a clear no of the hook.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    fn grpc_code(&self) -> tonic::Code {
        match self {
            Self::Refused(_) | Self::Cancelled | Self::KeyReused => tonic::Code::FailedPrecondition,
            Self::NoTransaction | Self::Context(_) | Self::Payload(_) => tonic::Code::InvalidArgument,
            Self::TooLate => tonic::Code::DeadlineExceeded,
            Self::UnknownHooks(_) | Self::Panicked(_) => tonic::Code::Internal,
            Self::Registration(error) if !error.is_retryable() => tonic::Code::Aborted,
            Self::TwoPhase(error) if !error.is_retryable() => tonic::Code::FailedPrecondition,
            Self::Registration(_)
            | Self::TwoPhase(_)
            | Self::Hook(_)
            | Self::HookTimeout
            | Self::Fence(_)
            | Self::ShuttingDown => tonic::Code::Unavailable,
        }
    }

    /// The text for a caller: what a database said stays in our own log.
    fn public_message(&self) -> String {
        match self {
            Self::Hook(_) => "the hook failed".into(),
            Self::Panicked(_) => "the hook panicked".into(),
            Self::Fence(_) | Self::TwoPhase(XaError::Database(_) | XaError::PrepareUnknown(_)) => {
                "the participant's database failed".into()
            }
            Self::TwoPhase(XaError::Manager(_)) => "the resource manager failed".into(),
            Self::TwoPhase(XaError::SiblingHoldsLock { .. }) => {
                "another branch of the same transaction holds a lock that this one waits for".into()
            }
            Self::TwoPhase(XaError::PrepareRefused(_)) => "the database refused to prepare the work".into(),
            other => other.to_string(),
        }
    }
}

impl From<TryError> for tonic::Status {
    fn from(error: TryError) -> Self {
        Self::new(error.grpc_code(), error.public_message())
    }
}

#[cfg(feature = "axum")]
impl axum::response::IntoResponse for TryError {
    fn into_response(self) -> axum::response::Response {
        use http::StatusCode;
        let status = match self.grpc_code() {
            tonic::Code::FailedPrecondition | tonic::Code::Aborted => StatusCode::CONFLICT,
            tonic::Code::InvalidArgument => StatusCode::BAD_REQUEST,
            tonic::Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            tonic::Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, self.public_message()).into_response()
    }
}

/// Why a participant could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The participant's name or an operation's name is not one.
    #[error("{name:?} is not a name: {error}")]
    Name {
        /// The name as it was given.
        name: String,
        /// What is wrong with it.
        error: NameError,
    },
    /// Two hook sets under one name.
    #[error("two hook sets are registered as {0:?}")]
    DuplicateOperation(String),
    /// No hook sets.
    #[error("a participant needs at least one hook set")]
    NoOperations,
    /// The address to be called at is not one.
    #[error("the address cannot be called: {0}")]
    Address(String),
    /// The operation needs a fence: build the participant with one.
    #[error("{0:?} needs a fence: build the participant with one")]
    NeedsFence(String),
    /// A resource manager cannot be used: is its ledger migrated?
    #[error("the resource manager {operation:?} cannot be used, is its ledger migrated? {error}")]
    ResourceManager {
        /// The name under which it is registered.
        operation: String,
        /// What is wrong with it.
        #[source]
        error: XaError,
    },
    /// The fence cannot be used: is it migrated?
    #[error("the fence cannot be used, is it migrated? {0}")]
    Fence(#[from] FenceError),
}

/// The error of a payload that is too large, before it is sent.
pub(crate) fn payload_too_large(bytes: usize) -> ClientError {
    ClientError::Invalid {
        code: ErrorCode::PayloadTooLarge,
        message: format!("the payload has {bytes} bytes, at most 1 MiB are kept"),
    }
}
