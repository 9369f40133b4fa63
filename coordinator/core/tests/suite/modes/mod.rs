//! Worlds of the other modes: sagas, two-phase commit, messages, and all branch kinds mixed, each around
//! one transaction, with participants of every kind, a deposed owner that goes on sending, and crashes.
//!
//! As in `model`, whatever is let out waits for its block, and a crash replays what is durable. What
//! participants applied is judged by their own state, not by the coordinator's.

mod check;
mod driver;
mod end;
mod hits;
mod outside;
mod plans;
mod sites;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use unanimity_core::{Command, Context, Event, RetryPolicy, Timer, Transaction};
use unanimity_types::{BranchId, BranchKey, Decision, Operation, Timestamp, Xid};

use self::driver::Held;
pub(crate) use self::hits::{Hits, Rule};
use self::outside::Manager;
use self::sites::Site;
use crate::fixture;
use crate::model::Rng;

/// What the transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Saga,
    TwoPhase,
    Message,
    /// A TCC transaction with two-phase branches and messages.
    Mixed,
}

/// An operation on its way.
#[derive(Debug, Clone)]
struct Flight {
    branch_id: BranchId,
    key: BranchKey,
    operation: Operation,
    attempt: u32,
    inputs: Vec<(BranchKey, Bytes)>,
    /// How long the attempt may take.
    timeout: Duration,
}

/// A request that is still somewhere after its sender gave it up, or that a deposed owner may send.
#[derive(Debug, Clone)]
struct Ghost {
    flight: Flight,
    /// Until when it can arrive, if nothing but time holds it back.
    until: Timestamp,
}

/// What the log holds, gathered event by event as blocks become durable.
#[derive(Debug, Default)]
struct Durable {
    decision: Option<Decision>,
    finished: bool,
    planned: bool,
    delegated: bool,
    prepares: bool,
    checked: bool,
    results: BTreeMap<BranchId, Bytes>,
    resolved: BTreeSet<BranchId>,
}

pub(crate) struct World {
    rng: Rng,
    pub(crate) hits: Hits,
    kind: Kind,
    xid: Xid,
    retry: RetryPolicy,
    now: Timestamp,
    healing: bool,
    // --- the coordinator's memory: lost in a crash
    state: Option<Transaction>,
    queue: Vec<Held>,
    timers: Vec<(Timestamp, Timer)>,
    flights: Vec<Flight>,
    waiters: u32,
    // --- the log
    log: Vec<(Timestamp, Event)>,
    durable: Durable,
    // --- the world outside
    ghosts: Vec<Ghost>,
    mail: Vec<Command>,
    sites: BTreeMap<BranchKey, Site>,
    begin: Command,
    manager: Manager,
    told: Option<Decision>,
    errors: u32,
    history: Vec<String>,
    verbose: bool,
}

impl World {
    pub(crate) fn new(kind: Kind, seed: u64, verbose: bool) -> Self {
        let mut rng = Rng::new(seed);
        let retry = RetryPolicy { attention_after: *rng.pick(&[1, 3]), ..RetryPolicy::default() };
        let (begin, sites, manager) = plans::random(kind, &mut rng);
        Self {
            hits: Hits::default(),
            kind,
            xid: fixture::xid_of(seed | 1),
            retry,
            now: fixture::BEGIN,
            healing: false,
            state: None,
            queue: Vec::new(),
            timers: Vec::new(),
            flights: Vec::new(),
            waiters: 0,
            log: Vec::new(),
            durable: Durable::default(),
            ghosts: Vec::new(),
            mail: Vec::new(),
            sites,
            begin,
            manager,
            told: None,
            errors: 0,
            history: Vec::new(),
            verbose,
            rng,
        }
    }

    fn context(&self) -> Context {
        let (lease, call_timeout) = (fixture::LEASE, fixture::CALL_TIMEOUT);
        Context { xid: self.xid, now: self.now, retry: self.retry, lease, call_timeout }
    }

    /// One random step, and the invariants after it.
    pub(crate) fn step(&mut self) {
        match self.rng.below(100) {
            0..=21 => self.flush_some(),
            22..=41 => self.managers_step(),
            42..=71 => self.network_step(),
            72..=87 => self.time_step(),
            88..=91 => self.operators_step(),
            92..=93 => self.clean(),
            94..=96 => self.compare_with_replay(),
            _ => self.crash(),
        }
        self.check();
    }

    /// Faults end: everything that is late arrives, and everything is settled (I5).
    pub(crate) fn heal(&mut self) {
        self.note("heal");
        self.healing = true;
        self.flush_all();
        for command in std::mem::take(&mut self.mail) {
            self.command(command);
            self.check();
        }
        self.flush_all();
        while !self.ghosts.is_empty() {
            self.ghost_step();
            self.check();
        }
        let mut retries = 0;
        for _ in 0..2_000 {
            self.flush_all();
            self.check();
            self.sender_ends();
            let parked = self.state.as_ref().and_then(|transaction| {
                transaction.branches.iter().find(|branch| branch.parked).map(|branch| branch.id)
            });
            if let Some(flight) = self.flights.pop() {
                self.deliver(&flight);
            } else if self.state.is_none() && self.is_submitted() {
                // Whoever was not told that it began begins again.
                self.command(self.begin.clone());
            } else if self.state.is_none() || self.is_over() {
                break;
            } else if let Some(id) = parked {
                retries += 1;
                if retries < 4 {
                    self.command(Command::Retry { by: fixture::by() });
                } else {
                    self.resolve(id);
                }
            } else {
                self.next_timer();
            }
        }
        self.flush_all();
        self.compare_with_replay();
        self.check();
        self.check_the_end();
    }

    /// The sender's local transaction committed before the message began.
    fn is_submitted(&self) -> bool {
        self.sites.values().any(|site| matches!(site, Site::Sender(sites::Local::Committed)))
    }

    fn is_over(&self) -> bool {
        self.state.as_ref().is_some_and(|transaction| transaction.finished_at.is_some())
    }

    fn hit(&mut self, rule: Rule) {
        self.hits.rule(rule);
    }

    fn note(&mut self, what: &str) {
        if self.verbose {
            self.history.push(format!("{:?} {what}", self.now));
        }
    }

    fn error(&mut self) -> Box<str> {
        self.errors += 1;
        format!("e{}", self.errors).into()
    }

    pub(crate) fn report(&self) -> String {
        self.history.join("\n")
    }
}
