//! What the tests build their transactions with.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use unanimity_core::{
    BeginSpec, BranchTraits, Command, Context, Effect, Event, OperatorAction, Registration, ResultOutcome,
    RetryPolicy, Timer, Transaction, TwoPhase, Verdict, apply, decide,
};
use unanimity_types::{
    AbortReason, BranchId, BranchKey, BranchKind, BranchTargets, CallPolicy, Delivery, Digest, MessagePlan,
    Mode, Name, Operation, Plan, ResolveAs, SagaPlan, SagaStep, StepRole, Target, Timestamp, Vote, Xid,
};

/// When every test's transaction begins.
pub(crate) const BEGIN: Timestamp = Timestamp(1_000_000);
/// How long a deposed owner may believe in its lease.
pub(crate) const LEASE: Duration = Duration::from_secs(10);
/// How long an attempt may take.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may stay undecided.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) fn xid_of(n: u64) -> Xid {
    let mut bytes = [7; 16];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    Xid::from_slice(&bytes).expect("not nil")
}

pub(crate) fn xid() -> Xid {
    xid_of(1)
}

pub(crate) fn context(now: Timestamp) -> Context {
    Context { xid: xid(), now, retry: RetryPolicy::default(), lease: LEASE, call_timeout: CALL_TIMEOUT }
}

pub(crate) fn key(n: u32) -> BranchKey {
    BranchKey::new(format!("k{n}")).expect("valid")
}

pub(crate) fn keys(of: &[u32]) -> BTreeSet<BranchKey> {
    of.iter().map(|n| key(*n)).collect()
}

pub(crate) fn targets() -> BranchTargets {
    BranchTargets::One(Target::Participant {
        participant: Name::new("stock").expect("valid"),
        operation: Name::new("reserve").expect("valid"),
    })
}

pub(crate) fn digest(n: u8) -> Digest {
    Digest([n; 16])
}

pub(crate) fn begin() -> Command {
    begin_as(1)
}

pub(crate) fn begin_as(body: u8) -> Command {
    Command::Begin(BeginSpec {
        mode: Mode::Tcc,
        name: Some(Name::new("place order").expect("valid")),
        digest: digest(body),
        timeout: TIMEOUT,
        plan: Plan::Open,
        decide_hash: None,
    })
}

pub(crate) fn register(n: u32) -> Command {
    register_as(n, 1)
}

pub(crate) fn register_as(n: u32, body: u8) -> Command {
    register_kind(n, BranchKind::Tcc, TwoPhase::default(), body)
}

/// A begin with a plan.
pub(crate) fn begin_with(mode: Mode, plan: Plan) -> Command {
    Command::Begin(BeginSpec {
        mode,
        name: None,
        digest: digest(1),
        timeout: TIMEOUT,
        plan,
        decide_hash: None,
    })
}

/// A target that takes calls.
pub(crate) fn url(path: &str) -> Target {
    Target::Http(format!("http://127.0.0.1:9000/{path}").into())
}

/// A step with a compensation, after some others.
pub(crate) fn step(n: u32, after: &[u32]) -> SagaStep {
    SagaStep {
        name: key(n),
        action: url("do"),
        compensate: Some(url("undo")),
        payload: Bytes::new(),
        after: after.iter().map(|n| key(*n)).collect(),
        role: StepRole::Compensatable,
        policy: CallPolicy::default(),
    }
}

/// A step without a compensation.
pub(crate) fn step_as(n: u32, after: &[u32], role: StepRole) -> SagaStep {
    SagaStep { compensate: None, role, ..step(n, after) }
}

pub(crate) fn saga(steps: Vec<SagaStep>) -> Command {
    begin_with(Mode::Saga, Plan::Saga(SagaPlan { steps }))
}

pub(crate) fn delivery(n: u32) -> Delivery {
    let policy = CallPolicy::default();
    Delivery { key: key(n), target: url("mail"), payload: Bytes::new(), policy }
}

/// A message to so many receivers.
pub(crate) fn message(deliveries: u32, check_back: bool, submit: bool) -> Command {
    let deliveries = (1..=deliveries).map(delivery).collect();
    let check_back = check_back.then(|| url("ask"));
    let plan = MessagePlan { check_back, check_back_payload: Bytes::new(), deliveries, submit };
    begin_with(Mode::Message, Plan::Message(plan))
}

pub(crate) fn two_phase(early: bool, one_phase: bool) -> TwoPhase {
    TwoPhase { early, one_phase, instance: None }
}

/// The registration of a two-phase branch.
pub(crate) fn register_two_phase(n: u32, how: TwoPhase) -> Command {
    register_kind(n, BranchKind::TwoPhase, how, 1)
}

pub(crate) fn registered(n: u32) -> Event {
    Event::Registered {
        branch_id: BranchId(n),
        key: key(n),
        targets: targets().into(),
        payload: Bytes::from_static(b"two of them"),
        digest: digest(1),
        traits: Box::new(BranchTraits::of(BranchKind::Tcc)),
    }
}

/// A registration of another kind than TCC.
pub(crate) fn register_kind(n: u32, kind: BranchKind, two_phase: TwoPhase, body: u8) -> Command {
    Command::Register(Registration {
        key: key(n),
        targets: targets(),
        payload: Bytes::from_static(b"two of them"),
        digest: digest(body),
        kind: Some(kind),
        two_phase,
        policy: CallPolicy::default(),
        lock_keys: Vec::new(),
    })
}

pub(crate) fn vote(n: u32, vote: Vote) -> Command {
    Command::Vote { key: key(n), vote }
}

pub(crate) fn commit(named: &[u32]) -> Command {
    Command::Commit { votes: Some(keys(named)) }
}

pub(crate) const COMMIT_ALL: Command = Command::Commit { votes: None };
pub(crate) const ABORT: Command = Command::Abort { reason: AbortReason::Requested, by: None };

pub(crate) fn by() -> OperatorAction {
    OperatorAction { operator: "ada".into(), reason: "the shop burned down".into() }
}

pub(crate) fn resolve(n: u32, resolve_as: ResolveAs) -> Command {
    Command::Resolve { branch_id: BranchId(n), resolve_as, by: by() }
}

pub(crate) fn retry_timer(n: u32) -> Command {
    Command::Timer(Timer::Retry(BranchId(n)))
}

pub(crate) fn result(n: u32, operation: Operation, outcome: ResultOutcome) -> Command {
    Command::Result { branch_id: BranchId(n), operation, attempt: 1, outcome }
}

pub(crate) fn unknown() -> ResultOutcome {
    ResultOutcome::Unknown { error: "no answer".into(), retry_after: None }
}

pub(crate) fn refused() -> ResultOutcome {
    ResultOutcome::Refused { error: "no".into() }
}

pub(crate) fn not_yet() -> ResultOutcome {
    ResultOutcome::NotYet { error: "its try runs".into() }
}

pub(crate) fn unusable() -> ResultOutcome {
    ResultOutcome::Unusable { error: "404".into() }
}

pub(crate) fn not_sent() -> ResultOutcome {
    ResultOutcome::NotSent { error: "queue full".into(), retry_after: Duration::from_secs(2) }
}

/// A transaction that is driven by hand, and everything that came of it.
#[derive(Clone)]
pub(crate) struct Driven {
    pub(crate) state: Option<Transaction>,
    pub(crate) now: Timestamp,
    pub(crate) events: Vec<(Timestamp, Event)>,
    pub(crate) effects: Vec<Effect>,
}

impl Driven {
    pub(crate) fn unknown() -> Self {
        Self { state: None, now: BEGIN, events: Vec::new(), effects: Vec::new() }
    }

    /// Begun, with this many branches.
    pub(crate) fn begun(branches: u32) -> Self {
        let mut driven = Self::unknown();
        driven.run(begin());
        for n in 1..=branches {
            driven.run(register(n));
        }
        driven
    }

    /// Decides and applies; leaves in `effects` what this command caused.
    pub(crate) fn run(&mut self, command: Command) -> Verdict {
        let verdict = decide(self.state.as_ref(), command, context(self.now));
        self.effects.clear();
        for event in &verdict.events {
            apply(&mut self.state, xid(), event.clone(), self.now, &mut self.effects)
                .expect("what was decided can be applied");
            self.events.push((self.now, event.clone()));
        }
        verdict
    }

    pub(crate) fn with(mut self, command: Command) -> Self {
        self.run(command);
        self
    }

    pub(crate) fn later(mut self, by: Duration) -> Self {
        self.now = self.now.after(by);
        self
    }

    pub(crate) fn transaction(&self) -> &Transaction {
        self.state.as_ref().expect("known")
    }

    /// The branch's next attempt: when it is due.
    pub(crate) fn due(&self, n: u32) -> Option<Timestamp> {
        self.transaction().branch(BranchId(n)).expect("registered").next_attempt_at
    }
}

/// Folds events into a state, as recovery does: effects are dropped, what is volatile was not written.
pub(crate) fn replay<'a>(
    xid: Xid,
    events: impl IntoIterator<Item = &'a (Timestamp, Event)>,
) -> Option<Transaction> {
    let mut state = None;
    let mut dropped = Vec::new();
    for (at, event) in events {
        if event.persistence() == unanimity_core::Persistence::Volatile {
            continue;
        }
        apply(&mut state, xid, as_written(event.clone()), *at, &mut dropped).expect("a log replays");
        dropped.clear();
    }
    state
}

/// An event as the log gives it back: when the next attempt was due is not written.
pub(crate) fn as_written(mut event: Event) -> Event {
    if let Event::AttemptFailed { next_at, .. } = &mut event {
        *next_at = Timestamp(0);
    }
    event
}
