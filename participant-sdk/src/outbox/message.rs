//! A message: what it says, whose turn it waits for, and where it goes.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use unanimity_proto::{target_from_wire, v1};
use unanimity_types::{CallPolicy, ErrorCode, Limits, Name, Target};

use super::OutboxError;

/// Room in a gRPC message for what surrounds the payloads: names, keys, tags. The targets are
/// counted by themselves.
const ENVELOPE_BYTES: usize = 64 * 1024;

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageTarget(pub(crate) Target);

impl MessageTarget {
    /// Any attached instance of a participant, to the receiver of this name.
    ///
    /// # Errors
    /// [`OutboxError::Invalid`] if one of them is no name: 1 to 128 bytes without control characters.
    pub fn participant(
        participant: impl Into<String>,
        receiver: impl Into<String>,
    ) -> Result<Self, OutboxError> {
        let target = v1::ParticipantTarget { participant: participant.into(), operation: receiver.into() };
        Self::from_wire(v1::target::Kind::Participant(target))
    }

    /// A URL that is called by `POST`.
    ///
    /// # Errors
    /// [`OutboxError::Invalid`] if it is none. Whether the coordinator may call it is for its allow
    /// list to say: a message to a target that is not on it becomes a dead letter.
    pub fn url(url: impl Into<String>) -> Result<Self, OutboxError> {
        Self::from_wire(v1::target::Kind::Url(url.into()))
    }

    /// A server with the service `unanimity.v1.BranchCallback`, for example `http://10.0.0.7:9000`.
    ///
    /// # Errors
    /// As [`MessageTarget::url`].
    pub fn grpc(address: impl Into<String>) -> Result<Self, OutboxError> {
        Self::from_wire(v1::target::Kind::Grpc(address.into()))
    }

    fn from_wire(kind: v1::target::Kind) -> Result<Self, OutboxError> {
        target_from_wire(v1::Target { kind: Some(kind) })
            .map(Self)
            .map_err(|error| OutboxError::invalid(error.code, error.message))
    }
}

/// A message that is about to be written into the outbox.
///
/// ```
/// # fn f() -> Result<(), unanimity_sdk::OutboxError> {
/// use unanimity_sdk::{Message, MessageTarget};
///
/// let message = Message::new("order-placed")
///     .key("order-7")?
///     .payload(&serde_json::json!({ "order": 7 }))?
///     .to(MessageTarget::participant("mail", "welcome")?)
///     .give_up_after(20);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Message {
    name: String,
    key: Option<String>,
    payload: Bytes,
    targets: Vec<Target>,
    policy: CallPolicy,
}

impl Message {
    /// A message of this name or topic: 1 to 128 bytes, for people and pages.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            key: None,
            payload: Bytes::new(),
            targets: Vec::new(),
            policy: CallPolicy::default(),
        }
    }

    /// Messages of one key are delivered one after another, in the order of their sends. Without a
    /// key a message waits for no other.
    ///
    /// The order is that of transactions that exclude one another when they send, for example
    /// because each changed the order's row before: of two that run side by side, either may be
    /// first.
    ///
    /// # Errors
    /// [`OutboxError::Invalid`] if it is no name: 1 to 128 bytes without control characters.
    pub fn key(mut self, key: impl Into<String>) -> Result<Self, OutboxError> {
        self.key = Some(name(key.into())?);
        Ok(self)
    }

    /// What the receivers get, as JSON: at most 1 MiB.
    ///
    /// # Errors
    /// [`OutboxError::Invalid`] if it cannot be written as JSON.
    pub fn payload<T: Serialize>(mut self, payload: &T) -> Result<Self, OutboxError> {
        let json = serde_json::to_vec(payload)
            .map_err(|error| OutboxError::invalid(ErrorCode::InvalidRequest, error.to_string()))?;
        self.payload = json.into();
        Ok(self)
    }

    /// What the receivers get, byte by byte: at most 1 MiB.
    #[must_use]
    pub fn bytes(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// One more receiver; at most 100.
    #[must_use]
    pub fn to(mut self, target: MessageTarget) -> Self {
        self.targets.push(target.0);
        self
    }

    /// After so many failed attempts of one delivery no more are made and the message becomes a dead
    /// letter. 0, the default: never, it is tried until it is delivered.
    #[must_use]
    pub fn give_up_after(mut self, attempts: u32) -> Self {
        self.policy.give_up_after = (attempts > 0).then_some(attempts);
        self
    }

    /// The upper ends of the first and of every later wait between attempts; the coordinator's own
    /// if not set.
    #[must_use]
    pub fn retry(mut self, initial: Duration, cap: Duration) -> Self {
        (self.policy.initial, self.policy.cap) = (Some(initial), Some(cap));
        self
    }

    /// How long one attempt of a delivery may take, at most 10 minutes; the coordinator's own if not
    /// set.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.policy.timeout = Some(timeout);
        self
    }

    pub(crate) fn ordering_key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Checks what the coordinator would refuse later, where nobody could be told any more.
    pub(crate) fn checked(&self) -> Result<Outgoing<'_>, OutboxError> {
        name(self.name.clone())?;
        if self.targets.is_empty() {
            return Err(OutboxError::NoReceiver);
        }
        let receivers = self.targets.len();
        if receivers > Limits::DELIVERIES_MAX {
            let most = Limits::DELIVERIES_MAX;
            return Err(OutboxError::invalid(
                ErrorCode::InvalidPlan,
                format!("a message has at most {most} receivers, this one has {receivers}"),
            ));
        }
        let (bytes, most) = (self.payload.len(), Limits::PAYLOAD_BYTES_MAX);
        if bytes > most {
            return Err(OutboxError::invalid(
                ErrorCode::PayloadTooLarge,
                format!("a message's payload has at most {most} bytes, this one has {bytes}"),
            ));
        }
        // Each receiver's delivery carries the payload.
        let addresses: usize = self.targets.iter().map(target_bytes).sum();
        let most = Limits::PLAN_BYTES_MAX.min(Limits::MESSAGE_BYTES_MAX) - ENVELOPE_BYTES;
        if bytes.saturating_mul(receivers).saturating_add(addresses) > most {
            return Err(OutboxError::invalid(
                ErrorCode::PayloadTooLarge,
                format!("{bytes} bytes for each of {receivers} receivers are more than {most} together"),
            ));
        }
        let too_long = |wait: Option<Duration>, most: Duration| wait.is_some_and(|wait| wait > most);
        if too_long(self.policy.timeout, Limits::CALL_TIMEOUT_MAX)
            || too_long(self.policy.initial.max(self.policy.cap), Limits::TIMEOUT_MAX)
        {
            return Err(OutboxError::invalid(
                ErrorCode::InvalidPlan,
                "one attempt may take at most 10 minutes, a wait between attempts at most 31 days",
            ));
        }
        let plan = StoredPlan {
            to: self.targets.iter().map(StoredTarget::from).collect(),
            policy: StoredPolicy::from(self.policy),
        };
        let plan = serde_json::to_string(&plan)
            .map_err(|error| OutboxError::invalid(ErrorCode::InvalidPlan, error.to_string()))?;
        Ok(Outgoing { name: &self.name, key: self.key.as_deref(), payload: &self.payload, plan })
    }
}

/// A message that was checked.
pub(crate) struct Outgoing<'a> {
    pub(crate) name: &'a str,
    pub(crate) key: Option<&'a str>,
    pub(crate) payload: &'a [u8],
    /// A [`StoredPlan`] as JSON.
    pub(crate) plan: String,
}

fn name(text: String) -> Result<String, OutboxError> {
    match Name::new(text) {
        Ok(name) => Ok(name.to_string()),
        Err(error) => Err(OutboxError::invalid(ErrorCode::InvalidName, error.to_string())),
    }
}

fn target_bytes(target: &Target) -> usize {
    match target {
        Target::Participant { participant, operation } => {
            participant.as_str().len() + operation.as_str().len()
        }
        Target::Grpc(url) | Target::Http(url) => url.len(),
    }
}

/// How the plan stands in the row. A repeated hand-over must have the same body, so everything that
/// goes to the coordinator is kept here, nothing is added later.
#[derive(Serialize, Deserialize)]
struct StoredPlan {
    to: Vec<StoredTarget>,
    #[serde(default)]
    policy: StoredPolicy,
}

/// The form of the HTTP API's targets.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredTarget {
    Url { url: String },
    Grpc { grpc: String },
    Participant { participant: String, operation: String },
}

#[derive(Default, Serialize, Deserialize)]
struct StoredPolicy {
    #[serde(default, skip_serializing_if = "is_zero")]
    initial_ms: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    cap_ms: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    timeout_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    give_up_after: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl From<CallPolicy> for StoredPolicy {
    fn from(policy: CallPolicy) -> Self {
        let millis = |wait: Option<Duration>| {
            wait.map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
        };
        Self {
            initial_ms: millis(policy.initial),
            cap_ms: millis(policy.cap),
            timeout_ms: millis(policy.timeout),
            give_up_after: policy.give_up_after,
        }
    }
}

impl From<StoredPolicy> for CallPolicy {
    fn from(policy: StoredPolicy) -> Self {
        let some = |millis: u64| (millis > 0).then(|| Duration::from_millis(millis));
        Self {
            initial: some(policy.initial_ms),
            cap: some(policy.cap_ms),
            give_up_after: policy.give_up_after,
            timeout: some(policy.timeout_ms),
        }
    }
}

impl From<&Target> for StoredTarget {
    fn from(target: &Target) -> Self {
        match target {
            Target::Participant { participant, operation } => {
                Self::Participant { participant: participant.to_string(), operation: operation.to_string() }
            }
            Target::Grpc(url) => Self::Grpc { grpc: url.to_string() },
            Target::Http(url) => Self::Url { url: url.to_string() },
        }
    }
}

/// Reads a row's plan. `None`: this version cannot.
pub(crate) fn read_plan(plan: &str) -> Option<(Vec<Target>, CallPolicy)> {
    let plan: StoredPlan = serde_json::from_str(plan).ok()?;
    let target = |target| {
        let target = match target {
            StoredTarget::Url { url } => MessageTarget::url(url),
            StoredTarget::Grpc { grpc } => MessageTarget::grpc(grpc),
            StoredTarget::Participant { participant, operation } => {
                MessageTarget::participant(participant, operation)
            }
        };
        target.ok().map(|target| target.0)
    };
    let targets = plan.to.into_iter().map(target).collect::<Option<Vec<_>>>()?;
    Some((targets, plan.policy.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_mail() -> MessageTarget {
        MessageTarget::participant("mail", "welcome").expect("valid")
    }

    #[test]
    fn a_plan_reads_what_it_writes() {
        let message = Message::new("m")
            .to(to_mail())
            .to(MessageTarget::url("https://a.example/x").expect("valid"))
            .to(MessageTarget::grpc("http://10.0.0.7:9000").expect("valid"))
            .give_up_after(3)
            .timeout(Duration::from_secs(4));
        let plan = message.checked().expect("valid").plan;
        let (targets, policy) = read_plan(&plan).expect("readable");
        assert_eq!(targets, message.targets);
        assert_eq!(policy, message.policy);
    }

    #[test]
    fn a_message_with_no_receiver_is_refused() {
        assert!(matches!(Message::new("m").checked(), Err(OutboxError::NoReceiver)));
    }

    #[test]
    fn limits_and_one_beyond() {
        let code = |message: Message| match message.checked() {
            Ok(_) => None,
            Err(OutboxError::Invalid { code, .. }) => Some(code),
            Err(error) => panic!("{error}"),
        };
        let most = Limits::PAYLOAD_BYTES_MAX;
        let sized = |bytes: usize| Message::new("m").bytes(vec![0; bytes]).to(to_mail());
        assert_eq!(code(sized(most)), None);
        assert_eq!(code(sized(most + 1)), Some(ErrorCode::PayloadTooLarge));
        // Four deliveries of the largest payload leave no room for the envelope.
        let many = (0..3).fold(sized(most), |message, _| message.to(to_mail()));
        assert_eq!(code(many), Some(ErrorCode::PayloadTooLarge));
        let receivers = |count| (0..count).fold(Message::new("m"), |message, _| message.to(to_mail()));
        assert_eq!(code(receivers(Limits::DELIVERIES_MAX)), None);
        assert_eq!(code(receivers(Limits::DELIVERIES_MAX + 1)), Some(ErrorCode::InvalidPlan));
        assert_eq!(code(Message::new("").to(to_mail())), Some(ErrorCode::InvalidName));
        let slow = Message::new("m").to(to_mail()).timeout(Duration::from_secs(601));
        assert_eq!(code(slow), Some(ErrorCode::InvalidPlan));
        assert!(Message::new("m").key("").is_err());
        assert!(Message::new("m").key("k\0").is_err());
        assert!(Message::new("m").key("k".repeat(129)).is_err());
        assert!(MessageTarget::url("ftp://a").is_err());
    }

    #[test]
    fn an_unreadable_plan_is_none() {
        for plan in ["", "{}", r#"{"to":[{"fax":"1"}]}"#, r#"{"to":[{"url":"x"}]}"#] {
            assert!(read_plan(plan).is_none(), "{plan}");
        }
    }
}
