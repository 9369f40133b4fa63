//! What a partition holds in memory: its open transactions, timers and what they need of the log.

mod share;
mod starts;
mod timers;

use std::collections::{HashMap, HashSet, VecDeque};

use unanimity_core::{Event, Timer, Transaction};
use unanimity_types::{BranchId, Decision, Epoch, Name, Seq, Target, Timestamp, Xid};

use share::Shared;
use starts::Starts;
use timers::Timers;

use super::tickets::Left;
use crate::engine::mailbox::{AsOf, Reply, ReplyTo};
use crate::engine::request::{TransactionView, Wait};
use crate::entropy::HashState;

/// How many evictions are remembered for commands whose look into history overlaps with one. Such a
/// look takes milliseconds; if more left memory meanwhile, history is asked again.
const EVICTIONS_MAX: usize = 65_536;

/// A transaction and what the engine keeps beside it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) transaction: Option<Transaction>,
    /// The block with its first event, or with its last snapshot: needed as long as it is here.
    pub(super) first: Seq,
    /// The block with its last event: every answer that looked at it waits for that (protocol C5).
    pub(super) last: Seq,
    /// Its events' bytes from `first` on.
    pub(super) bytes: u64,
    pub(super) waiters: Vec<Waiter>,
    /// Whether it waits to be written to history while it is open.
    pub(super) queued_for_history: bool,
}

/// Somebody who waits for a status.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) wait: Wait,
    pub(super) who: Who,
}

#[derive(Debug)]
pub(super) enum Who {
    /// A commit or an abort: pleased by its own decision, refused by the other one.
    Decides { wants: Decision, reply: ReplyTo<Reply> },
    /// A look.
    Looks(ReplyTo<Option<Box<TransactionView>>>),
}

impl Waiter {
    fn is_gone(&self) -> bool {
        match &self.who {
            Who::Decides { reply, .. } => reply.is_closed(),
            Who::Looks(reply) => reply.is_closed(),
        }
    }
}

impl Entry {
    pub(super) fn wait(&mut self, waiter: Waiter) {
        // Callers give up and come again: do not collect the dead.
        if self.waiters.len() >= 8 {
            self.waiters.retain(|waiter| !waiter.is_gone());
        }
        self.waiters.push(waiter);
    }
}

/// The partition's memory.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) entries: HashMap<Xid, Box<Entry>, HashState>,
    /// By the block that each entry needs first: the floor is the least of them (protocol H17).
    starts: Starts,
    timers: Timers,
    /// Branches that wait for their next attempt, by the participants that they wait for. Some may have
    /// been tried since.
    waiting: HashMap<Name, HashSet<(Xid, BranchId), HashState>, HashState>,
    shared: Shared,
    evicted: VecDeque<Xid>,
    evictions: u64,
    live_bytes: u64,
    /// Transactions that left (protocol 1.2).
    left: Left,
}

impl Memory {
    pub(super) fn transaction(&self, xid: Xid) -> Option<&Transaction> {
        self.entries.get(&xid).and_then(|entry| entry.transaction.as_ref())
    }

    /// The entry, made for a transaction whose first event goes into block `first` if it is new.
    pub(super) fn entry_or_new(&mut self, xid: Xid, first: Seq) -> &mut Entry {
        let starts = &mut self.starts;
        self.entries.entry(xid).or_insert_with(|| {
            starts.add(first, xid);
            Box::new(Entry {
                transaction: None,
                first,
                last: Seq(0),
                bytes: 0,
                waiters: Vec::new(),
                queued_for_history: false,
            })
        })
    }

    /// Counts a record of the entry that went into block `seq`.
    pub(super) fn written(&mut self, xid: Xid, seq: Seq, bytes: usize) {
        if let Some(entry) = self.entries.get_mut(&xid) {
            entry.last = seq;
            entry.bytes += bytes as u64;
            self.live_bytes += bytes as u64;
        }
    }

    /// A snapshot of the entry went into block `seq`: nothing before it is needed any more.
    pub(super) fn moved(&mut self, xid: Xid, seq: Seq, bytes: usize) {
        if let Some(entry) = self.entries.get_mut(&xid) {
            self.starts.remove(entry.first);
            self.starts.add(seq, xid);
            self.live_bytes = self.live_bytes - entry.bytes + bytes as u64;
            entry.first = seq;
            entry.last = seq;
            entry.bytes = bytes as u64;
        }
    }

    /// The least block that somebody needs.
    pub(super) fn first_needed(&self) -> Option<Seq> {
        self.starts.first()
    }

    /// The entry that needs the oldest block, if that lies below `cut`.
    pub(super) fn oldest_below(&mut self, cut: Seq) -> Option<Xid> {
        let entries = &self.entries;
        self.starts.oldest_below(cut, |xid| entries.get(&xid).map(|entry| entry.first))
    }

    pub(super) const fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Lets an event hold what others hold already, before it is applied.
    pub(super) fn share(&mut self, event: &mut Event) {
        self.shared.share(event);
    }

    pub(super) fn set_timer(&mut self, at: Timestamp, xid: Xid, timer: Timer) {
        if let Timer::Retry(branch_id) = timer {
            self.note_waiting(xid, branch_id);
        }
        self.timers.set(at, xid, timer);
        let entries = &self.entries;
        self.timers.sweep(entries.len(), |xid| entries.contains_key(&xid));
    }

    fn note_waiting(&mut self, xid: Xid, branch_id: BranchId) {
        let Some(entry) = self.entries.get(&xid) else { return };
        let Some(branch) = entry.transaction.as_ref().and_then(|known| known.branch(branch_id)) else {
            return;
        };
        for target in branch.targets.iter() {
            let Target::Participant { participant, .. } = target else { continue };
            if let Some(waiting) = self.waiting.get_mut(participant) {
                waiting.insert((xid, branch_id));
            } else {
                self.waiting.entry(participant.clone()).or_default().insert((xid, branch_id));
            }
        }
    }

    /// Forgets the branches that wait for a participant and answers them: whoever waits on is noted anew
    /// with the next timer.
    pub(super) fn take_waiting(&mut self, participant: &Name) -> Vec<(Xid, BranchId)> {
        let noted = self.waiting.remove(participant).unwrap_or_default();
        let waits = |(xid, branch_id): &(Xid, BranchId)| {
            let branch = self.transaction(*xid).and_then(|transaction| transaction.branch(*branch_id));
            branch.is_some_and(|branch| branch.next_attempt_at.is_some())
        };
        let mut waiting: Vec<_> = noted.into_iter().filter(waits).collect();
        // In an order that does not depend on the hasher.
        waiting.sort_unstable();
        waiting
    }

    /// When the next timer may be due.
    pub(super) fn next_timer(&self) -> Option<Timestamp> {
        self.timers.next()
    }

    /// Takes the next timer that is due.
    pub(super) fn pop_timer(&mut self, now: Timestamp) -> Option<(Xid, Timer)> {
        self.timers.pop(now)
    }

    fn forget_waiting(&mut self, xid: Xid, entry: &Entry) {
        if self.waiting.is_empty() {
            return;
        }
        for branch in entry.transaction.iter().flat_map(|transaction| &transaction.branches) {
            for target in branch.targets.iter() {
                let Target::Participant { participant, .. } = target else { continue };
                if let Some(waiting) = self.waiting.get_mut(participant) {
                    waiting.remove(&(xid, branch.id));
                    if waiting.is_empty() {
                        self.waiting.remove(participant);
                    }
                }
            }
        }
    }

    /// Lets go of a transaction that is over and in history (protocol C8d).
    pub(super) fn evict(&mut self, xid: Xid, now: Timestamp) {
        if let Some(entry) = self.entries.remove(&xid) {
            // Begun by call as well: that begin may be repeated. And what was aborted before it began, whose
            // ticket may be good (protocol C2).
            self.left.add(xid, now);
            self.starts.remove(entry.first);
            self.forget_waiting(xid, &entry);
            self.live_bytes -= entry.bytes;
            if self.evicted.len() == EVICTIONS_MAX {
                self.evicted.pop_front();
            }
            self.evicted.push_back(xid);
            self.evictions += 1;
        }
    }

    /// The transactions that left in this life.
    pub(super) const fn left(&self) -> &Left {
        &self.left
    }

    /// Now, in the life of this epoch.
    pub(super) const fn as_of(&self, epoch: Epoch) -> AsOf {
        AsOf { epoch, evictions: self.evictions }
    }

    /// Whether the xid may have left since that moment; another life's moment tells nothing.
    pub(super) fn may_have_left_since(&self, xid: Xid, epoch: Epoch, as_of: AsOf) -> bool {
        if as_of.epoch != epoch {
            return true;
        }
        let since = usize::try_from(self.evictions.saturating_sub(as_of.evictions)).unwrap_or(usize::MAX);
        since > self.evicted.len() || self.evicted.iter().rev().take(since).any(|evicted| *evicted == xid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn xid(n: u128) -> Xid {
        Xid::new(Uuid::from_u128(n))
    }

    #[test]
    fn c2_an_eviction_during_a_look_into_history_is_seen() {
        let mut memory = Memory::default();
        for n in 1..=3 {
            memory.entry_or_new(xid(n), Seq(1));
        }
        memory.evict(xid(1), Timestamp(0));
        let epoch = Epoch(1);
        let as_of = memory.as_of(epoch);
        assert!(!memory.may_have_left_since(xid(1), epoch, as_of));
        memory.evict(xid(2), Timestamp(0));
        assert!(memory.may_have_left_since(xid(2), epoch, as_of));
        assert!(!memory.may_have_left_since(xid(3), epoch, as_of));
        // The look began in another life: nobody can tell.
        assert!(memory.may_have_left_since(xid(3), Epoch(2), as_of));
        // More evictions than are remembered: nobody can tell.
        for n in 10..(12 + EVICTIONS_MAX as u128) {
            memory.entry_or_new(xid(n), Seq(1));
            memory.evict(xid(n), Timestamp(0));
        }
        assert!(memory.may_have_left_since(xid(3), epoch, as_of));
    }

    #[test]
    fn timers_of_what_is_gone_do_not_gather() {
        let mut memory = Memory::default();
        memory.entry_or_new(xid(1), Seq(1));
        memory.set_timer(Timestamp(5), xid(1), Timer::Deadline);
        for n in 2..300_000 {
            memory.entry_or_new(xid(n), Seq(1));
            memory.set_timer(Timestamp(1_000_000 + n as u64 % 9_000), xid(n), Timer::Deadline);
            memory.evict(xid(n), Timestamp(0));
        }
        assert!(memory.timers.len() <= 70_000, "{} timers", memory.timers.len());
        assert_eq!(memory.pop_timer(Timestamp(5)), Some((xid(1), Timer::Deadline)));
    }

    #[test]
    fn the_floor_follows_the_oldest_need() {
        let mut memory = Memory::default();
        memory.entry_or_new(xid(1), Seq(3));
        memory.written(xid(1), Seq(3), 100);
        memory.entry_or_new(xid(2), Seq(5));
        memory.written(xid(2), Seq(5), 50);
        assert_eq!(memory.first_needed(), Some(Seq(3)));
        memory.moved(xid(1), Seq(9), 60);
        assert_eq!((memory.first_needed(), memory.live_bytes()), (Some(Seq(5)), 110));
        assert_eq!(memory.oldest_below(Seq(9)), Some(xid(2)));
        memory.evict(xid(2), Timestamp(0));
        assert_eq!((memory.first_needed(), memory.live_bytes()), (Some(Seq(9)), 60));
    }
}
