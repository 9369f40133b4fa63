//! Writing a saga down.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use unanimity_proto::policy_from_wire;
use unanimity_proto::policy_to_wire;
use unanimity_types::{BranchKey, CallPolicy, ErrorCode, Limits, SagaPlan, SagaStep, StepRole, Xid};

use crate::error::ClientError;
use crate::saga::run::WaitFor;
use crate::saga::target::StepTarget;

/// When a step's operations are tried again: waits are random, up to a span that doubles from `initial`
/// to `cap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The upper end of the first wait.
    pub initial: Duration,
    /// The upper end of every later wait.
    pub cap: Duration,
}

/// A saga: steps, what undoes them, and in which order they go.
///
/// `step` begins a step; what follows describes it, up to the next one. A step comes after the one
/// written before it, unless [`Saga::after`] says otherwise; steps that do not wait for each other run
/// at the same time.
///
/// ```no_run
/// # async fn f(client: unanimity_sdk::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use unanimity_sdk::{Saga, StepTarget};
///
/// let trip = Saga::new("trip")
///     .step("flight")
///     .action(StepTarget::participant("flights", "book"))
///     .compensate(StepTarget::participant("flights", "book"))
///     .payload(&"LH 400")?
///     .step("hotel")
///     .action(("hotels", "book"))
///     .compensate(("hotels", "book"))
///     .after([])
///     .step("pay")
///     .action(("payment", "charge"))
///     .after(["flight", "hotel"])
///     .pivot()
///     .step("tickets")
///     .action(StepTarget::http("https://post.example/send"))
///     .forward_only();
/// let done = trip.run(&client).await?;
/// let booking: Option<String> = done.result_of("flight")?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing happens before `submit` or `run`"]
pub struct Saga {
    pub(super) name: String,
    pub(super) xid: Option<Xid>,
    pub(super) timeout: Option<Duration>,
    pub(super) wait: WaitFor,
    pub(super) patience: Option<Duration>,
    steps: Vec<Step>,
    /// Something was said of a step before the first one.
    stray: Option<&'static str>,
}

#[derive(Debug, Clone)]
struct Step {
    name: String,
    action: Option<StepTarget>,
    compensate: Option<StepTarget>,
    payload: Bytes,
    after: Option<Vec<String>>,
    role: StepRole,
    policy: CallPolicy,
}

impl Saga {
    /// A saga of this name, for people: up to 128 bytes.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            xid: None,
            timeout: None,
            wait: WaitFor::default(),
            patience: None,
            steps: Vec::new(),
            stray: None,
        }
    }

    /// Begins the next step. Its name is unique in the saga: hooks and other steps know it by that.
    pub fn step(mut self, name: impl Into<String>) -> Self {
        self.steps.push(Step {
            name: name.into(),
            action: None,
            compensate: None,
            payload: Bytes::new(),
            after: None,
            role: StepRole::Compensatable,
            policy: CallPolicy::default(),
        });
        self
    }

    /// Where the step's action goes.
    pub fn action(self, target: impl Into<StepTarget>) -> Self {
        self.last("action", |step| step.action = Some(target.into()))
    }

    /// Where the step's compensation goes; without one there is nothing to undo.
    pub fn compensate(self, target: impl Into<StepTarget>) -> Self {
        self.last("compensate", |step| step.compensate = Some(target.into()))
    }

    /// What action and compensation are given, as JSON: at most 1 MiB.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] if it cannot be written as JSON, or is too large.
    pub fn payload<T: Serialize + ?Sized>(self, payload: &T) -> Result<Self, ClientError> {
        let bytes = json(payload)?;
        Ok(self.payload_bytes(bytes))
    }

    /// What action and compensation are given, as it is.
    pub fn payload_bytes(self, payload: impl Into<Bytes>) -> Self {
        self.last("payload", |step| step.payload = payload.into())
    }

    /// After which steps it comes, instead of the one written before it. None: at once.
    pub fn after<'a>(self, steps: impl IntoIterator<Item = &'a str>) -> Self {
        let names = steps.into_iter().map(str::to_owned).collect();
        self.last("after", |step| step.after = Some(names))
    }

    /// Makes the step the pivot, at most one: once it was sent out there is no way back except by its
    /// own clean refusal. Every other step comes before it or is [`Saga::forward_only`] (protocol H14).
    pub fn pivot(self) -> Self {
        self.last("pivot", |step| step.role = StepRole::Pivot)
    }

    /// The step cannot be turned back: it comes when all others are done, and is tried until it is.
    pub fn forward_only(self) -> Self {
        self.last("forward_only", |step| step.role = StepRole::ForwardOnly)
    }

    /// When the step's operations are tried again; the coordinator's own policy if not set.
    pub fn retry(self, retry: Retry) -> Self {
        self.last("retry", |step| {
            step.policy.initial = Some(retry.initial);
            step.policy.cap = Some(retry.cap);
        })
    }

    /// After so many attempts of the action without an answer the saga turns back, and after so many
    /// failed compensations the step is parked until an operator asks for a retry. Without it both go on
    /// for ever.
    pub fn give_up_after(self, attempts: u32) -> Self {
        self.last("give_up_after", |step| step.policy.give_up_after = Some(attempts))
    }

    /// How long one attempt of the step may take: at most 10 minutes; the coordinator's default if not
    /// set.
    pub fn step_timeout(self, timeout: Duration) -> Self {
        self.last("step_timeout", |step| step.policy.timeout = Some(timeout))
    }

    /// Until when the whole saga must be done, counted from its begin; the coordinator's default (60 s)
    /// if not set. Then it turns back, where there is a way back.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The xid to use, for example one that was stored before; minted if not set. The same saga under
    /// the same xid runs once, however often it is submitted.
    pub fn xid(mut self, xid: Xid) -> Self {
        self.xid = Some(xid);
        self
    }

    /// What [`Saga::run`] waits for; [`WaitFor::Decided`] if not set.
    pub fn wait(mut self, wait: WaitFor) -> Self {
        self.wait = wait;
        self
    }

    /// How long [`Saga::run`] waits; its timeout and 30 s if not set.
    pub fn wait_at_most(mut self, limit: Duration) -> Self {
        self.patience = Some(limit);
        self
    }

    fn last(mut self, what: &'static str, change: impl FnOnce(&mut Step)) -> Self {
        match self.steps.last_mut() {
            Some(step) => change(step),
            None => {
                self.stray.get_or_insert(what);
            }
        }
        self
    }

    /// The plan, as far as it can be checked without the coordinator, which looks at the order and the
    /// roles.
    pub(super) fn plan(&self) -> Result<SagaPlan, ClientError> {
        if let Some(what) = self.stray {
            return Err(invalid(format!("`{what}` comes before the first `step`")));
        }
        if self.steps.is_empty() {
            return Err(invalid("a saga has at least one step"));
        }
        if self.steps.len() > Limits::STEPS_MAX {
            let (most, here) = (Limits::STEPS_MAX, self.steps.len());
            return Err(invalid(format!("a saga has at most {most} steps, this one has {here}")));
        }
        let names: BTreeSet<&str> = self.steps.iter().map(|step| step.name.as_str()).collect();
        let mut seen = BTreeSet::new();
        let mut steps: Vec<SagaStep> = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            if !seen.insert(step.name.as_str()) {
                return Err(invalid(format!("two steps are named {:?}", step.name)));
            }
            let before = steps.last().map(|step| step.name.clone());
            steps.push(checked(step, before, &names)?);
        }
        let bytes: usize = steps.iter().map(|step| step.payload.len()).sum();
        if bytes > Limits::PLAN_BYTES_MAX {
            let most = Limits::PLAN_BYTES_MAX;
            return Err(invalid(format!("the payloads have at most {most} bytes together, here {bytes}")));
        }
        Ok(SagaPlan { steps })
    }
}

fn checked(step: &Step, before: Option<BranchKey>, names: &BTreeSet<&str>) -> Result<SagaStep, ClientError> {
    let in_step = |error: &dyn std::fmt::Display| format!("step {:?}: {error}", step.name);
    let name = BranchKey::new(step.name.as_str()).map_err(|error| invalid(in_step(&error)))?;
    let action = step.action.as_ref().ok_or_else(|| invalid(in_step(&"it has no action")))?;
    let target = |target: &StepTarget| {
        target.check().map_err(|error| match error {
            ClientError::Invalid { code, message } => {
                ClientError::Invalid { code, message: in_step(&message) }
            }
            other => other,
        })
    };
    payload_fits(&step.payload)?;
    let after = match &step.after {
        None => before.into_iter().collect(),
        Some(after) => {
            if let Some(unknown) = after.iter().find(|name| !names.contains(name.as_str())) {
                return Err(invalid(in_step(&format!("it comes after {unknown:?}, which is no step"))));
            }
            after.iter().filter_map(|name| BranchKey::new(name.as_str()).ok()).collect()
        }
    };
    Ok(SagaStep {
        action: target(action)?,
        compensate: step.compensate.as_ref().map(target).transpose()?,
        payload: step.payload.clone(),
        after,
        role: step.role,
        policy: policy_fits(step.policy).map_err(|message| invalid(in_step(&message)))?,
        name,
    })
}

/// The same limits as the coordinator's.
pub(crate) fn policy_fits(policy: CallPolicy) -> Result<CallPolicy, String> {
    let zero = [policy.initial, policy.cap, policy.timeout].into_iter().flatten().any(|d| d.as_millis() == 0);
    if zero || policy.give_up_after == Some(0) {
        return Err("waits and timeouts are at least a millisecond, attempts at least one".into());
    }
    policy_from_wire(policy_to_wire(&policy)).map_err(|error| error.message)
}

pub(crate) fn payload_fits(payload: &Bytes) -> Result<(), ClientError> {
    if payload.len() <= Limits::PAYLOAD_BYTES_MAX {
        return Ok(());
    }
    Err(ClientError::Invalid {
        code: ErrorCode::PayloadTooLarge,
        message: format!("the payload has {} bytes, at most 1 MiB are kept", payload.len()),
    })
}

pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, ClientError> {
    let bytes = serde_json::to_vec(value).map_err(|error| ClientError::Invalid {
        code: ErrorCode::InvalidRequest,
        message: format!("the payload cannot be written as JSON: {error}"),
    })?;
    let bytes = Bytes::from(bytes);
    payload_fits(&bytes).map(|()| bytes)
}

pub(crate) fn invalid(message: impl Into<String>) -> ClientError {
    ClientError::Invalid { code: ErrorCode::InvalidPlan, message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Saga {
        Saga::new("trip").step("a").action(("p", "a")).step("b").action(("p", "b"))
    }

    fn message(saga: &Saga) -> String {
        saga.plan().expect_err("not a plan").to_string()
    }

    #[test]
    fn a_step_comes_after_the_one_before_it_unless_told_otherwise() {
        let saga =
            two().step("c").action(("p", "c")).after([]).step("d").action(("p", "d")).after(["a", "c"]);
        let plan = saga.plan().expect("a plan");
        let after: Vec<Vec<&str>> =
            plan.steps.iter().map(|step| step.after.iter().map(BranchKey::as_str).collect()).collect();
        assert_eq!(after, [vec![], vec!["a"], vec![], vec!["a", "c"]]);
    }

    #[test]
    fn what_can_be_seen_here_is_said_here() {
        assert!(message(&Saga::new("x")).contains("at least one step"));
        assert!(message(&Saga::new("x").action(("p", "a")).step("a")).contains("before the first `step`"));
        assert!(message(&Saga::new("x").step("a")).contains("no action"));
        assert!(message(&two().step("a").action(("p", "a"))).contains("two steps are named \"a\""));
        assert!(message(&two().after(["nope"])).contains("after \"nope\", which is no step"));
        assert!(message(&two().action(("", "a"))).contains("step \"b\""));
        assert!(message(&two().compensate(StepTarget::http("ftp://x"))).contains("step \"b\""));
        assert!(message(&two().give_up_after(0)).contains("at least one"));
        assert!(message(&two().step_timeout(Duration::from_secs(601))).contains("600 s"));
        assert!(message(&two().payload_bytes(vec![0; 1024 * 1024 + 1])).contains("1 MiB"));
        assert!(message(&two().step("n".repeat(129)).action(("p", "a"))).contains("step"));
        let many = (0..1_001).fold(Saga::new("x"), |saga, n| saga.step(n.to_string()).action(("p", "a")));
        assert!(message(&many).contains("at most 1000 steps"));
        let large = (0..5).fold(Saga::new("x"), |saga, n| {
            saga.step(n.to_string()).action(("p", "a")).payload_bytes(vec![0; 1024 * 1024])
        });
        assert!(message(&large).contains("together"));
    }
}
