//! What happened in one run: what clients were told, what was broken, what was met.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use unanimity_sdk::Xid;

use crate::hits::{Hit, Hits};

/// An outcome that somebody was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Committed,
    Aborted,
}

#[derive(Debug, Default)]
struct Inner {
    told: BTreeMap<Xid, Told>,
    broken: Vec<String>,
    hits: Hits,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Record {
    inner: Mutex<Inner>,
    /// Commits under way.
    pub(crate) committing: AtomicUsize,
    /// Faults that are under way now: of the teller's links, and of nodes.
    pub(crate) teller_cut: AtomicUsize,
    pub(crate) nodes_dead: AtomicUsize,
    /// No fault comes any more.
    pub(crate) healed: AtomicBool,
    /// Transfers that began after that and were committed.
    pub(crate) after_healing: AtomicUsize,
    /// Tellers that have settled all that they began.
    pub(crate) tellers_done: AtomicUsize,
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hit(&self, hit: Hit) {
        self.lock().hits.add(hit);
    }

    /// An invariant does not hold.
    pub(crate) fn broken(&self, what: String) {
        self.lock().broken.push(what);
    }

    /// Somebody was told how a transaction ended (I4: nobody may be told otherwise).
    pub(crate) fn told(&self, xid: Xid, told: Told) {
        let mut inner = self.lock();
        if let Some(before) = inner.told.insert(xid, told)
            && before != told
        {
            inner.broken.push(format!("I4: {xid} was told to be {before:?} and then {told:?}"));
        }
        inner.hits.add(match told {
            Told::Committed => Hit::Committed,
            Told::Aborted => Hit::Aborted,
        });
        if told == Told::Committed && self.teller_cut.load(Ordering::Relaxed) > 0 {
            inner.hits.add(Hit::OnDuringCut);
        }
        if told == Told::Committed && self.nodes_dead.load(Ordering::Relaxed) > 0 {
            inner.hits.add(Hit::OnDuringCrash);
        }
    }

    pub(crate) fn outcomes(&self) -> BTreeMap<Xid, Told> {
        self.lock().told.clone()
    }

    pub(crate) fn first_broken(&self) -> Option<String> {
        self.lock().broken.first().cloned()
    }

    pub(crate) fn hits(&self) -> Hits {
        self.lock().hits.clone()
    }
}
