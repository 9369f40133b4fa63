//! Timers: far ones lie in slots by their time, near ones in a heap. Setting one costs next to nothing,
//! however many there are; most are deadlines of transactions that end long before.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use unanimity_core::Timer;
use unanimity_types::{Timestamp, Xid};

/// A slot is 256 ms wide: few slots for a minute's deadlines, and the heap holds a quarter of a second.
const SLOT_BITS: u32 = 8;

/// So many timers are kept without a look at whether their transactions are still here.
const SWEEP_FROM: usize = 65_536;

/// Timers that are looked at for each one that is set: two would be enough to keep up, since what is
/// swept is half gone.
const SWEEP_STEP: usize = 4;

type Set = (Timestamp, Xid, Timer);

/// When whose timer goes off.
#[derive(Debug, Default)]
pub(super) struct Timers {
    near: BinaryHeap<Reverse<Set>>,
    far: BTreeMap<u64, Vec<Set>>,
    /// Slots below this one are in the heap.
    horizon: u64,
    /// How many lie in slots.
    lying: usize,
    /// Where the sweep goes on: a slot, and how many of its timers are still to be looked at.
    sweep: (u64, usize),
}

impl Timers {
    pub(super) fn set(&mut self, at: Timestamp, xid: Xid, timer: Timer) {
        let slot = at.0 >> SLOT_BITS;
        if slot < self.horizon {
            self.near.push(Reverse((at, xid, timer)));
        } else {
            self.far.entry(slot).or_default().push((at, xid, timer));
            self.lying += 1;
        }
    }

    /// When to look for the next one: not after it is due.
    pub(super) fn next(&self) -> Option<Timestamp> {
        let near = self.near.peek().map(|Reverse((at, _, _))| *at);
        let far = self.far.keys().next().map(|slot| Timestamp(slot << SLOT_BITS));
        near.into_iter().chain(far).min()
    }

    /// Takes the next one that is due.
    pub(super) fn pop(&mut self, now: Timestamp) -> Option<(Xid, Timer)> {
        while let Some(first) = self.far.first_entry()
            && *first.key() <= now.0 >> SLOT_BITS
        {
            let (slot, timers) = first.remove_entry();
            self.horizon = self.horizon.max(slot + 1);
            self.lying -= timers.len();
            self.near.extend(timers.into_iter().map(Reverse));
        }
        self.near.peek().filter(|Reverse((at, _, _))| *at <= now)?;
        self.near.pop().map(|Reverse((_, xid, timer))| (xid, timer))
    }

    /// Deadlines of what was decided long ago lie up to weeks ahead: they must not gather. Looks at a few
    /// if there are many more than `open` transactions.
    pub(super) fn sweep(&mut self, open: usize, is_here: impl Fn(Xid) -> bool) {
        if self.lying < SWEEP_FROM.max(2 * open) {
            return;
        }
        for _ in 0..SWEEP_STEP {
            let (slot, left) = self.sweep;
            let Some(timers) = self.far.get_mut(&slot).filter(|_| left > 0) else {
                // The next slot, or the first one again.
                let next = self.far.range(slot + 1..).next().or_else(|| self.far.iter().next());
                self.sweep = next.map_or((0, 0), |(slot, timers)| (*slot, timers.len()));
                continue;
            };
            // From its end, so that what takes the place of a gone one was looked at.
            let place = left.min(timers.len()) - 1;
            self.sweep = (slot, place);
            if !is_here(timers[place].1) {
                timers.swap_remove(place);
                self.lying -= 1;
                if timers.is_empty() {
                    self.far.remove(&slot);
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.near.len() + self.lying
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn they_go_off_in_the_order_of_their_times() {
        let mut dice = fastrand::Rng::with_seed(11);
        let mut timers = Timers::default();
        let mut expected = Vec::new();
        let mut got = Vec::new();
        for now in (0..20_000).step_by(7) {
            for _ in 0..dice.usize(0..4) {
                let at = Timestamp(dice.u64(now.max(500) - 500..now + 5_000));
                timers.set(at, Xid::new(Uuid::from_u128(dice.u128(1..))), Timer::Deadline);
                expected.push(at.0.max(now));
            }
            assert!(timers.next().is_none_or(|next| expected.iter().any(|at| *at >= next.0)));
            while timers.pop(Timestamp(now)).is_some() {
                got.push(now);
            }
        }
        while timers.pop(Timestamp(30_000)).is_some() {
            got.push(30_000);
        }
        // Each in the first look at or after its time.
        let mut seen: Vec<_> =
            expected.iter().map(|at| if *at > 19_999 { 30_000 } else { at.div_ceil(7) * 7 }).collect();
        seen.sort_unstable();
        assert_eq!(got, seen);
        assert_eq!((timers.len(), timers.next()), (0, None));
    }
}
