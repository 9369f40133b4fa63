//! A try's local transaction, after its registration or beside it.
//!
//! ```text
//!   registration   ├── on its way ───────────── acknowledged ┐
//!   local          ├── begin, fence row, hook ── waits ──────┴─ commit
//! ```
//!
//! Either way the commit comes after the acknowledgement: a fence row that others can see belongs to a
//! branch that the coordinator knows (durably, in a durable transaction), so that a decision reaches it.
//! A registration that is refused, or not answered, rolls the local transaction back. A cancel that
//! comes meanwhile waits for our row, as for any open try: after our commit it cancels, after our
//! rollback it leaves a tombstone (K2, K7).

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::pin;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::{Instant, timeout};

use crate::error::ClientError;
use crate::failpoint;
use crate::fence::{
    Claim, Closing, FenceDatabase, FenceError, FenceState, LocalTransaction, NO_ANSWER, NewRow, Place,
    TryStart, finish, start_try,
};
use crate::participant::Shared;
use crate::participant::error::TryError;
use crate::participant::hooks::{ErasedHooks, HookError, RawBranch};

/// How long a local transaction that has done its work stays open for its registration. Longer than a
/// coordinator takes that is well, short for those who wait for the same rows or a connection.
const HOLD_MAX: Duration = Duration::from_millis(50);

/// One try of a branch.
pub(super) struct Attempt<'a, DB: FenceDatabase> {
    pub(super) shared: &'a Shared<DB>,
    pub(super) hooks: &'a dyn ErasedHooks<DB>,
    pub(super) external: bool,
    pub(super) row: NewRow,
    /// Before the registration was sent.
    pub(super) started: Instant,
}

/// How far the local transaction came.
enum Ran<DB: FenceDatabase> {
    /// The hook succeeded; the commit is left.
    Open(LocalTransaction<'static, DB>, Claim, Vec<u8>),
    /// The branch's row says what to answer. Rolled back.
    Ended(TryStart),
}

impl<DB: FenceDatabase> Attempt<'_, DB> {
    /// Runs fence and hook after the registration. After it returns `Ok` the try is durable; after an
    /// error it is rolled back, or, if the commit's answer was lost, unknown; if it never returns the row
    /// tells.
    pub(super) async fn after(mut self, registered: Place) -> Result<Vec<u8>, TryError> {
        self.row.log_id = registered.0.or(self.row.log_id);
        self.row.witness = registered.1;
        if self.external {
            let mut tx = self.shared.begin_local().await?;
            match start_try::<DB>(&mut tx, &self.row, FenceState::Trying).await? {
                TryStart::Fresh(_) | TryStart::Again(_) => tx.commit().await.map_err(FenceError::from)?,
                start => {
                    tx.rollback().await.map_err(FenceError::from)?;
                    return ended(start);
                }
            }
        }
        match self.run().await? {
            Ran::Open(tx, claim, answer) => commit::<DB>(tx, &claim, answer, None).await,
            Ran::Ended(start) => ended(start),
        }
    }

    /// Runs fence and hook beside the registration; what it returns says the same as [`Self::after`]. Its
    /// end waits for the registration's in every case, so that a failed try is not registered later.
    pub(super) async fn beside(
        self,
        registration: impl Future<Output = Result<Place, ClientError>>,
    ) -> Result<Vec<u8>, TryError> {
        let (mut registration, mut answered) = (pin!(registration), None);
        let ran = {
            // A panic waits like an error: it must not drop the registration on its way.
            let mut local = pin!(AssertUnwindSafe(self.run()).catch_unwind());
            tokio::select! {
                ran = &mut local => ran,
                answer = &mut registration => {
                    answered = Some(answer);
                    local.await
                }
            }
        };
        let open = match ran {
            Ok(Ok(Ran::Open(tx, claim, answer))) => {
                if answered.is_none() {
                    answered = timeout(HOLD_MAX, &mut registration).await.ok();
                }
                match answered {
                    Some(Ok((log_id, position))) => {
                        let place = (log_id.or(self.row.log_id), position);
                        return commit::<DB>(tx, &claim, answer, Some(place)).await;
                    }
                    other => answered = other,
                }
                tx.rollback().await.map(|()| None).map_err(|error| FenceError::from(error).into())
            }
            Ok(Ok(Ran::Ended(_))) => Ok(None),
            Ok(Err(error)) => Err(error),
            Err(panic) => Ok(Some(panic)),
        };
        let registered = match answered {
            Some(answer) => answer,
            None => registration.await,
        };
        let registered = registered.map_err(TryError::Registration)?;
        match open? {
            Some(panic) => resume_unwind(panic),
            // Nothing is held here any more: once more, in order.
            None => self.after(registered).await,
        }
    }

    /// Runs fence and hook in a local transaction, up to its commit.
    async fn run(&self) -> Result<Ran<DB>, TryError> {
        let settings = &self.shared.settings;
        let mut tx = self.shared.begin_local().await?;
        let claim = match start_try::<DB>(&mut tx, &self.row, FenceState::Tried).await? {
            TryStart::Fresh(claim) | TryStart::Again(claim) => claim,
            start => {
                tx.rollback().await.map_err(FenceError::from)?;
                return Ok(Ran::Ended(start));
            }
        };
        // Our row is in place, so from here on a cancel waits for us. Was there a cancel so long ago
        // that its tombstone may have been collected? Then our registration is older than that.
        if self.started.elapsed() >= settings.collect_after {
            return Err(TryError::TooLate);
        }
        let NewRow { xid, key, payload, .. } = &self.row;
        let branch = RawBranch { xid: *xid, key: key.clone(), payload: payload.clone() };
        match timeout(settings.hook_timeout, self.hooks.run_try(&mut tx, branch)).await {
            Ok(Ok(answer)) => Ok(Ran::Open(tx, claim, answer)),
            Ok(Err(error)) => {
                // What rolls back by itself when it is dropped; asked for, it is done when we answer.
                let _ = tx.rollback().await;
                Err(match error {
                    HookError::Refused(refused) => TryError::Refused(refused.to_string()),
                    HookError::Failed(error) => TryError::Hook(error),
                })
            }
            Err(_) => Err(TryError::HookTimeout),
        }
    }
}

async fn commit<DB: FenceDatabase>(
    tx: LocalTransaction<'static, DB>,
    claim: &Claim,
    answer: Vec<u8>,
    registered: Option<Place>,
) -> Result<Vec<u8>, TryError> {
    let written = (claim.from != claim.to || answer != NO_ANSWER).then_some(answer.as_slice());
    failpoint::reach("try.before_commit");
    finish::<DB>(tx, claim, Closing { answer: written, registered }).await?;
    failpoint::reach("try.after_commit");
    Ok(answer)
}

/// What a try answers without running its hook.
fn ended(start: TryStart) -> Result<Vec<u8>, TryError> {
    match start {
        TryStart::Repeat(answer) => Ok(answer),
        TryStart::Late(state) => {
            tracing::debug!(%state, "a try came after its cancel");
            Err(TryError::Cancelled)
        }
        TryStart::Reused | TryStart::OtherLog(_) => Err(TryError::KeyReused),
        // Their hooks run.
        TryStart::Fresh(_) | TryStart::Again(_) => Err(FenceError::Contended.into()),
    }
}
