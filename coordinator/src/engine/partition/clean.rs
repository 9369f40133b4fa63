//! Cleaning: the log's size follows what is open, not what has passed.
//!
//! The floor is the oldest block that a transaction in memory needs. It moves by itself as
//! transactions end; old ones that stay open are re-appended as snapshots when what is dead outweighs
//! what lives (protocol M8: amplification of at most 2). A block records the floor before anything
//! below it is deleted (H17).

use std::collections::VecDeque;
use std::sync::Arc;

use unanimity_core::Event;
use unanimity_types::Seq;

use super::Internal;
use super::life::Life;
use super::recover::Words;
use crate::failpoint;

/// Snapshots in one block at most, in bytes: the work of a fraction of a millisecond, and a block that is
/// not much larger than others under load, so that other events are not held up. One with a large payload
/// may go beyond it.
const SNAPSHOT_BYTES_MAX: usize = 64 * 1024;

/// The blocks from the floor on and what goes on with them.
#[derive(Debug)]
pub(super) struct Cleaner {
    /// (seq, bytes) of every block from the floor on.
    blocks: VecDeque<(Seq, u64)>,
    bytes: u64,
    /// The floor that blocks record from now on.
    floor: Seq,
    /// Everything that began before this block is being re-appended.
    cut: Option<Seq>,
    trimming: bool,
    trimmed: Seq,
    /// Operators' words that have to outlive the trim.
    words: Words,
}

impl Cleaner {
    pub(super) fn new(blocks: VecDeque<(Seq, u64)>, floor: Seq, words: Words) -> Self {
        let bytes = blocks.iter().map(|(_, bytes)| bytes).sum();
        // Trim once at the start: an owner that died may have left something below the floor.
        Self { blocks, bytes, floor, cut: None, trimming: false, trimmed: Seq(0), words }
    }

    pub(super) const fn floor(&self) -> Seq {
        self.floor
    }

    pub(super) fn add(&mut self, seq: Seq, bytes: u64) {
        self.blocks.push_back((seq, bytes));
        self.bytes += bytes;
    }

    /// Bytes from the floor on that nobody needs.
    fn dead(&self, live: u64) -> u64 {
        self.bytes.saturating_sub(live)
    }

    fn drop_below(&mut self, floor: Seq) {
        while let Some((seq, bytes)) = self.blocks.front().copied()
            && seq < floor
        {
            self.blocks.pop_front();
            self.bytes -= bytes;
        }
    }
}

impl Life {
    /// Looks at the log's size and moves what has to move. Called after each durable block.
    pub(super) fn clean(&mut self) {
        if self.losing {
            // Nothing is to follow the record of a loss but an operator's word.
            return;
        }
        if self.ending {
            // Snapshots of a large memory would keep the closing block waiting until its time is over.
            self.trim();
            return;
        }
        let durable = self.writer.durable();
        let first = [self.memory.first_needed(), self.locks.first_needed()].into_iter().flatten().min();
        let needed = first.unwrap_or(durable).min(durable);
        let live = self.memory.live_bytes() + self.locks.live_bytes();
        let too_much = live + self.config.clean_bytes;
        // Few large blocks move it too: else each of them would begin the cleaning anew.
        let overdue = needed > self.cleaner.floor && self.cleaner.dead(live) > too_much;
        if needed.0 >= self.cleaner.floor.0 + self.config.trim_blocks || overdue {
            self.keep_words(needed);
            self.cleaner.floor = needed;
            self.cleaner.drop_below(needed);
        }
        let dead = self.cleaner.dead(live);
        if self.cleaner.cut.is_none() && dead > too_much {
            self.cleaner.cut = Some(durable);
            tracing::debug!(partition = %self.partition, dead, live, "cleaning begins");
        }
        self.reappend();
        self.trim();
    }

    /// Re-appends operators' words that stand below the next floor, into the block that is the
    /// first to record that floor: what was forgiven stays forgiven.
    fn keep_words(&mut self, floor: Seq) {
        let now = self.clock.now();
        let Words { accepted, restored } = &mut self.cleaner.words;
        for (stands_in, event) in [accepted, restored].into_iter().flatten() {
            if *stands_in >= floor {
                continue;
            }
            let pushed = self.writer.push(now, false, |body| Some(body.partition_event(now, event)));
            if let Some((seq, _)) = pushed {
                *stands_in = seq;
            }
        }
    }

    /// Re-appends some of what began before the cut.
    fn reappend(&mut self) {
        let Some(cut) = self.cleaner.cut else { return };
        let now = self.clock.now();
        let mut bytes = 0;
        while bytes < SNAPSHOT_BYTES_MAX {
            if let Some(size) = self.reappend_lock(cut) {
                bytes += size;
                self.counters.rewritten_bytes += size as u64;
                continue;
            }
            let Some(xid) = self.memory.oldest_below(cut) else {
                self.cleaner.cut = None;
                return;
            };
            let Some(transaction) = self.memory.transaction(xid) else {
                debug_assert!(false, "an entry without a transaction");
                self.memory.evict(xid, now);
                continue;
            };
            let event = Event::Snapshot(Box::new(transaction.durable()));
            let Some((seq, size)) = self.writer.push(now, false, |body| body.event(xid, now, &event)) else {
                return;
            };
            self.memory.moved(xid, seq, size);
            bytes += size;
            self.counters.rewritten_bytes += size as u64;
        }
    }

    /// Deletes below the floor that the last durable block records.
    fn trim(&mut self) {
        let floor = self.writer.durable_floor();
        if self.cleaner.trimming || floor <= self.cleaner.trimmed {
            return;
        }
        self.cleaner.trimming = true;
        let log = Arc::clone(&self.log);
        let internal = self.internal.clone();
        let partition = self.partition;
        crate::task::spawn(async move {
            failpoint::reach("clean.before");
            let result = log.trim(partition, floor).await;
            failpoint::reach("clean.after");
            let _ = internal.send(Internal::Trimmed(floor, result));
        });
    }

    /// A trim ended. One that failed is tried again after the next block.
    pub(super) fn trimmed(&mut self, floor: Seq, result: Result<u64, crate::log::Error>) {
        self.cleaner.trimming = false;
        match result {
            Ok(rows) => {
                self.cleaner.trimmed = floor;
                tracing::debug!(partition = %self.partition, %floor, rows, "trimmed");
            }
            Err(error) => tracing::warn!(partition = %self.partition, %error, "the log could not be trimmed"),
        }
    }
}
