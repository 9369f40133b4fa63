//! Random transactions: what begins them, their participants, and who drives them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use unanimity_core::{BeginSpec, Command, TwoPhase};
use unanimity_types::{
    BranchKey, BranchKind, CallPolicy, Delivery, MessagePlan, Mode, Plan, SagaPlan, SagaStep, StepRole,
    Target,
};

use super::Kind;
use super::outside::Manager;
use super::sites::{Local, Row, Site, StepSite};
use crate::fixture;
use crate::model::Rng;

type Random = (Command, BTreeMap<BranchKey, Site>, Manager);

pub(super) fn random(kind: Kind, rng: &mut Rng) -> Random {
    match kind {
        Kind::Saga => saga(rng),
        Kind::Message => message(rng),
        Kind::TwoPhase => open(Mode::TwoPhase, rng),
        Kind::Mixed => open(Mode::Tcc, rng),
    }
}

fn begin(mode: Mode, plan: Plan) -> Command {
    let timeout = fixture::TIMEOUT;
    Command::Begin(BeginSpec {
        mode,
        name: None,
        digest: fixture::digest(1),
        timeout,
        plan,
        decide_hash: None,
    })
}

pub(crate) fn target() -> Target {
    Target::Http("http://127.0.0.1:1/x".into())
}

fn policy(rng: &mut Rng) -> CallPolicy {
    CallPolicy {
        give_up_after: rng.chance(30).then(|| *rng.pick(&[1, 2, 3])),
        timeout: rng.chance(20).then_some(Duration::from_secs(20)),
        ..CallPolicy::default()
    }
}

/// A graph of up to six steps: each after some of those before it, with or without a pivot.
fn saga(rng: &mut Rng) -> Random {
    let count = 1 + rng.index(6);
    let pivot = rng.chance(40).then(|| rng.index(count));
    let forward_from = match pivot {
        Some(pivot) => pivot + 1,
        None if rng.chance(20) => rng.index(count + 1),
        None => count,
    };
    let name = |at: usize| fixture::key(u32::try_from(at + 1).expect("small"));
    let mut sites = BTreeMap::new();
    let mut steps: Vec<SagaStep> = (0..count)
        .map(|at| {
            let role = match at {
                at if Some(at) == pivot => StepRole::Pivot,
                at if at >= forward_from => StepRole::ForwardOnly,
                _ => StepRole::Compensatable,
            };
            let after = match role {
                StepRole::Pivot => (0..at).map(name).collect(),
                _ => (0..at).filter(|_| rng.chance(45)).map(name).collect(),
            };
            let undoes = role == StepRole::Compensatable && rng.chance(75);
            let fenced = rng.chance(60);
            sites.insert(name(at), Site::Step(StepSite { fenced, ..StepSite::default() }));
            SagaStep {
                name: name(at),
                action: target(),
                compensate: undoes.then(target),
                payload: Bytes::new(),
                after,
                role,
                policy: policy(rng),
            }
        })
        .collect();
    if rng.chance(30) {
        // The order in which they are written down means nothing.
        steps.reverse();
    }
    let manager = Manager { patient: rng.chance(70), ..Manager::default() };
    (begin(Mode::Saga, Plan::Saga(SagaPlan { steps })), sites, manager)
}

fn message(rng: &mut Rng) -> Random {
    let submit = rng.chance(15);
    let mut sites = BTreeMap::new();
    let deliveries = (1..=1 + rng.below(3))
        .map(|n| {
            let key = fixture::key(u32::try_from(n).expect("small"));
            sites.insert(key.clone(), Site::Receiver(0));
            Delivery { key, target: target(), payload: Bytes::new(), policy: policy(rng) }
        })
        .collect();
    let check_back = (!submit || rng.chance(50)).then(target);
    let local = if submit { Local::Committed } else { Local::NotBegun };
    sites.insert(BranchKey::new(BranchKey::SENDER).expect("valid"), Site::Sender(local));
    let plan = MessagePlan { check_back, check_back_payload: Bytes::new(), deliveries, submit };
    (begin(Mode::Message, Plan::Message(plan)), sites, Manager::default())
}

/// A transaction whose branches register: what they will be.
fn open(mode: Mode, rng: &mut Rng) -> Random {
    let mut manager = Manager { explicit: rng.chance(30), ..Manager::default() };
    let mut sites = BTreeMap::new();
    let count = *rng.pick(&[1, 1, 2, 3, 4]);
    for n in 1..=count {
        let kind = match (mode, rng.below(10)) {
            (Mode::Tcc, 0..=3) => BranchKind::Tcc,
            (_, 4..=5) => BranchKind::Message,
            _ => BranchKind::TwoPhase,
        };
        let early = kind == BranchKind::TwoPhase && rng.chance(40);
        let one_phase = kind == BranchKind::TwoPhase && !early && rng.chance(60);
        let two_phase = TwoPhase { early, one_phase, instance: None };
        let site = match kind {
            BranchKind::Tcc => Site::Tcc(Row::Absent),
            BranchKind::Message => Site::Receiver(0),
            _ => Site::TwoPhase(Row::Absent),
        };
        sites.insert(fixture::key(n), site);
        let mut command = fixture::register_kind(n, kind, two_phase, 1);
        if let Command::Register(registration) = &mut command
            && kind == BranchKind::Message
        {
            registration.policy = policy(rng);
        }
        manager.parts.push(command);
    }
    (begin(mode, Plan::Open), sites, manager)
}
