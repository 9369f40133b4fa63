//! Plans: whether they can be carried out, and the events that they begin with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use unanimity_types::{
    BranchId, BranchKey, BranchKind, BranchTargets, Digest, Limits, MessagePlan, SagaPlan, SagaStep, StepRole,
};

use crate::event::{BranchTraits, Event, held};
use crate::transaction::Step;

/// How many `after` entries a plan may have: what the order of its steps is worked out from with every
/// step.
const EDGES_MAX: usize = 10_000;

/// The branches of a saga, or why its plan cannot be carried out.
pub(crate) fn saga(plan: SagaPlan) -> Result<Vec<Event>, Box<str>> {
    let steps = &plan.steps;
    if steps.is_empty() {
        return Err("a saga has at least one step".into());
    }
    if steps.len() > Limits::STEPS_MAX {
        return Err(
            format!("a saga has at most {} steps, this one has {}", Limits::STEPS_MAX, steps.len()).into()
        );
    }
    let edges: usize = steps.iter().map(|step| step.after.len()).sum();
    if edges > EDGES_MAX {
        return Err(
            format!("the steps name {edges} steps in `after`, at most {EDGES_MAX} are possible").into()
        );
    }
    sizes(steps.iter().map(|step| &step.payload))?;
    let mut places = BTreeMap::new();
    for (at, step) in steps.iter().enumerate() {
        if places.insert(&step.name, at).is_some() {
            return Err(format!("two steps are named {}", step.name).into());
        }
    }
    let after = steps.iter().map(|step| before(step, &places)).collect::<Result<Vec<_>, _>>()?;
    let order = in_order(steps, &after)?;
    roles(steps, &after, &order)?;
    let step_of = |(at, (step, after)): (usize, (SagaStep, Vec<usize>))| {
        let after = after.into_iter().map(number).collect();
        let traits = BranchTraits {
            policy: step.policy,
            step: Some(Step { role: step.role, after, result: None }),
            ..BranchTraits::of(BranchKind::Step)
        };
        let targets = BranchTargets::Step { action: step.action, compensate: step.compensate };
        registered(number(at), step.name, targets, &step.payload, traits)
    };
    let mut events: Vec<Event> = plan.steps.into_iter().zip(after).enumerate().map(step_of).collect();
    events.push(accepted(&events));
    Ok(events)
}

/// The branches of a message, or why its plan cannot be carried out.
pub(crate) fn message(plan: MessagePlan) -> Result<Vec<Event>, Box<str>> {
    if plan.deliveries.is_empty() {
        return Err("a message has at least one receiver".into());
    }
    if plan.deliveries.len() > Limits::DELIVERIES_MAX {
        return Err(format!(
            "a message has at most {} deliveries, this one has {}",
            Limits::DELIVERIES_MAX,
            plan.deliveries.len()
        )
        .into());
    }
    if plan.check_back.is_none() && !plan.submit {
        return Err(
            "a message that is prepared first names a check_back target: without it nobody could say whether it is to be delivered when the submit is lost"
                .into(),
        );
    }
    sizes(plan.deliveries.iter().map(|delivery| &delivery.payload).chain([&plan.check_back_payload]))?;
    let mut keys = BTreeSet::new();
    if let Some(twice) = plan.deliveries.iter().find(|delivery| !keys.insert(&delivery.key)) {
        return Err(format!("two deliveries have the key {}", twice.key).into());
    }
    let mut events = Vec::with_capacity(plan.deliveries.len() + 2);
    if let Some(target) = plan.check_back {
        let key = sender_key();
        if keys.contains(&key) {
            return Err(format!("no delivery may have the key {key}: it is the sender's").into());
        }
        let traits = BranchTraits::of(BranchKind::Sender);
        let targets = BranchTargets::One(target);
        events.push(registered(number(0), key, targets, &plan.check_back_payload, traits));
    }
    for delivery in plan.deliveries {
        let traits = BranchTraits { policy: delivery.policy, ..BranchTraits::of(BranchKind::Message) };
        let targets = BranchTargets::One(delivery.target);
        events.push(registered(number(events.len()), delivery.key, targets, &delivery.payload, traits));
    }
    events.push(accepted(&events));
    Ok(events)
}

/// The key of the branch that stands for a message's sender.
fn sender_key() -> BranchKey {
    // A literal within every limit of a key.
    BranchKey::new(BranchKey::SENDER).expect("a valid key")
}

fn sizes<'a>(payloads: impl Iterator<Item = &'a Bytes>) -> Result<(), Box<str>> {
    let mut sum = 0;
    for payload in payloads {
        if payload.len() > Limits::PAYLOAD_BYTES_MAX {
            let most = Limits::PAYLOAD_BYTES_MAX;
            return Err(format!("a payload has at most {most} bytes, one here has {}", payload.len()).into());
        }
        sum += payload.len();
    }
    let most = Limits::PLAN_BYTES_MAX;
    if sum > most {
        return Err(format!("the payloads of a plan have at most {most} bytes together, here {sum}").into());
    }
    Ok(())
}

/// The places of the steps that come before one, each once.
fn before(step: &SagaStep, places: &BTreeMap<&BranchKey, usize>) -> Result<Vec<usize>, Box<str>> {
    let mut after = BTreeSet::new();
    for name in &step.after {
        let Some(place) = places.get(name) else {
            return Err(format!("step {} comes after {name}, which is no step of the plan", step.name).into());
        };
        after.insert(*place);
    }
    Ok(after.into_iter().collect())
}

/// The steps' places, each behind all that come before it. Kahn, "Topological sorting of large networks"
/// (1962).
fn in_order(steps: &[SagaStep], after: &[Vec<usize>]) -> Result<Vec<usize>, Box<str>> {
    let mut waits: Vec<usize> = after.iter().map(Vec::len).collect();
    let mut next: Vec<Vec<usize>> = vec![Vec::new(); steps.len()];
    for (at, before) in after.iter().enumerate() {
        before.iter().for_each(|before| next[*before].push(at));
    }
    let mut free: Vec<usize> = (0..steps.len()).filter(|at| waits[*at] == 0).collect();
    let mut order = Vec::with_capacity(steps.len());
    while let Some(at) = free.pop() {
        order.push(at);
        for later in &next[at] {
            waits[*later] -= 1;
            if waits[*later] == 0 {
                free.push(*later);
            }
        }
    }
    if order.len() == steps.len() {
        return Ok(order);
    }
    let stuck: Vec<&str> = steps
        .iter()
        .zip(&waits)
        .filter(|(_, waits)| **waits > 0)
        .map(|(step, _)| step.name.as_str())
        .collect();
    let shown = stuck.iter().take(10).copied().collect::<Vec<_>>().join(", ");
    Err(format!("the order of the steps has a cycle; on it or behind it: {shown}").into())
}

/// Past the pivot everything goes forward, or the saga could get stuck in between (protocol H14).
fn roles(steps: &[SagaStep], after: &[Vec<usize>], order: &[usize]) -> Result<(), Box<str>> {
    for step in steps {
        if step.role != StepRole::Compensatable && step.compensate.is_some() {
            return Err(format!(
                "step {} is {} and has a compensation, which would never be called; leave one of the two out",
                step.name, step.role
            )
            .into());
        }
    }
    let pivots: Vec<usize> = (0..steps.len()).filter(|at| steps[*at].role == StepRole::Pivot).collect();
    if pivots.len() > 1 {
        return Err("a saga has at most one pivot".into());
    }
    // For each step a forward-only one that comes before it.
    let mut forward: Vec<Option<usize>> = vec![None; steps.len()];
    for at in order.iter().copied() {
        let is_forward = |at: usize| (steps[at].role == StepRole::ForwardOnly).then_some(at);
        forward[at] = after[at].iter().find_map(|before| is_forward(*before).or(forward[*before]));
    }
    for (step, forward) in steps.iter().zip(&forward) {
        if step.role != StepRole::ForwardOnly
            && let Some(forward) = *forward
        {
            return Err(format!(
                "step {} can refuse, and comes after {}, which cannot be turned back",
                step.name, steps[forward].name
            )
            .into());
        }
    }
    let Some(pivot) = pivots.first().copied() else { return Ok(()) };
    let before_pivot = ancestors(pivot, after);
    let stray = (0..steps.len())
        .find(|at| *at != pivot && steps[*at].role != StepRole::ForwardOnly && !before_pivot.contains(at));
    match stray {
        None => Ok(()),
        Some(stray) => Err(format!(
            "step {} does not come before the pivot {}: past the pivot nothing turns back, so make it forward_only or put it before",
            steps[stray].name, steps[pivot].name
        )
        .into()),
    }
}

fn ancestors(of: usize, after: &[Vec<usize>]) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut look = after[of].clone();
    while let Some(at) = look.pop() {
        if found.insert(at) {
            look.extend(after[at].iter().copied());
        }
    }
    found
}

/// A branch's number from its place.
fn number(place: usize) -> BranchId {
    BranchId(u32::try_from(place + 1).unwrap_or(u32::MAX))
}

fn registered(
    branch_id: BranchId,
    key: BranchKey,
    targets: BranchTargets,
    payload: &Bytes,
    traits: BranchTraits,
) -> Event {
    // The plan's own digest tells repetitions from reuses.
    let digest = Digest::default();
    let (targets, payload) = (Arc::new(targets), held(payload));
    Event::Registered { branch_id, key, targets, payload, digest, traits: Box::new(traits) }
}

fn accepted(branches: &[Event]) -> Event {
    Event::PlanAccepted { branches: u32::try_from(branches.len()).unwrap_or(u32::MAX) }
}
