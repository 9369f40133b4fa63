//! How a participant is: attachments, open branches, and what somebody should look at.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use unanimity_types::{BranchKey, LogId, Xid};

use crate::fence::Durability;
use crate::xa::OtherPrepared;

/// How many different entries of attention are kept; older ones make room. The total is counted.
const ATTENTION_MAX: usize = 100;

/// Something that the participant will not decide alone: somebody should look.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attention {
    /// What it is, in one word: `contradiction`, `forgotten`, `not_mine`, `log_changed`,
    /// `protocol_version`, `unknown_hooks`, `hook_failed`, `xa_alarm`.
    pub code: &'static str,
    /// The transaction, if it is about one.
    pub xid: Option<Xid>,
    /// The branch, if it is about one.
    pub key: Option<BranchKey>,
    /// What happened, for people.
    pub message: String,
    /// When it was first seen.
    pub since: SystemTime,
    /// How often it was seen.
    pub count: u64,
}

/// How a participant is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Health {
    /// The participant's name.
    pub participant: String,
    /// This instance's name.
    pub instance: String,
    /// Whether a session with a coordinator is open. Always `false` for a participant that is
    /// called at an address.
    pub attached: bool,
    /// One of the nodes that it is attached to, if any.
    pub node: Option<String>,
    /// The coordinator's nodes as they are told of, each with whether a session with it is open: it is called by
    /// the owner of a transaction's partition, so it should be attached to all. Empty before one was reached.
    pub nodes: Vec<NodeHealth>,
    /// The coordinator's log, once it is known.
    pub log_id: Option<LogId>,
    /// Operations in hand now.
    pub in_hand: usize,
    /// Branches that are neither confirmed nor cancelled.
    pub open: u64,
    /// Those of them that are open for longer than the in-doubt age.
    pub in_doubt: u64,
    /// The age of the oldest open branch.
    pub oldest_open: Option<Duration>,
    /// What somebody should look at, newest last; at most 100 different entries.
    pub attention: Vec<Attention>,
    /// How often attention was raised since the start.
    pub attention_total: u64,
    /// Settings of the database that can lose an acknowledged try, found at start.
    pub durability: Vec<Durability>,
    /// The resource managers of two-phase commit, by the name of their operation.
    pub two_phase: Vec<TwoPhaseHealth>,
}

/// How a participant is attached to one of the coordinator's nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeHealth {
    /// Its name.
    pub node: String,
    /// The address that it tells, if the nodes of its cluster tell of it.
    pub address: Option<String>,
    /// Whether a session with it is open.
    pub attached: bool,
}

/// How a resource manager of two-phase commit is.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TwoPhaseHealth {
    /// The name under which it is registered.
    pub operation: String,
    /// Branches at work or held in this process.
    pub open: usize,
    /// Branches of this log that are prepared, of all instances: each keeps its locks, and in
    /// PostgreSQL holds back VACUUM.
    pub prepared: usize,
    /// The age of the oldest of them.
    pub oldest_prepared: Option<Duration>,
    /// Prepared transactions of others that it sees; at most 100. Shown, never touched.
    pub others: Vec<OtherPrepared>,
    /// How many of those there are.
    pub others_total: usize,
    /// Why it could not be asked, if so: the numbers above are not known then.
    pub error: Option<String>,
}

impl Health {
    /// Whether nothing needs a look.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.attention.is_empty()
            && !self.durability.iter().any(|found| found.loses_data)
            && self.two_phase.iter().all(|manager| manager.error.is_none())
    }
}

#[derive(Debug, Default)]
pub(crate) struct AttentionList {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: VecDeque<Attention>,
    total: u64,
}

impl AttentionList {
    /// Raises attention, loudly the first time.
    pub(crate) fn raise(
        &self,
        code: &'static str,
        branch: Option<(Xid, &BranchKey)>,
        message: impl Into<String>,
    ) {
        self.raise_at(code, branch.map(|(xid, _)| xid), branch.map(|(_, key)| key), message);
    }

    /// The same, where the branch's key may not be known.
    pub(crate) fn raise_at(
        &self,
        code: &'static str,
        xid: Option<Xid>,
        key: Option<&BranchKey>,
        message: impl Into<String>,
    ) {
        let (message, key) = (message.into(), key.cloned());
        let mut inner = self.lock();
        inner.total += 1;
        let known = inner.entries.iter_mut().find(|e| e.code == code && e.xid == xid && e.key == key);
        if let Some(entry) = known {
            entry.count += 1;
            entry.message = message;
            return;
        }
        match (xid, &key) {
            (Some(xid), Some(key)) => tracing::error!(code, %xid, %key, %message, "needs attention"),
            _ => tracing::error!(code, %message, "needs attention"),
        }
        if inner.entries.len() == ATTENTION_MAX {
            inner.entries.pop_front();
        }
        inner.entries.push_back(Attention {
            code,
            xid,
            key,
            message,
            since: crate::wall_clock::now(),
            count: 1,
        });
    }

    /// Takes back what no longer holds.
    pub(crate) fn clear(&self, code: &'static str) {
        self.lock().entries.retain(|entry| entry.code != code);
    }

    /// Takes back what is settled: the operation that failed has succeeded.
    pub(crate) fn settled(&self, xid: Xid, key: &BranchKey) {
        let is_over = |e: &Attention| {
            matches!(e.code, "hook_failed" | "xa_alarm") && e.xid == Some(xid) && e.key.as_ref() == Some(key)
        };
        self.lock().entries.retain(|entry| !is_over(entry));
    }

    pub(crate) fn snapshot(&self) -> (Vec<Attention>, u64) {
        let inner = self.lock();
        (inner.entries.iter().cloned().collect(), inner.total)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_is_bounded_and_counted() {
        let list = AttentionList::default();
        for n in 1..=500u128 {
            let key = BranchKey::new("k").expect("valid");
            list.raise("forgotten", Some((Xid::new(uuid::Uuid::from_u128(n)), &key)), "x");
        }
        list.raise("log_changed", None, "a");
        list.raise("log_changed", None, "b");
        let (entries, total) = list.snapshot();
        assert_eq!((entries.len(), total), (ATTENTION_MAX, 502));
        assert_eq!(entries.last().map(|e| (e.count, e.message.as_str())), Some((2, "b")));
    }
}
