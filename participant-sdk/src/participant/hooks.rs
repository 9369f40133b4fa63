//! What a participant's author writes: the hooks of a branch.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;

use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use unanimity_types::{BranchKey, Operation, Xid};

use crate::fence::{FenceDatabase, LocalTransaction};

/// A branch, as its hooks see it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Branch<P> {
    /// The global transaction.
    pub xid: Xid,
    /// The branch's identity inside it. Pass (xid, key) on to systems outside of the database as
    /// their idempotency key.
    pub key: BranchKey,
    /// What `try_branch` was called with.
    pub payload: P,
}

/// The three operations of a TCC branch, in a database `DB`.
///
/// Each hook runs inside **one local transaction together with its row of the fence**: what it
/// writes through `tx` takes effect exactly if the fence remembers it. So hooks need no checks for
/// repetitions, order or late messages, and must not end the transaction. Effects outside of `tx`
/// are outside of that promise: see [`crate::ParticipantBuilder::tcc_external`].
///
/// After `try_` succeeded, both `confirm` and `cancel` must stay possible, for as long as it takes:
/// reserve what confirming needs. They are repeated until they succeed.
///
/// ```
/// # #[cfg(feature = "sqlite")] mod example {
/// use sqlx::{Sqlite, Transaction};
/// use unanimity_sdk::{Branch, HookError, Refused, TccHooks};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Debit { account: String, cents: i64 }
///
/// struct Payment;
///
/// impl TccHooks<Sqlite> for Payment {
///     type Payload = Debit;
///     type Output = ();
///
///     async fn try_(&self, tx: &mut Transaction<'_, Sqlite>, branch: &Branch<Debit>) -> Result<(), HookError> {
///         let Debit { account, cents } = &branch.payload;
///         let done = sqlx::query("UPDATE accounts SET free = free - ?1, held = held + ?1 WHERE name = ?2 AND free >= ?1")
///             .bind(cents).bind(account).execute(&mut **tx).await?;
///         if done.rows_affected() == 1 { Ok(()) } else { Err(Refused::new("not enough money").into()) }
///     }
///
///     async fn confirm(&self, tx: &mut Transaction<'_, Sqlite>, branch: &Branch<Debit>) -> Result<(), HookError> {
///         let Debit { account, cents } = &branch.payload;
///         sqlx::query("UPDATE accounts SET held = held - ?1 WHERE name = ?2")
///             .bind(cents).bind(account).execute(&mut **tx).await?;
///         Ok(())
///     }
///
///     async fn cancel(&self, tx: &mut Transaction<'_, Sqlite>, branch: &Branch<Debit>) -> Result<(), HookError> {
///         let Debit { account, cents } = &branch.payload;
///         sqlx::query("UPDATE accounts SET free = free + ?1, held = held - ?1 WHERE name = ?2")
///             .bind(cents).bind(account).execute(&mut **tx).await?;
///         Ok(())
///     }
/// }
/// # }
/// ```
pub trait TccHooks<DB: FenceDatabase>: Send + Sync + 'static {
    /// What the hooks need to know: kept as JSON by the coordinator and in the fence, at most
    /// 1 MiB. Later versions of the service must be able to read it.
    type Payload: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// What `try_` answers: kept in the fence as JSON, given again to a repeated try.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// Reserves. [`Refused`] is a clear no; every other error means that nothing is known. Either
    /// way the local transaction is rolled back.
    fn try_(
        &self,
        tx: &mut LocalTransaction<'_, DB>,
        branch: &Branch<Self::Payload>,
    ) -> impl Future<Output = Result<Self::Output, HookError>> + Send;

    /// Makes the reservation effective. Called only after `try_` succeeded, and takes effect once.
    fn confirm(
        &self,
        tx: &mut LocalTransaction<'_, DB>,
        branch: &Branch<Self::Payload>,
    ) -> impl Future<Output = Result<(), HookError>> + Send;

    /// Releases the reservation. Called only after `try_` succeeded (or, in the external form, may
    /// have begun), and takes effect once.
    fn cancel(
        &self,
        tx: &mut LocalTransaction<'_, DB>,
        branch: &Branch<Self::Payload>,
    ) -> impl Future<Output = Result<(), HookError>> + Send;
}

/// A clear no: the branch cannot be part of this transaction, and did nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    reason: String,
}

impl Refused {
    /// A no with its reason, for people.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

/// How a hook ends without success.
///
/// `?` makes one of any error; a [`Refused`] stays a clear no on its way through.
#[derive(Debug)]
#[non_exhaustive]
pub enum HookError {
    /// A clear no.
    Refused(Refused),
    /// Something went wrong: nothing is known of the outcome until it is tried again.
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl HookError {
    /// An error with a text of its own.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into().into())
    }
}

// `HookError` itself is no `std::error::Error`, which is what makes this conversion possible.
impl<E: std::error::Error + Send + Sync + 'static> From<E> for HookError {
    fn from(error: E) -> Self {
        let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
        match boxed.downcast::<Refused>() {
            Ok(refused) => Self::Refused(*refused),
            Err(error) => Self::Failed(error),
        }
    }
}

impl fmt::Display for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => refused.fmt(f),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

/// A branch with its payload as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct RawBranch {
    pub(crate) xid: Xid,
    pub(crate) key: BranchKey,
    pub(crate) payload: Vec<u8>,
}

/// Hooks without their types, to keep in one map.
pub(crate) trait ErasedHooks<DB: FenceDatabase>: Send + Sync {
    /// Runs `try_`; the answer as it is stored.
    fn run_try<'a>(
        &'a self,
        tx: &'a mut LocalTransaction<'static, DB>,
        branch: RawBranch,
    ) -> BoxFuture<'a, Result<Vec<u8>, HookError>>;

    /// Runs `confirm` or `cancel`.
    fn run_second<'a>(
        &'a self,
        operation: Operation,
        tx: &'a mut LocalTransaction<'static, DB>,
        branch: RawBranch,
    ) -> BoxFuture<'a, Result<(), HookError>>;
}

/// Hooks with their types.
pub(crate) struct Typed<DB, H> {
    hooks: H,
    database: PhantomData<fn() -> DB>,
}

impl<DB, H> Typed<DB, H> {
    pub(crate) fn new(hooks: H) -> Self {
        Self { hooks, database: PhantomData }
    }
}

fn decode<P: DeserializeOwned>(branch: RawBranch) -> Result<Branch<P>, HookError> {
    let RawBranch { xid, key, payload } = branch;
    // An empty payload is `null`: what `()` serialises to.
    let bytes: &[u8] = if payload.is_empty() { b"null" } else { &payload };
    match serde_json::from_slice(bytes) {
        Ok(payload) => Ok(Branch { xid, key, payload }),
        Err(error) => Err(HookError::failed(format!("the branch's payload does not fit its hooks: {error}"))),
    }
}

impl<DB: FenceDatabase, H: TccHooks<DB>> ErasedHooks<DB> for Typed<DB, H> {
    fn run_try<'a>(
        &'a self,
        tx: &'a mut LocalTransaction<'static, DB>,
        branch: RawBranch,
    ) -> BoxFuture<'a, Result<Vec<u8>, HookError>> {
        Box::pin(async move {
            let branch = decode(branch)?;
            let output = self.hooks.try_(tx, &branch).await?;
            Ok(serde_json::to_vec(&output)?)
        })
    }

    fn run_second<'a>(
        &'a self,
        operation: Operation,
        tx: &'a mut LocalTransaction<'static, DB>,
        branch: RawBranch,
    ) -> BoxFuture<'a, Result<(), HookError>> {
        Box::pin(async move {
            let branch = decode(branch)?;
            match operation {
                Operation::Confirm => self.hooks.confirm(tx, &branch).await,
                Operation::Cancel => self.hooks.cancel(tx, &branch).await,
                other => Err(HookError::failed(format!("{other} is no operation of the second phase"))),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_stays_one_through_the_question_mark() {
        fn domain() -> Result<(), Refused> {
            Err(Refused::new("sold out"))
        }
        fn hook() -> Result<(), HookError> {
            domain()?;
            Ok(())
        }
        assert!(matches!(hook(), Err(HookError::Refused(refused)) if refused.to_string() == "sold out"));
        let other = HookError::from(std::io::Error::other("disk"));
        assert!(matches!(other, HookError::Failed(_)));
    }
}
