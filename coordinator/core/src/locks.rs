//! Lock keys: which transaction holds which key (protocol H7).
//!
//! A key belongs to no branch but to the whole transaction: the same xid may take it again, and it is
//! freed when every branch is settled, not at the decision; until then the effects of the branches can
//! still change. The driver takes a lock durably before it registers the branch that wants it.
//!
//! # Invariants
//! - A key has one holder at most: `apply` refuses a second one.
//! - What is asked for changes nothing; what is applied is not judged.

use std::collections::{BTreeMap, BTreeSet};

use unanimity_types::{Name, Timestamp, Xid};

/// A lock that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// By whom.
    pub xid: Xid,
    /// Since when, in partition time.
    pub since: Timestamp,
}

/// What happened to a lock: the log's contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockEvent {
    /// Somebody took it, or it is written again by cleaning.
    Acquired {
        /// Which.
        key: Name,
        /// Who.
        xid: Xid,
        /// Since when.
        since: Timestamp,
    },
    /// Its holder is over.
    Released {
        /// Which.
        key: Name,
        /// Who held it.
        xid: Xid,
    },
}

/// What stands in the way of taking a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acquire {
    /// Nothing: [`LockEvent::Acquired`] is to follow.
    Free,
    /// Nothing, and nothing is to follow: the same transaction holds it.
    Own,
    /// Another transaction.
    Held(Lock),
}

/// An event that cannot have happened: a bug, or a log that somebody changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{by} cannot take or free the lock {key}, which {held_by} holds")]
pub struct IllegalLock {
    /// Which lock.
    pub key: Name,
    /// Who would.
    pub by: Xid,
    /// Who holds it.
    pub held_by: Xid,
}

/// The locks whose home a partition is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LockTable {
    held: BTreeMap<Name, Lock>,
    by_holder: BTreeMap<Xid, BTreeSet<Name>>,
}

impl LockTable {
    /// Whether the transaction may take the lock.
    #[must_use]
    pub fn acquire(&self, key: &Name, xid: Xid) -> Acquire {
        match self.held.get(key) {
            None => Acquire::Free,
            Some(lock) if lock.xid == xid => Acquire::Own,
            Some(lock) => Acquire::Held(*lock),
        }
    }

    /// What is to follow when a transaction that is over gives a lock back; `None` if it does not hold it.
    #[must_use]
    pub fn release(&self, key: &Name, xid: Xid) -> Option<LockEvent> {
        let holds = self.held.get(key).is_some_and(|lock| lock.xid == xid);
        holds.then(|| LockEvent::Released { key: key.clone(), xid })
    }

    /// Applies what happened, live and in recovery alike. A release of what nobody holds is the rest of
    /// a lock whose beginning was trimmed.
    ///
    /// # Errors
    /// [`IllegalLock`] if another transaction holds it; the table is then as before.
    pub fn apply(&mut self, event: &LockEvent) -> Result<(), IllegalLock> {
        let (LockEvent::Acquired { key, xid, .. } | LockEvent::Released { key, xid }) = event;
        if let Some(lock) = self.held.get(key)
            && lock.xid != *xid
        {
            return Err(IllegalLock { key: key.clone(), by: *xid, held_by: lock.xid });
        }
        match event {
            LockEvent::Acquired { key, xid, since } => {
                self.held.insert(key.clone(), Lock { xid: *xid, since: *since });
                self.by_holder.entry(*xid).or_default().insert(key.clone());
            }
            LockEvent::Released { key, xid } => {
                self.held.remove(key);
                if let Some(keys) = self.by_holder.get_mut(xid) {
                    keys.remove(key);
                    if keys.is_empty() {
                        self.by_holder.remove(xid);
                    }
                }
            }
        }
        Ok(())
    }

    /// The lock, if it is held.
    #[must_use]
    pub fn get(&self, key: &Name) -> Option<Lock> {
        self.held.get(key).copied()
    }

    /// What a transaction holds here, in order.
    pub fn of(&self, xid: Xid) -> impl Iterator<Item = &Name> {
        self.by_holder.get(&xid).into_iter().flatten()
    }

    /// Who holds something here, and since when at the earliest.
    pub fn holders(&self) -> impl Iterator<Item = (Xid, Timestamp)> {
        self.by_holder.iter().map(|(xid, keys)| {
            let since = keys.iter().filter_map(|key| self.held.get(key)).map(|lock| lock.since).min();
            (*xid, since.unwrap_or_default())
        })
    }

    /// How many locks are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xid(n: u8) -> Xid {
        Xid::from_slice(&[n; 16]).expect("not nil")
    }

    fn name(text: &str) -> Name {
        Name::new(text).expect("valid")
    }

    fn acquired(key: &str, n: u8) -> LockEvent {
        LockEvent::Acquired { key: name(key), xid: xid(n), since: Timestamp(u64::from(n)) }
    }

    fn released(key: &str, n: u8) -> LockEvent {
        LockEvent::Released { key: name(key), xid: xid(n) }
    }

    #[test]
    fn h7_a_key_has_one_holder_and_the_same_xid_counts() {
        let mut table = LockTable::default();
        assert_eq!(table.acquire(&name("a"), xid(1)), Acquire::Free);
        table.apply(&acquired("a", 1)).expect("free");
        assert_eq!(table.acquire(&name("a"), xid(1)), Acquire::Own);
        let lock = Lock { xid: xid(1), since: Timestamp(1) };
        assert_eq!(table.acquire(&name("a"), xid(2)), Acquire::Held(lock));
        assert!(table.apply(&acquired("a", 2)).is_err(), "a second holder");
        assert!(table.apply(&released("a", 2)).is_err(), "another's lock");
        assert_eq!(table.release(&name("a"), xid(2)), None);
        assert_eq!(table.release(&name("a"), xid(1)), Some(released("a", 1)));
        table.apply(&released("a", 1)).expect("its own");
        assert!(table.is_empty() && table.holders().next().is_none());
    }

    #[test]
    fn h7_a_replay_may_meet_the_rest_of_a_lock_and_a_lock_written_again() {
        let mut table = LockTable::default();
        // Its beginning was trimmed.
        table.apply(&released("a", 1)).expect("the rest of it");
        table.apply(&acquired("a", 2)).expect("free");
        // Cleaning wrote it again.
        table.apply(&acquired("a", 2)).expect("the same");
        table.apply(&acquired("b", 2)).expect("free");
        assert_eq!(table.of(xid(2)).map(Name::as_str).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(table.holders().collect::<Vec<_>>(), [(xid(2), Timestamp(2))]);
        assert_eq!(table.len(), 2);
    }
}
