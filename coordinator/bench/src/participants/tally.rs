//! Which transactions are finished, as their participants see it: when the last of the second-phase
//! operations came.
//!
//! That is a little before the coordinator itself calls them finished, which takes this operation's answer
//! and a block that nobody waits for; asking it would be load that the measured system has to carry.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use unanimity_types::Xid;

use crate::clock::now_us;
use crate::measure::{Counts, Latencies, Window};
use crate::stamp::Stamp;

/// Counts operations. Shared by all participants of the process.
#[derive(Debug)]
pub(crate) struct Tally {
    branches: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    window: Option<Window>,
    /// The branches whose operation came, a bit each, of those transactions that miss some.
    open: HashMap<Xid, u128>,
    finished: u64,
    finished_in_window: u64,
    operations: u64,
    repeated: u64,
    latencies: Latencies,
}

/// What the participants' process tells.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Tallied {
    /// Transactions all of whose operations came.
    pub(crate) finished: u64,
    pub(crate) finished_in_window: u64,
    /// Operations that came, repetitions included.
    pub(crate) operations: u64,
    /// Those that came again.
    pub(crate) repeated: u64,
    pub(crate) latencies: Counts,
}

impl Tally {
    pub(crate) fn new(branches: u32) -> Self {
        Self { branches, state: Mutex::default() }
    }

    /// From now on transactions that began in this window are timed.
    pub(crate) fn set_window(&self, window: Window) {
        self.lock().window = Some(window);
    }

    /// Notes operations that came just now: their transaction, their branch's number, whether they come
    /// again, and when the transaction was to begin.
    pub(crate) fn note(&self, operations: impl IntoIterator<Item = (Xid, u32, bool, Option<Stamp>)>) {
        let now = now_us();
        let mut state = self.lock();
        for (xid, branch, repeated, stamp) in operations {
            state.note(self.branches, now, xid, branch, repeated, stamp);
        }
    }

    /// Notes an operation of a branch whose number is not known, of participants that do each once.
    pub(crate) fn note_next(&self, xid: Xid, stamp: Option<Stamp>) {
        let now = now_us();
        let mut state = self.lock();
        let next = state.open.get(&xid).map_or(0, |seen| seen.trailing_ones());
        state.note(self.branches, now, xid, next, false, stamp);
    }

    /// How many are finished, without their latencies.
    pub(crate) fn finished(&self) -> u64 {
        self.lock().finished
    }

    pub(crate) fn result(&self) -> Tallied {
        let state = self.lock();
        Tallied {
            finished: state.finished,
            finished_in_window: state.finished_in_window,
            operations: state.operations,
            repeated: state.repeated,
            latencies: state.latencies.counts(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Counters: sound even if a panic poisoned the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, branches: u32, now: u64, xid: Xid, branch: u32, repeated: bool, stamp: Option<Stamp>) {
        self.operations += 1;
        self.repeated += u64::from(repeated);
        let bit = 1_u128 << (branch % 128);
        let missing = match self.open.get_mut(&xid) {
            Some(seen) => {
                *seen |= bit;
                branches.saturating_sub(seen.count_ones())
            }
            // A repetition may come after its transaction was counted: then it opens nothing.
            None if repeated && branches > 1 => return,
            None => {
                if branches > 1 {
                    self.open.insert(xid, bit);
                }
                branches - 1
            }
        };
        if missing > 0 || (branches == 1 && repeated) {
            return;
        }
        self.open.remove(&xid);
        self.finished += 1;
        let Some(window) = self.window else { return };
        self.finished_in_window += u64::from(window.holds(now));
        if let Some(stamp) = stamp
            && window.holds(stamp.intended_us)
        {
            self.latencies.record(now.saturating_sub(stamp.intended_us));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xid(n: u128) -> Xid {
        Xid::new(uuid::Uuid::from_u128(n))
    }

    #[test]
    fn a_transaction_is_finished_with_its_last_branch_and_once() {
        let tally = Tally::new(2);
        let now = now_us();
        tally.set_window(Window { start_us: 0, from_us: now - 1_000_000, to_us: now + 60_000_000 });
        let stamp = Some(Stamp { intended_us: now - 500_000, refuse: false });
        tally.note([(xid(1), 1, false, stamp), (xid(2), 1, false, stamp)]);
        // Comes again while the other one is missing.
        tally.note([(xid(1), 1, true, stamp)]);
        assert_eq!(tally.finished(), 0);
        tally.note([(xid(1), 2, false, stamp)]);
        // Comes again after the end.
        tally.note([(xid(1), 2, true, stamp)]);
        let tallied = tally.result();
        assert_eq!((tallied.finished, tallied.finished_in_window), (1, 1));
        assert_eq!((tallied.operations, tallied.repeated), (5, 2));
        let mut latencies = Latencies::default();
        latencies.add(&tallied.latencies);
        assert!(latencies.quantiles().expect("one").max >= 500_000);
    }

    #[test]
    fn a_single_branch_is_a_whole_transaction() {
        let tally = Tally::new(1);
        tally.note([(xid(1), 1, false, None), (xid(2), 1, false, None), (xid(2), 1, true, None)]);
        assert_eq!(tally.finished(), 2);
        assert!(tally.lock().open.is_empty());
    }
}
