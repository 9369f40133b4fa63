//! The coordinator's core as a table of small numbers.
//!
//! A model has millions of states, and in each of them the coordinator's memory is one of a few thousand
//! transactions. So every transaction that was ever met gets a number, and what `decide`, `apply` and
//! `pending` of `unanimity-core` make of it is worked out once and remembered. The states of the model hold the
//! numbers; the steps are the product's own.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use unanimity_core::{
    Answer, BeginSpec, Command, Context, Effect, Event, Persistence, Registration, ResultOutcome,
    RetryPolicy, Timer, Transaction, TwoPhase, apply, decide, pending,
};
use unanimity_types::{
    AbortReason, BranchKey, BranchKind, BranchStatus, BranchTargets, CallPolicy, DecideHash, Decision,
    Digest, Mode, Operation, Plan, SagaPlan, SagaStep, StepRole, Target, Timestamp, Vote, Xid,
};

/// A transaction that was met; [`NOTHING`] where none is known.
pub type StateId = u32;

/// Nothing is known of the xid.
pub const NOTHING: StateId = 0;

/// An event that was met, with its time.
pub type EventId = u32;

/// How long a tick of the model is: longer than every wait of the core that is not counted in ticks.
pub const TICK: Duration = Duration::from_secs(60);

/// When timers go off that are due within a tick.
const WITHIN: Duration = Duration::from_secs(30);

/// What is asked of the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cmd {
    /// Begin it.
    Begin,
    /// Register the branch of a site.
    Register(u8),
    /// Commit; the bits of the sites that voted, or nothing: on the client's word.
    Commit(Option<u8>),
    /// The client aborts.
    Abort,
    /// An owner aborts what an unclean takeover may have robbed of registrations (protocol C3).
    OwnerChanged,
    /// Somebody in doubt asks.
    Inquire,
    /// The deadline is due.
    Deadline,
    /// A commit has waited for branches.
    CommitWait,
    /// The votes have been waited for.
    PrepareWait,
    /// A back-off of a site's branch is over.
    Retry(u8),
    /// An operation of a site's branch ended.
    Result(u8, Operation, u8, Out),
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Out {
    /// Done, now or before.
    Done,
    /// A vote.
    Voted(Vote),
    /// A clear no.
    Refused,
    /// A no behind which nothing can take effect any more.
    Sealed,
    /// Not possible yet.
    NotYet,
    /// Nothing is known.
    Unknown,
    /// It never left the node.
    NotSent,
}

/// What is to be done once a step's events are durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fx {
    /// Bring an operation to a site.
    Dispatch {
        /// Which.
        site: u8,
        /// What.
        operation: Operation,
        /// Counted from 1.
        attempt: u8,
    },
    /// The decision fell.
    Decided(Decision),
}

/// What a caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Told {
    /// Nothing that binds anybody.
    Nothing,
    /// The command was taken, and nothing is decided.
    Taken,
    /// The branch is registered.
    Registered,
    /// The decision.
    Outcome(Decision),
    /// It waits for the decision.
    Waits,
}

/// What a step came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The memory afterwards.
    pub memory: StateId,
    /// What goes into the log.
    pub events: Vec<EventId>,
    /// What is to be done then.
    pub fx: Vec<Fx>,
    /// What the caller is told then.
    pub told: Told,
    /// Whether the caller need not wait for its events (a registration of a transaction begun without a call).
    pub lazy: bool,
}

/// A new owner's memory, and what it owes.
pub type Recovery = (StateId, Vec<Fx>);

/// A branch as the model looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BranchLook {
    /// Whose.
    pub site: u8,
    /// Its status.
    pub status: BranchStatus,
    /// How many attempts are on record.
    pub attempts: u32,
    /// From which tick on the next attempt is due.
    pub due: Option<u8>,
    /// What it is owed.
    pub owed: Option<Operation>,
}

/// A transaction as the model looks at it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Look {
    /// The decision.
    pub decision: Option<Decision>,
    /// Whether all is settled.
    pub finished: bool,
    /// Its branches.
    pub branches: Vec<BranchLook>,
    /// A commit waits for branches.
    pub commit_waits: bool,
    /// Votes are being asked for.
    pub preparing: bool,
    /// The decision was left to the only branch.
    pub delegated: bool,
    /// The tick of its deadline.
    pub deadline: u8,
    /// Begun without a call.
    pub ticketed: bool,
}

/// What kind of transaction it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Its mode.
    pub mode: Mode,
    /// How many sites there are.
    pub sites: u8,
    /// Begun without a call (TCC).
    pub ticketed: bool,
    /// A single two-phase branch may be asked to commit in one phase.
    pub one_phase: bool,
    /// The place of a saga's pivot; steps after it only go forward.
    pub pivot: Option<u8>,
    /// After how many ticks it is aborted if it is undecided.
    pub timeout: u8,
    /// How many ticks a deposed owner may believe in its lease.
    pub lease: u8,
    /// How many ticks a call may take.
    pub call: u8,
}

/// The table.
#[derive(Debug)]
pub struct Core {
    shape: Shape,
    /// Planted: a refusal counts as clean whatever went before (protocol H2).
    pub every_refusal_is_clean: bool,
    /// Planted: a takeover holds no compensation back (protocol H3).
    pub no_hold: bool,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    states: Vec<Option<Transaction>>,
    looks: Vec<Arc<Look>>,
    ids: HashMap<String, StateId>,
    events: Vec<(Timestamp, Event)>,
    event_ids: HashMap<String, EventId>,
    steps: HashMap<(StateId, Cmd, u8), Arc<Outcome>>,
    folds: HashMap<(StateId, EventId), Option<StateId>>,
    recoveries: HashMap<(StateId, u8), Arc<Recovery>>,
}

impl Tables {
    fn number(&mut self, mut transaction: Option<Transaction>) -> StateId {
        if let Some(known) = &mut transaction {
            // For people only: what follows does not hang on it, and states would differ by it.
            known.timeline.clear();
            known.begun_at = Timestamp(0);
            known.finished_at = known.finished_at.map(|_| Timestamp(0));
            if let Some(record) = &mut known.decision {
                record.at = Timestamp(0);
            }
            if let Some(attention) = &mut known.attention {
                attention.since = Timestamp(0);
            }
        }
        let name = format!("{transaction:?}");
        if let Some(id) = self.ids.get(&name) {
            return *id;
        }
        let id = StateId::try_from(self.states.len()).expect("few states");
        self.looks.push(Arc::new(look(transaction.as_ref())));
        self.states.push(transaction);
        self.ids.insert(name, id);
        id
    }

    fn event(&mut self, at: Timestamp, event: Event) -> EventId {
        let name = format!("{at:?} {event:?}");
        if let Some(id) = self.event_ids.get(&name) {
            return *id;
        }
        let id = EventId::try_from(self.events.len()).expect("few events");
        self.events.push((at, event));
        self.event_ids.insert(name, id);
        id
    }

    fn state(&self, id: StateId) -> &Option<Transaction> {
        &self.states[usize::try_from(id).expect("a place")]
    }
}

impl Core {
    /// A table for transactions of this shape.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        let mut tables = Tables::default();
        assert_eq!(tables.number(None), NOTHING, "the first number");
        Self { shape, every_refusal_is_clean: false, no_hold: false, tables: Mutex::new(tables) }
    }

    /// How many different transactions were met.
    #[must_use]
    pub fn met(&self) -> usize {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).states.len()
    }

    /// What a transaction looks like.
    #[must_use]
    pub fn look(&self, id: StateId) -> Arc<Look> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&tables.looks[usize::try_from(id).expect("a place")])
    }

    /// Carries a command out against a memory.
    ///
    /// # Panics
    /// If what was decided cannot be applied: a bug of the core.
    #[must_use]
    pub fn step(&self, memory: StateId, cmd: Cmd, tick: u8) -> Arc<Outcome> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = tables.steps.get(&(memory, cmd, tick)) {
            return Arc::clone(known);
        }
        let outcome = Arc::new(self.work_out(&mut tables, memory, cmd, tick));
        tables.steps.insert((memory, cmd, tick), Arc::clone(&outcome));
        outcome
    }

    fn work_out(&self, tables: &mut Tables, memory: StateId, cmd: Cmd, tick: u8) -> Outcome {
        let mut state = tables.state(memory).clone();
        let timer = matches!(cmd, Cmd::CommitWait | Cmd::PrepareWait | Cmd::Retry(_));
        let now = if timer { start_of(tick).after(WITHIN) } else { start_of(tick) };
        let context = self.context(now);
        let mut events = Vec::new();
        let mut effects = Vec::new();
        let mut lazy = self.shape.ticketed && matches!(cmd, Cmd::Register(_));
        // A first contact begins what was begun without a call; its ticket was looked at before.
        let begins =
            self.shape.ticketed && state.is_none() && matches!(cmd, Cmd::Register(_) | Cmd::Commit(_));
        let commands = begins.then(|| self.begin()).into_iter().chain(self.command(&mut state, cmd));
        let mut answer = None;
        for command in commands {
            let verdict = decide(state.as_ref(), command, context);
            for event in verdict.events {
                lazy &= matches!(event, Event::Begun { .. } | Event::Registered { .. });
                apply(&mut state, xid(), event.clone(), now, &mut effects)
                    .expect("what was decided can be applied");
                if event.persistence() != Persistence::Volatile {
                    events.push(tables.event(now, as_written(event)));
                }
            }
            answer = Some(verdict.answer);
        }
        let decision = state.as_ref().and_then(|known| known.decision.as_ref()).map(|record| record.decision);
        let told = match answer {
            Some(Ok(Answer::Registered(_))) => Told::Registered,
            Some(Ok(Answer::Undecided)) => Told::Waits,
            Some(Ok(Answer::Status)) => decision.map_or(Told::Taken, Told::Outcome),
            Some(Err(unanimity_core::Refusal::AlreadyDecided { status, .. })) => {
                status.decision().map_or(Told::Nothing, Told::Outcome)
            }
            Some(Err(_)) | None => Told::Nothing,
        };
        lazy &= matches!(told, Told::Registered);
        let fx = fx_of(state.as_ref(), &effects);
        Outcome { memory: tables.number(state), events, fx, told, lazy }
    }

    /// What a durable event makes of what the log says; `None` if it cannot have happened.
    #[must_use]
    pub fn fold(&self, log: StateId, event: EventId) -> Option<StateId> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = tables.folds.get(&(log, event)) {
            return *known;
        }
        let mut state = tables.state(log).clone();
        let (at, what) = tables.events[usize::try_from(event).expect("a place")].clone();
        let applied = apply(&mut state, xid(), what, at, &mut Vec::new());
        let folded = applied.is_ok().then(|| tables.number(state));
        tables.folds.insert((log, event), folded);
        folded
    }

    /// What a new owner knows and owes.
    #[must_use]
    pub fn recover(&self, log: StateId, tick: u8) -> Arc<Recovery> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = tables.recoveries.get(&(log, tick)) {
            return Arc::clone(known);
        }
        let mut state = tables.state(log).clone();
        let mut context = self.context(start_of(tick));
        if self.no_hold {
            context.lease = Duration::ZERO;
            context.call_timeout = Duration::ZERO;
        }
        let over = state.as_ref().is_none_or(|known| known.finished_at.is_some());
        let effects = if over {
            Vec::new()
        } else {
            state.as_mut().map(|known| pending(known, context)).unwrap_or_default()
        };
        let fx = fx_of(state.as_ref(), &effects);
        let recovered = Arc::new((tables.number(state), fx));
        tables.recoveries.insert((log, tick), Arc::clone(&recovered));
        recovered
    }

    /// An abort put into a memory whatever the core says of it: for planted bugs.
    #[must_use]
    pub fn forced(&self, decision: Decision, branches: u8, tick: u8) -> EventId {
        let event = Event::Decided {
            decision,
            reason: (decision == Decision::Abort).then_some(AbortReason::Presumed),
            branches: u32::from(branches),
            by: None,
        };
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.event(start_of(tick), event)
    }

    fn context(&self, now: Timestamp) -> Context {
        // Back-offs are over within their tick.
        let wait = Duration::from_millis(1);
        Context {
            xid: xid(),
            now,
            retry: RetryPolicy { initial: wait, cap: wait, attention_after: 1_000 },
            lease: TICK * u32::from(self.shape.lease),
            call_timeout: TICK * u32::from(self.shape.call),
        }
    }

    fn command(&self, state: &mut Option<Transaction>, cmd: Cmd) -> Option<Command> {
        let branch_of = |state: &Option<Transaction>, site: u8| {
            state.as_ref().and_then(|known| known.branch_by_key(&key(site))).map(|branch| branch.id)
        };
        Some(match cmd {
            Cmd::Begin => self.begin(),
            Cmd::Register(site) => Command::Register(self.registration(site)),
            Cmd::Commit(votes) => Command::Commit { votes: votes.map(keys) },
            Cmd::Abort => Command::Abort { reason: AbortReason::Requested, by: None },
            Cmd::OwnerChanged => Command::Abort { reason: AbortReason::OwnerChanged, by: None },
            Cmd::Inquire => Command::Inquire,
            Cmd::Deadline => Command::Timer(Timer::Deadline),
            Cmd::CommitWait => Command::Timer(Timer::CommitWait),
            Cmd::PrepareWait => Command::Timer(Timer::Prepare),
            Cmd::Retry(site) => Command::Timer(Timer::Retry(branch_of(state, site)?)),
            Cmd::Result(site, operation, attempt, out) => {
                let branch_id = branch_of(state, site)?;
                let mut attempt = u32::from(attempt);
                if self.every_refusal_is_clean
                    && out == Out::Refused
                    && let Some(branch) = state
                        .as_mut()
                        .and_then(|known| known.branches.iter_mut().find(|branch| branch.id == branch_id))
                {
                    (branch.attempts, branch.tainted, attempt) = (0, false, 1);
                }
                Command::Result { branch_id, operation, attempt, outcome: outcome(out) }
            }
        })
    }

    fn begin(&self) -> Command {
        let plan = match self.shape.mode {
            Mode::Saga => {
                Plan::Saga(SagaPlan { steps: (0..self.shape.sites).map(|n| self.saga_step(n)).collect() })
            }
            _ => Plan::Open,
        };
        Command::Begin(BeginSpec {
            mode: self.shape.mode,
            name: None,
            digest: Digest([1; 16]),
            timeout: TICK * u32::from(self.shape.timeout),
            plan,
            decide_hash: self.shape.ticketed.then_some(DecideHash([3; 32])),
        })
    }

    fn saga_step(&self, n: u8) -> SagaStep {
        let role = match self.shape.pivot {
            Some(pivot) if n == pivot => StepRole::Pivot,
            Some(pivot) if n > pivot => StepRole::ForwardOnly,
            _ => StepRole::Compensatable,
        };
        SagaStep {
            name: key(n),
            action: url("do"),
            compensate: (role == StepRole::Compensatable).then(|| url("undo")),
            payload: Bytes::new(),
            after: n.checked_sub(1).map(key).into_iter().collect(),
            role,
            policy: CallPolicy::default(),
        }
    }

    fn registration(&self, site: u8) -> Registration {
        let kind = if self.shape.mode == Mode::TwoPhase { BranchKind::TwoPhase } else { BranchKind::Tcc };
        Registration {
            key: key(site),
            targets: BranchTargets::One(url("branch")),
            payload: Bytes::new(),
            digest: Digest([2; 16]),
            kind: Some(kind),
            two_phase: TwoPhase { early: false, one_phase: self.shape.one_phase, instance: None },
            policy: CallPolicy::default(),
            lock_keys: Vec::new(),
        }
    }
}

fn outcome(out: Out) -> ResultOutcome {
    match out {
        Out::Done => ResultOutcome::Done,
        Out::Voted(vote) => ResultOutcome::Voted(vote),
        Out::Refused => ResultOutcome::Refused { error: "no".into() },
        Out::Sealed => ResultOutcome::Sealed { error: "no".into() },
        Out::NotYet => ResultOutcome::NotYet { error: "later".into() },
        Out::Unknown => ResultOutcome::Unknown { error: "silence".into(), retry_after: None },
        Out::NotSent => {
            ResultOutcome::NotSent { error: "no lease".into(), retry_after: Duration::from_millis(1) }
        }
    }
}

/// When a next attempt was due is not written.
fn as_written(mut event: Event) -> Event {
    if let Event::AttemptFailed { next_at, .. } = &mut event {
        *next_at = Timestamp(0);
    }
    event
}

fn fx_of(state: Option<&Transaction>, effects: &[Effect]) -> Vec<Fx> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Dispatch { branch_id, operation, attempt } => {
                let branch = state?.branch(*branch_id)?;
                let attempt = u8::try_from(*attempt).expect("few attempts");
                Some(Fx::Dispatch { site: site_of(&branch.key), operation: *operation, attempt })
            }
            Effect::Decided(decision) => Some(Fx::Decided(*decision)),
            // Timers are read off the state: one that goes off too early finds nothing to do.
            Effect::SetTimer { .. } | Effect::Finished => None,
        })
        .collect()
}

fn look(state: Option<&Transaction>) -> Look {
    let Some(known) = state else { return Look::default() };
    Look {
        decision: known.decision.as_ref().map(|record| record.decision),
        finished: known.finished_at.is_some(),
        branches: known
            .branches
            .iter()
            .map(|branch| BranchLook {
                site: site_of(&branch.key),
                status: branch.status,
                attempts: branch.attempts,
                due: branch.next_attempt_at.map(due),
                owed: owed(branch.status),
            })
            .collect(),
        commit_waits: known.commit_asked.is_some(),
        preparing: known.preparing.is_some(),
        delegated: known.delegate().is_some(),
        deadline: due(known.deadline),
        ticketed: known.is_ticketed(),
    }
}

/// What a branch of this status waits to have done.
const fn owed(status: BranchStatus) -> Option<Operation> {
    match status {
        BranchStatus::Confirming => Some(Operation::Confirm),
        BranchStatus::Cancelling => Some(Operation::Cancel),
        BranchStatus::Preparing => Some(Operation::Prepare),
        BranchStatus::Committing => Some(Operation::Commit),
        BranchStatus::RollingBack => Some(Operation::Rollback),
        BranchStatus::Delegated => Some(Operation::CommitOnePhase),
        BranchStatus::Running => Some(Operation::Action),
        BranchStatus::Compensating => Some(Operation::Compensate),
        _ => None,
    }
}

fn start_of(tick: u8) -> Timestamp {
    Timestamp(1_000_000).after(TICK * u32::from(tick))
}

/// The first tick within which this moment is reached.
fn due(at: Timestamp) -> u8 {
    (0..u8::MAX).find(|tick| start_of(*tick).after(WITHIN) >= at).unwrap_or(u8::MAX)
}

fn xid() -> Xid {
    Xid::from_slice(&[7; 16]).expect("not nil")
}

fn key(site: u8) -> BranchKey {
    BranchKey::new(format!("s{site}")).expect("valid")
}

fn site_of(key: &BranchKey) -> u8 {
    key.as_str()[1..].parse().expect("a site's key")
}

fn keys(bits: u8) -> BTreeSet<BranchKey> {
    (0..8).filter(|site| bits & (1 << site) != 0).map(key).collect()
}

fn url(path: &str) -> Target {
    Target::Http(format!("http://127.0.0.1:9000/{path}").into())
}
