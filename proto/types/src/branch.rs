//! What a branch is asked to do, where, and how it votes.

use std::fmt;
use std::time::Duration;

use crate::name::Name;
use crate::outcome::words;

words!(
    /// What a participant is asked to do with a branch.
    Operation, "operation", {
        /// TCC: reserve. Called by the application, never by the coordinator.
        Try = "try",
        /// TCC: make the reservation effective.
        Confirm = "confirm",
        /// TCC: release the reservation, or remember that none may be made.
        Cancel = "cancel",
        /// Saga: do the step.
        Action = "action",
        /// Saga: undo the step, or remember that it may not be done.
        Compensate = "compensate",
        /// Two-phase commit: make the work durable so that it can go either way, and vote.
        Prepare = "prepare",
        /// Two-phase commit: make the prepared work effective.
        Commit = "commit",
        /// Two-phase commit: undo the work, or remember that it may not be prepared.
        Rollback = "rollback",
        /// Two-phase commit of a single branch: commit without having prepared, and say what became
        /// of it (protocol H4).
        CommitOnePhase = "commit_one_phase",
        /// Message: receive it.
        Deliver = "deliver",
        /// Message: say whether the local transaction committed; if not, make sure that it never will
        /// (protocol H5).
        CheckBack = "check_back",
    }
);

impl Operation {
    /// Whether no decision stands behind it, so that a deposed owner must not send it (protocol H3).
    #[must_use]
    pub const fn is_forward(self) -> bool {
        match self {
            Self::Try | Self::Action | Self::Prepare | Self::CheckBack => true,
            Self::Confirm
            | Self::Cancel
            | Self::Compensate
            | Self::Commit
            | Self::Rollback
            | Self::CommitOnePhase
            | Self::Deliver => false,
        }
    }
}

words!(
    /// A participant's word on whether its branch can be committed.
    Vote, "vote", {
        /// The branch's work is durable and can go either way.
        Prepared = "prepared",
        /// The branch changed nothing and needs no second phase. Only as the answer to a prepare
        /// (protocol M11).
        ReadOnly = "read_only",
        /// The branch cannot be committed.
        Refused = "refused",
    }
);

/// Where an operation of a branch goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// To any attached instance of the named participant, to the named hook.
    Participant {
        /// The participant's name.
        participant: Name,
        /// The name of the hook set: what the SDK registered its handler under.
        operation: Name,
    },
    /// To a gRPC address that serves `unanimity.v1.BranchCallback`, for example `http://10.0.0.7:9000`.
    Grpc(Box<str>),
    /// To a URL by `POST`.
    Http(Box<str>),
}

impl Target {
    /// What the branches that share a bulkhead have in common: the participant's name, or the
    /// address up to its path.
    #[must_use]
    pub fn bulkhead(&self) -> &str {
        match self {
            Self::Participant { participant, .. } => participant.as_str(),
            Self::Grpc(url) | Self::Http(url) => origin(url),
        }
    }
}

/// Scheme and authority of a URL: `https://host:port`.
fn origin(url: &str) -> &str {
    let after_scheme = url.find("://").map_or(0, |at| at + 3);
    let end = url[after_scheme..].find(['/', '?', '#']).map_or(url.len(), |at| after_scheme + at);
    &url[..end]
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Participant { participant, operation } => write!(f, "{participant}/{operation}"),
            Self::Grpc(url) => write!(f, "grpc {url}"),
            Self::Http(url) => write!(f, "{url}"),
        }
    }
}

/// The targets of a branch: one for all operations (a participant's hook set, or one gRPC
/// address), or one for each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BranchTargets {
    /// One target that is told the operation.
    One(Target),
    /// TCC by callbacks: a target for each operation of phase two.
    Tcc {
        /// Where confirm goes.
        confirm: Target,
        /// Where cancel goes.
        cancel: Target,
    },
    /// Two-phase commit by callbacks: a target for each operation.
    TwoPhase {
        /// Where prepare goes; a branch that votes by itself needs none.
        prepare: Option<Target>,
        /// Where commit goes, in one phase or two.
        commit: Target,
        /// Where rollback goes.
        rollback: Target,
    },
    /// A step of a saga.
    Step {
        /// Where its action goes.
        action: Target,
        /// Where its compensation goes; none if there is nothing to undo.
        compensate: Option<Target>,
    },
}

impl BranchTargets {
    /// The target of an operation; `None` where the branch has none for it.
    #[must_use]
    pub fn of(&self, operation: Operation) -> Option<&Target> {
        match (self, operation) {
            (Self::One(target), _) => Some(target),
            (Self::Tcc { confirm, .. }, Operation::Confirm) => Some(confirm),
            (Self::Tcc { cancel, .. }, Operation::Cancel) => Some(cancel),
            (Self::TwoPhase { prepare, .. }, Operation::Prepare) => prepare.as_ref(),
            (Self::TwoPhase { commit, .. }, Operation::Commit | Operation::CommitOnePhase) => Some(commit),
            (Self::TwoPhase { rollback, .. }, Operation::Rollback) => Some(rollback),
            (Self::Step { action, .. }, Operation::Action) => Some(action),
            (Self::Step { compensate, .. }, Operation::Compensate) => compensate.as_ref(),
            _ => None,
        }
    }

    /// All targets, to check them one by one.
    pub fn iter(&self) -> impl Iterator<Item = &Target> {
        let three = match self {
            Self::One(target) => [Some(target), None, None],
            Self::Tcc { confirm, cancel } => [Some(confirm), Some(cancel), None],
            Self::TwoPhase { prepare, commit, rollback } => [prepare.as_ref(), Some(commit), Some(rollback)],
            Self::Step { action, compensate } => [Some(action), compensate.as_ref(), None],
        };
        three.into_iter().flatten()
    }
}

impl fmt::Display for BranchTargets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, target) in self.iter().enumerate() {
            let bar = if at == 0 { "" } else { " | " };
            write!(f, "{bar}{target}")?;
        }
        Ok(())
    }
}

/// When an operation of a branch is tried again, where it differs from the coordinator's own policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Hash)]
pub struct CallPolicy {
    /// The upper end of the first wait.
    pub initial: Option<Duration>,
    /// The upper end of every later wait.
    pub cap: Option<Duration>,
    /// After so many failed attempts no more are made: an action turns its saga back, everything else
    /// is parked until an operator asks for a retry. `None`: never.
    pub give_up_after: Option<u32>,
    /// How long one attempt may take.
    pub timeout: Option<Duration>,
}

impl CallPolicy {
    /// Whether it says how often, or until when, to try.
    #[must_use]
    pub const fn has_pace(&self) -> bool {
        self.initial.is_some() || self.cap.is_some() || self.give_up_after.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bulkhead_is_the_origin_of_a_url() {
        for (url, bulkhead) in [
            ("http://127.0.0.1:9000/a/b?c", "http://127.0.0.1:9000"),
            ("https://host", "https://host"),
            ("host:1/x", "host:1"),
        ] {
            assert_eq!(Target::Http(url.into()).bulkhead(), bulkhead);
        }
    }
}
