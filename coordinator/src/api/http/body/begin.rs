//! The request that begins a transaction, with its plan.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use unanimity_types::{
    BranchKey, Delivery, ErrorCode, MessagePlan, Mode, Name, Plan, SagaPlan, SagaStep, StepRole,
};
use utoipa::ToSchema;

use super::request::WaitWord;
use super::target::{RetryBody, TargetBody, key, payload, policy};
use crate::api::http::extract::xid;
use crate::api::http::problem::Failure;
use crate::engine::{Begin, Wait};

/// Begin a transaction.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BeginBody {
    /// `tcc`, `saga`, `two_phase` or `message`.
    #[schema(example = "tcc")]
    pub(crate) mode: String,
    /// What it is, for people.
    #[schema(example = "place-order")]
    pub(crate) name: Option<String>,
    /// A UUID of your own: a repeated call with the same body is answered as the first time.
    pub(crate) xid: Option<String>,
    /// Until when it must be decided; the default is a minute. A message that is not submitted until then
    /// is settled by asking its sender.
    #[schema(example = 30_000)]
    pub(crate) timeout_ms: Option<u64>,
    /// How far to wait; `accepted` if not given. What only you can decide is not waited for.
    pub(crate) wait: Option<WaitWord>,
    /// Saga: 1 to 1,000 steps.
    pub(crate) steps: Option<Vec<StepBody>>,
    /// Message: its 1 to 100 deliveries.
    pub(crate) deliver: Option<Vec<DeliverBody>>,
    /// Message: who is asked whether the local transaction committed, if the submit does not come in
    /// time. May be missing only with `submit`.
    pub(crate) check_back: Option<TargetBody>,
    /// Message: any JSON, given with every check-back.
    #[schema(value_type = Option<Object>)]
    pub(crate) check_back_payload: Option<Box<RawValue>>,
    /// Message: the local transaction committed already (an outbox): deliver.
    pub(crate) submit: Option<bool>,
}

/// A step of a saga.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StepBody {
    /// Unique in the saga; it is the branch's key.
    #[schema(example = "flight")]
    pub(crate) name: String,
    /// Where its action goes.
    pub(crate) action: TargetBody,
    /// Where its compensation goes. Missing: there is nothing to undo.
    pub(crate) compensate: Option<TargetBody>,
    /// Any JSON; given with the action and with the compensation. At most 1 MiB.
    #[schema(value_type = Option<Object>)]
    pub(crate) payload: Option<Box<RawValue>>,
    /// The steps that must be done before. Missing: the step before it in the list; `[]`: none.
    pub(crate) after: Option<Vec<String>>,
    /// `compensatable` (if nothing is given), `pivot` or `forward_only`.
    pub(crate) role: Option<String>,
    /// When it is tried again.
    pub(crate) retry: Option<RetryBody>,
    /// How long one attempt may take; at most 600,000.
    pub(crate) timeout_ms: Option<u64>,
}

/// One delivery of a message: its target is one of `url`, `grpc`, or `participant` with `operation`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeliverBody {
    /// Receivers dedupe by xid and key. Unique in the message; `deliver-1`, `deliver-2`, … by their order if
    /// not given.
    pub(crate) key: Option<String>,
    /// A URL that is called by POST.
    pub(crate) url: Option<String>,
    /// The address of a server with the gRPC service `unanimity.v1.BranchCallback`.
    pub(crate) grpc: Option<String>,
    /// The name of an attached participant.
    pub(crate) participant: Option<String>,
    /// The name of its hooks.
    pub(crate) operation: Option<String>,
    /// Any JSON: the message. At most 1 MiB.
    #[schema(value_type = Option<Object>)]
    pub(crate) payload: Option<Box<RawValue>>,
    /// When it is tried again.
    pub(crate) retry: Option<RetryBody>,
    /// How long one attempt may take; at most 600,000.
    pub(crate) timeout_ms: Option<u64>,
}

/// A mode's word.
pub(in crate::api::http) fn mode(word: &str) -> Result<Mode, Failure> {
    word.parse().map_err(|_| {
        let known: Vec<&str> = Mode::ALL.iter().map(|mode| mode.as_str()).collect();
        Failure::new(ErrorCode::InvalidMode, format!("mode: one of {}", known.join(", ")))
    })
}

impl BeginBody {
    /// What the engine is asked, and how far the answer waits.
    pub(in crate::api::http) fn into_begin(self) -> Result<(Begin, Wait), Failure> {
        let mode = mode(&self.mode)?;
        let is_message = self.deliver.is_some()
            || self.check_back.is_some()
            || self.check_back_payload.is_some()
            || self.submit.is_some();
        if self.steps.is_some() && mode != Mode::Saga {
            let message = format!("steps belong to mode saga, not to {mode}");
            return Err(Failure::new(ErrorCode::InvalidMode, message));
        }
        if is_message && mode != Mode::Message {
            let message = format!(
                "deliver, check_back, check_back_payload and submit belong to mode message, not to {mode}"
            );
            return Err(Failure::new(ErrorCode::InvalidMode, message));
        }
        // No name and an empty name are the same, as in gRPC.
        let name = self
            .name
            .filter(|name| !name.is_empty())
            .map(|name| {
                Name::new(name)
                    .map_err(|error| Failure::new(ErrorCode::InvalidName, format!("name: {error}")))
            })
            .transpose()?;
        let plan = match mode {
            Mode::Tcc | Mode::TwoPhase => Plan::Open,
            Mode::Saga => Plan::Saga(saga(self.steps.unwrap_or_default())?),
            Mode::Message => Plan::Message(MessagePlan {
                check_back: self.check_back.map(|target| target.into_target("check_back")).transpose()?,
                check_back_payload: payload(self.check_back_payload),
                deliveries: self
                    .deliver
                    .unwrap_or_default()
                    .into_iter()
                    .enumerate()
                    .map(|(place, deliver)| deliver.into_delivery(place + 1))
                    .collect::<Result<_, _>>()?,
                submit: self.submit.unwrap_or_default(),
            }),
        };
        let begin = Begin {
            mode,
            name,
            xid: self.xid.as_deref().map(xid).transpose()?,
            timeout: self.timeout_ms.map(Duration::from_millis),
            plan,
            ticket: None,
        };
        Ok((begin, self.wait.map_or(Wait::Accepted, Wait::from)))
    }
}

fn saga(bodies: Vec<StepBody>) -> Result<SagaPlan, Failure> {
    let mut steps: Vec<SagaStep> = Vec::new();
    for body in bodies {
        let before = steps.last().map(|step| step.name.clone());
        steps.push(body.into_step(before)?);
    }
    Ok(SagaPlan { steps })
}

impl StepBody {
    fn into_step(self, before: Option<BranchKey>) -> Result<SagaStep, Failure> {
        let name = key("steps: name", self.name)?;
        let what = format!("step {name}");
        let role = match self.role {
            None => StepRole::Compensatable,
            Some(word) => word.parse().map_err(|_| {
                let known: Vec<&str> = StepRole::ALL.iter().map(|role| role.as_str()).collect();
                Failure::new(ErrorCode::InvalidPlan, format!("{what}: role: one of {}", known.join(", ")))
            })?,
        };
        let after = match self.after {
            None => before.into_iter().collect(),
            Some(names) => names
                .into_iter()
                .map(|text| key(&format!("{what}: after"), text))
                .collect::<Result<_, _>>()?,
        };
        Ok(SagaStep {
            action: self.action.into_target(&format!("{what}: action"))?,
            compensate: self
                .compensate
                .map(|target| target.into_target(&format!("{what}: compensate")))
                .transpose()?,
            payload: payload(self.payload),
            after,
            role,
            policy: policy(self.retry, self.timeout_ms, &what)?,
            name,
        })
    }
}

impl DeliverBody {
    /// `place` is counted from 1.
    fn into_delivery(self, place: usize) -> Result<Delivery, Failure> {
        let what = format!("deliver {place}");
        let target = TargetBody {
            url: self.url,
            grpc: self.grpc,
            participant: self.participant,
            operation: self.operation,
        };
        Ok(Delivery {
            // The same in a repeated call: the xid's digest covers it.
            key: key(&what, self.key.unwrap_or_else(|| format!("deliver-{place}")))?,
            target: target.into_target(&what)?,
            payload: payload(self.payload),
            policy: policy(self.retry, self.timeout_ms, &what)?,
        })
    }
}
