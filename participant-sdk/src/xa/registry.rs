//! The branches that are at work or held open in this process.
//!
//! A branch whose work runs, or which waits for its prepare, is an open transaction on one connection
//! of this process (protocol H11): whoever is told to prepare, commit in one phase or roll back finds
//! it here. An entry lives exactly as long as the task that owns the connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::xa::error::{OnePhase, Prepared};
use crate::xa::gid::Gid;

/// What a held branch is told.
#[derive(Debug)]
pub(super) enum Order {
    Prepare(oneshot::Sender<Prepared>),
    CommitOnePhase(oneshot::Sender<OnePhase>),
}

/// What is known of a branch in this process.
#[derive(Debug)]
pub(super) enum Presence {
    /// Nothing: it may be prepared, finished, or elsewhere.
    Absent,
    /// Its work runs, or its prepare does.
    AtWork,
    /// It waits for an order.
    Held(mpsc::Sender<Order>),
}

#[derive(Debug)]
struct Open {
    stop: CancellationToken,
    orders: Option<mpsc::Sender<Order>>,
}

#[derive(Debug, Default)]
pub(super) struct Registry {
    open: Mutex<HashMap<Gid, Open>>,
}

impl Registry {
    /// Enters a branch; `None` if it is at work already.
    pub(super) fn enter(self: &Arc<Self>, gid: Gid) -> Option<Entry> {
        let stop = CancellationToken::new();
        let mut open = self.lock();
        if open.contains_key(&gid) {
            return None;
        }
        open.insert(gid, Open { stop: stop.clone(), orders: None });
        Some(Entry { registry: Arc::clone(self), gid, stop })
    }

    pub(super) fn presence(&self, gid: &Gid) -> Presence {
        match self.lock().get(gid) {
            None => Presence::Absent,
            Some(Open { orders: None, .. }) => Presence::AtWork,
            Some(Open { orders: Some(orders), .. }) => Presence::Held(orders.clone()),
        }
    }

    /// Tells a branch's work, or its waiting, to end with a rollback.
    pub(super) fn stop(&self, gid: &Gid) {
        if let Some(open) = self.lock().get(gid) {
            open.stop.cancel();
        }
    }

    /// Another branch of the same global transaction that is at work here.
    pub(super) fn sibling(&self, gid: &Gid) -> Option<Gid> {
        self.lock().keys().find(|other| is_sibling(gid, other)).copied()
    }

    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Gid, Open>> {
        // No holder panics half-way through a change.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether two branches are of one global transaction.
pub(super) fn is_sibling(gid: &Gid, other: &Gid) -> bool {
    other != gid && other.xid() == gid.xid() && other.log_id() == gid.log_id()
}

/// A branch's place in the registry, until it is dropped.
#[derive(Debug)]
pub(super) struct Entry {
    registry: Arc<Registry>,
    gid: Gid,
    stop: CancellationToken,
}

impl Entry {
    /// Ends when the branch is to be rolled back.
    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// From now on the branch takes orders.
    pub(super) fn hold(&self) -> mpsc::Receiver<Order> {
        // More than one order at a time is a repetition.
        let (sender, receiver) = mpsc::channel(4);
        if let Some(open) = self.registry.lock().get_mut(&self.gid) {
            open.orders = Some(sender);
        }
        receiver
    }

    /// The branch takes no further orders.
    pub(super) fn close(&self) {
        if let Some(open) = self.registry.lock().get_mut(&self.gid) {
            open.orders = None;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.gid);
    }
}
