//! A world around one transaction: clients, participants with fences, a network that loses, delays and
//! repeats, a log of blocks, and crashes. Random, and repeatable by its seed.
//!
//! What is let out of the coordinator waits for its block, as the driver of the core must do; a crash
//! loses what is not durable and replays what is. After every step the invariants are checked.

mod check;
mod coordinator;
mod hits;
mod people;
mod rng;

use std::collections::BTreeSet;

use unanimity_core::{Context, Effect, Event, RetryPolicy, Timer, Transaction};
use unanimity_types::{BranchId, BranchKey, BranchStatus, Decision, Operation, Timestamp, Xid};

use self::coordinator::Held;
pub(crate) use self::hits::{Hit, Hits};
use self::people::{Asker, Client, Participant};
pub(crate) use self::rng::Rng;
use crate::fixture;

/// How many participants there are.
const PARTICIPANTS: u32 = 4;

/// An operation on its way.
#[derive(Debug, Clone)]
struct Flight {
    branch_id: BranchId,
    operation: Operation,
    attempt: u32,
}

/// What the coordinator owes a branch, as its effects said: not as its state says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owed {
    /// An operation was let out, or waits for its block.
    Sent(Operation),
    /// A timer was set for the next attempt.
    Waits(Operation),
}

/// What the log holds of a branch's attempts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Written {
    attempts: u32,
    last_error: Option<Box<str>>,
}

pub(crate) struct World {
    rng: Rng,
    pub(crate) hits: Hits,
    xid: Xid,
    retry: RetryPolicy,
    now: Timestamp,
    // --- the coordinator's memory: lost in a crash
    state: Option<Transaction>,
    queue: Vec<Held>,
    timers: Vec<(Timestamp, Timer)>,
    owed: Vec<Option<Owed>>,
    deadline_set: Option<Timestamp>,
    written: Vec<Written>,
    waiters: u32,
    flights: Vec<Flight>,
    // --- the log
    log: Vec<(Timestamp, Event)>,
    durable_decision: Option<Decision>,
    durable_finish: bool,
    // --- the world outside
    /// Requests that are still somewhere after their sender gave them up.
    ghosts: Vec<Flight>,
    /// Messages of clients that were delayed, or were repeated by something in between.
    mail: Vec<(unanimity_core::Command, Asker)>,
    participants: Vec<Participant>,
    client: Client,
    // --- what was let out, for ever
    told: Option<Decision>,
    told_finished: bool,
    promised: Vec<(BranchKey, BranchId)>,
    by_hand: Vec<(BranchId, BranchStatus)>,
    // --- what is being done, for a failure's report
    errors: u32,
    /// Effects of volatile events alone are let out at once instead of in their turn.
    eager_effects: bool,
    history: Vec<String>,
    verbose: bool,
}

impl World {
    pub(crate) fn new(seed: u64, verbose: bool) -> Self {
        let mut rng = Rng::new(seed);
        let retry = RetryPolicy { attention_after: *rng.pick(&[1, 3, 5]), ..RetryPolicy::default() };
        let client = Client::new(&mut rng);
        let eager_effects = rng.chance(50);
        Self {
            hits: Hits::default(),
            xid: fixture::xid_of(seed | 1),
            retry,
            now: fixture::BEGIN,
            state: None,
            queue: Vec::new(),
            timers: Vec::new(),
            owed: Vec::new(),
            deadline_set: None,
            written: Vec::new(),
            waiters: 0,
            flights: Vec::new(),
            log: Vec::new(),
            durable_decision: None,
            durable_finish: false,
            ghosts: Vec::new(),
            mail: Vec::new(),
            participants: (1..=PARTICIPANTS).map(Participant::new).collect(),
            client,
            told: None,
            told_finished: false,
            promised: Vec::new(),
            by_hand: Vec::new(),
            errors: 0,
            eager_effects,
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
            0..=19 => self.flush_some(),
            20..=43 => self.clients_step(),
            44..=55 => self.participants_step(),
            56..=73 => self.network_step(),
            74..=78 => self.mail_step(),
            79..=89 => self.time_step(),
            90..=92 => self.operators_step(),
            93..=94 => self.clean(),
            95..=96 => self.compare_with_replay(),
            _ => self.crash(),
        }
        self.check();
    }

    /// Faults end: everything that is late arrives, and everything is settled (I5).
    pub(crate) fn heal(&mut self) {
        self.note("heal");
        self.flush_all();
        for (command, asker) in std::mem::take(&mut self.mail) {
            self.command(command, asker);
            self.check();
        }
        self.flush_all();
        for ghost in std::mem::take(&mut self.ghosts) {
            self.execute(&ghost);
            self.check();
        }
        for _ in 0..1_000 {
            self.flush_all();
            self.check();
            if let Some(flight) = self.flights.pop() {
                self.late_try(flight.branch_id);
                self.deliver(&flight);
            } else if self.state.is_none() {
                self.command(unanimity_core::Command::Inquire, Asker::Client);
            } else if self.is_over() {
                break;
            } else {
                self.next_timer();
            }
        }
        self.flush_all();
        self.compare_with_replay();
        self.participants_ask();
        self.flush_all();
        self.check();
        self.check_the_end();
    }

    fn is_over(&self) -> bool {
        self.state.as_ref().is_some_and(|transaction| transaction.finished_at.is_some())
    }

    fn hit(&mut self, hit: Hit) {
        self.hits.count(hit);
    }

    fn note(&mut self, what: &str) {
        if self.verbose {
            self.history.push(format!("{:?} {what}", self.now));
        }
    }

    fn key(n: u32) -> BranchKey {
        fixture::key(n)
    }

    /// The keys that the coordinator has registered.
    fn registered(&self) -> BTreeSet<BranchKey> {
        self.state
            .iter()
            .flat_map(|transaction| &transaction.branches)
            .map(|branch| branch.key.clone())
            .collect()
    }

    pub(crate) fn report(&self) -> String {
        self.history.join("\n")
    }

    fn owes(&mut self, id: BranchId, owed: Option<Owed>) {
        let place = usize::try_from(id.0).expect("small");
        if self.owed.len() < place {
            self.owed.resize(place, None);
        }
        self.owed[place - 1] = owed;
    }

    fn owed_now(&self, id: BranchId) -> Option<Owed> {
        self.owed.get(usize::try_from(id.0).expect("small") - 1).copied().flatten()
    }

    /// Books what an effect says that is owed.
    fn book(&mut self, effect: &Effect) {
        match effect {
            Effect::Dispatch { branch_id, operation, .. } => {
                self.owes(*branch_id, Some(Owed::Sent(*operation)));
            }
            Effect::SetTimer { timer: Timer::Retry(id), .. } => {
                let Some(Owed::Sent(operation) | Owed::Waits(operation)) = self.owed_now(*id) else {
                    panic!("a retry of what was never sent: branch {id}");
                };
                self.owes(*id, Some(Owed::Waits(operation)));
            }
            Effect::SetTimer { at, timer: Timer::Deadline } => self.deadline_set = Some(*at),
            Effect::SetTimer { timer: Timer::CommitWait | Timer::Prepare, .. } | Effect::Finished => {}
            Effect::Decided(_) => self.deadline_set = None,
        }
    }
}
