//! What the author of a receiver writes.

use std::future::Future;
use std::marker::PhantomData;

use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use unanimity_types::{BranchKey, Xid};

use crate::fence::{FenceDatabase, LocalTransaction};
use crate::participant::HookError;
use crate::saga::decode;

/// A message, as its receiver sees it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReceivedMessage<P> {
    /// The message's transaction.
    pub xid: Xid,
    /// Which delivery of it this is. Pass (xid, key) on to systems outside of the database as their
    /// idempotency key.
    pub key: BranchKey,
    /// What it says.
    pub payload: P,
    /// Counted from 1 by the coordinator.
    pub attempt: u32,
}

/// Receives messages, in a database `DB`.
///
/// `deliver` runs inside **one local transaction together with its row of the fence**: what it writes
/// through `tx` takes effect once, however often the message is delivered. It must not end the
/// transaction. Effects outside of `tx` may happen more than once.
///
/// ```
/// # #[cfg(feature = "sqlite")] mod example {
/// use sqlx::{Sqlite, Transaction};
/// use unanimity_sdk::{HookError, MessageHooks, ReceivedMessage};
///
/// struct Mail;
///
/// impl MessageHooks<Sqlite> for Mail {
///     type Payload = String;
///
///     async fn deliver(&self, tx: &mut Transaction<'_, Sqlite>, message: &ReceivedMessage<String>) -> Result<(), HookError> {
///         sqlx::query("INSERT INTO mails (text) VALUES (?1)").bind(&message.payload).execute(&mut **tx).await?;
///         Ok(())
///     }
/// }
/// # }
/// ```
pub trait MessageHooks<DB: FenceDatabase>: Send + Sync + 'static {
    /// What the messages say, from JSON.
    type Payload: DeserializeOwned + Send + Sync + 'static;

    /// Takes a message in. An error means that it is delivered again; [`crate::Refused`] makes it a dead
    /// letter, which comes again when an operator asks for it.
    fn deliver(
        &self,
        tx: &mut LocalTransaction<'_, DB>,
        message: &ReceivedMessage<Self::Payload>,
    ) -> impl Future<Output = Result<(), HookError>> + Send;
}

/// A message with its payload as it came.
#[derive(Debug, Clone)]
pub(crate) struct RawMessage {
    pub(crate) xid: Xid,
    pub(crate) key: BranchKey,
    pub(crate) payload: Vec<u8>,
    pub(crate) attempt: u32,
}

/// Hooks without their types, to keep in one map.
pub(crate) trait ErasedReceiver<DB: FenceDatabase>: Send + Sync {
    fn run_deliver<'a>(
        &'a self,
        tx: &'a mut LocalTransaction<'static, DB>,
        message: RawMessage,
    ) -> BoxFuture<'a, Result<(), HookError>>;
}

/// Hooks with their types.
pub(crate) struct TypedReceiver<DB, H> {
    hooks: H,
    database: PhantomData<fn() -> DB>,
}

impl<DB, H> TypedReceiver<DB, H> {
    pub(crate) fn new(hooks: H) -> Self {
        Self { hooks, database: PhantomData }
    }
}

impl<DB: FenceDatabase, H: MessageHooks<DB>> ErasedReceiver<DB> for TypedReceiver<DB, H> {
    fn run_deliver<'a>(
        &'a self,
        tx: &'a mut LocalTransaction<'static, DB>,
        message: RawMessage,
    ) -> BoxFuture<'a, Result<(), HookError>> {
        Box::pin(async move {
            let RawMessage { xid, key, payload, attempt } = message;
            let payload = decode(&payload, "message")?;
            self.hooks.deliver(tx, &ReceivedMessage { xid, key, payload, attempt }).await
        })
    }
}
