//! The try: registration at the coordinator, then fence and hook in one local transaction.

use std::any::{TypeId, type_name};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use unanimity_proto::{target_to_wire, v1};
use unanimity_types::{BranchKey, BranchKind, Limits};

use crate::context::Context;
use crate::failpoint;
use crate::fence::{FenceDatabase, NewRow, TryStart, finish_try, start_try};
use crate::participant::error::{TryError, payload_too_large};
use crate::participant::hooks::{ErasedHooks, HookError, RawBranch, TccHooks};
use crate::participant::options::BranchOptions;
use crate::participant::{HookSet, Participant, Shared};

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
        let work = self.shared.unstoppable(async move {
            let scope = task_context.clone();
            scope.scope(register_and_try(shared, task_context, operation, key, options, payload)).await
        });
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
    let registered = shared
        .client
        .register_branch(request, left.min(shared.settings.register_for + lock_wait), lock_wait)
        .await
        .map_err(TryError::Registration)?;
    tracing::debug!(xid = %context.xid(), %key, branch = registered.branch_id, "branch registered");
    let row = NewRow {
        kind: BranchKind::Tcc,
        xid: context.xid(),
        key: key.clone(),
        participant: shared.name.clone(),
        operation,
        log_id: registered.log_id.or(context.log_id()),
        payload,
        witness: registered.position,
    };
    let answer = fenced_try(&shared, hooks.as_ref(), *external, &row, started).await;
    match &answer {
        // After the commit of the local transaction: the vote says that the try is durable.
        Ok(_) => context.add_votes([key]),
        Err(error) => tracing::debug!(xid = %row.xid, %key, %error, "try failed"),
    }
    answer
}

/// Runs fence and hook. After it returns `Ok` the try is durable; after an error it is rolled back,
/// or, if the commit's answer was lost, unknown; if it never returns the row tells.
async fn fenced_try<DB: FenceDatabase>(
    shared: &Shared<DB>,
    hooks: &dyn ErasedHooks<DB>,
    external: bool,
    row: &NewRow,
    started: Instant,
) -> Result<Vec<u8>, TryError> {
    if external {
        let mut tx = shared.begin_local().await?;
        let start = start_try::<DB>(&mut tx, row).await?;
        if let Some(answer) = ended(start) {
            tx.rollback().await.map_err(crate::fence::FenceError::from)?;
            return answer;
        }
        tx.commit().await.map_err(crate::fence::FenceError::from)?;
    }
    let mut tx = shared.begin_local().await?;
    let start = start_try::<DB>(&mut tx, row).await?;
    let mark = if let TryStart::Again(mark) = &start { Some(*mark) } else { None };
    if let Some(answer) = ended(start) {
        tx.rollback().await.map_err(crate::fence::FenceError::from)?;
        return answer;
    }
    // Our row is in place, so from here on a cancel waits for us. Was there a cancel so long ago
    // that its tombstone may have been collected? Then our registration is older than that.
    if started.elapsed() >= shared.settings.collect_after {
        return Err(TryError::TooLate);
    }
    let branch = RawBranch { xid: row.xid, key: row.key.clone(), payload: row.payload.clone() };
    let hook = hooks.run_try(&mut tx, branch);
    let outcome = tokio::time::timeout(shared.settings.hook_timeout, hook).await;
    let answer = match outcome {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            // What rolls back by itself when it is dropped; asked for, it is done when we answer.
            let _ = tx.rollback().await;
            return Err(match error {
                HookError::Refused(refused) => TryError::Refused(refused.to_string()),
                HookError::Failed(error) => TryError::Hook(error),
            });
        }
        Err(_) => return Err(TryError::HookTimeout),
    };
    finish_try::<DB>(&mut tx, row.xid, &row.key, mark, &answer).await?;
    failpoint::reach("try.before_commit");
    tx.commit().await.map_err(crate::fence::FenceError::from)?;
    failpoint::reach("try.after_commit");
    Ok(answer)
}

/// What a try answers without running its hook; `None` if the hook must run.
fn ended(start: TryStart) -> Option<Result<Vec<u8>, TryError>> {
    match start {
        TryStart::Fresh | TryStart::Again(_) => None,
        TryStart::Repeat(answer) => Some(Ok(answer)),
        TryStart::Late(state) => {
            tracing::debug!(%state, "a try came after its cancel");
            Some(Err(TryError::Cancelled))
        }
        TryStart::Reused | TryStart::OtherLog(_) => Some(Err(TryError::KeyReused)),
    }
}
