//! What the protocol's arithmetic costs: whole transactions, from the begin to the end, by `decide` and
//! `apply` alone. Nothing is encoded, stored or sent.

#![allow(missing_docs, reason = "criterion's macros make a public function")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop")]

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use unanimity_core::{
    BeginSpec, Command, Context, Effect, Registration, ResultOutcome, RetryPolicy, Transaction, TwoPhase,
    apply, decide,
};
use unanimity_types::{
    BranchKey, BranchTargets, CallPolicy, Digest, Mode, Name, Plan, SagaPlan, SagaStep, StepRole, Target,
    Timestamp, Xid,
};

/// A branch's or step's payload: the size of the goals.
const PAYLOAD: &[u8] = &[7; 64];

fn context() -> Context {
    Context {
        xid: Xid::from_slice(&[7; 16]).unwrap(),
        now: Timestamp(1_000_000),
        retry: RetryPolicy::default(),
        lease: Duration::from_secs(10),
        call_timeout: Duration::from_secs(5),
    }
}

fn key(n: u32) -> BranchKey {
    BranchKey::new(format!("branch-{n}")).unwrap()
}

fn target() -> Target {
    Target::Participant { participant: Name::new("stock").unwrap(), operation: Name::new("reserve").unwrap() }
}

fn begin(mode: Mode, plan: Plan) -> Command {
    Command::Begin(BeginSpec {
        mode,
        name: Some(Name::new("order").unwrap()),
        digest: Digest([1; 16]),
        timeout: Duration::from_secs(60),
        plan,
        decide_hash: None,
    })
}

/// What a transaction manager says of a TCC transaction, up to its commit.
fn tcc(branches: u32) -> Vec<Command> {
    let registration = |n| {
        Command::Register(Registration {
            key: key(n),
            targets: BranchTargets::One(target()),
            payload: Bytes::from_static(PAYLOAD),
            digest: Digest([2; 16]),
            kind: None,
            two_phase: TwoPhase::default(),
            policy: CallPolicy::default(),
            lock_keys: Vec::new(),
        })
    };
    let votes = (1..=branches).map(key).collect();
    let begin = begin(Mode::Tcc, Plan::Open);
    std::iter::once(begin)
        .chain((1..=branches).map(registration))
        .chain([Command::Commit { votes: Some(votes) }])
        .collect()
}

fn saga(steps: u32) -> Vec<Command> {
    let step = |n| SagaStep {
        name: key(n),
        action: target(),
        compensate: Some(target()),
        payload: Bytes::from_static(PAYLOAD),
        after: (n > 1).then(|| key(n - 1)).into_iter().collect(),
        role: StepRole::Compensatable,
        policy: CallPolicy::default(),
    };
    vec![begin(Mode::Saga, Plan::Saga(SagaPlan { steps: (1..=steps).map(step).collect() }))]
}

/// Runs commands, answers every operation that comes of them with "done", and counts events.
fn run(commands: Vec<Command>) -> (Option<Transaction>, u64) {
    let context = context();
    let mut state = None;
    let mut effects = Vec::new();
    let mut events = 0;
    let mut queue = std::collections::VecDeque::from(commands);
    while let Some(command) = queue.pop_front() {
        let verdict = decide(state.as_ref(), command, context);
        for event in verdict.events {
            events += 1;
            apply(&mut state, context.xid, event, context.now, &mut effects).unwrap();
        }
        for effect in effects.drain(..) {
            if let Effect::Dispatch { branch_id, operation, attempt, .. } = effect {
                let outcome = ResultOutcome::Done;
                queue.push_back(Command::Result { branch_id, operation, attempt, outcome });
            }
        }
    }
    (state, events)
}

fn transactions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("whole transaction");
    for (name, commands) in
        [("TCC, 2 branches", tcc(2)), ("TCC, 64 branches", tcc(64)), ("saga, 3 steps", saga(3))]
    {
        let (state, events) = run(commands.clone());
        assert!(state.unwrap().finished_at.is_some(), "{name} does not end");
        group.throughput(Throughput::Elements(events));
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || commands.clone(),
                |commands| black_box(run(commands)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, transactions);
criterion_main!(benches);
