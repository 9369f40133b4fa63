//! Writing a message down, and sending one with a transaction.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use unanimity_proto::{plan_to_wire, policy_to_wire, target_to_wire, v1};
use unanimity_types::{BranchKey, CallPolicy, Delivery, ErrorCode, Limits, MessagePlan, Plan, Xid};

use crate::client::{Client, GlobalTransaction, check_begin};
use crate::context::Context;
use crate::error::ClientError;
use crate::message::prepared::PreparedMessage;
use crate::saga::{Retry, StepTarget, invalid, json, payload_fits, policy_fits};

/// A message that is about to be prepared: see [`Client::message`].
///
/// ```no_run
/// # #[cfg(feature = "sqlite")]
/// # async fn f(client: unanimity_sdk::Client, fence: unanimity_sdk::Fence<sqlx::Sqlite>) -> Result<(), Box<dyn std::error::Error>> {
/// let message = client
///     .message("order-placed")
///     .deliver(("mail", "send"), &"order 7")?
///     .deliver(("stock", "take"), &7)?
///     .check_back("orders", "order-placed")
///     .prepare()
///     .await?;
/// message
///     .in_local_transaction(&fence, |tx| Box::pin(async move {
///         sqlx::query("INSERT INTO orders (id) VALUES (7)").execute(&mut **tx).await.map(drop)
///     }))
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing happens before `prepare`"]
pub struct MessageBuilder {
    client: Client,
    name: String,
    xid: Option<Xid>,
    timeout: Duration,
    sender: Option<(String, String)>,
    deliveries: Vec<Pending>,
}

#[derive(Debug, Clone)]
struct Pending {
    key: Option<String>,
    target: StepTarget,
    payload: Bytes,
    policy: CallPolicy,
}

impl Client {
    /// A message of this name, for people: up to 128 bytes. See [`MessageBuilder`].
    pub fn message(&self, name: impl Into<String>) -> MessageBuilder {
        MessageBuilder {
            client: self.clone(),
            name: name.into(),
            xid: None,
            timeout: Limits::TIMEOUT_DEFAULT,
            sender: None,
            deliveries: Vec::new(),
        }
    }

    /// Sends a message with a transaction that somebody else began, from inside of a request that
    /// belongs to it: see [`GlobalTransaction::send_on_commit`]. The vote goes back with the answer.
    ///
    /// # Errors
    /// As [`GlobalTransaction::send_on_commit`].
    pub async fn send_on_commit(
        &self,
        transaction: &impl AsRef<Context>,
        message: OnCommit,
    ) -> Result<BranchKey, ClientError> {
        /// As for other branches: longer than a partition is without an owner.
        const REGISTER_FOR: Duration = Duration::from_secs(15);
        let context = transaction.as_ref();
        let Pending { key, target, payload, policy } = message.0;
        let key = match key {
            Some(key) => {
                BranchKey::new(key).map_err(|error| invalid(format!("the message's key: {error}")))?
            }
            None => context.next_key("message", "on-commit"),
        };
        payload_fits(&payload)?;
        let policy = policy_fits(policy).map_err(invalid)?;
        let request = v1::RegisterBranchRequest {
            xid: context.xid().to_string(),
            key: key.to_string(),
            targets: Some(v1::BranchTargets {
                one: Some(target_to_wire(&target.check()?)),
                ..Default::default()
            }),
            payload,
            log_id: context.log_id().map(|id| id.to_string()).unwrap_or_default(),
            birth: context.birth(),
            kind: v1::BranchKind::Message.into(),
            policy: policy_to_wire(&policy),
            ..Default::default()
        };
        let left = context.remaining().unwrap_or(REGISTER_FOR).min(REGISTER_FOR);
        self.register_branch(request, left, Duration::ZERO).await?;
        // A message has nothing to refuse: registered, it has voted.
        context.add_votes([key.clone()]);
        Ok(key)
    }
}

impl GlobalTransaction {
    /// Sends a message with this transaction: it is delivered if the transaction commits, at least once,
    /// and never if it aborts. Returns when it is registered, with its key: receivers dedupe by (xid,
    /// key).
    ///
    /// ```no_run
    /// # async fn f(tx: unanimity_sdk::GlobalTransaction) -> Result<(), unanimity_sdk::ClientError> {
    /// use unanimity_sdk::OnCommit;
    ///
    /// tx.send_on_commit(OnCommit::to(("mail", "send")).payload(&"order 7")?).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ClientError`]. Without its vote the message aborts the transaction, if it was registered.
    pub async fn send_on_commit(&self, message: OnCommit) -> Result<BranchKey, ClientError> {
        self.client().send_on_commit(self, message).await
    }
}

/// A message that goes out when a transaction commits: see [`GlobalTransaction::send_on_commit`].
#[derive(Debug, Clone)]
#[must_use = "it is for send_on_commit"]
pub struct OnCommit(Pending);

impl OnCommit {
    /// A message to this receiver.
    pub fn to(target: impl Into<StepTarget>) -> Self {
        let (target, policy) = (target.into(), CallPolicy::default());
        Self(Pending { key: None, target, payload: Bytes::new(), policy })
    }

    /// What it says, as JSON: at most 1 MiB.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] if it cannot be written as JSON, or is too large.
    pub fn payload<T: Serialize + ?Sized>(mut self, payload: &T) -> Result<Self, ClientError> {
        self.0.payload = json(payload)?;
        Ok(self)
    }

    /// What it says, as it is.
    pub fn payload_bytes(mut self, payload: impl Into<Bytes>) -> Self {
        self.0.payload = payload.into();
        self
    }

    /// Its key in the transaction; minted if not set. The same key is the same message.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.0.key = Some(key.into());
        self
    }

    /// When it is delivered again; the coordinator's own policy if not set.
    pub fn retry(mut self, retry: Retry) -> Self {
        (self.0.policy.initial, self.0.policy.cap) = (Some(retry.initial), Some(retry.cap));
        self
    }

    /// After so many failed deliveries it is parked, a dead letter, until an operator asks for a retry;
    /// never if not set.
    pub fn give_up_after(mut self, attempts: u32) -> Self {
        self.0.policy.give_up_after = Some(attempts);
        self
    }
}

impl MessageBuilder {
    /// Adds a receiver, and what it is told, as JSON: at most 1 MiB. At least one, at most 100.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] if it cannot be written as JSON, or is too large.
    pub fn deliver<T: Serialize + ?Sized>(
        self,
        target: impl Into<StepTarget>,
        payload: &T,
    ) -> Result<Self, ClientError> {
        let bytes = json(payload)?;
        Ok(self.deliver_bytes(target, bytes))
    }

    /// Adds a receiver, and what it is told as it is.
    pub fn deliver_bytes(mut self, target: impl Into<StepTarget>, payload: impl Into<Bytes>) -> Self {
        let (target, payload) = (target.into(), payload.into());
        self.deliveries.push(Pending { key: None, target, payload, policy: CallPolicy::default() });
        self
    }

    /// The key of the receiver named last; numbers from 1 if not set.
    pub fn key(self, key: impl Into<String>) -> Self {
        self.last(|delivery| delivery.key = Some(key.into()))
    }

    /// When it is delivered again to the receiver named last; the coordinator's own policy if not set.
    pub fn retry(self, retry: Retry) -> Self {
        self.last(|delivery| {
            (delivery.policy.initial, delivery.policy.cap) = (Some(retry.initial), Some(retry.cap));
        })
    }

    /// After so many failed deliveries the one named last is parked, a dead letter, until an operator
    /// asks for a retry; never if not set.
    pub fn give_up_after(self, attempts: u32) -> Self {
        self.last(|delivery| delivery.policy.give_up_after = Some(attempts))
    }

    fn last(mut self, change: impl FnOnce(&mut Pending)) -> Self {
        if let Some(delivery) = self.deliveries.last_mut() {
            change(delivery);
        }
        self
    }

    /// Who is asked whether the local transaction committed, if no submit comes: the participant whose
    /// fence the local transaction writes to, and a name that it serves
    /// ([`crate::ParticipantBuilder::sender`]).
    pub fn check_back(mut self, participant: impl Into<String>, name: impl Into<String>) -> Self {
        self.sender = Some((participant.into(), name.into()));
        self
    }

    /// When the sender is asked, if no submit has come: 60 s after the message was prepared if not set.
    /// The local transaction must begin before.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The xid to use; minted if not set.
    pub fn xid(mut self, xid: Xid) -> Self {
        self.xid = Some(xid);
        self
    }

    /// Prepares the message: from now on it is delivered if the local transaction commits. A message
    /// that is prepared and dropped is given up after its timeout.
    ///
    /// # Errors
    /// [`ClientError`]: do not begin the local transaction then. Should it have been prepared all the
    /// same, it is given up after its timeout.
    pub async fn prepare(self) -> Result<PreparedMessage, ClientError> {
        check_begin(&self.name, Some(self.timeout))?;
        let (xid, ticket) = self.client.xid_for_begin(self.xid);
        let plan = self.plan()?;
        let Some((participant, operation)) = self.sender else {
            return Err(invalid(
                "a message needs a check_back: who knows whether its local transaction committed",
            ));
        };
        let (saga, message) = plan_to_wire(&Plan::Message(plan));
        let request = v1::BeginRequest {
            mode: v1::Mode::Message.into(),
            name: self.name,
            xid: xid.to_string(),
            timeout_ms: u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX),
            saga,
            message,
            wait: v1::Wait::Accepted.into(),
            ticket,
        };
        // Before the call: the coordinator's clock starts later than these.
        let started = (Instant::now(), crate::wall_clock::now());
        let begun = self.client.begin_plan(request).await?;
        // Repeated under an xid that is over. What its local transaction, or a check-back, left in the
        // fence may be collected: another one would commit without its message, or a second time.
        if begun.status.decision().is_some() {
            return Err(ClientError::Refused {
                code: ErrorCode::AlreadyDecided,
                message: format!("the message {xid} is {} already", begun.status),
                status: Some(begun.status),
                abort_reason: None,
                retry_after: None,
            });
        }
        Ok(PreparedMessage::new(self.client, xid, begun, participant, operation, started, self.timeout))
    }

    fn plan(&self) -> Result<MessagePlan, ClientError> {
        if self.deliveries.is_empty() {
            return Err(invalid("a message has at least one receiver"));
        }
        if self.deliveries.len() > Limits::DELIVERIES_MAX {
            return Err(invalid(format!("a message has at most {} receivers", Limits::DELIVERIES_MAX)));
        }
        let mut deliveries: Vec<Delivery> = Vec::with_capacity(self.deliveries.len());
        for (place, pending) in self.deliveries.iter().enumerate() {
            let key = pending.key.clone().unwrap_or_else(|| (place + 1).to_string());
            let key =
                BranchKey::new(key).map_err(|error| invalid(format!("receiver {}: {error}", place + 1)))?;
            if key.as_str() == BranchKey::SENDER {
                return Err(invalid("the key \"sender\" is the sender's own"));
            }
            if deliveries.iter().any(|known| known.key == key) {
                return Err(invalid(format!("two receivers have the key {key}")));
            }
            payload_fits(&pending.payload)?;
            let policy =
                policy_fits(pending.policy).map_err(|error| invalid(format!("receiver {key}: {error}")))?;
            deliveries.push(Delivery {
                target: pending.target.check()?,
                payload: pending.payload.clone(),
                policy,
                key,
            });
        }
        let check_back = self.sender.clone().map(|sender| StepTarget::from(sender).check()).transpose()?;
        Ok(MessagePlan { check_back, check_back_payload: Bytes::new(), deliveries, submit: false })
    }
}
