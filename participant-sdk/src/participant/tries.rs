//! The try: registration at the coordinator; fence and hook in one local transaction.

mod local;

use std::any::{TypeId, type_name};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use unanimity_proto::{target_to_wire, v1};
use unanimity_types::{BranchKey, BranchKind, Limits};

use crate::context::Context;
use crate::fence::{FenceDatabase, NewRow};
use crate::participant::error::{TryError, payload_too_large};
use crate::participant::hooks::TccHooks;
use crate::participant::options::BranchOptions;
use crate::participant::{HookSet, Participant, Shared};
use local::Attempt;

impl<DB: FenceDatabase> Participant<DB> {
    /// Tries a branch of the **current** transaction: registers it, runs the hooks' `try_` with its
    /// fence row in one local transaction, and notes its vote for the answer.
    ///
    /// A repetition of the same call (by a retrying client below the transaction's manager) finds
    /// its branches by their order: the n-th `try_branch` of one operation in a call is the same
    /// branch. Where the order may change, for example in parallel, tell them apart with
    /// [`Participant::try_labelled`].
    ///
    /// Goes on in the background when the future is dropped.
    ///
    /// In PostgreSQL the registration runs beside the local transaction, which commits only when it is
    /// acknowledged; so `try_` may run for a branch that is then refused, and may run twice. What it
    /// wrote through `tx` is rolled back.
    ///
    /// # Errors
    /// [`TryError`]. Fail the request with it: without its vote the transaction aborts.
    pub async fn try_branch<H: TccHooks<DB>>(&self, payload: H::Payload) -> Result<H::Output, TryError> {
        let context = Context::current().ok_or(TryError::NoTransaction)?;
        self.try_in::<H>(&context, payload).await
    }

    /// Tries a branch of a given transaction: see [`Participant::try_branch`].
    ///
    /// # Errors
    /// [`TryError`].
    pub async fn try_in<H: TccHooks<DB>>(
        &self,
        transaction: &impl AsRef<Context>,
        payload: H::Payload,
    ) -> Result<H::Output, TryError> {
        self.try_in_with::<H>(transaction, BranchOptions::new(), payload).await
    }

    /// Tries a branch of the current transaction that is told apart from others of this call by a
    /// label, for example the article's number: see [`Participant::try_branch`].
    ///
    /// # Errors
    /// [`TryError`].
    pub async fn try_labelled<H: TccHooks<DB>>(
        &self,
        label: &str,
        payload: H::Payload,
    ) -> Result<H::Output, TryError> {
        self.try_with::<H>(BranchOptions::new().label(label), payload).await
    }

    /// Tries a branch of the current transaction with a label, with lock keys: see [`BranchOptions`].
    ///
    /// # Errors
    /// [`TryError`]. [`crate::ClientError::LockConflict`] inside [`TryError::Registration`] names the
    /// transaction that holds a lock: a new transaction may try again.
    pub async fn try_with<H: TccHooks<DB>>(
        &self,
        options: BranchOptions,
        payload: H::Payload,
    ) -> Result<H::Output, TryError> {
        let context = Context::current().ok_or(TryError::NoTransaction)?;
        self.try_in_with::<H>(&context, options, payload).await
    }

    /// Tries a branch of a given transaction with a label, with lock keys: see [`BranchOptions`].
    ///
    /// # Errors
    /// As [`Participant::try_with`].
    pub async fn try_in_with<H: TccHooks<DB>>(
        &self,
        transaction: &impl AsRef<Context>,
        options: BranchOptions,
        payload: H::Payload,
    ) -> Result<H::Output, TryError> {
        let context = transaction.as_ref();
        let operation = self.operation_of::<H>()?;
        options.check().map_err(TryError::Registration)?;
        let key = match &options.label {
            Some(label) => context.labelled_key(&self.shared.name, &operation, label),
            None => context.next_key(&self.shared.name, &operation),
        };
        self.try_key::<H>(context, operation, key, options, payload).await
    }

    fn operation_of<H: TccHooks<DB>>(&self) -> Result<String, TryError> {
        let known = self.shared.by_type.get(&TypeId::of::<H>()).cloned().flatten();
        known.ok_or_else(|| TryError::UnknownHooks(type_name::<H>().to_owned()))
    }

    async fn try_key<H: TccHooks<DB>>(
        &self,
        context: &Context,
        operation: String,
        key: BranchKey,
        options: BranchOptions,
        payload: H::Payload,
    ) -> Result<H::Output, TryError> {
        let payload = serde_json::to_vec(&payload).map_err(|error| TryError::Payload(error.to_string()))?;
        if payload.len() > Limits::PAYLOAD_BYTES_MAX {
            return Err(TryError::Payload(payload_too_large(payload.len()).to_string()));
        }
        if self.shared.stop.is_cancelled() {
            return Err(TryError::ShuttingDown);
        }
        let shared = Arc::clone(&self.shared);
        let task_context = context.clone();
        // Boxed where it is made: it is large, and whoever holds the caller's future holds it until it runs.
        let work = self.shared.unstoppable(Box::pin(async move {
            let scope = task_context.clone();
            scope.scope(register_and_try(shared, task_context, operation, key, options, payload)).await
        }));
        let answer = work.await.map_err(TryError::Panicked)??;
        serde_json::from_slice(&answer).map_err(|error| {
            TryError::Hook(format!("the stored answer does not fit its type: {error}").into())
        })
    }
}

async fn register_and_try<DB: FenceDatabase>(
    shared: Arc<Shared<DB>>,
    context: Context,
    operation: String,
    key: BranchKey,
    options: BranchOptions,
    payload: Vec<u8>,
) -> Result<Vec<u8>, TryError> {
    let unknown = || TryError::UnknownHooks(operation.clone());
    let Some(HookSet::Tcc { hooks, external }) = shared.hooks.get(&operation) else { return Err(unknown()) };
    let target = shared.targets.get(&operation).ok_or_else(unknown)?;
    let started = Instant::now();
    let left = context.remaining().unwrap_or(shared.settings.register_for);
    if left == Duration::ZERO {
        return Err(TryError::TooLate);
    }
    let request = v1::RegisterBranchRequest {
        xid: context.xid().to_string(),
        key: key.to_string(),
        targets: Some(v1::BranchTargets { one: Some(target_to_wire(target)), ..Default::default() }),
        payload: payload.clone().into(),
        log_id: context.log_id().map(|id| id.to_string()).unwrap_or_default(),
        birth: context.birth(),
        kind: v1::BranchKind::Tcc.into(),
        lock_wait_ms: options.lock_wait_ms(left),
        lock_keys: options.lock_keys,
        ..Default::default()
    };
    let lock_wait = Duration::from_millis(request.lock_wait_ms);
    // Who waits for a lock elsewhere must not hold rows here: the lock's holder may want those.
    let beside = DB::SHARED && !*external && request.lock_keys.is_empty();
    let bound = left.min(shared.settings.register_for + lock_wait);
    let registration = async {
        let registered = shared.client.register_branch(request, bound, lock_wait).await?;
        tracing::debug!(xid = %context.xid(), %key, branch = registered.branch_id, "branch registered");
        Ok((registered.log_id, registered.position))
    };
    let row = NewRow {
        kind: BranchKind::Tcc,
        xid: context.xid(),
        key: key.clone(),
        participant: shared.name.clone(),
        operation,
        log_id: context.log_id(),
        payload,
        witness: None,
    };
    let attempt = Attempt { shared: &shared, hooks: hooks.as_ref(), external: *external, row, started };
    let answer = match beside {
        true => attempt.beside(registration).await,
        false => attempt.after(registration.await.map_err(TryError::Registration)?).await,
    };
    match &answer {
        // After the commit of the local transaction: the vote says that the try is durable.
        Ok(_) => context.add_votes([key]),
        Err(error) => tracing::debug!(xid = %context.xid(), %key, %error, "try failed"),
    }
    answer
}
