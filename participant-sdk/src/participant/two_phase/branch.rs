//! A two-phase branch from the application's side: registration first (I8), then the work, in the
//! early form its prepare, then the vote.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;
use unanimity_proto::{target_to_wire, v1};
use unanimity_types::{BranchKey, Limits, Target};

use crate::context::Context;
use crate::error::ClientError;
use crate::fence::FenceDatabase;
use crate::participant::error::{TryError, payload_too_large};
use crate::participant::hooks::{HookError, Refused};
use crate::participant::options::BranchOptions;
use crate::participant::{HookSet, Participant, Shared};
use crate::xa::{
    Connection, ErasedManager, Prepared, Resource, Settled, TwoPhaseCall, WorkError, Worked, XaBranch,
    XaDatabase, XaError,
};

/// A two-phase branch that is about to work: see [`Participant::two_phase_branch`].
#[must_use = "nothing happens before `work` or `own_work`"]
pub struct TwoPhaseBranch<'p, DB: FenceDatabase> {
    participant: &'p Participant<DB>,
    operation: String,
    options: BranchOptions,
    late: bool,
    one_phase: bool,
}

impl<DB: FenceDatabase> Participant<DB> {
    /// A branch of the resource manager that is registered under this name
    /// ([`crate::ParticipantBuilder::two_phase`]).
    ///
    /// ```no_run
    /// # #[cfg(feature = "postgres")] mod example {
    /// use sqlx::PgConnection;
    /// use unanimity_sdk::{Context, HookError, NoFence, Participant, Refused, TryError};
    ///
    /// async fn debit(bank: &Participant<NoFence>, context: &Context, cents: i64) -> Result<(), TryError> {
    ///     let branch = bank.two_phase_branch("transfer");
    ///     let work = branch.work(context, cents, move |tx: &mut PgConnection| {
    ///         Box::pin(async move {
    ///             let sql = "UPDATE accounts SET cents = cents - $1 WHERE name = 'alice' AND cents >= $1";
    ///             let done = sqlx::query(sql).bind(cents).execute(tx).await?;
    ///             if done.rows_affected() == 1 { Ok(()) } else { Err(Refused::new("not enough money").into()) }
    ///         })
    ///     });
    ///     work.await.map(drop)
    /// }
    /// # }
    /// ```
    pub fn two_phase_branch(&self, operation: impl Into<String>) -> TwoPhaseBranch<'_, DB> {
        TwoPhaseBranch {
            participant: self,
            operation: operation.into(),
            options: BranchOptions::new(),
            late: false,
            one_phase: false,
        }
    }
}

impl<DB: FenceDatabase> TwoPhaseBranch<'_, DB> {
    /// With a label, with lock keys.
    pub fn options(mut self, options: BranchOptions) -> Self {
        self.options = options;
        self
    }

    /// Leaves the prepare to the coordinator, which asks for it when the transaction is committed: a
    /// round more, but locks are held shorter, and [`TwoPhaseBranch::one_phase`] becomes possible. Until
    /// then the work is an open transaction of this process, and the branch is pinned to this instance
    /// (protocol H11): if it goes, the branch is refused.
    pub fn late(mut self) -> Self {
        self.late = true;
        self
    }

    /// Allows that the branch is committed without a prepare, if it is the only one of its transaction
    /// (protocol H4): from then on the branch decides, and the transaction is neither aborted nor runs
    /// out of time until it has said what became of it. Late.
    pub fn one_phase(mut self) -> Self {
        self.one_phase = true;
        self.late()
    }

    /// Registers the branch, runs the work on a plain connection inside the branch's transaction,
    /// prepares it (late: holds it), and notes its vote for the answer.
    ///
    /// The work must not end the transaction. Its [`Refused`] and every other error roll it back; the
    /// error comes back and there is no vote. The same is true of a database that refuses to prepare.
    ///
    /// The payload tells what the branch is about: it is kept by the coordinator, and a repeated call
    /// must bring the same. A repetition finds its branch as [`Participant::try_branch`] does, and is
    /// answered [`Worked::Before`] if the work is there: **its answer is not kept**, since what is
    /// prepared cannot be read. It has its vote all the same. Give the caller what it needs by other
    /// means, or fail and let it begin a new transaction.
    ///
    /// Goes on in the background when the future is dropped.
    ///
    /// # Errors
    /// [`TryError`]. Fail the request with it: without its vote the transaction aborts.
    /// [`TryError::UnknownHooks`] if the connection is not of the kind that the resource manager works
    /// with; [`XaError::SiblingHoldsLock`] inside [`TryError::TwoPhase`] if two branches of one
    /// transaction wait for each other.
    pub async fn work<C, T, F>(
        self,
        transaction: &impl AsRef<Context>,
        payload: impl Serialize,
        work: F,
    ) -> Result<Worked<T>, TryError>
    where
        C: Connection,
        C::Database: XaDatabase<Connection = C>,
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut C) -> BoxFuture<'c, Result<T, HookError>> + Send + 'static,
    {
        let late = self.late;
        let shared = &self.participant.shared;
        let manager = manager(shared, &self.operation)?;
        let resource = manager.as_any().downcast_ref::<Resource<C::Database>>().cloned();
        let resource = resource.ok_or_else(|| {
            let kind = std::any::type_name::<C>();
            TryError::UnknownHooks(format!("{:?} with connections of the kind {kind}", self.operation))
        })?;
        let (context, registration) = self.registration(transaction.as_ref(), payload)?;
        let task = Arc::clone(shared);
        let done = shared.unstoppable(async move {
            let branch = registration.register(&task, &context).await?;
            let hook = in_scope(context.clone(), work);
            let worked = resource.begin(&branch, hook, late).await.map_err(TryError::from);
            voted(&context, branch.key, &worked);
            worked
        });
        done.await.map_err(TryError::Panicked)?
    }

    /// The same for a resource manager of your own: registers the branch, runs the work, which hands
    /// the branch to the resource manager by means of your own, prepares it (not if it is late), and
    /// notes its vote. An error of the work or of the prepare rolls it back.
    ///
    /// A repeated call runs the work again: that it finds itself is up to it.
    ///
    /// # Errors
    /// As [`TwoPhaseBranch::work`].
    pub async fn own_work<T, F, Fut>(
        self,
        transaction: &impl AsRef<Context>,
        payload: impl Serialize,
        work: F,
    ) -> Result<T, TryError>
    where
        T: Send + 'static,
        F: FnOnce(XaBranch) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, HookError>> + Send + 'static,
    {
        let late = self.late;
        let shared = &self.participant.shared;
        let manager = manager(shared, &self.operation)?;
        let (context, registration) = self.registration(transaction.as_ref(), payload)?;
        let task = Arc::clone(shared);
        let done = shared.unstoppable(async move {
            let branch = registration.register(&task, &context).await?;
            let payload = registration.request.payload.to_vec();
            let call = TwoPhaseCall::new(branch.gid(), Some(branch.key.clone()), payload);
            let key = branch.key.clone();
            let whole = context.scope(async {
                let value = work(branch).await?;
                if !late {
                    prepare(manager.as_ref(), &call).await?;
                }
                Ok(value)
            });
            let worked = match tokio::time::timeout(task.settings.hook_timeout, whole).await {
                Ok(worked) => worked,
                Err(_) => Err(HookError::failed("it took longer than it may")),
            };
            if worked.is_err() {
                undo(&task, manager.as_ref(), &call).await;
            }
            let worked = worked.map_err(|error| TryError::from(XaError::Work(boxed(error))));
            voted(&context, key, &worked);
            worked
        });
        done.await.map_err(TryError::Panicked)?
    }

    fn registration(
        &self,
        context: &Context,
        payload: impl Serialize,
    ) -> Result<(Context, Registration), TryError> {
        let shared = &self.participant.shared;
        self.options.check().map_err(TryError::Registration)?;
        let unknown = || TryError::UnknownHooks(self.operation.clone());
        let target = shared.targets.get(&self.operation).ok_or_else(unknown)?;
        let payload = serde_json::to_vec(&payload).map_err(|error| TryError::Payload(error.to_string()))?;
        if payload.len() > Limits::PAYLOAD_BYTES_MAX {
            return Err(TryError::Payload(payload_too_large(payload.len()).to_string()));
        }
        if shared.stop.is_cancelled() {
            return Err(TryError::ShuttingDown);
        }
        let left = context.remaining().unwrap_or(shared.settings.register_for);
        if left == Duration::ZERO {
            return Err(TryError::TooLate);
        }
        let key = match &self.options.label {
            Some(label) => context.labelled_key(&shared.name, &self.operation, label),
            None => context.next_key(&shared.name, &self.operation),
        };
        // At an address nobody can be pinned: what listens there is the instance.
        let pinned = self.late && matches!(target, Target::Participant { .. });
        let request = v1::RegisterBranchRequest {
            xid: context.xid().to_string(),
            key: key.to_string(),
            targets: Some(v1::BranchTargets { one: Some(target_to_wire(target)), ..Default::default() }),
            payload: payload.into(),
            log_id: context.log_id().map(|id| id.to_string()).unwrap_or_default(),
            birth: context.birth(),
            kind: v1::BranchKind::TwoPhase.into(),
            two_phase: Some(v1::TwoPhaseOptions {
                early: !self.late,
                one_phase: self.one_phase,
                instance: if pinned { shared.instance.clone() } else { String::new() },
            }),
            lock_wait_ms: self.options.lock_wait_ms(left),
            lock_keys: self.options.lock_keys.clone(),
            ..Default::default()
        };
        let operation = self.operation.clone();
        Ok((context.clone(), Registration { request, key, operation, left }))
    }
}

impl<DB: FenceDatabase> std::fmt::Debug for TwoPhaseBranch<'_, DB> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TwoPhaseBranch")
            .field("operation", &self.operation)
            .field("late", &self.late)
            .field("one_phase", &self.one_phase)
            .finish_non_exhaustive()
    }
}

/// What is about to be registered.
struct Registration {
    request: v1::RegisterBranchRequest,
    key: BranchKey,
    operation: String,
    left: Duration,
}

impl Registration {
    /// After it returns `Ok` the coordinator knows the branch, and will tell it how it ends.
    async fn register<DB: FenceDatabase>(
        &self,
        shared: &Shared<DB>,
        context: &Context,
    ) -> Result<XaBranch, TryError> {
        let lock_wait = Duration::from_millis(self.request.lock_wait_ms);
        let bound = self.left.min(shared.settings.register_for + lock_wait);
        let registered = shared.client.register_branch(self.request.clone(), bound, lock_wait).await;
        let registered = registered.map_err(TryError::Registration)?;
        let log_id = registered.log_id.or(context.log_id()).ok_or_else(|| {
            TryError::Registration(ClientError::protocol("the branch was registered in a log without a name"))
        })?;
        tracing::debug!(xid = %context.xid(), key = %self.key, branch = registered.branch_id, "branch registered");
        Ok(XaBranch {
            log_id,
            xid: context.xid(),
            key: self.key.clone(),
            participant: shared.name.clone(),
            operation: self.operation.clone(),
        })
    }
}

fn manager<DB: FenceDatabase>(
    shared: &Shared<DB>,
    operation: &str,
) -> Result<Arc<dyn ErasedManager>, TryError> {
    match shared.hooks.get(operation) {
        Some(HookSet::TwoPhase(manager)) => Ok(Arc::clone(manager)),
        _ => Err(TryError::UnknownHooks(operation.to_owned())),
    }
}

/// The resource manager works in a task of its own, which does not inherit the context.
fn in_scope<C, T, F>(
    context: Context,
    work: F,
) -> impl for<'c> FnOnce(&'c mut C) -> BoxFuture<'c, Result<T, WorkError>> + Send + 'static
where
    C: Send,
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut C) -> BoxFuture<'c, Result<T, HookError>> + Send + 'static,
{
    move |connection| {
        Box::pin(async move { context.scope(async { work(connection).await.map_err(boxed) }).await })
    }
}

/// The early form of a resource manager of the service's own.
async fn prepare(manager: &dyn ErasedManager, call: &TwoPhaseCall) -> Result<(), HookError> {
    match manager.run_prepare(call).await {
        Prepared::Yes => Ok(()),
        Prepared::ReadOnly => Err(XaError::EarlyReadOnly.into()),
        Prepared::Refused(why) => Err(Refused::new(why).into()),
        Prepared::Unknown(error) => Err(error.into()),
    }
}

/// Frees what the work holds; the coordinator's rollback comes in any case.
async fn undo<DB: FenceDatabase>(shared: &Shared<DB>, manager: &dyn ErasedManager, call: &TwoPhaseCall) {
    let undone = tokio::time::timeout(shared.settings.hook_timeout, manager.run_rollback(call)).await;
    if !matches!(undone, Ok(Settled::Done)) {
        tracing::debug!(gid = %call.gid, "not rolled back at once; the coordinator's rollback comes");
    }
}

/// The vote says that the work is durable, or (late) that it is done and waits for its prepare.
fn voted<T>(context: &Context, key: BranchKey, worked: &Result<T, TryError>) {
    match worked {
        Ok(_) => context.add_votes([key]),
        Err(error) => tracing::debug!(xid = %context.xid(), %key, %error, "two-phase work failed"),
    }
}

fn boxed(error: HookError) -> WorkError {
    match error {
        HookError::Refused(refused) => refused.into(),
        HookError::Failed(error) => error,
    }
}

impl From<XaError> for TryError {
    fn from(error: XaError) -> Self {
        let source: Box<dyn Error + Send + Sync> = match error {
            XaError::Work(source) => source,
            XaError::RolledBack => return Self::Cancelled,
            XaError::WorkPanicked => return Self::Panicked("the work".into()),
            XaError::WorkTimeout(_) => return Self::HookTimeout,
            XaError::ShuttingDown => return Self::ShuttingDown,
            other => return Self::TwoPhase(other),
        };
        match source.downcast::<Refused>() {
            Ok(refused) => Self::Refused(refused.to_string()),
            Err(source) => match source.downcast::<XaError>() {
                Ok(error) => Self::TwoPhase(*error),
                Err(source) => Self::Hook(source),
            },
        }
    }
}
