//! The projection: transactions that are over, and those that stay open, get their row in history;
//! what is over leaves memory only then (protocol C8d), so the trim never overtakes history.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use unanimity_types::mutant::{self, Mutant};
use unanimity_types::{Seq, Timestamp, Xid};

use super::Internal;
use super::life::Life;
use crate::engine::detail::row_of;
use crate::failpoint;
use crate::log::{HistoryBatch, HistoryRow, HistoryWatermark};

/// Rows in one write: large enough to pay for the round trip, small enough to be quick.
const ROWS_MAX: usize = 512;
/// Bytes of details after which a write is full: a saga's row has its results, up to 1 MiB and more.
const DETAIL_BYTES_FULL: usize = 4 * 1024 * 1024;

/// How long a transaction with a heuristic outcome stays in memory: longer than any request lasts.
const KEEP_HEURISTIC: Duration = Duration::from_secs(60);

/// The batch that is being written.
#[derive(Debug, Default)]
struct Writing {
    /// Those of it that are over.
    ended: Vec<(Seq, Xid)>,
    rows: u64,
    bytes: u64,
    watermark: Seq,
}

/// What waits for history.
#[derive(Debug)]
pub(super) struct Projector {
    /// Over, and durably so: by the block of their end.
    finished: BTreeMap<(Seq, Xid), ()>,
    /// Open ones that changed, by when to look at them.
    open: VecDeque<(Timestamp, Xid)>,
    /// Over, in history, and kept for a while because a branch was settled by hand: a participant's
    /// late answer may contradict it (protocol M14). By when to let go.
    kept: VecDeque<(Timestamp, Xid)>,
    writing: Option<Writing>,
    next_at: Instant,
    failures: u32,
    /// The highest watermark that history was seen to have.
    acknowledged: Seq,
}

impl Projector {
    pub(super) fn new() -> Self {
        Self {
            finished: BTreeMap::new(),
            open: VecDeque::new(),
            kept: VecDeque::new(),
            writing: None,
            next_at: Instant::now(),
            failures: 0,
            acknowledged: Seq(0),
        }
    }

    pub(super) fn finished(&mut self, xid: Xid, last: Seq) {
        self.finished.insert((last, xid), ());
    }

    pub(super) fn changed(&mut self, xid: Xid, due: Timestamp) {
        self.open.push_back((due, xid));
    }

    /// How many are over and wait for history.
    pub(super) fn backlog(&self) -> usize {
        self.finished.len() + self.writing.as_ref().map_or(0, |writing| writing.ended.len())
    }

    /// How far history is known to speak. Less than that shows that it lost what was acknowledged.
    pub(super) const fn acknowledged(&self) -> Seq {
        self.acknowledged
    }

    /// Whether the last write failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// When to look again; `None` if there is nothing to write or a write is under way.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let something = !self.finished.is_empty() || !self.open.is_empty() || !self.kept.is_empty();
        (self.writing.is_none() && something).then_some(self.next_at)
    }

    /// Up to which block every end has its row once the write under way is done.
    fn watermark(&self, durable: Seq) -> Seq {
        self.finished.keys().next().map_or(durable, |(seq, _)| Seq(seq.0.saturating_sub(1)))
    }
}

/// The rows of one write.
#[derive(Debug, Default)]
struct Rows {
    rows: Vec<HistoryRow>,
    detail_bytes: usize,
}

impl Rows {
    fn push(&mut self, row: HistoryRow) {
        self.detail_bytes += row.detail.len();
        self.rows.push(row);
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= ROWS_MAX || self.detail_bytes >= DETAIL_BYTES_FULL
    }
}

impl Life {
    /// Starts a write to history if one is due.
    pub(super) fn project(&mut self, force: bool) {
        let enough = self.projector.finished.len() >= ROWS_MAX && !self.projector.has_failed();
        let due = self.projector.next_at().is_some_and(|at| force || enough || at <= Instant::now());
        if !due {
            return;
        }
        let now = self.clock.now();
        let durable = self.writer.durable();
        self.let_go_of_kept(now);
        let mut rows = Rows::default();
        let mut ended = Vec::new();
        let mut over = HashSet::new();
        while !rows.is_full()
            && let Some(((seq, xid), ())) = self.projector.finished.pop_first()
        {
            // Something may have come late while it waited: one row for both, as it is now.
            if !over.insert(xid) {
                continue;
            }
            if let Some(transaction) = self.memory.transaction(xid) {
                let row = row_of(transaction, self.partition, self.epoch, seq);
                rows.push(self.lost_rows.settle(row));
                ended.push((seq, xid));
            }
        }
        self.add_open_rows(now, durable, &mut rows);
        // After a full batch there may be more.
        let pause = if rows.is_full() { Duration::ZERO } else { self.config.project_every };
        self.projector.next_at = Instant::now() + pause;
        let rows = rows.rows;
        if rows.is_empty() {
            return;
        }
        let watermark = HistoryWatermark { epoch: self.epoch, seq: self.projector.watermark(durable) };
        let line = (durable, self.writer.durable_checksum());
        let batch = HistoryBatch { partition: self.partition, rows, watermark, line };
        let bytes = batch.rows.iter().map(HistoryRow::stored_bytes).sum();
        self.projector.writing =
            Some(Writing { ended, rows: batch.rows.len() as u64, bytes, watermark: watermark.seq });
        let log = std::sync::Arc::clone(&self.log);
        let internal = self.internal.clone();
        crate::task::spawn(async move {
            failpoint::reach("project.before");
            let result = log.write_history(batch).await;
            failpoint::reach("project.after");
            // The life may be over: then nobody listens, and the next one writes again.
            let _ = internal.send(Internal::Projected(result));
        });
    }

    /// Open transactions that changed a while ago. Only their durable state is written: one whose last
    /// event is still on its way waits for another turn.
    fn add_open_rows(&mut self, now: Timestamp, durable: Seq, rows: &mut Rows) {
        while !rows.is_full() {
            let Some((due, xid)) = self.projector.open.front().copied() else { return };
            if due > now {
                return;
            }
            self.projector.open.pop_front();
            let Some(entry) = self.memory.entries.get_mut(&xid) else { continue };
            entry.queued_for_history = false;
            let Some(transaction) = &entry.transaction else { continue };
            if transaction.finished_at.is_some() {
                continue;
            }
            if entry.last <= durable {
                rows.push(row_of(transaction, self.partition, self.epoch, entry.last));
            } else {
                entry.queued_for_history = true;
                self.projector.open.push_back((now.after(self.config.project_open_after), xid));
            }
        }
    }

    /// A write to history ended.
    pub(super) fn projected(&mut self, result: Result<(), crate::log::Error>) {
        let result = if mutant::is(Mutant::ProjectionTrimsEarly) { Ok(()) } else { result };
        let Writing { ended, rows, bytes, watermark } = self.projector.writing.take().unwrap_or_default();
        match result {
            Ok(()) => {
                self.projector.failures = 0;
                self.counters.history_rows += rows;
                self.counters.history_bytes += bytes;
                self.projector.acknowledged = self.projector.acknowledged.max(watermark);
                let now = self.clock.now();
                for (_, xid) in ended {
                    self.leave(xid, now);
                }
            }
            Err(error) => {
                self.projector.failures += 1;
                tracing::warn!(partition = %self.partition, %error, "history could not be written; trying again");
                for (seq, xid) in ended {
                    self.projector.finished(xid, seq);
                }
                // Open ones that were in the batch get their row with their next change, or at their end.
                let wait = self.config.project_every * 2u32.pow(self.projector.failures.min(6));
                self.projector.next_at = Instant::now() + wait;
            }
        }
    }

    /// A transaction that is over and in history leaves memory, unless it has to stay a while.
    fn leave(&mut self, xid: Xid, now: Timestamp) {
        let until = self
            .memory
            .transaction(xid)
            .filter(|transaction| transaction.has_heuristic())
            .and_then(|transaction| transaction.finished_at)
            .map(|finished_at| finished_at.after(KEEP_HEURISTIC))
            .filter(|until| *until > now);
        match until {
            Some(until) => self.projector.kept.push_back((until, xid)),
            None => {
                self.lost_rows.forget(xid);
                self.memory.evict(xid, now);
            }
        }
    }

    /// Those that were kept long enough get their row once more, with what came late, and leave.
    fn let_go_of_kept(&mut self, now: Timestamp) {
        while let Some((until, xid)) = self.projector.kept.front().copied()
            && until <= now
        {
            self.projector.kept.pop_front();
            let Some(entry) = self.memory.entries.get(&xid) else { continue };
            if entry.last <= self.writer.durable() {
                self.projector.finished(xid, entry.last);
            } else {
                self.projector.kept.push_back((until, xid));
                return;
            }
        }
    }
}
