//! The locks whose home this partition is: their places in the log, who waits for them, and the
//! questions about holders that stay long (protocol H7).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use unanimity_core::{Acquire, IllegalLock, LockEvent, LockTable};
use unanimity_types::{ErrorCode, InquiryAnswer, Limits, Name, Seq, Timestamp, Xid};

use super::Internal;
use super::life::{Exit, Life};
use super::writer::Release;
use crate::engine::codec::PartitionEvent;
use crate::engine::error::Error;
use crate::engine::locks::conflict;
use crate::engine::mailbox::ReplyTo;
use crate::engine::request::{Inquiry, StopReason};
use crate::entropy::HashState;

/// A lock's record in the log.
#[derive(Debug)]
struct Place {
    seq: Seq,
    bytes: u64,
}

/// Somebody who waits for a lock.
#[derive(Debug)]
struct Waiting {
    id: u64,
    until: Instant,
    xid: Xid,
    reply: ReplyTo<()>,
}

/// The locks and what the engine keeps beside them.
#[derive(Debug, Default)]
pub(super) struct Locks {
    table: LockTable,
    places: HashMap<Name, Place, HashState>,
    /// By the block that each lock needs: a part of the floor (protocol H17).
    starts: BTreeSet<(Seq, Name)>,
    live_bytes: u64,
    /// In the order of their coming.
    queues: HashMap<Name, VecDeque<Waiting>, HashState>,
    /// When each wait ends.
    ends: BTreeSet<(Instant, u64, Name)>,
    last_id: u64,
    /// When to ask about each holder.
    ask_at: BTreeSet<(Timestamp, Xid)>,
    asking: bool,
}

impl Locks {
    /// Applies what went into block `seq`, live and in recovery alike; `ask_after` is how long a holder
    /// may stay before it is asked about.
    pub(super) fn written(
        &mut self,
        event: &LockEvent,
        seq: Seq,
        bytes: usize,
        ask_after: Duration,
    ) -> Result<(), IllegalLock> {
        let newcomer =
            matches!(event, LockEvent::Acquired { xid, .. } if self.table.of(*xid).next().is_none());
        self.table.apply(event)?;
        let (LockEvent::Acquired { key, .. } | LockEvent::Released { key, .. }) = event;
        if let Some(place) = self.places.remove(key) {
            self.starts.remove(&(place.seq, key.clone()));
            self.live_bytes -= place.bytes;
        }
        if let LockEvent::Acquired { key, xid, since } = event {
            let bytes = bytes as u64;
            self.places.insert(key.clone(), Place { seq, bytes });
            self.starts.insert((seq, key.clone()));
            self.live_bytes += bytes;
            // Asked about once, however many locks it takes.
            if newcomer {
                self.ask_at.insert((since.after(ask_after), *xid));
            }
        }
        Ok(())
    }

    /// The block that an answer about the lock waits for (protocol C5).
    fn gate(&self, key: &Name) -> Seq {
        self.places.get(key).map_or(Seq(0), |place| place.seq)
    }

    pub(super) fn first_needed(&self) -> Option<Seq> {
        self.starts.first().map(|(seq, _)| *seq)
    }

    pub(super) const fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// The record to write again so that nothing below `cut` is needed any more.
    pub(super) fn oldest_below(&self, cut: Seq) -> Option<LockEvent> {
        let (_, key) = self.starts.first().filter(|(seq, _)| *seq < cut)?;
        let lock = self.table.get(key)?;
        Some(LockEvent::Acquired { key: key.clone(), xid: lock.xid, since: lock.since })
    }

    /// When the next wait ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(at, ..)| *at)
    }

    /// When the next holder is to be asked about.
    pub(super) fn next_ask(&self) -> Option<Timestamp> {
        self.ask_at.first().filter(|_| !self.asking).map(|(at, _)| *at)
    }

    fn wait(&mut self, key: Name, xid: Xid, until: Instant, reply: ReplyTo<()>) {
        self.last_id += 1;
        let id = self.last_id;
        self.ends.insert((until, id, key.clone()));
        self.queues.entry(key).or_default().push_back(Waiting { id, until, xid, reply });
    }

    /// Takes those out of a lock's queue that are meant.
    fn take_out(&mut self, key: &Name, meant: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let Some(queue) = self.queues.get_mut(key) else { return Vec::new() };
        let (out, left) = std::mem::take(queue).into_iter().partition::<VecDeque<_>, _>(meant);
        if left.is_empty() {
            self.queues.remove(key);
        } else {
            *queue = left;
        }
        for waiting in &out {
            self.ends.remove(&(waiting.until, waiting.id, key.clone()));
        }
        out.into()
    }

    /// The first who still waits.
    fn first_waiting(&mut self, key: &Name) -> Option<Xid> {
        // Those who gave up are not to get what somebody waits for.
        drop(self.take_out(key, |waiting| waiting.reply.is_closed()));
        self.queues.get(key).and_then(|queue| queue.front()).map(|first| first.xid)
    }

    /// Nobody gets anything any more.
    pub(super) fn fail(&mut self, error: &Error) {
        for waiting in self.queues.drain().flat_map(|(_, queue)| queue) {
            drop(waiting.reply.send(Err(error.clone())));
        }
        self.ends.clear();
    }
}

impl Life {
    /// Somebody wants a lock for a transaction, and waits so long for it at most.
    pub(super) fn lock(&mut self, key: Name, xid: Xid, wait: Duration, reply: ReplyTo<()>) {
        match self.locks.table.acquire(&key, xid) {
            Acquire::Own => self.release(self.locks.gate(&key), Release::Locked(reply, Ok(()))),
            Acquire::Free if self.locks.table.len() >= self.config.locks_max => {
                drop(reply.send(Err(self.too_many_locks())));
            }
            Acquire::Free => self.acquire(&key, xid, vec![reply]),
            Acquire::Held(lock) if wait.is_zero() => {
                let gate = self.locks.gate(&key);
                self.release(gate, Release::Locked(reply, Err(conflict(&key, lock.xid, xid))));
            }
            Acquire::Held(_) if self.locks.ends.len() >= self.config.lock_waiters_max => {
                drop(reply.send(Err(self.too_many_locks())));
            }
            Acquire::Held(_) => self.locks.wait(key, xid, Instant::now() + wait, reply),
        }
    }

    fn too_many_locks(&self) -> Error {
        let message = format!(
            "partition {} holds {} locks and {} registrations that wait for one, which is as much as it may",
            self.partition,
            self.locks.table.len(),
            self.locks.ends.len()
        );
        Error::new(ErrorCode::TooBusy, message).retry_after(Duration::from_secs(1))
    }

    /// The lock is free: it is the transaction's as soon as that is durable.
    fn acquire(&mut self, key: &Name, xid: Xid, replies: Vec<ReplyTo<()>>) {
        let event = LockEvent::Acquired { key: key.clone(), xid, since: self.clock.now() };
        if !self.write_lock(&event, true) {
            return;
        }
        let gate = self.locks.gate(key);
        for reply in replies {
            self.release(gate, Release::Locked(reply, Ok(())));
        }
    }

    /// Writes what happens to a lock; `false` if the partition stops, which is a bug's doing.
    fn write_lock(&mut self, event: &LockEvent, waits: bool) -> bool {
        let now = self.clock.now();
        let what = PartitionEvent::Lock(event.clone());
        let pushed = self.writer.push(now, waits, |body| Some(body.partition_event(now, &what)));
        let Some((seq, bytes)) = pushed else { return false };
        let written = self.locks.written(event, seq, bytes, self.config.lock_ask_after);
        if let Err(error) = written {
            tracing::error!(partition = %self.partition, %error, "a lock was given to two");
            self.exit = Some(Exit::Stopped(StopReason::Unreadable(format!("a bug: {error}"))));
            return false;
        }
        true
    }

    /// The transaction is over: its locks go to those who wait for them.
    pub(super) fn unlock(&mut self, xid: Xid, keys: Vec<Name>) {
        for key in keys {
            let Some(event) = self.locks.table.release(&key, xid) else { continue };
            // Lost in a crash, it is found out by asking.
            if !self.write_lock(&event, false) {
                return;
            }
            if let Some(next) = self.locks.first_waiting(&key) {
                let waiting = self.locks.take_out(&key, |waiting| waiting.xid == next);
                self.acquire(&key, next, waiting.into_iter().map(|waiting| waiting.reply).collect());
            }
        }
    }

    /// Waits that are over, and holders that stay long.
    pub(super) fn fire_locks(&mut self) {
        let now = Instant::now();
        while let Some((at, id, key)) = self.locks.ends.first().cloned()
            && at <= now
        {
            let gate = self.locks.gate(&key);
            let holder = self.locks.table.get(&key);
            for waiting in self.locks.take_out(&key, |waiting| waiting.id == id) {
                let Some(lock) = holder else { continue };
                let error = conflict(&key, lock.xid, waiting.xid);
                self.release(gate, Release::Locked(waiting.reply, Err(error)));
            }
            self.locks.ends.remove(&(at, id, key));
        }
        self.ask_about_holders();
    }

    /// Asks the partitions of holders that stay long whether they are over: whoever crashed between the
    /// lock and the registration, or was not heard, frees its locks this way.
    fn ask_about_holders(&mut self) {
        let now = self.clock.now();
        if self.locks.next_ask().is_none_or(|at| at > now) || !self.is_open_for_work() {
            return;
        }
        let mut asked = BTreeSet::new();
        while asked.len() < Limits::INQUIRY_XIDS_MAX
            && let Some((at, xid)) = self.locks.ask_at.first().copied()
            && at <= now
        {
            self.locks.ask_at.pop_first();
            if self.locks.table.of(xid).next().is_some() {
                asked.insert(xid);
            }
        }
        if asked.is_empty() {
            return;
        }
        self.locks.asking = true;
        let coordinator = self.coordinator.clone();
        let internal = self.internal.clone();
        crate::task::spawn(async move {
            let xids: Vec<Xid> = asked.into_iter().collect();
            // A partition in trouble tells nothing: its holders are asked about again.
            let answers = coordinator.inquire(None, xids.clone()).await.unwrap_or_default();
            let _ = internal.send(Internal::Holders(xids, answers));
        });
    }

    /// What the holders' partitions said.
    pub(super) fn holders(&mut self, asked: &[Xid], answers: &[Inquiry]) {
        self.locks.asking = false;
        // What is forgotten is neither in its partition's log nor, over, in history, and an operator's word says why: it
        // will never be known to be over, and whoever waits is not to wait for ever.
        let is_over = |inquiry: &&Inquiry| inquiry.settled || inquiry.answer == InquiryAnswer::Forgotten;
        let over: BTreeSet<Xid> = answers.iter().filter(is_over).map(|inquiry| inquiry.xid).collect();
        let again = self.clock.now().after(self.config.lock_ask_after);
        for xid in asked {
            if over.contains(xid) {
                let keys: Vec<Name> = self.locks.table.of(*xid).cloned().collect();
                let is_lost = answers
                    .iter()
                    .any(|inquiry| inquiry.xid == *xid && inquiry.answer == InquiryAnswer::Forgotten);
                if is_lost {
                    tracing::warn!(partition = %self.partition, %xid, ?keys, "locks of a transaction that the log lost are freed: see what it left at its participants");
                } else {
                    tracing::debug!(partition = %self.partition, %xid, keys = keys.len(), "locks of what is over");
                }
                self.unlock(*xid, keys);
            } else {
                self.locks.ask_at.insert((again, *xid));
            }
        }
    }

    /// Writes a lock again that stands below `cut`. Answers its size, nothing if there is none.
    pub(super) fn reappend_lock(&mut self, cut: Seq) -> Option<usize> {
        let event = self.locks.oldest_below(cut)?;
        let LockEvent::Acquired { key, .. } = &event else { return None };
        self.write_lock(&event, false).then(|| {
            let bytes = self.locks.places.get(key).map_or(0, |place| place.bytes);
            usize::try_from(bytes).unwrap_or(usize::MAX)
        })
    }
}
