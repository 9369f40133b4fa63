//! Messages: deliveries to receivers, and check-backs to senders.

use unanimity_types::BranchKind;

use crate::failpoint;
use crate::fence::{
    Closing, FenceDatabase, FenceState, NO_ANSWER, SenderSays, TryStart, check_back, finish, start_try,
};
use crate::message::RawMessage;
use crate::participant::hooks::HookError;
use crate::participant::order::{Answer, Order};
use crate::participant::second::Fenced;
use crate::participant::{HookSet, Shared};

/// Fence and hook in one local transaction: the effect is there once, however often it is delivered.
pub(super) async fn deliver<DB: FenceDatabase>(shared: &Shared<DB>, order: Order) -> Fenced {
    let name = shared.hooks_name(&order, |set| matches!(set, HookSet::Receiver(_)));
    let Some(HookSet::Receiver(hooks)) = shared.hooks.get(&name) else {
        return Ok(Ok(shared.unknown_hooks(&order, "receiver", &name)));
    };
    let row = order.row(BranchKind::Message, &shared.name, &name);
    let mut tx = shared.begin_local().await?;
    let claim = match start_try::<DB>(&mut tx, &row, FenceState::Confirmed).await? {
        TryStart::Fresh(claim) | TryStart::Again(claim) => claim,
        TryStart::Repeat(_) => {
            tx.rollback().await?;
            return Ok(Ok(Answer::Done));
        }
        TryStart::OtherLog(mine) => {
            tx.rollback().await?;
            return Ok(Ok(shared.not_ours(&order, "not_mine", &format!("a message of another log, {mine}"))));
        }
        TryStart::Late(_) | TryStart::Reused => {
            tx.rollback().await?;
            let why = "a message whose key was used for something else before";
            return Ok(Ok(shared.not_ours(&order, "contradiction", why)));
        }
    };
    let message = RawMessage {
        xid: row.xid,
        key: row.key.clone(),
        payload: row.payload.clone(),
        attempt: order.attempt,
    };
    let work = hooks.run_deliver(&mut tx, message);
    match tokio::time::timeout(shared.settings.hook_timeout, work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let _ = tx.rollback().await;
            return Ok(Err(error));
        }
        Err(_) => return Ok(Err(HookError::failed("the hook took longer than it may"))),
    }
    // A fresh row has its answer; one that an attempt left open has none.
    let answer = (claim.from != claim.to).then_some(NO_ANSWER);
    failpoint::reach("try.before_commit");
    finish::<DB>(tx, &claim, Closing { answer, registered: None }).await?;
    failpoint::reach("try.after_commit");
    Ok(Ok(Answer::Done))
}

/// H5: a "no" is written before it is said. A local transaction that is open is waited for; where that
/// takes too long the answer is "not yet".
pub(super) async fn answer_check_back<DB: FenceDatabase>(shared: &Shared<DB>, order: Order) -> Fenced {
    let row = order.row(BranchKind::Sender, &shared.name, &order.name);
    let mut tx = shared.begin_local().await?;
    let says = check_back::<DB>(&mut tx, &row).await?;
    // Keeps a tombstone that was made just now.
    tx.commit().await?;
    Ok(Ok(match says {
        SenderSays::Committed => Answer::Done,
        SenderSays::No => Answer::Refused("the local transaction did not commit".into()),
        SenderSays::OtherLog(mine) => {
            shared.not_ours(&order, "not_mine", &format!("a message of another log, {mine}"))
        }
        SenderSays::OtherKind => shared.not_ours(&order, "contradiction", "a branch that is no sender"),
    }))
}
