//! What a branch is asked to do, where, and how it votes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::outcome::UnknownWord;

/// What a participant is asked to do with a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Operation {
    /// TCC: reserve. Called by the application, never by the coordinator.
    Try,
    /// TCC: make the reservation effective.
    Confirm,
    /// TCC: release the reservation, or remember that none may be made.
    Cancel,
}

impl Operation {
    /// The operation's word on the wire, in logs and on pages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Try => "try",
            Self::Confirm => "confirm",
            Self::Cancel => "cancel",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Operation {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "try" => Ok(Self::Try),
            "confirm" => Ok(Self::Confirm),
            "cancel" => Ok(Self::Cancel),
            _ => Err(UnknownWord::new("operation", word)),
        }
    }
}

/// A participant's word on whether its branch can be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vote {
    /// The branch's work is durable and can go either way.
    Prepared,
    /// The branch changed nothing and needs no second phase.
    ReadOnly,
    /// The branch cannot be committed.
    Refused,
}

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
}

impl BranchTargets {
    /// The target of an operation.
    #[must_use]
    pub fn of(&self, operation: Operation) -> &Target {
        match self {
            Self::One(target) => target,
            Self::Tcc { confirm, cancel } => match operation {
                Operation::Confirm => confirm,
                Operation::Try | Operation::Cancel => cancel,
            },
        }
    }

    /// All targets, to check them one by one.
    pub fn iter(&self) -> impl Iterator<Item = &Target> {
        let (first, second) = match self {
            Self::One(target) => (target, None),
            Self::Tcc { confirm, cancel } => (confirm, Some(cancel)),
        };
        std::iter::once(first).chain(second)
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
