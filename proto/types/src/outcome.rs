//! Modes, statuses, decisions and their reasons.

/// A word that names nothing that we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no {what}")]
pub struct UnknownWord {
    what: &'static str,
    word: String,
}

impl UnknownWord {
    pub(crate) fn new(what: &'static str, word: &str) -> Self {
        Self { what, word: word.chars().take(64).collect() }
    }
}

/// Declares an enum whose variants each have one word, the same on the wire, in JSON, in SQL and on
/// pages.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident, $what:literal, { $($(#[$vmeta:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The value's one word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::outcome::UnknownWord;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::outcome::UnknownWord::new($what, word)),
                }
            }
        }
    };
}
pub(crate) use words;

words!(
    /// How a global transaction reaches its outcome.
    Mode, "mode", {
        /// Try, confirm, cancel.
        Tcc = "tcc",
        /// Steps in the order of a plan, each undone by its compensation if the saga turns back.
        Saga = "saga",
        /// Two-phase commit: every branch prepares, then commits or rolls back.
        TwoPhase = "two_phase",
        /// A message that is delivered if, and only if, its sender's local transaction committed.
        Message = "message",
    }
);

words!(
    /// What a branch is. It says which operations the branch is asked for.
    BranchKind, "branch kind", {
        /// Reserved by its try; confirmed or cancelled.
        Tcc = "tcc",
        /// A step of a saga.
        Step = "step",
        /// Prepared; committed or rolled back.
        TwoPhase = "two_phase",
        /// One delivery of a message, on commit only.
        Message = "message",
        /// Who prepared a message, and is asked whether its local transaction committed.
        Sender = "sender",
    }
);

words!(
    /// How far a saga's step can be turned back.
    StepRole, "step role", {
        /// It can be compensated, or has nothing to undo.
        Compensatable = "compensatable",
        /// It decides: once it was dispatched, only its own clean refusal turns the saga back
        /// (protocol H14).
        Pivot = "pivot",
        /// It comes after everything that can turn back, and is tried until it is done.
        ForwardOnly = "forward_only",
    }
);

words!(
    /// The status of a global transaction. Retries, timeouts and "needs attention" are attributes,
    /// not statuses.
    Status, "status", {
        /// Begun; branches may register.
        Active = "active",
        /// The coordinator collects votes.
        Preparing = "preparing",
        /// Decided: commit. Not every branch has done it yet.
        Committing = "committing",
        /// Every branch is settled after a commit.
        Committed = "committed",
        /// Decided: abort. Not every branch has done it yet.
        Aborting = "aborting",
        /// Every branch is settled after an abort.
        Aborted = "aborted",
    }
);

impl Status {
    /// Whether nothing more will happen.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Committed | Self::Aborted)
    }

    /// The decision behind the status, if there is one.
    #[must_use]
    pub const fn decision(self) -> Option<Decision> {
        match self {
            Self::Active | Self::Preparing => None,
            Self::Committing | Self::Committed => Some(Decision::Commit),
            Self::Aborting | Self::Aborted => Some(Decision::Abort),
        }
    }
}

words!(
    /// What was decided. It never changes (I3).
    Decision, "decision", {
        /// Every branch takes effect.
        Commit = "commit",
        /// No branch takes effect.
        Abort = "abort",
    }
);

words!(
    /// Why a transaction was aborted.
    AbortReason, "abort reason", {
        /// Its TM asked for it.
        Requested = "requested",
        /// Its deadline passed undecided.
        Deadline = "deadline",
        /// Somebody asked about, or tried to commit, a transaction that nobody knew (protocol C2).
        Presumed = "presumed",
        /// The commit named a branch that did not register in time (protocol 1.3).
        BranchMissing = "branch_missing",
        /// A registered branch was not among the votes that the commit named (protocol 1.3).
        BranchNotVoted = "branch_not_voted",
        /// A branch refused.
        Refused = "refused",
        /// An operator asked for it.
        Operator = "operator",
        /// The partition changed its owner uncleanly (protocol 1.2).
        OwnerChanged = "owner_changed",
        /// The attempts that a step's policy allows were used up.
        GaveUp = "gave_up",
        /// It was begun without a call, and nothing was heard of it while its ticket was good (protocol 1.2).
        TicketExpired = "ticket_expired",
    }
);

words!(
    /// The status of a branch.
    BranchStatus, "branch status", {
        /// Registered; undecided.
        Registered = "registered",
        /// Commit decided, not yet confirmed by its participant.
        Confirming = "confirming",
        /// Its participant confirmed.
        Confirmed = "confirmed",
        /// Abort decided, not yet cancelled by its participant.
        Cancelling = "cancelling",
        /// Its participant cancelled.
        Cancelled = "cancelled",
        /// An operator said that it took effect.
        HeuristicConfirmed = "heuristic_confirmed",
        /// An operator said that it did not take effect.
        HeuristicCancelled = "heuristic_cancelled",
        /// Asked to prepare; its vote is not known yet.
        Preparing = "preparing",
        /// It voted Prepared; undecided.
        Prepared = "prepared",
        /// It voted `ReadOnly`: it is left out of the second phase.
        ReadOnly = "read_only",
        /// A step that refused and did nothing.
        Refused = "refused",
        /// Commit decided, not yet committed by its participant.
        Committing = "committing",
        /// Its participant committed.
        Committed = "committed",
        /// Abort decided, not yet rolled back by its participant.
        RollingBack = "rolling_back",
        /// Its participant rolled back.
        RolledBack = "rolled_back",
        /// The decision was delegated to it (one-phase commit, protocol H4).
        Delegated = "delegated",
        /// A step whose action may be running.
        Running = "running",
        /// A step whose action is done.
        Done = "done",
        /// The saga turned back; the step waits for those after it to be undone.
        ToCompensate = "to_compensate",
        /// Its compensation is owed.
        Compensating = "compensating",
        /// Its compensation is done.
        Compensated = "compensated",
        /// The saga turned back before the step could have run.
        Skipped = "skipped",
        /// The saga turned back and the step has nothing to undo.
        Kept = "kept",
        /// The sender is asked whether its local transaction committed.
        Checking = "checking",
        /// The sender has nothing more to say.
        Answered = "answered",
        /// Commit decided, not yet delivered.
        Delivering = "delivering",
        /// Its receiver has it.
        Delivered = "delivered",
        /// Abort decided: it is not delivered.
        Discarded = "discarded",
    }
);

impl BranchStatus {
    /// Whether nothing more will be asked of the branch, unless its saga turns back.
    #[must_use]
    pub const fn is_settled(self) -> bool {
        match self {
            Self::Registered
            | Self::Confirming
            | Self::Cancelling
            | Self::Preparing
            | Self::Prepared
            | Self::Committing
            | Self::RollingBack
            | Self::Delegated
            | Self::Running
            | Self::ToCompensate
            | Self::Compensating
            | Self::Checking
            | Self::Delivering => false,
            Self::Confirmed
            | Self::Cancelled
            | Self::HeuristicConfirmed
            | Self::HeuristicCancelled
            | Self::ReadOnly
            | Self::Refused
            | Self::Committed
            | Self::RolledBack
            | Self::Done
            | Self::Compensated
            | Self::Skipped
            | Self::Kept
            | Self::Answered
            | Self::Delivered
            | Self::Discarded => true,
        }
    }
}

words!(
    /// How an operator says that a branch ended.
    ResolveAs, "resolution", {
        /// The branch's effect is there.
        Confirmed = "confirmed",
        /// The branch's effect is not there.
        Cancelled = "cancelled",
    }
);

words!(
    /// The answer to a participant that asks about a branch in doubt (protocol C2, C8).
    InquiryAnswer, "inquiry answer", {
        /// Undecided: keep the reservation and ask again later.
        Active = "active",
        /// Decided: confirm.
        Committed = "committed",
        /// Decided: cancel.
        Aborted = "aborted",
        /// Older than the history that is kept: do nothing, raise attention.
        Forgotten = "forgotten",
        /// Another log's transaction: do nothing, raise attention.
        NotMine = "not_mine",
    }
);
