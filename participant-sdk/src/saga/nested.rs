//! A saga's step that is a transaction over several services itself (protocol M6).
//!
//! ```text
//!   action of step s of saga X ──► inner transaction UUIDv5(X, "s")
//!        not begun   → begin it, run the body, decide
//!        undecided   → an attempt before this one died in it: abort it, never run it again
//!        committed   → the step is done
//!        aborted     → the step refuses: that xid is used up
//!
//!   compensation of s ──► settles the inner transaction as above; if it committed, runs another one,
//!                         UUIDv5(X, "s#undo#1"), then #2 if that aborted, until one commits
//! ```
//!
//! So whoever asks, and however often processes die, at most one body takes effect.

use std::fmt::Display;
use std::time::Duration;

use unanimity_types::{Decision, ErrorCode, Xid};

use crate::client::{Client, GlobalTransaction, TransactionError};
use crate::participant::{HookError, Refused};
use crate::saga::hooks::StepCall;

/// How many transactions a compensation looks back at: each is a failed attempt of it.
const UNDO_ATTEMPTS_MAX: u32 = 1_000;

/// How a nested transaction ended that did not abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nested<T> {
    /// It ran now, and committed.
    Now(T),
    /// An attempt before this one had run it, and it had committed. What its body brought is lost with
    /// that attempt: store what you need, or derive it from the xid.
    Before,
}

/// How the undoing of a nested transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undo {
    /// The nested transaction had not committed, and never will: there was nothing to undo.
    Nothing,
    /// It is undone.
    Undone,
}

/// Runs a transaction as the action of a saga's step: it commits at most once, whatever dies meanwhile.
///
/// The step must be registered with [`crate::ParticipantBuilder::saga_step_external`]. Its compensation
/// calls [`nested_undo`].
///
/// ```no_run
/// # #[cfg(feature = "sqlite")] mod example {
/// use sqlx::{Sqlite, Transaction};
/// use unanimity_sdk::{Client, HookError, Nested, StepCall, StepHooks, nested, nested_undo};
///
/// struct PlaceOrder { coordinator: Client }
///
/// impl StepHooks<Sqlite> for PlaceOrder {
///     type Payload = u32;
///     type Output = ();
///
///     async fn action(&self, _: &mut Transaction<'_, Sqlite>, call: &StepCall<u32>) -> Result<(), HookError> {
///         let placed = nested(&self.coordinator, call, async |tx| {
///             // call services here: stock, payment
///             Ok::<_, std::io::Error>(())
///         });
///         match placed.await? { Nested::Now(()) | Nested::Before => Ok(()) }
///     }
///
///     async fn compensate(&self, _: &mut Transaction<'_, Sqlite>, call: &StepCall<u32>, _: Option<()>) -> Result<(), HookError> {
///         nested_undo(&self.coordinator, call, async |tx| {
///             // call what undoes it
///             Ok::<_, std::io::Error>(())
///         })
///         .await?;
///         Ok(())
///     }
/// }
/// # }
/// ```
///
/// # Errors
/// [`HookError::Refused`] if it aborted, also in an attempt before this one: pass it on. Everything
/// else means that its outcome is not known yet, and the next attempt asks first.
pub async fn nested<P, T, E, F>(client: &Client, call: &StepCall<P>, body: F) -> Result<Nested<T>, HookError>
where
    E: Display,
    F: AsyncFnOnce(GlobalTransaction) -> Result<T, E>,
{
    must_be_external(call)?;
    let inner = derived(call, "");
    match settled(client, inner).await? {
        Some(Decision::Commit) => Ok(Nested::Before),
        Some(Decision::Abort) => {
            Err(Refused::new("an attempt before this one ended without an effect").into())
        }
        None => run(client, call, inner, body).await.map(Nested::Now),
    }
}

/// Undoes a nested transaction by another one, as the compensation of a saga's step: see [`nested()`].
/// It commits at most once, and is tried until it has.
///
/// # Errors
/// [`HookError::Failed`]: it is tried again, in a new transaction if this one aborted.
pub async fn nested_undo<P, E, F>(client: &Client, call: &StepCall<P>, body: F) -> Result<Undo, HookError>
where
    E: Display,
    F: AsyncFnOnce(GlobalTransaction) -> Result<(), E>,
{
    must_be_external(call)?;
    let action = derived(call, "");
    // Not begun as far as is known: settled all the same, so that a begin that is still on its way
    // comes too late.
    let acted = match settled(client, action).await? {
        None => abort(client, action).await?,
        Some(decision) => decision,
    };
    if acted == Decision::Abort {
        return Ok(Undo::Nothing);
    }
    for attempt in 1..=UNDO_ATTEMPTS_MAX {
        let undo = derived(call, &format!("#undo#{attempt}"));
        match settled(client, undo).await? {
            Some(Decision::Commit) => return Ok(Undo::Undone),
            Some(Decision::Abort) => {}
            None => {
                // A refusal inside is no reason to stop: the coordinator comes again.
                return run(client, call, undo, body).await.map(|()| Undo::Undone).map_err(|error| {
                    HookError::failed(format!("the undoing transaction {undo} did not commit: {error}"))
                });
            }
        }
    }
    Err(HookError::failed(format!("{UNDO_ATTEMPTS_MAX} undoing transactions have aborted")))
}

/// Without a row that outlives a crash the compensation would find nothing, and undo nothing.
fn must_be_external<P>(call: &StepCall<P>) -> Result<(), HookError> {
    if call.external {
        return Ok(());
    }
    Err(HookError::failed("a step with a nested transaction must be registered with saga_step_external"))
}

fn derived<P>(call: &StepCall<P>, suffix: &str) -> Xid {
    let name = format!("{}{suffix}", call.key);
    Xid::new(uuid::Uuid::new_v5(&call.xid.uuid(), name.as_bytes()))
}

/// How a nested transaction ended; it is ended if it is open. `None`: none is known.
async fn settled(client: &Client, xid: Xid) -> Result<Option<Decision>, HookError> {
    match client.status(xid).await {
        Ok(info) => match info.decision() {
            Some(decision) => Ok(Some(decision)),
            None => abort(client, xid).await.map(Some),
        },
        Err(error) if error.code() == Some(ErrorCode::TransactionNotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Aborts, or learns that it is committed.
async fn abort(client: &Client, xid: Xid) -> Result<Decision, HookError> {
    match client.abort(xid).await {
        Ok(()) => Ok(Decision::Abort),
        Err(error) if error.is_committed() => Ok(Decision::Commit),
        Err(error) => Err(error.into()),
    }
}

async fn run<P, T, E, F>(client: &Client, call: &StepCall<P>, xid: Xid, body: F) -> Result<T, HookError>
where
    E: Display,
    F: AsyncFnOnce(GlobalTransaction) -> Result<T, E>,
{
    // Nobody waits for it longer than that; whoever comes next would find it open and abort it.
    let timeout = call.remaining();
    if timeout < Duration::from_millis(1) {
        return Err(HookError::failed("the attempt's time is over"));
    }
    let transaction = client.transaction(format!("step {}", short(call.key.as_str())));
    match transaction.xid(xid).timeout(timeout).run(body).await {
        Ok(value) => Ok(value),
        Err(TransactionError::Aborted { reason, .. }) => {
            Err(Refused::new(format!("the nested transaction {xid} was aborted: {reason}")).into())
        }
        Err(TransactionError::User { error, .. }) => match abort(client, xid).await? {
            // Said only when it is certain that nothing was done.
            Decision::Abort => Err(Refused::new(error.to_string()).into()),
            Decision::Commit => Err(HookError::failed("somebody else has committed the nested transaction")),
        },
        Err(error @ (TransactionError::Begin(_) | TransactionError::OutcomeUnknown { .. })) => {
            Err(HookError::failed(error.to_string()))
        }
    }
}

/// A name has at most 128 bytes.
fn short(key: &str) -> &str {
    let mut end = key.len().min(100);
    while !key.is_char_boundary(end) {
        end -= 1;
    }
    &key[..end]
}
