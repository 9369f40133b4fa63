//! A bank's ledger: a resource manager whose entries outlive the bank's process, as a disk does. It sees every operation
//! that takes effect, so it is where I1 is broken first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use unanimity_sdk::xa::{
    Gid, InDoubt, OnePhase, Prepared, PreparedBranch, ResourceManager, Settled, TwoPhaseCall, XaError,
};
use unanimity_sdk::{LogId, Xid};

use crate::hits::Hit;
use crate::record::Record;

/// What an account begins with.
pub(crate) const OPENING: i64 = 1_000;

/// How a branch stands here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Prepared,
    Committed,
    RolledBack,
}

#[derive(Debug)]
struct Entry {
    gid: Gid,
    state: State,
    amount: i64,
    at: Duration,
}

/// See the module's text. Clones are the same ledger.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    entries: Arc<Mutex<BTreeMap<String, Entry>>>,
    record: Arc<Record>,
}

fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

impl Ledger {
    pub(crate) fn new(record: &Arc<Record>) -> Self {
        Self { entries: Arc::default(), record: Arc::clone(record) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account, as far as it is settled.
    pub(crate) fn balance(&self) -> i64 {
        let entries = self.lock();
        let settled = entries.values().filter(|entry| entry.state == State::Committed);
        OPENING + settled.map(|entry| entry.amount).sum::<i64>()
    }

    /// How many branches can still go either way.
    pub(crate) fn prepared(&self) -> usize {
        self.lock().values().filter(|entry| entry.state == State::Prepared).count()
    }

    /// How a transaction stands here, if it was here.
    pub(crate) fn state_of(&self, xid: Xid) -> Option<State> {
        self.lock().values().find(|entry| entry.gid.xid() == xid).map(|entry| entry.state)
    }

    /// All transactions that were here.
    pub(crate) fn xids(&self) -> Vec<Xid> {
        self.lock().values().map(|entry| entry.gid.xid()).collect()
    }
}

impl ResourceManager for Ledger {
    async fn prepare(&self, call: &TwoPhaseCall) -> Prepared {
        let Ok(amount) = serde_json::from_slice::<i64>(&call.payload) else {
            return Prepared::Refused("no amount".to_owned());
        };
        let balance = self.balance();
        let mut entries = self.lock();
        match entries.get(&call.gid.to_string()).map(|entry| entry.state) {
            Some(State::Prepared | State::Committed) => return Prepared::Yes,
            Some(State::RolledBack) => return Prepared::Refused("it was rolled back".to_owned()),
            None => {}
        }
        let held: i64 = entries
            .values()
            .filter(|entry| entry.state == State::Prepared && entry.amount < 0)
            .map(|entry| entry.amount)
            .sum();
        if amount < 0 && balance + held + amount < 0 {
            self.record.hit(Hit::Refused);
            return Prepared::Refused("not enough money".to_owned());
        }
        let entry = Entry { gid: call.gid, state: State::Prepared, amount, at: now() };
        entries.insert(call.gid.to_string(), entry);
        Prepared::Yes
    }

    async fn commit(&self, call: &TwoPhaseCall) -> Settled {
        let mut entries = self.lock();
        match entries.get_mut(&call.gid.to_string()) {
            Some(entry) if entry.state != State::RolledBack => entry.state = State::Committed,
            found => {
                let was = found.map(|entry| entry.state);
                self.record.broken(format!("I1: {} is to be committed and was {was:?}", call.gid));
            }
        }
        Settled::Done
    }

    async fn rollback(&self, call: &TwoPhaseCall) -> Settled {
        let mut entries = self.lock();
        let none = Entry { gid: call.gid, state: State::RolledBack, amount: 0, at: now() };
        let entry = entries.entry(call.gid.to_string()).or_insert(none);
        if entry.state == State::Committed {
            self.record.broken(format!("I1: {} is to be rolled back and was committed", call.gid));
        } else {
            entry.state = State::RolledBack;
        }
        Settled::Done
    }

    async fn commit_one_phase(&self, call: &TwoPhaseCall) -> OnePhase {
        self.record.broken(format!("{} was delegated, which no transfer allows", call.gid));
        OnePhase::Refused("never allowed".to_owned())
    }

    async fn in_doubt(&self, log_id: LogId) -> Result<InDoubt, XaError> {
        let mut found = InDoubt::default();
        let entries = self.lock();
        let prepared = entries.values().filter(|entry| entry.state == State::Prepared);
        for entry in prepared.filter(|entry| entry.gid.log_id() == log_id) {
            found.ours.push(PreparedBranch::new(entry.gid, now().saturating_sub(entry.at)));
        }
        if !found.ours.is_empty() {
            self.record.hit(Hit::InDoubt);
        }
        Ok(found)
    }
}
