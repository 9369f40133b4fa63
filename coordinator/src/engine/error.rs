//! What a command's caller is told when it did not go well.

use std::time::Duration;

use unanimity_core::Refusal;
use unanimity_types::{AbortReason, ErrorCode, Status, Xid};

/// A command's failure: a stable code, a sentence for people, and what else helps the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The stable code; `docs/errors/<code>.md` explains it.
    pub code: ErrorCode,
    /// What happened and what to do, without secrets.
    pub message: String,
    /// The transaction that it is about.
    pub xid: Option<Xid>,
    /// Its true status, where that is the reason.
    pub status: Option<Status>,
    /// Why it was aborted, where that is the reason.
    pub abort_reason: Option<AbortReason>,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// Which transaction holds the lock, where that is the reason.
    pub holder: Option<Xid>,
    /// Where the partition's owner is, if it is another node and known.
    pub owner: Option<String>,
    /// The partition does not work here at this moment, and nothing of the command was taken: another node can, or
    /// this one a little later.
    pub elsewhere: bool,
}

impl Error {
    /// A failure with nothing but a code and a sentence.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            xid: None,
            status: None,
            abort_reason: None,
            retry_after: None,
            holder: None,
            owner: None,
            elsewhere: false,
        }
    }

    /// The same about a transaction.
    #[must_use]
    pub fn about(mut self, xid: Xid) -> Self {
        self.xid = Some(xid);
        self
    }

    /// The same with a hint when to try again.
    #[must_use]
    pub fn retry_after(mut self, duration: Duration) -> Self {
        self.retry_after = Some(duration);
        self
    }

    /// The same with the address of the partition's owner.
    #[must_use]
    pub fn owned_by(mut self, address: impl Into<String>) -> Self {
        self.owner = Some(address.into());
        self
    }

    /// The same for what was surely not taken and can be taken elsewhere.
    pub(crate) fn elsewhere(mut self) -> Self {
        self.elsewhere = true;
        self
    }

    /// A refusal of the core as its caller sees it.
    #[must_use]
    pub fn refused(xid: Xid, refusal: &Refusal) -> Self {
        let mut error = Self::new(refusal.code(), refusal.to_string()).about(xid);
        if let Refusal::AlreadyDecided { status, reason } = refusal {
            error.status = Some(*status);
            error.abort_reason = *reason;
        }
        error
    }
}
