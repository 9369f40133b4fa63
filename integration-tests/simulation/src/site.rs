//! A participant: one process beside a database of its own, with the SDK's fence rules.
//!
//! The SDK's own fence is SQL; here its rules stand over rows in memory (`participant-sdk/src/fence/rules.rs`): a
//! row is locked from a local transaction's first statement to its commit, and nothing has happened before that.

mod doubt;
mod operations;
mod tries;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use unanimity_coordinator::engine::BranchCall;
use unanimity_coordinator::simulation::Gate;
use unanimity_core::ResultOutcome;
use unanimity_types::{BranchKey, BranchKind, Operation, Xid};

pub(crate) use self::tries::{Local, Tried, TryOrder, key, name, participant, sender};
use crate::checks::Did;
use crate::hits::Hit;
use crate::world::{Cell, Host, World};

/// What a row of the fence, or the ledger, says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Tried; of a step: done; of a sender: its local transaction committed.
    Tried,
    /// Confirmed, delivered.
    Confirmed,
    /// Cancelled, compensated.
    Cancelled,
    /// Nothing may come any more.
    Tombstone,
    Prepared,
    ReadOnly,
    Committed,
    RolledBack,
}

#[derive(Debug, Clone)]
struct Row {
    kind: BranchKind,
    state: State,
    delta: i64,
    result: Bytes,
    made: Instant,
    changed: Instant,
}

/// What survives the process.
#[derive(Debug, Default)]
struct Database {
    rows: BTreeMap<(Xid, BranchKey), Row>,
    balance: i64,
}

/// What does not.
#[derive(Debug, Default)]
struct Memory {
    /// Rows in open local transactions.
    locked: BTreeSet<(Xid, BranchKey)>,
    /// Work that is not prepared yet: its connection holds it.
    working: BTreeMap<(Xid, BranchKey), (i64, Instant)>,
}

/// A participant.
#[derive(Debug)]
pub(crate) struct Site {
    number: usize,
    process: Cell<Option<(Gate, u64)>>,
    lives: Cell<u64>,
    database: Cell<Database>,
    memory: Arc<Cell<Memory>>,
}

/// A row that an open local transaction holds; let go of when that ends, whichever way.
struct Held {
    memory: Arc<Cell<Memory>>,
    row: (Xid, BranchKey),
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.get().locked.remove(&self.row);
    }
}

impl Site {
    pub(crate) fn new(number: usize, balance: i64) -> Self {
        let database = Database { balance, ..Database::default() };
        Self {
            number,
            process: Cell::new(None),
            lives: Cell::new(0),
            database: Cell::new(database),
            memory: Arc::default(),
        }
    }

    pub(crate) const fn host(&self) -> Host {
        Host::Site(self.number)
    }

    pub(crate) fn gate(&self) -> Option<Gate> {
        self.process.get().as_ref().map(|(gate, _)| gate.clone())
    }

    /// The name of this life of the process: open work is pinned to it (protocol H11).
    pub(crate) fn instance(&self) -> String {
        format!("s{}-{}", self.number, *self.lives.get())
    }

    pub(crate) fn balance(&self) -> i64 {
        self.database.get().balance
    }

    /// Starts the process, if it is down.
    pub(crate) fn start(self: &Arc<Self>, world: &Arc<World>) {
        if self.gate().is_some() {
            return;
        }
        world.note(self.host(), None, "starts");
        let gate = Gate::new(world.wall_ms);
        let life = {
            let mut lives = self.lives.get();
            *lives += 1;
            *lives
        };
        *self.process.get() = Some((gate.clone(), life));
        drop(gate.spawn(Arc::clone(self).look_after(Arc::clone(world))));
    }

    /// SIGKILL: open local transactions and open work are gone.
    pub(crate) fn kill(&self, world: &World) {
        let Some((gate, _)) = self.process.get().take() else { return };
        world.note(self.host(), None, "is killed");
        gate.kill();
        let lost = {
            let mut memory = self.memory.get();
            memory.locked.clear();
            std::mem::take(&mut memory.working)
        };
        for (xid, key) in lost.into_keys() {
            world.check(|checks| checks.work_lost(xid, &key));
        }
    }

    /// Begins a local transaction with this row, unless another one holds it.
    fn hold(&self, xid: Xid, key: &BranchKey) -> Option<Held> {
        let row = (xid, key.clone());
        self.memory.get().locked.insert(row.clone()).then(|| Held { memory: Arc::clone(&self.memory), row })
    }

    fn row(&self, xid: Xid, key: &BranchKey) -> Option<Row> {
        self.database.get().rows.get(&(xid, key.clone())).cloned()
    }

    /// The statements of a local transaction take time; most take little.
    async fn works(&self, world: &World) {
        let most = if world.percent(4) { Duration::from_millis(1_500) } else { Duration::from_millis(15) };
        tokio::time::sleep(world.up_to(most)).await;
    }

    /// Commits a local transaction: the row, and what the balance moves by.
    #[allow(clippy::too_many_arguments, reason = "what one commit writes")]
    fn commit(
        &self,
        world: &World,
        call: (Xid, &BranchKey, Operation),
        row: (BranchKind, State, i64, Bytes),
        moves: i64,
        did: Did,
    ) {
        let (xid, key, operation) = call;
        let (kind, state, delta, result) = row;
        {
            let mut database = self.database.get();
            let now = Instant::now();
            let made = database.rows.get(&(xid, key.clone())).map_or(now, |row| row.made);
            let row = Row { kind, state, delta, result, made, changed: now };
            database.rows.insert((xid, key.clone()), row);
            database.balance += moves;
        }
        world.note(self.host(), Some(xid), format_args!("{key} {operation}: {state:?} {moves:+}"));
        world.check(|checks| checks.does(xid, key, operation, did));
    }

    /// An operation arrives.
    pub(crate) async fn operate(
        &self,
        world: &Arc<World>,
        call: BranchCall,
        fenced: bool,
        deadline: Instant,
    ) -> ResultOutcome {
        world.saw(self.host(), Some(call.position));
        let Some(held) = self.hold(call.xid, &call.key) else {
            if call.operation == Operation::Confirm {
                world.hit(Hit::ConfirmBeforeTry);
            }
            if call.operation == Operation::CheckBack {
                world.hit(Hit::CheckBackWaits);
            }
            return ResultOutcome::NotYet { error: "another local transaction holds the row".into() };
        };
        self.works(world).await;
        if !fenced && Instant::now() >= deadline {
            // Its caller is gone; a server that has no fence looks at that at least.
            return ResultOutcome::Unknown { error: "too late".into(), retry_after: None };
        }
        let outcome = match call.operation {
            Operation::Confirm => self.confirm(world, &call),
            Operation::Cancel => self.cancel(world, &call),
            Operation::Action if fenced => self.action(world, &call),
            Operation::Action => self.plain_action(world, &call),
            Operation::Compensate if fenced => self.compensate(world, &call),
            Operation::Compensate => self.plain_compensate(world, &call),
            Operation::Prepare | Operation::Commit | Operation::Rollback | Operation::CommitOnePhase => {
                self.two_phase(world, &call)
            }
            Operation::Deliver => self.deliver(world, &call),
            Operation::CheckBack => self.check_back(world, &call),
            Operation::Try => ResultOutcome::Unusable { error: "the application tries".into() },
        };
        drop(held);
        outcome
    }
}

/// What a branch moves, as its payload says.
pub(crate) fn delta_of(payload: &Bytes) -> i64 {
    payload.first_chunk::<8>().map_or(0, |bytes| i64::from_be_bytes(*bytes))
}

pub(crate) fn payload_of(delta: i64) -> Bytes {
    Bytes::copy_from_slice(&delta.to_be_bytes())
}
