//! The simulated world: hosts, the time since the run began, chance, what is noted and what is checked.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::Notify;
use tokio::time::Instant;
use unanimity_coordinator::log::{FaultyLog, MemoryLog};
use unanimity_types::{LogPosition, PartitionId, Ticket, Xid};

use crate::checks::Checks;
use crate::hits::{Hit, Hits};
use crate::net::Net;
use crate::node::Node;
use crate::site::Site;
use crate::swarm::Swarm;
use crate::trace::{Line, Trace};

/// Who sends and receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Host {
    Node(usize),
    Site(usize),
    /// Where the transaction managers, the readers and the operator are.
    Manager,
    Database,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(at) => write!(f, "n{at}"),
            Self::Site(at) => write!(f, "s{at}"),
            Self::Manager => f.write_str("tm"),
            Self::Database => f.write_str("db"),
        }
    }
}

/// A thing behind a lock that is never held over a wait.
#[derive(Debug, Default)]
pub(crate) struct Cell<T>(Mutex<T>);

impl<T> Cell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub(crate) fn get(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that a run has.
pub(crate) struct World {
    pub(crate) swarm: Swarm,
    pub(crate) started: Instant,
    /// What the clocks showed when it began, in milliseconds since the Unix epoch.
    pub(crate) wall_ms: u64,
    pub(crate) memory: MemoryLog,
    pub(crate) faulty: FaultyLog,
    pub(crate) net: Net,
    pub(crate) nodes: Vec<Node>,
    pub(crate) sites: Vec<Arc<Site>>,
    pub(crate) checks: Cell<Checks>,
    /// The newest tickets that the managers heard of.
    pub(crate) tickets: Cell<BTreeMap<PartitionId, Ticket>>,
    /// Which node was last heard to own a partition.
    pub(crate) owners: Cell<BTreeMap<u16, usize>>,
    /// The highest place that each host was shown.
    witnesses: Cell<BTreeMap<(Host, PartitionId), LogPosition>>,
    /// Whether faults still come.
    pub(crate) trouble: Cell<bool>,
    /// Calls that wait to leave each node.
    pub(crate) queued: Cell<Vec<u32>>,
    dice: Cell<Rng>,
    trace: Cell<Trace>,
    hits: Cell<Hits>,
    failure: Cell<Option<String>>,
    pub(crate) failed: Notify,
}

impl World {
    #[allow(clippy::too_many_arguments, reason = "once, by the run")]
    pub(crate) fn new(
        swarm: Swarm,
        wall_ms: u64,
        memory: MemoryLog,
        faulty: FaultyLog,
        nodes: Vec<Node>,
        sites: Vec<Arc<Site>>,
        dice: Rng,
        keep_trace: bool,
    ) -> Self {
        Self {
            started: Instant::now(),
            wall_ms,
            checks: Cell::new(Checks::new(swarm.partitions)),
            queued: Cell::new(vec![0; nodes.len()]),
            memory,
            faulty,
            net: Net::default(),
            nodes,
            sites,
            tickets: Cell::default(),
            owners: Cell::default(),
            witnesses: Cell::default(),
            trouble: Cell::new(true),
            dice: Cell::new(dice),
            trace: Cell::new(Trace::new(keep_trace)),
            hits: Cell::default(),
            failure: Cell::default(),
            failed: Notify::new(),
            swarm,
        }
    }

    /// Notes what happened.
    pub(crate) fn note(&self, who: impl fmt::Display, xid: Option<Xid>, what: impl fmt::Display) {
        let line = Line {
            at: self.started.elapsed(),
            who: who.to_string().into(),
            xid,
            what: what.to_string().into(),
        };
        self.trace.get().add(line);
    }

    pub(crate) fn hit(&self, hit: Hit) {
        self.hits.get().add(hit, 1);
    }

    pub(crate) fn hit_often(&self, hit: Hit, times: u64) {
        self.hits.get().add(hit, times);
    }

    /// The run has failed: an invariant does not hold.
    pub(crate) fn fail(&self, xid: Option<Xid>, why: impl fmt::Display) {
        self.note("FAIL", xid, &why);
        let about = xid.map(|xid| format!(" (xid {xid})")).unwrap_or_default();
        self.failure.get().get_or_insert_with(|| format!("{why}{about}"));
        self.failed.notify_one();
    }

    /// Looks at something that happened; what the checks say against it fails the run.
    pub(crate) fn check<T>(&self, look: impl FnOnce(&mut Checks) -> T) -> T {
        let (value, found) = {
            let mut checks = self.checks.get();
            let value = look(&mut checks);
            (value, checks.take_found())
        };
        for hit in found.hits {
            self.hit(hit);
        }
        for (xid, why) in found.violations {
            self.fail(xid, why);
        }
        value
    }

    pub(crate) fn dice<T>(&self, throw: impl FnOnce(&mut Rng) -> T) -> T {
        throw(&mut self.dice.get())
    }

    /// True so often of 10,000 times.
    pub(crate) fn of_10_000(&self, times: u32) -> bool {
        times > 0 && self.dice(|dice| dice.u32(..10_000)) < times
    }

    /// A chance in percent.
    pub(crate) fn percent(&self, percent: u32) -> bool {
        self.of_10_000(percent * 100)
    }

    /// A duration up to this one.
    pub(crate) fn up_to(&self, most: Duration) -> Duration {
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.dice(|dice| dice.u64(..=micros)))
    }

    /// A host keeps the highest place that it was shown, as a witness (protocol H6).
    pub(crate) fn saw(&self, host: Host, position: Option<LogPosition>) {
        let Some(position) = position else { return };
        let mut witnesses = self.witnesses.get();
        let kept = witnesses.entry((host, position.partition)).or_insert(position);
        if (position.epoch, position.seq) > (kept.epoch, kept.seq) {
            *kept = position;
        }
    }

    /// What a host has seen.
    pub(crate) fn witness_of(&self, host: Host) -> Vec<LogPosition> {
        let witnesses = self.witnesses.get();
        witnesses.iter().filter(|((of, _), _)| *of == host).map(|(_, position)| *position).collect()
    }

    /// An operator accepted a loss: what was seen before means nothing any more.
    pub(crate) fn forget_witnesses(&self, partition: PartitionId) {
        self.witnesses.get().retain(|(_, of), _| *of != partition);
    }

    pub(crate) fn in_trouble(&self) -> bool {
        *self.trouble.get()
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.get().clone()
    }

    pub(crate) fn hits(&self) -> Hits {
        self.hits.get().clone()
    }

    pub(crate) fn trace(&self) -> MutexGuard<'_, Trace> {
        self.trace.get()
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("swarm", &self.swarm).finish_non_exhaustive()
    }
}
