//! Plans between the wire and the domain.

use std::time::Duration;

use unanimity_types::{
    BranchKey, CallPolicy, Delivery, ErrorCode, Limits, MessagePlan, Plan, SagaPlan, SagaStep, StepRole,
};

use crate::convert::InvalidWire;
use crate::target::{target_from_wire, target_to_wire};
use crate::v1;

fn invalid(message: impl Into<String>) -> InvalidWire {
    InvalidWire::new(ErrorCode::InvalidPlan, message)
}

fn millis(duration: Option<Duration>) -> u64 {
    duration.map_or(0, |duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// A policy for the wire; `None` if it says nothing.
#[must_use]
pub fn policy_to_wire(policy: &CallPolicy) -> Option<v1::CallPolicy> {
    (*policy != CallPolicy::default()).then(|| v1::CallPolicy {
        initial_ms: millis(policy.initial),
        cap_ms: millis(policy.cap),
        give_up_after: policy.give_up_after.unwrap_or(0),
        timeout_ms: millis(policy.timeout),
    })
}

/// A policy from the wire.
///
/// # Errors
/// If a wait or a timeout is longer than it may be.
pub fn policy_from_wire(policy: Option<v1::CallPolicy>) -> Result<CallPolicy, InvalidWire> {
    let Some(policy) = policy else { return Ok(CallPolicy::default()) };
    let some = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
    let policy = CallPolicy {
        initial: some(policy.initial_ms),
        cap: some(policy.cap_ms),
        give_up_after: (policy.give_up_after > 0).then_some(policy.give_up_after),
        timeout: some(policy.timeout_ms),
    };
    if policy.timeout.is_some_and(|timeout| timeout > Limits::CALL_TIMEOUT_MAX) {
        let most = Limits::CALL_TIMEOUT_MAX.as_secs();
        return Err(invalid(format!("policy: one attempt may take at most {most} s")));
    }
    if policy.initial.max(policy.cap).is_some_and(|wait| wait > Limits::TIMEOUT_MAX) {
        return Err(invalid("policy: a wait between attempts is at most 31 days"));
    }
    Ok(policy)
}

/// The plan parts of a begin for the wire.
#[must_use]
pub fn plan_to_wire(plan: &Plan) -> (Option<v1::SagaPlan>, Option<v1::MessagePlan>) {
    match plan {
        Plan::Open => (None, None),
        Plan::Saga(plan) => {
            (Some(v1::SagaPlan { steps: plan.steps.iter().map(step_to_wire).collect() }), None)
        }
        Plan::Message(plan) => (None, Some(message_to_wire(plan))),
    }
}

/// The plan of a begin from the wire.
///
/// # Errors
/// If something in it is missing or malformed, or there are two plans.
pub fn plan_from_wire(
    saga: Option<v1::SagaPlan>,
    message: Option<v1::MessagePlan>,
) -> Result<Plan, InvalidWire> {
    match (saga, message) {
        (None, None) => Ok(Plan::Open),
        (Some(saga), None) => {
            let steps = saga.steps.into_iter().map(step_from_wire).collect::<Result<_, _>>()?;
            Ok(Plan::Saga(SagaPlan { steps }))
        }
        (None, Some(message)) => Ok(Plan::Message(message_from_wire(message)?)),
        (Some(_), Some(_)) => Err(invalid("a transaction has steps or deliveries, not both")),
    }
}

fn step_to_wire(step: &SagaStep) -> v1::SagaStep {
    v1::SagaStep {
        name: step.name.to_string(),
        action: Some(target_to_wire(&step.action)),
        compensate: step.compensate.as_ref().map(target_to_wire),
        payload: step.payload.clone(),
        after: step.after.iter().map(ToString::to_string).collect(),
        role: v1::StepRole::from(step.role).into(),
        policy: policy_to_wire(&step.policy),
    }
}

fn step_from_wire(step: v1::SagaStep) -> Result<SagaStep, InvalidWire> {
    let role = step.role().to_domain().unwrap_or(StepRole::Compensatable);
    let name = BranchKey::new(step.name)?;
    let action = step.action.ok_or_else(|| invalid(format!("step {name} has no action")))?;
    Ok(SagaStep {
        action: target_from_wire(action)?,
        compensate: step.compensate.map(target_from_wire).transpose()?,
        payload: step.payload,
        after: step.after.into_iter().map(BranchKey::new).collect::<Result<_, _>>()?,
        role,
        policy: policy_from_wire(step.policy)?,
        name,
    })
}

fn message_to_wire(plan: &MessagePlan) -> v1::MessagePlan {
    let delivery = |delivery: &Delivery| v1::Delivery {
        key: delivery.key.to_string(),
        target: Some(target_to_wire(&delivery.target)),
        payload: delivery.payload.clone(),
        policy: policy_to_wire(&delivery.policy),
    };
    v1::MessagePlan {
        check_back: plan.check_back.as_ref().map(target_to_wire),
        check_back_payload: plan.check_back_payload.clone(),
        deliveries: plan.deliveries.iter().map(delivery).collect(),
        submit: plan.submit,
    }
}

fn message_from_wire(plan: v1::MessagePlan) -> Result<MessagePlan, InvalidWire> {
    let delivery = |delivery: v1::Delivery| {
        let key = BranchKey::new(delivery.key)?;
        let target = delivery.target.ok_or_else(|| invalid(format!("delivery {key} has no target")))?;
        let policy = policy_from_wire(delivery.policy)?;
        Ok(Delivery { target: target_from_wire(target)?, payload: delivery.payload, policy, key })
    };
    Ok(MessagePlan {
        check_back: plan.check_back.map(target_from_wire).transpose()?,
        check_back_payload: plan.check_back_payload,
        deliveries: plan.deliveries.into_iter().map(delivery).collect::<Result<_, InvalidWire>>()?,
        submit: plan.submit,
    })
}
