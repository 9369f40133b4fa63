//! What a command is answered.

use unanimity_types::{AbortReason, BranchId, BranchKey, Decision, ErrorCode, Status, Vote};

use crate::event::Event;

/// What [`decide()`](crate::decide()) says: the events that follow, and the answer once they are durable.
/// A refusal may come with events too (an unknown xid is aborted by asking about it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// To be applied in this order, and written to the log as far as they are not volatile.
    pub events: Vec<Event>,
    /// For the caller.
    pub answer: Result<Answer, Refusal>,
}

impl Verdict {
    pub(crate) fn nothing(answer: Answer) -> Self {
        Self { events: Vec::new(), answer: Ok(answer) }
    }

    pub(crate) fn events(events: Vec<Event>) -> Self {
        Self { events, answer: Ok(Answer::Status) }
    }

    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self { events: Vec::new(), answer: Err(refusal) }
    }
}

/// A command was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The transaction's status, as it is after the events, is the answer.
    Status,
    /// The branch has this number, now or since before.
    Registered(BranchId),
    /// A commit waits for branches that it named: the answer is the decision when there is one.
    Undecided,
}

/// A command was refused. Nothing changed, except what the verdict's events say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Nothing is known about the xid.
    #[error("nothing is known about this transaction")]
    NotFound,
    /// It was decided, the other way or at all.
    #[error("the transaction is {status}{}", because(*.reason))]
    AlreadyDecided {
        /// Its true status.
        status: Status,
        /// Why it was aborted.
        reason: Option<AbortReason>,
    },
    /// A commit waits for the branches that it named; no other may register.
    #[error("a commit is waiting for the branches that it named; this one is not among them")]
    CommitInProgress,
    /// The xid is in use with another body.
    #[error("this xid was used before for another transaction")]
    XidReused,
    /// The branch key is in use with another body.
    #[error("this branch key was used before in this transaction with other targets or another payload")]
    BranchKeyReused,
    /// As many branches as there may be.
    #[error("a transaction has at most {max} branches")]
    TooManyBranches {
        /// How many there may be.
        max: usize,
    },
    /// No such branch.
    #[error("the transaction has no branch {branch_id}")]
    BranchNotFound {
        /// Which was asked for.
        branch_id: BranchId,
    },
    /// The plan cannot be carried out.
    #[error("{why}")]
    InvalidPlan {
        /// Why not.
        why: Box<str>,
    },
    /// A transaction of this mode does not carry such a branch.
    #[error("{why}")]
    KindNotAllowed {
        /// Why not, and what to do instead.
        why: &'static str,
    },
    /// No branch has this key.
    #[error("the transaction has no branch with the key {key}")]
    KeyNotFound {
        /// Which was asked for.
        key: BranchKey,
    },
    /// The branch voted otherwise before.
    #[error("the branch voted {before} before, and a vote does not change")]
    VoteContradicts {
        /// How it voted.
        before: Vote,
    },
    /// The saga is past its pivot.
    #[error(
        "the saga is past its pivot: it can only go forward; retry it, or settle the step that hangs by hand"
    )]
    NoWayBack,
    /// The decision was left to the only branch.
    #[error(
        "the decision was delegated to the only branch, which is being asked for it; if it cannot answer any more, settle that branch by hand as its database shows"
    )]
    Delegated,
    /// Not possible in this state.
    #[error("{what}")]
    Illegal {
        /// What was asked, why it is not possible, and what is.
        what: &'static str,
    },
}

fn because(reason: Option<AbortReason>) -> String {
    reason.map(|reason| format!(" ({reason})")).unwrap_or_default()
}

impl Refusal {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound => ErrorCode::TransactionNotFound,
            Self::AlreadyDecided { .. } => ErrorCode::AlreadyDecided,
            Self::CommitInProgress => ErrorCode::CommitInProgress,
            Self::XidReused => ErrorCode::XidReused,
            Self::BranchKeyReused => ErrorCode::BranchKeyReused,
            Self::TooManyBranches { .. } => ErrorCode::TooManyBranches,
            Self::BranchNotFound { .. } => ErrorCode::BranchNotFound,
            Self::InvalidPlan { .. } => ErrorCode::InvalidPlan,
            Self::KindNotAllowed { .. } => ErrorCode::BranchKindNotAllowed,
            Self::KeyNotFound { .. } => ErrorCode::BranchNotFound,
            Self::VoteContradicts { .. } => ErrorCode::VoteContradicts,
            Self::NoWayBack => ErrorCode::NoWayBack,
            Self::Delegated => ErrorCode::Delegated,
            Self::Illegal { .. } => ErrorCode::IllegalTransition,
        }
    }

    pub(crate) fn decided(decision: Decision, finished: bool, reason: Option<AbortReason>) -> Self {
        let status = match (decision, finished) {
            (Decision::Commit, false) => Status::Committing,
            (Decision::Commit, true) => Status::Committed,
            (Decision::Abort, false) => Status::Aborting,
            (Decision::Abort, true) => Status::Aborted,
        };
        Self::AlreadyDecided { status, reason }
    }
}
