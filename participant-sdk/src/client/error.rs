//! How a transaction may end for its manager.

use std::convert::Infallible;
use std::fmt;

use unanimity_types::{AbortReason, Xid};

use crate::error::ClientError;

/// Why a transaction was aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AbortCause {
    /// The coordinator decided it.
    Coordinator(AbortReason),
    /// A call that carried the context ended without a well-formed answer, so the manager aborted
    /// instead of committing (protocol 1.3). The text says which.
    CallWithoutAnswer(String),
    /// The manager had aborted it before.
    Requested,
    /// The coordinator aborted it and gave no reason that this version knows.
    Unknown,
}

impl fmt::Display for AbortCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator(reason) => f.write_str(reason.as_str()),
            Self::CallWithoutAnswer(why) => write!(f, "a call had no well-formed answer: {why}"),
            Self::Requested => f.write_str(AbortReason::Requested.as_str()),
            Self::Unknown => f.write_str("unknown reason"),
        }
    }
}

/// Why a transaction did not commit, as far as is known.
///
/// `E` is the error of the closure given to [`crate::TransactionBuilder::run`].
#[derive(Debug, thiserror::Error)]
pub enum TransactionError<E> {
    /// It could not be begun; the closure did not run.
    #[error("the transaction could not be begun: {0}")]
    Begin(ClientError),
    /// The closure returned an error: the transaction is aborted, by its deadline at the latest.
    #[error("the transaction {xid} was aborted by its own code: {error}")]
    User {
        /// The transaction.
        xid: Xid,
        /// The closure's error.
        error: E,
    },
    /// It is decided: aborted. No branch takes effect.
    #[error("the transaction {xid} was aborted: {reason}")]
    Aborted {
        /// The transaction.
        xid: Xid,
        /// Why.
        reason: AbortCause,
    },
    /// The commit was sent and nobody answered, for all the time that it was repeated. It is
    /// committed or aborted, or will be: [`crate::Client::wait_decided`] tells, and
    /// [`crate::Client::abort`] settles it. Do not do the work again before that. Also when the
    /// closure failed and its abort came too late: somebody with the same xid had committed.
    #[error("whether the transaction {xid} was committed is not known yet: {error}")]
    OutcomeUnknown {
        /// The transaction.
        xid: Xid,
        /// The last attempt's error.
        error: ClientError,
    },
}

/// The error of a commit by hand.
pub type CommitError = TransactionError<Infallible>;

impl<E> TransactionError<E> {
    /// The transaction, if one was begun.
    #[must_use]
    pub fn xid(&self) -> Option<Xid> {
        match self {
            Self::Begin(_) => None,
            Self::User { xid, .. } | Self::Aborted { xid, .. } | Self::OutcomeUnknown { xid, .. } => {
                Some(*xid)
            }
        }
    }

    /// Whether the same work may succeed **as a new transaction**. Never true while the outcome of
    /// this one is unknown, nor for the closure's own error, of which only its author can know.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Begin(error) => error.is_retryable(),
            Self::User { .. } | Self::OutcomeUnknown { .. } => false,
            Self::Aborted { reason, .. } => match reason {
                AbortCause::Coordinator(reason) => matches!(
                    reason,
                    AbortReason::Deadline
                        | AbortReason::Presumed
                        | AbortReason::BranchMissing
                        | AbortReason::OwnerChanged
                ),
                AbortCause::CallWithoutAnswer(_) => true,
                AbortCause::Requested | AbortCause::Unknown => false,
            },
        }
    }
}

impl CommitError {
    /// The same error beside a closure's.
    pub(crate) fn widen<E>(self) -> TransactionError<E> {
        match self {
            Self::Begin(error) => TransactionError::Begin(error),
            Self::Aborted { xid, reason } => TransactionError::Aborted { xid, reason },
            Self::OutcomeUnknown { xid, error } => TransactionError::OutcomeUnknown { xid, error },
            Self::User { error, .. } => match error {},
        }
    }
}
