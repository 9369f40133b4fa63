//! What happened, for people: a bounded list that follows from the durable events.

use unanimity_types::{BranchId, Timestamp};

/// How many entries a transaction keeps of the kinds that come with every branch and attempt.
/// Decisions, operators' actions and attention are kept beyond it: they are few.
pub const TIMELINE_MAX: usize = 256;

/// What an entry tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimelineKind {
    /// It began.
    Begun,
    /// A branch registered.
    Registered,
    /// It was decided.
    Decided,
    /// An attempt ended without a result.
    AttemptFailed,
    /// A branch's participant did what was decided.
    Settled,
    /// An operator settled a branch by hand.
    Resolved,
    /// A late answer contradicted a heuristic outcome.
    Contradicted,
    /// Somebody should look.
    Attention,
    /// An operator asked to try again.
    Retried,
    /// Every branch is settled.
    Finished,
    /// The plan was accepted.
    Accepted,
    /// A branch voted.
    Voted,
    /// Branches are asked to prepare.
    Preparing,
    /// The decision was left to the only branch.
    Delegated,
    /// The sender is asked whether its local transaction committed.
    CheckedBack,
    /// A step's action is done.
    Done,
    /// A step refused and did nothing.
    Refused,
    /// No more attempts are made until somebody asks for one.
    Parked,
}

impl TimelineKind {
    /// Every kind, in the order of the numbers that the log knows them by (from 1).
    pub const ALL: &'static [Self] = &[
        Self::Begun,
        Self::Registered,
        Self::Decided,
        Self::AttemptFailed,
        Self::Settled,
        Self::Resolved,
        Self::Contradicted,
        Self::Attention,
        Self::Retried,
        Self::Finished,
        Self::Accepted,
        Self::Voted,
        Self::Preparing,
        Self::Delegated,
        Self::CheckedBack,
        Self::Done,
        Self::Refused,
        Self::Parked,
    ];

    /// The kind's one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Registered => "registered",
            Self::Decided => "decided",
            Self::AttemptFailed => "attempt_failed",
            Self::Settled => "settled",
            Self::Resolved => "resolved",
            Self::Contradicted => "contradicted",
            Self::Attention => "attention",
            Self::Retried => "retried",
            Self::Finished => "finished",
            Self::Accepted => "accepted",
            Self::Voted => "voted",
            Self::Preparing => "preparing",
            Self::Delegated => "delegated",
            Self::CheckedBack => "checked_back",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Parked => "parked",
        }
    }

    /// The kind behind a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == word)
    }

    /// Whether there is one for every branch or attempt, so that a bound is needed.
    pub(crate) const fn is_frequent(self) -> bool {
        matches!(
            self,
            Self::Registered
                | Self::AttemptFailed
                | Self::Settled
                | Self::Voted
                | Self::Done
                | Self::Refused
                | Self::Parked
        )
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineEntry {
    /// When, in partition time.
    pub at: Timestamp,
    /// What.
    pub kind: TimelineKind,
    /// Which branch, if it is about one.
    pub branch_id: Option<BranchId>,
    /// More, for people.
    pub detail: Option<Box<str>>,
}
