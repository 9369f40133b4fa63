//! What the author of a saga's step writes.

use std::collections::BTreeMap;
use std::future::Future;
use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use unanimity_types::{BranchKey, Xid};

use crate::fence::{FenceDatabase, LocalTransaction};
use crate::participant::HookError;

/// A call of a step's hooks.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StepCall<P> {
    /// The saga's transaction.
    pub xid: Xid,
    /// The step's name in the saga. Pass (xid, key) on to systems outside of the database as their
    /// idempotency key.
    pub key: BranchKey,
    /// What the saga was written with.
    pub payload: P,
    /// What the steps before have brought.
    pub inputs: Inputs,
    /// Counted from 1 by the coordinator.
    pub attempt: u32,
    pub(super) deadline: Instant,
    pub(super) external: bool,
}

impl<P> StepCall<P> {
    /// How long this attempt is waited for.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// The results of the steps before, by their names.
#[derive(Debug, Clone, Default)]
pub struct Inputs(BTreeMap<String, Bytes>);

impl Inputs {
    /// The result of a step, from JSON; `None` if no such step comes before, or it brought nothing.
    ///
    /// # Errors
    /// [`HookError::Failed`] if it does not fit the type.
    pub fn get<T: DeserializeOwned>(&self, step: &str) -> Result<Option<T>, HookError> {
        let Some(bytes) = self.0.get(step).filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
        serde_json::from_slice(bytes).map(Some).map_err(|error| {
            HookError::failed(format!("the result of step {step} does not fit its type: {error}"))
        })
    }

    /// The result of a step as it is.
    #[must_use]
    pub fn bytes(&self, step: &str) -> Option<&Bytes> {
        self.0.get(step)
    }

    /// The names of the steps before.
    pub fn steps(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// A saga's step and what undoes it, in a database `DB`.
///
/// Each hook runs inside **one local transaction together with its row of the fence**: what it writes
/// through `tx` takes effect exactly if the fence remembers it, once, however often the coordinator
/// asks. So hooks need no checks for repetitions, order or late messages, and must not end the
/// transaction. Effects outside of `tx` are outside of that promise: see
/// [`crate::ParticipantBuilder::saga_step_external`].
///
/// ```
/// # #[cfg(feature = "sqlite")] mod example {
/// use sqlx::{Sqlite, Transaction};
/// use unanimity_sdk::{HookError, Refused, StepCall, StepHooks};
///
/// struct Seats;
///
/// impl StepHooks<Sqlite> for Seats {
///     type Payload = String;
///     type Output = i64;
///
///     async fn action(&self, tx: &mut Transaction<'_, Sqlite>, call: &StepCall<String>) -> Result<i64, HookError> {
///         let seat = sqlx::query_scalar("UPDATE seats SET taken = 1 WHERE id = (SELECT min(id) FROM seats WHERE flight = ?1 AND taken = 0) RETURNING id")
///             .bind(&call.payload).fetch_optional(&mut **tx).await?;
///         seat.ok_or_else(|| Refused::new("sold out").into())
///     }
///
///     async fn compensate(&self, tx: &mut Transaction<'_, Sqlite>, _: &StepCall<String>, seat: Option<i64>) -> Result<(), HookError> {
///         sqlx::query("UPDATE seats SET taken = 0 WHERE id = ?1").bind(seat).execute(&mut **tx).await?;
///         Ok(())
///     }
/// }
/// # }
/// ```
pub trait StepHooks<DB: FenceDatabase>: Send + Sync + 'static {
    /// What the hooks need to know, from the saga's JSON. Later versions of the service must be able to
    /// read it.
    type Payload: DeserializeOwned + Send + Sync + 'static;

    /// What the action brings, at most 64 KiB of JSON: later steps and the compensation get it.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// Does the step. [`crate::Refused`] is a clear no and means that nothing was done: the saga turns
    /// back. Every other error means that nothing is known: it is tried again. Either way the local
    /// transaction is rolled back.
    fn action(
        &self,
        tx: &mut LocalTransaction<'_, DB>,
        call: &StepCall<Self::Payload>,
    ) -> impl Future<Output = Result<Self::Output, HookError>> + Send;

    /// Undoes the step. Called only after the action succeeded, then with its result, or, in the
    /// external form, may have begun. Takes effect once. It must become possible: it is tried again, and
    /// a [`crate::Refused`] parks the step until somebody looks.
    fn compensate(
        &self,
        tx: &mut LocalTransaction<'_, DB>,
        call: &StepCall<Self::Payload>,
        result: Option<Self::Output>,
    ) -> impl Future<Output = Result<(), HookError>> + Send;
}

/// A call with its payload as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct RawCall {
    pub(crate) xid: Xid,
    pub(crate) key: BranchKey,
    pub(crate) payload: Vec<u8>,
    pub(crate) inputs: BTreeMap<String, Bytes>,
    pub(crate) attempt: u32,
    pub(crate) deadline: Instant,
    pub(crate) external: bool,
}

impl RawCall {
    fn decode<P: DeserializeOwned>(self) -> Result<StepCall<P>, HookError> {
        let Self { xid, key, payload, inputs, attempt, deadline, external } = self;
        let payload = decode(&payload, "payload")?;
        Ok(StepCall { xid, key, payload, inputs: Inputs(inputs), attempt, deadline, external })
    }
}

/// Empty bytes are `null`: what `()` serialises to.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, HookError> {
    let bytes = if bytes.is_empty() { b"null" } else { bytes };
    serde_json::from_slice(bytes)
        .map_err(|error| HookError::failed(format!("the {what} does not fit its hooks: {error}")))
}

/// Hooks without their types, to keep in one map.
pub(crate) trait ErasedStep<DB: FenceDatabase>: Send + Sync {
    /// Runs the action; its result as it is stored.
    fn run_action<'a>(
        &'a self,
        tx: &'a mut LocalTransaction<'static, DB>,
        call: RawCall,
    ) -> BoxFuture<'a, Result<Vec<u8>, HookError>>;

    /// Runs the compensation.
    fn run_compensate<'a>(
        &'a self,
        tx: &'a mut LocalTransaction<'static, DB>,
        call: RawCall,
        result: Option<Vec<u8>>,
    ) -> BoxFuture<'a, Result<(), HookError>>;
}

/// Hooks with their types.
pub(crate) struct TypedStep<DB, H> {
    hooks: H,
    database: PhantomData<fn() -> DB>,
}

impl<DB, H> TypedStep<DB, H> {
    pub(crate) fn new(hooks: H) -> Self {
        Self { hooks, database: PhantomData }
    }
}

impl<DB: FenceDatabase, H: StepHooks<DB>> ErasedStep<DB> for TypedStep<DB, H> {
    fn run_action<'a>(
        &'a self,
        tx: &'a mut LocalTransaction<'static, DB>,
        call: RawCall,
    ) -> BoxFuture<'a, Result<Vec<u8>, HookError>> {
        Box::pin(async move {
            let call = call.decode()?;
            let output = self.hooks.action(tx, &call).await?;
            Ok(serde_json::to_vec(&output)?)
        })
    }

    fn run_compensate<'a>(
        &'a self,
        tx: &'a mut LocalTransaction<'static, DB>,
        call: RawCall,
        result: Option<Vec<u8>>,
    ) -> BoxFuture<'a, Result<(), HookError>> {
        Box::pin(async move {
            let call = call.decode()?;
            let result = result.map(|bytes| decode(&bytes, "action's result")).transpose()?;
            self.hooks.compensate(tx, &call, result).await
        })
    }
}
