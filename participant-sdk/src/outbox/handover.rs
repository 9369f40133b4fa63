//! The seam between the relay and the coordinator.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use unanimity_types::{CallPolicy, Target, Xid};

/// A message on its way to the coordinator. The same message has the same content each time.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HandoverMessage {
    /// The message's id, and the xid of the transaction that delivers it.
    pub id: Xid,
    /// Its name or topic.
    pub name: String,
    /// The key whose order it keeps, if it has one.
    pub key: Option<String>,
    /// What the receivers get.
    pub payload: Bytes,
    /// Where it goes.
    pub targets: Vec<Target>,
    /// When a delivery is tried again.
    pub policy: CallPolicy,
}

/// What the coordinator says of a message that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageStatus {
    /// Not every receiver has it yet.
    Open,
    /// Every delivery is settled.
    Delivered,
    /// A delivery waits for an operator: its receiver refused, or its attempts ran out.
    Parked,
    /// Its transaction was aborted: it is not delivered.
    Aborted,
    /// It is older than the history that the coordinator keeps.
    Forgotten,
}

/// A message was handed over; the coordinator keeps it durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handed {
    /// What is known of it at once: more than [`MessageStatus::Open`] if it had been handed over
    /// before.
    pub status: MessageStatus,
}

/// A call to the coordinator that did not bring what it asked for.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct HandoverError {
    /// Whether the same call may succeed later. If not, the coordinator said that it will never take
    /// the message.
    pub retryable: bool,
    /// When to try again, if the coordinator says.
    pub retry_after: Option<Duration>,
    /// What went wrong.
    pub message: String,
}

/// Where a relay brings messages: the coordinator, by [`Client`](crate::Client), or a test's own.
///
/// **Crash contract.** When `hand_over` answers `Ok`, the message is durable at the other side and
/// will be delivered at least once. After an error, or no answer, it may be there or not; the relay
/// hands the same message over again, which must not make a second one. `status` and `retry` are
/// asked only about messages that may be there.
pub trait Handover: Send + Sync + 'static {
    /// Hands a message over.
    fn hand_over<'a>(&'a self, message: &'a HandoverMessage) -> BoxFuture<'a, Result<Handed, HandoverError>>;

    /// What became of messages, in the order asked; at most [`STATUS_IDS_MAX`] at once.
    ///
    /// Asking settles: a message that did not arrive is [`MessageStatus::Aborted`] from then on and
    /// cannot be handed over any more.
    fn status<'a>(&'a self, ids: &'a [Xid]) -> BoxFuture<'a, Result<Vec<MessageStatus>, HandoverError>>;

    /// Tries the parked deliveries of a message again.
    fn retry(&self, id: Xid) -> BoxFuture<'_, Result<(), HandoverError>>;
}

/// Ids in one question about messages: well below what an inquiry may ask.
pub const STATUS_IDS_MAX: usize = 250;
