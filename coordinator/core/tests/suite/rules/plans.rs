//! Plans that cannot be carried out are refused as a whole, with a reason (H14, bad input).

use bytes::Bytes;
use unanimity_core::{Command, Refusal, ResultOutcome};
use unanimity_types::{
    BranchId, BranchKey, CallPolicy, Delivery, Limits, MessagePlan, Mode, Operation, Plan, SagaPlan,
    SagaStep, Status, StepRole,
};

use crate::fixture::*;

fn why(command: Command) -> String {
    let verdict = Driven::unknown().run(command);
    assert_eq!(verdict.events, [], "nothing of it begins");
    match verdict.answer {
        Err(Refusal::InvalidPlan { why }) => why.into(),
        other => panic!("must be refused as a plan: {other:?}"),
    }
}

fn refused(steps: Vec<SagaStep>, because: &str) {
    let why = why(saga(steps));
    assert!(why.contains(because), "{why}");
}

fn accepted(steps: Vec<SagaStep>) {
    assert!(Driven::unknown().run(saga(steps)).answer.is_ok());
}

#[test]
fn a_cycle() {
    refused(vec![step(1, &[1])], "cycle");
    refused(vec![step(1, &[]), step(2, &[1, 4]), step(3, &[2]), step(4, &[3])], "cycle");
    accepted(vec![step(3, &[2]), step(2, &[1]), step(1, &[])]);
}

#[test]
fn an_unknown_step_before() {
    refused(vec![step(1, &[]), step(2, &[9])], "k9");
}

#[test]
fn duplicate_names() {
    refused(vec![step(1, &[]), step(1, &[])], "two steps are named k1");
}

#[test]
fn no_steps_and_1_001_steps() {
    refused(vec![], "at least one step");
    let most = u32::try_from(Limits::STEPS_MAX).expect("small");
    assert_eq!(most, 1_000);
    refused((1..=most + 1).map(|n| step(n, &[])).collect(), "1001");
    let mut chain: Vec<_> = (2..=most).map(|n| step(n, &[n - 1])).collect();
    chain.push(step(1, &[]));
    accepted(chain);
}

#[test]
fn more_than_10_000_entries_in_after() {
    let first: Vec<u32> = (1..=100).collect();
    let wide = |after: usize| {
        let mut steps: Vec<_> = first.iter().map(|n| step(*n, &[])).collect();
        let mut left = after;
        for n in 101..=201 {
            let take = left.min(100);
            steps.push(step(n, &first[..take]));
            left -= take;
        }
        steps
    };
    accepted(wide(10_000));
    refused(wide(10_001), "10001");
}

#[test]
fn an_entry_that_is_named_twice_counts_once() {
    let mut driven = Driven::unknown().with(saga(vec![step(1, &[]), step(2, &[1, 1])]));
    driven.run(result(1, Operation::Action, ResultOutcome::Done));
    assert_eq!(super::dispatched(&driven.effects).len(), 1);
}

#[test]
fn h14_a_second_pivot() {
    refused(vec![step_as(1, &[], StepRole::Pivot), step_as(2, &[1], StepRole::Pivot)], "at most one pivot");
}

#[test]
fn h14_a_step_beside_or_behind_the_pivot_that_can_turn_back() {
    let pivot = || step_as(1, &[], StepRole::Pivot);
    refused(vec![pivot(), step(2, &[1])], "k2");
    refused(vec![pivot(), step(2, &[])], "k2");
    accepted(vec![pivot(), step_as(2, &[1], StepRole::ForwardOnly), step_as(3, &[], StepRole::ForwardOnly)]);
}

#[test]
fn h14_what_can_refuse_behind_what_cannot_be_turned_back() {
    let forward = || step_as(1, &[], StepRole::ForwardOnly);
    refused(vec![forward(), step(2, &[1])], "k2");
    refused(vec![forward(), step_as(2, &[1], StepRole::Pivot)], "k2");
    let between = vec![forward(), step_as(2, &[1], StepRole::ForwardOnly), step(3, &[2])];
    refused(between, "k3");
}

#[test]
fn h14_a_compensation_that_would_never_be_called() {
    for role in [StepRole::Pivot, StepRole::ForwardOnly] {
        refused(vec![SagaStep { role, ..step(1, &[]) }], "never be called");
    }
}

#[test]
fn payloads_over_the_limits() {
    let payload = |len| SagaStep { payload: Bytes::from(vec![0; len]), ..step(1, &[]) };
    accepted(vec![payload(Limits::PAYLOAD_BYTES_MAX)]);
    refused(vec![payload(Limits::PAYLOAD_BYTES_MAX + 1)], "payload");
    let count = u32::try_from(Limits::PLAN_BYTES_MAX / Limits::PAYLOAD_BYTES_MAX).expect("small");
    let many = |count| {
        (1..=count)
            .map(|n| SagaStep { name: key(n), ..payload(Limits::PAYLOAD_BYTES_MAX) })
            .collect::<Vec<_>>()
    };
    accepted(many(count));
    refused(many(count + 1), "together");
}

#[test]
fn messages_without_receivers_with_too_many_or_with_nobody_to_ask() {
    assert!(why(message(0, true, false)).contains("at least one receiver"));
    let most = u32::try_from(Limits::DELIVERIES_MAX).expect("small");
    assert!(why(message(most + 1, true, false)).contains("at most"));
    assert!(why(message(1, false, false)).contains("check_back"));
    assert!(Driven::unknown().run(message(most, true, false)).answer.is_ok());
}

#[test]
fn deliveries_with_the_same_key_or_the_senders() {
    let with = |keys: [BranchKey; 2]| {
        let deliveries =
            keys.map(|key| Delivery { key, policy: CallPolicy::default(), ..delivery(1) }).to_vec();
        let check_back = Some(url("ask"));
        let plan = MessagePlan { check_back, check_back_payload: Bytes::new(), deliveries, submit: false };
        begin_with(Mode::Message, Plan::Message(plan))
    };
    assert!(why(with([key(1), key(1)])).contains("two deliveries"));
    assert!(why(with([key(1), BranchKey::new(BranchKey::SENDER).expect("valid")])).contains("sender"));
}

#[test]
fn a_plan_of_another_mode() {
    let steps = || Plan::Saga(SagaPlan { steps: vec![step(1, &[])] });
    for (mode, plan) in [
        (Mode::Tcc, steps()),
        (Mode::TwoPhase, steps()),
        (Mode::Message, steps()),
        (Mode::Saga, Plan::Open),
        (Mode::Message, Plan::Open),
    ] {
        why(begin_with(mode, plan));
    }
}

/// 1,000 steps, each after the ten before it: what each event costs follows from the size of the plan, not
/// from its square.
#[test]
fn the_largest_saga_goes_forward_and_back() {
    let most = u32::try_from(Limits::STEPS_MAX).expect("small");
    let steps = (1..=most).map(|n| step(n, &(n.saturating_sub(10).max(1)..n).collect::<Vec<_>>()));
    let mut driven = Driven::unknown().with(saga(steps.collect()));
    let brings = ResultOutcome::Result(Bytes::from_static(b"x"));
    for n in 1..most {
        driven.run(result(n, Operation::Action, brings.clone()));
    }
    let transaction = driven.transaction();
    let last = transaction.branch(BranchId(most)).expect("a step");
    assert_eq!(transaction.inputs_of(last).len(), Limits::STEPS_MAX - 1);
    driven.run(result(most, Operation::Action, crate::fixture::refused()));
    for n in (1..most).rev() {
        driven.run(result(n, Operation::Compensate, ResultOutcome::Done));
    }
    assert_eq!(driven.transaction().status(), Status::Aborted);
}
