//! A saga step's action. Its compensation is in `second`: what ends a branch is alike in every mode.

use std::time::Duration;

use tokio::time::Instant;
use unanimity_types::{BranchKind, Limits, StepRole};

use crate::failpoint;
use crate::fence::{
    Claim, Closing, FenceDatabase, FenceError, FenceState, NO_ANSWER, NewRow, TryStart, finish, start_try,
};
use crate::participant::hooks::{HookError, Refused};
use crate::participant::order::{Answer, Order};
use crate::participant::second::Fenced;
use crate::participant::{HookSet, Shared};
use crate::saga::RawCall;

/// What the hooks get.
pub(super) fn call(order: &Order, payload: Vec<u8>, hook_timeout: Duration, external: bool) -> RawCall {
    RawCall {
        xid: order.xid,
        key: order.key.clone(),
        payload,
        inputs: order.inputs.clone(),
        attempt: order.attempt,
        // Work that outlives its attempt is not waited for.
        deadline: order.deadline.min(Instant::now() + hook_timeout),
        external,
    }
}

/// Fence and hook in one local transaction. After it returns `Result` the effect and the result are
/// durable; after anything else it is rolled back, or, if the commit's answer was lost, unknown: asked
/// again, the row tells.
pub(super) async fn action<DB: FenceDatabase>(shared: &Shared<DB>, order: Order) -> Fenced {
    let name = shared.hooks_name(&order, |set| matches!(set, HookSet::Step { .. }));
    let Some(HookSet::Step { hooks, external }) = shared.hooks.get(&name) else {
        return Ok(Ok(shared.unknown_hooks(&order, "step", &name)));
    };
    let row = order.row(BranchKind::Step, &shared.name, &name);
    let mut is_first = false;
    if *external {
        let mut tx = shared.begin_local().await?;
        let start = start_try::<DB>(&mut tx, &row, FenceState::Trying).await?;
        is_first = matches!(start, TryStart::Fresh(_));
        if let Err(answer) = ended(shared, &order, start) {
            tx.rollback().await?;
            return Ok(Ok(answer));
        }
        tx.commit().await?;
    }
    let mut tx = shared.begin_local().await?;
    let start = start_try::<DB>(&mut tx, &row, FenceState::Tried).await?;
    let claim = match ended(shared, &order, start) {
        Ok(claim) => claim,
        Err(answer) => {
            tx.rollback().await?;
            return Ok(Ok(answer));
        }
    };
    // Our row is in place, so from here on a compensation waits for us. One that came so long ago that
    // its tombstone may have been collected left nothing to see.
    // And who asked has stopped waiting: what begins now would only have to be found out about later.
    if order.received.elapsed() >= shared.settings.collect_after || Instant::now() >= order.deadline {
        return Ok(Ok(Answer::Unknown("the action waited too long".into())));
    }
    let call = call(&order, row.payload.clone(), shared.settings.hook_timeout, *external);
    let work = hooks.run_action(&mut tx, call);
    let outcome = match tokio::time::timeout(shared.settings.hook_timeout, work).await {
        // What the external form has done is done: it cannot be taken back by a refusal. Kept with its
        // result, it is compensated with it when the coordinator has seen that it is too large.
        Ok(outcome) if *external => outcome,
        Ok(outcome) => outcome.and_then(fits),
        Err(_) => return Ok(Err(HookError::failed("the hook took longer than it may"))),
    };
    let result = match outcome {
        Ok(result) => result,
        Err(error) => {
            // What rolls back by itself when it is dropped; asked for, it is done when we answer.
            let _ = tx.rollback().await;
            let HookError::Refused(refused) = error else { return Ok(Err(error)) };
            // Of an external action only the first attempt can know that nothing was done.
            let did_nothing = is_first || !*external;
            if did_nothing && may_end(&order) {
                return seal(shared, &row, *external, refused).await;
            }
            if is_first {
                forget(shared, &row).await?;
            }
            return Ok(Err(refused.into()));
        }
    };
    let answer = (claim.from != claim.to || result != NO_ANSWER).then_some(result.as_slice());
    failpoint::reach("try.before_commit");
    finish::<DB>(tx, &claim, Closing { answer, registered: None }).await?;
    failpoint::reach("try.after_commit");
    Ok(Ok(Answer::Result(result)))
}

/// Whether a refusal ends the step. One that only goes forward is tried again when somebody has mended
/// what it refused for.
fn may_end(order: &Order) -> bool {
    matches!(order.role, Some(StepRole::Compensatable | StepRole::Pivot))
}

/// Makes a refusal hold for every attempt, also for one that is still on its way: a tombstone. So it is
/// a clean one whatever became of the answers before it (protocol H2), and even a pivot can turn its
/// saga back (H14). What another attempt did meanwhile is the answer instead.
async fn seal<DB: FenceDatabase>(
    shared: &Shared<DB>,
    row: &NewRow,
    external: bool,
    refused: Refused,
) -> Fenced {
    let mut tx = shared.begin_local().await?;
    if external {
        DB::delete_refused(&mut tx, row.xid, &row.key).await?;
    }
    if DB::insert(&mut tx, row, FenceState::Tombstone).await?.is_some() {
        tx.commit().await?;
        return Ok(Ok(Answer::Sealed(refused.to_string())));
    }
    let found = DB::read_locked(&mut tx, row.xid, &row.key).await?;
    tx.rollback().await?;
    Ok(match found.map(|found| (found.state, found.answer)) {
        Some((FenceState::Tombstone, _)) => Ok(Answer::Sealed(refused.to_string())),
        Some((FenceState::Tried, Some(result))) => Ok(Answer::Result(result)),
        _ => Err(refused.into()),
    })
}

/// The first attempt of an external action refused: it did nothing, so nothing is to be undone.
async fn forget<DB: FenceDatabase>(shared: &Shared<DB>, row: &NewRow) -> Result<(), FenceError> {
    let mut tx = shared.begin_local().await?;
    DB::delete_refused(&mut tx, row.xid, &row.key).await?;
    Ok(tx.commit().await?)
}

/// Found before the commit, it is a clean refusal: nothing was done. The coordinator would have to undo
/// the step.
fn fits(result: Vec<u8>) -> Result<Vec<u8>, HookError> {
    let (bytes, most) = (result.len(), Limits::RESULT_BYTES_MAX);
    if bytes <= most {
        return Ok(result);
    }
    Err(Refused::new(format!("the action's result has {bytes} bytes, at most {most} are kept")).into())
}

/// The claim under which the hook must run, or what an action answers without it.
fn ended<DB: FenceDatabase>(shared: &Shared<DB>, order: &Order, start: TryStart) -> Result<Claim, Answer> {
    Err(match start {
        TryStart::Fresh(claim) | TryStart::Again(claim) => return Ok(claim),
        TryStart::Repeat(answer) => Answer::Result(answer),
        // H3: it overtook its own compensation, or comes from an owner that was deposed.
        // Refused before, and that answer was lost; or its compensation came first, after which nothing
        // may happen either.
        TryStart::Late(FenceState::Tombstone) if may_end(order) => {
            Answer::Sealed("the step was refused before, or its compensation came first".into())
        }
        TryStart::Late(state) => Answer::Refused(format!("the step is {state}: too late for its action")),
        TryStart::Reused => {
            let why = "a step whose key was used with another operation or payload before";
            shared.not_ours(order, "contradiction", why)
        }
        TryStart::OtherLog(mine) => {
            shared.not_ours(order, "not_mine", &format!("a step of another log, {mine}"))
        }
    })
}
