//! Stable error codes: the same in HTTP problem documents, gRPC details, logs and docs/errors/.

use std::fmt;
use std::str::FromStr;

use crate::outcome::UnknownWord;

macro_rules! codes {
    ($($(#[$meta:meta])* $variant:ident = $word:literal / $http:literal / $retry:literal),+ $(,)?) => {
        /// A stable error code. Each has a page `docs/errors/<code>.md`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode { $($(#[$meta])* $variant),+ }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The code's word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The HTTP status that goes with it.
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$variant => $http),+ }
            }

            /// Whether the same request, sent again unchanged, may succeed.
            #[must_use]
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$variant => $retry),+ }
            }
        }

        impl FromStr for ErrorCode {
            type Err = UnknownWord;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord::new("error code", word)),
                }
            }
        }
    };
}

codes! {
    /// The request cannot be understood: a missing field, a wrong type, broken JSON.
    InvalidRequest = "invalid_request" / 400 / false,
    /// The text is not an xid.
    InvalidXid = "invalid_xid" / 400 / false,
    /// A name or key is empty, too long or has control characters.
    InvalidName = "invalid_name" / 400 / false,
    /// A target is no URL, or has a scheme that we do not call.
    InvalidTarget = "invalid_target" / 400 / false,
    /// The timeout is zero or longer than the maximum.
    InvalidTimeout = "invalid_timeout" / 400 / false,
    /// The mode is unknown, or the operation does not fit it.
    InvalidMode = "invalid_mode" / 400 / false,
    /// The target is not on the configured allow list.
    TargetNotAllowed = "target_not_allowed" / 403 / false,
    /// Nothing is known under this xid. Not an outcome: only a terminal status is one.
    TransactionNotFound = "transaction_not_found" / 404 / false,
    /// The transaction has no such branch.
    BranchNotFound = "branch_not_found" / 404 / false,
    /// No such path.
    RouteNotFound = "route_not_found" / 404 / false,
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed" / 405 / false,
    /// The transaction was decided the other way, or decided at all where it must not be.
    AlreadyDecided = "already_decided" / 409 / false,
    /// A commit waits for the branches that it named; no other may register.
    CommitInProgress = "commit_in_progress" / 409 / false,
    /// The xid is in use with another request body.
    XidReused = "xid_reused" / 409 / false,
    /// The branch key is in use with another request body.
    BranchKeyReused = "branch_key_reused" / 409 / false,
    /// The plan cannot be carried out: a cycle, an unknown step, no steps, an order that cannot hold.
    InvalidPlan = "invalid_plan" / 422 / false,
    /// A transaction of this mode does not carry such a branch.
    BranchKindNotAllowed = "branch_kind_not_allowed" / 422 / false,
    /// The branch voted otherwise before.
    VoteContradicts = "vote_contradicts" / 409 / false,
    /// Another transaction holds the lock.
    LockConflict = "lock_conflict" / 409 / true,
    /// The saga is past its pivot: it can only go forward.
    NoWayBack = "no_way_back" / 409 / false,
    /// The decision was delegated to the transaction's only branch.
    Delegated = "delegated" / 409 / false,
    /// Only who holds the secret of a transaction begun without a call decides it.
    WrongSecret = "wrong_secret" / 403 / false,
    /// The action is not possible in this state.
    IllegalTransition = "illegal_transition" / 409 / false,
    /// The body or message is larger than the limit.
    MessageTooLarge = "message_too_large" / 413 / false,
    /// The payload is larger than the limit.
    PayloadTooLarge = "payload_too_large" / 413 / false,
    /// The transaction has as many branches as it may.
    TooManyBranches = "too_many_branches" / 422 / false,
    /// The node has as much to do as it can queue; the answer says when to try again.
    TooBusy = "too_busy" / 429 / true,
    /// A bug of ours; the log of the node has the details.
    Internal = "internal" / 500 / false,
    /// The command may or may not have taken effect; ask or repeat with the same xid.
    OutcomeUnknown = "outcome_unknown" / 503 / true,
    /// The log's database cannot be reached, or the partition is being recovered.
    Unavailable = "unavailable" / 503 / true,
    /// The partition stopped: a witness knows of more than its log holds (protocol C8, H6).
    LogLostTail = "log_lost_tail" / 503 / false,
    /// The partition stopped: its log has a damaged or a missing block.
    LogDamaged = "log_damaged" / 503 / false,
    /// Nobody knows the transaction, and it may be from before the log was restored from a backup: nothing is presumed.
    Forgotten = "forgotten" / 410 / false,
    /// Another log's id was shown.
    NotMine = "not_mine" / 409 / false,
    /// This node does not own the partition.
    NotOwner = "not_owner" / 503 / true,
    /// The caller's deadline passed before the answer was there.
    DeadlineExceeded = "deadline_exceeded" / 504 / true,
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_what_it_writes() {
        for code in ErrorCode::ALL {
            assert_eq!(code.as_str().parse::<ErrorCode>(), Ok(*code));
            assert!((400..600).contains(&code.http_status()));
        }
    }
}
