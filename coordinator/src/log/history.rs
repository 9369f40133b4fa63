//! History: one row for each transaction, for people and for answers about what is over.

use unanimity_types::{AbortReason, Decision, Digest, Epoch, Mode, PartitionId, Seq, Status, Timestamp, Xid};

use super::Checksum;

/// One transaction as history has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow {
    /// Which transaction.
    pub xid: Xid,
    /// Its partition.
    pub partition: PartitionId,
    /// Its mode; none for a presumed abort of an xid that nobody had begun.
    pub mode: Option<Mode>,
    /// Its name; empty if it has none.
    pub name: String,
    /// Its status.
    pub status: Status,
    /// Its decision.
    pub decision: Option<Decision>,
    /// Why it was aborted.
    pub abort_reason: Option<AbortReason>,
    /// The digest of the request that began it: tells a repetition from a reuse (protocol M1).
    pub digest: Digest,
    /// When it began, by partition time.
    pub begun_at: Timestamp,
    /// Until when it had to be decided.
    pub deadline: Timestamp,
    /// When it was decided.
    pub decided_at: Option<Timestamp>,
    /// When the last branch was settled.
    pub finished_at: Option<Timestamp>,
    /// The code of what needs attention, if something does.
    pub attention: Option<String>,
    /// Whether a branch ended by hand.
    pub heuristic: bool,
    /// The distinct participants, sorted, for filters.
    pub participants: Vec<String>,
    /// Branches, timeline and attention, as JSON text; `engine::detail` has its shape.
    pub detail: String,
    /// The owner's epoch that wrote the row.
    pub epoch: Epoch,
    /// The seq of the last event that the row knows.
    pub seq: Seq,
}

impl HistoryRow {
    /// How many bytes its columns have: what is handed to the database, without the overhead of rows and
    /// indexes.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        // begun, deadline, epoch and seq; xid and digest; partition and status; heuristic.
        const FIXED: usize = 4 * 8 + 2 * 16 + 2 * 2 + 1;
        let moments = usize::from(self.decided_at.is_some()) + usize::from(self.finished_at.is_some());
        let mode = if self.mode.is_some() { 2 } else { 0 };
        let participants: usize = self.participants.iter().map(|name| name.len() + 1).sum();
        let reason = self.abort_reason.map_or(0, |reason| reason.as_str().len());
        let attention = self.attention.as_ref().map_or(0, String::len);
        let texts = self.name.len() + participants.saturating_sub(1) + self.detail.len() + reason + attention;
        (FIXED + 8 * moments + mode + texts) as u64
    }
}

/// What a call for order in history did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryKept {
    /// What finished before this moment may be gone (as [`TransactionLog::history_floor`] says).
    ///
    /// [`TransactionLog::history_floor`]: super::TransactionLog::history_floor
    pub floor: Timestamp,
    /// Whether there may be more to drop: call again.
    pub more: bool,
}

/// How far a partition's history speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HistoryWatermark {
    /// The owner's epoch that wrote it.
    pub epoch: Epoch,
    /// Every transaction that finished in a block up to this one has its row.
    pub seq: Seq,
}

/// Rows and the watermark that they bring, written in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryBatch {
    /// The partition that they belong to.
    pub partition: PartitionId,
    /// The rows, each xid at most once.
    pub rows: Vec<HistoryRow>,
    /// Applied only upwards, by (epoch, seq).
    pub watermark: HistoryWatermark,
    /// A block that the writer knows to be durable. Rows and watermark speak of the log that holds it, and are written
    /// beside no other: an owner that has not seen yet that the log lost its tail does not write about what is gone
    /// (protocol C8, H6).
    pub line: (Seq, Checksum),
}

/// What to list. All conditions hold together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistoryFilter {
    /// Only this status.
    pub status: Option<Status>,
    /// Only this mode.
    pub mode: Option<Mode>,
    /// Only this name.
    pub name: Option<String>,
    /// Only with a branch at this participant.
    pub participant: Option<String>,
    /// Only begun before this moment.
    pub begun_before: Option<Timestamp>,
    /// Only what needs attention.
    pub attention: bool,
    /// Only what comes after this place (exclusive) in the order newest first.
    pub after: Option<(Timestamp, Xid)>,
    /// At most so many rows.
    pub limit: u32,
}

/// A page of history, newest begun first, then by xid downwards. The details of its rows hold no branches
/// and no timeline: lists do not show them, and a page is not to weigh megabytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistoryPage {
    /// The rows.
    pub rows: Vec<HistoryRow>,
    /// Whether there is more.
    pub more: bool,
}
