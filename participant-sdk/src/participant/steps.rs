//! A saga step's action. Its compensation is in `second`: what ends a branch is alike in every mode.

use std::time::Duration;

use tokio::time::Instant;
use unanimity_types::{BranchKind, Limits};

use crate::failpoint;
use crate::fence::{FenceDatabase, FenceError, NewRow, TryStart, finish_try, start_try};
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
        let start = start_try::<DB>(&mut tx, &row).await?;
        is_first = matches!(start, TryStart::Fresh);
        if let Some(answer) = ended(shared, &order, start) {
            tx.rollback().await?;
            return Ok(Ok(answer));
        }
        tx.commit().await?;
    }
    let mut tx = shared.begin_local().await?;
    let start = start_try::<DB>(&mut tx, &row).await?;
    let mark = if let TryStart::Again(mark) = &start { Some(*mark) } else { None };
    if let Some(answer) = ended(shared, &order, start) {
        tx.rollback().await?;
        return Ok(Ok(answer));
    }
    // Our row is in place, so from here on a compensation waits for us. One that came so long ago that
    // its tombstone may have been collected left nothing to see.
    // And who asked has stopped waiting: what begins now would only have to be found out about later.
    if order.received.elapsed() >= shared.settings.collect_after || Instant::now() >= order.deadline {
        return Ok(Ok(Answer::Unknown("the action waited too long".into())));
    }
    let call = call(&order, row.payload.clone(), shared.settings.hook_timeout, *external);
    let work = hooks.run_action(&mut tx, call);
    let outcome = match tokio::time::timeout(shared.settings.hook_timeout, work).await {
        Ok(outcome) => outcome.and_then(fits),
        Err(_) => return Ok(Err(HookError::failed("the hook took longer than it may"))),
    };
    let result = match outcome {
        Ok(result) => result,
        Err(error) => {
            // What rolls back by itself when it is dropped; asked for, it is done when we answer.
            let _ = tx.rollback().await;
            if is_first && matches!(error, HookError::Refused(_)) {
                forget(shared, &row).await?;
            }
            return Ok(Err(error));
        }
    };
    finish_try::<DB>(&mut tx, row.xid, &row.key, mark, &result).await?;
    failpoint::reach("try.before_commit");
    tx.commit().await?;
    failpoint::reach("try.after_commit");
    Ok(Ok(Answer::Result(result)))
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

/// What an action answers without running its hook; `None` if the hook must run.
fn ended<DB: FenceDatabase>(shared: &Shared<DB>, order: &Order, start: TryStart) -> Option<Answer> {
    match start {
        TryStart::Fresh | TryStart::Again(_) => None,
        TryStart::Repeat(answer) => Some(Answer::Result(answer)),
        // H3: it overtook its own compensation, or comes from an owner that was deposed.
        TryStart::Late(state) => {
            Some(Answer::Refused(format!("the step is {state}: too late for its action")))
        }
        TryStart::Reused => {
            let why = "a step whose key was used with another operation or payload before";
            Some(shared.not_ours(order, "contradiction", why))
        }
        TryStart::OtherLog(mine) => {
            Some(shared.not_ours(order, "not_mine", &format!("a step of another log, {mine}")))
        }
    }
}
