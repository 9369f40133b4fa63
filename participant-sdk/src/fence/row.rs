//! Rows of the fence.

use std::fmt;

use unanimity_types::{BranchKey, BranchKind, LogId, LogPosition, Xid};

use crate::fence::FenceError;

/// What a branch's row says. The words are TCC's; what they mean for the other kinds is in the module's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceState {
    /// A try has begun: visible to others only in the external form.
    Trying,
    /// The try's effect is there.
    Tried,
    /// The confirm's effect is there.
    Confirmed,
    /// The cancel's effect is there.
    Cancelled,
    /// Cancelled before a try: none may follow.
    Tombstone,
}

impl FenceState {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Trying => "trying",
            Self::Tried => "tried",
            Self::Confirmed => "confirmed",
            Self::Cancelled => "cancelled",
            Self::Tombstone => "tombstone",
        }
    }

    pub(crate) fn parse(word: &str) -> Result<Self, FenceError> {
        match word {
            "trying" => Ok(Self::Trying),
            "tried" => Ok(Self::Tried),
            "confirmed" => Ok(Self::Confirmed),
            "cancelled" => Ok(Self::Cancelled),
            "tombstone" => Ok(Self::Tombstone),
            _ => Err(FenceError::Unreadable(format!("state {word:?}"))),
        }
    }
}

impl fmt::Display for FenceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A row to insert.
#[derive(Debug, Clone)]
pub struct NewRow {
    pub(crate) kind: BranchKind,
    pub(crate) xid: Xid,
    pub(crate) key: BranchKey,
    pub(crate) participant: String,
    pub(crate) operation: String,
    pub(crate) log_id: Option<LogId>,
    pub(crate) payload: Vec<u8>,
    pub(crate) witness: Option<LogPosition>,
}

/// A row as it is. Pages leave the payload and the answer out.
#[derive(Debug, Clone)]
pub struct FenceRow {
    pub(crate) kind: BranchKind,
    pub(crate) xid: Xid,
    pub(crate) key: BranchKey,
    pub(crate) operation: String,
    pub(crate) state: FenceState,
    pub(crate) log_id: Option<LogId>,
    pub(crate) payload: Vec<u8>,
    pub(crate) answer: Option<Vec<u8>>,
    pub(crate) witness: Option<LogPosition>,
    pub(crate) created_at_ms: i64,
    pub(crate) updated_at_ms: i64,
}

/// What a transaction's first statement left in a row: by this its end finds it again.
#[derive(Debug, Clone)]
pub struct Claim {
    pub(crate) xid: Xid,
    pub(crate) key: BranchKey,
    /// What the row says now.
    pub(crate) from: FenceState,
    /// What it says when the transaction has committed. Mostly the same: only the commit makes it true.
    pub(crate) to: FenceState,
    /// What stands where the time of the last change does.
    pub(crate) mark: i64,
}

impl FenceRow {
    /// The claim of the transaction that has just settled it.
    pub(crate) fn claim(&self) -> Claim {
        Claim {
            xid: self.xid,
            key: self.key.clone(),
            from: self.state,
            to: self.state,
            mark: self.updated_at_ms,
        }
    }
}

/// Where a branch is registered: the log, and the place in it that a registration's answer named.
pub(crate) type Place = (Option<LogId>, Option<LogPosition>);

/// What a transaction writes into its row before it commits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Closing<'a> {
    /// A try's answer or an action's result. `None`: what is there stays.
    pub(crate) answer: Option<&'a [u8]>,
    /// What a registration that ended after the first statement has brought.
    pub(crate) registered: Option<Place>,
}

/// Where a scan goes on.
#[derive(Debug, Clone)]
pub struct Cursor {
    pub(crate) at_ms: i64,
    pub(crate) xid: uuid::Uuid,
    pub(crate) key: String,
}

impl Cursor {
    /// Before every row.
    pub(crate) fn start() -> Self {
        Self { at_ms: i64::MIN, xid: uuid::Uuid::nil(), key: String::new() }
    }
}

/// Counts of open rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    pub(crate) open: u64,
    pub(crate) in_doubt: u64,
    pub(crate) oldest_ms: Option<i64>,
}
