//! The second phase: confirm and cancel, by whoever asks (session, callback, in-doubt loop).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use unanimity_proto::v1;
use unanimity_proto::v1::branch_result::Outcome;
use unanimity_types::{BranchKey, LogId, LogPosition, Name, Operation, Xid};

use crate::client::parse_log_id;
use crate::error::shorten;
use crate::failpoint;
use crate::fence::{
    FenceDatabase, FenceError, FenceRow, NewRow, SecondPhase, finish_second_phase, start_second_phase,
};
use crate::participant::Shared;
use crate::participant::hooks::{HookError, RawBranch};

/// A confirm or cancel to do.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) operation: Operation,
    pub(super) xid: Xid,
    pub(super) key: BranchKey,
    pub(super) name: String,
    pub(super) payload: Vec<u8>,
    pub(super) log_id: Option<LogId>,
    pub(super) position: Option<LogPosition>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The effect is there, or was before, or there is nothing to undo.
    Done,
    /// A clear no.
    Refused(String),
    /// Not possible yet.
    NotYet,
    /// Nothing is known.
    Unknown(String),
}

impl Answer {
    pub(super) fn to_wire(&self, call_id: u64) -> v1::BranchResult {
        let (outcome, error) = match self {
            Self::Done => (Outcome::Done, ""),
            Self::Refused(error) => (Outcome::Refused, error.as_str()),
            Self::NotYet => (Outcome::NotYet, "the try has not ended"),
            Self::Unknown(error) => (Outcome::Unknown, error.as_str()),
        };
        v1::BranchResult { call_id, outcome: outcome.into(), error: shorten(error), ..Default::default() }
    }
}

impl Order {
    /// Reads an operation from the wire. The error is what the coordinator is told.
    pub(super) fn from_wire(operation: v1::BranchOperation) -> Result<Self, Answer> {
        let malformed = |what: &str| Answer::Refused(format!("the operation cannot be understood: {what}"));
        let kind = match operation.operation().to_domain() {
            Some(kind @ (Operation::Confirm | Operation::Cancel)) => kind,
            Some(Operation::Try) => return Err(malformed("a try comes from the application")),
            _ => return Err(malformed("operation")),
        };
        Ok(Self {
            operation: kind,
            xid: operation.xid.parse().map_err(|_| malformed("xid"))?,
            key: BranchKey::new(operation.key).map_err(|_| malformed("key"))?,
            name: Name::new(operation.name).map_err(|_| malformed("name"))?.into(),
            payload: operation.payload.to_vec(),
            log_id: parse_log_id(&operation.log_id),
            position: operation.position.as_ref().and_then(|p| unanimity_proto::position_from_wire(p).ok()),
        })
    }

    /// What the in-doubt loop does with a row.
    pub(super) fn from_row(operation: Operation, row: &FenceRow) -> Self {
        Self {
            operation,
            xid: row.xid,
            key: row.key.clone(),
            name: row.operation.clone(),
            payload: row.payload.clone(),
            log_id: row.log_id,
            position: row.witness,
        }
    }
}

impl<DB: FenceDatabase> Shared<DB> {
    /// Carries an order out in a task that nobody cancels, when there is room for it.
    pub(super) async fn carry_out(self: &Arc<Self>, order: Order) -> Answer {
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
            return Answer::Unknown("the participant shuts down".into());
        };
        let in_hand = InHand::new(self);
        let (xid, key, operation) = (order.xid, order.key.clone(), order.operation);
        let result = self
            .unstoppable(async move {
                let _permit = permit;
                second_phase(&in_hand.0, order).await
            })
            .await;
        let done = result.unwrap_or_else(|panic| Answer::Unknown(format!("the hook panicked: {panic}")));
        match &done {
            Answer::Done => self.attention.settled(xid, &key),
            Answer::NotYet => tracing::debug!(%xid, %key, "asked to confirm before the try has ended"),
            Answer::Refused(error) | Answer::Unknown(error) => {
                tracing::warn!(%xid, %key, %operation, %error, "an operation did not succeed; it comes again");
            }
        }
        done
    }
}

/// Counts an operation for as long as its task lives, whoever waits for it.
struct InHand<DB: FenceDatabase>(Arc<Shared<DB>>);

impl<DB: FenceDatabase> InHand<DB> {
    fn new(shared: &Arc<Shared<DB>>) -> Self {
        shared.in_hand.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl<DB: FenceDatabase> Drop for InHand<DB> {
    fn drop(&mut self) {
        self.0.in_hand.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn second_phase<DB: FenceDatabase>(shared: &Shared<DB>, order: Order) -> Answer {
    let branch = (order.xid, order.key.clone());
    let at = Some((branch.0, &branch.1));
    match fenced_second_phase(shared, order).await {
        Ok(Ok(done)) => done,
        Ok(Err(HookError::Refused(refused))) => {
            shared.attention.raise(
                "hook_failed",
                at,
                format!("the hook refused after the decision: {refused}"),
            );
            Answer::Refused(refused.to_string())
        }
        Ok(Err(HookError::Failed(error))) => {
            shared.attention.raise("hook_failed", at, error.to_string());
            Answer::Unknown(error.to_string())
        }
        Err(error) if error.is_contention() => Answer::Unknown(format!("busy: {error}")),
        Err(error) => Answer::Unknown(error.to_string()),
    }
}

/// Fence and hook in one local transaction. After it returns `Done` the effect is durable; after
/// anything else it is rolled back, or, if the commit's answer was lost, unknown: asked again, the
/// row tells.
async fn fenced_second_phase<DB: FenceDatabase>(
    shared: &Shared<DB>,
    order: Order,
) -> Result<Result<Answer, HookError>, FenceError> {
    let Order { operation, xid, key, name, payload, log_id, position } = order;
    let at = Some((xid, &key));
    let new = NewRow {
        xid,
        key: key.clone(),
        participant: shared.name.clone(),
        operation: name,
        log_id,
        payload,
        witness: position,
    };
    let mut tx = shared.fence.begin().await?;
    let row = match start_second_phase::<DB>(&mut tx, operation, &new).await? {
        SecondPhase::Run(row) => row,
        SecondPhase::Done => {
            // Keeps a tombstone that was made just now.
            tx.commit().await?;
            return Ok(Ok(Answer::Done));
        }
        SecondPhase::NotYet => {
            tx.rollback().await?;
            return Ok(Ok(Answer::NotYet));
        }
        SecondPhase::Contradicts(state) => {
            tx.rollback().await?;
            let message = format!("asked to {operation} a branch that is {state} (I6)");
            shared.attention.raise("contradiction", at, message.as_str());
            return Ok(Ok(Answer::Refused(message)));
        }
        SecondPhase::OtherLog(mine) => {
            tx.rollback().await?;
            let message = format!("asked to {operation} a branch of another log, {mine}");
            shared.attention.raise("not_mine", at, message.as_str());
            return Ok(Ok(Answer::Unknown(message)));
        }
    };
    let Some(set) = shared.hooks.get(&row.operation) else {
        tx.rollback().await?;
        let message = format!("no hooks are registered as {:?}", row.operation);
        shared.attention.raise("unknown_hooks", at, message.as_str());
        return Ok(Ok(Answer::Unknown(message)));
    };
    // The row's own payload: what the try was given.
    let branch = RawBranch { xid, key: key.clone(), payload: row.payload.clone() };
    let hook = set.hooks.run_second(operation, &mut tx, branch);
    match tokio::time::timeout(shared.settings.hook_timeout, hook).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let _ = tx.rollback().await;
            return Ok(Err(error));
        }
        Err(_) => return Ok(Err(HookError::failed("the hook took longer than it may"))),
    }
    finish_second_phase::<DB>(&mut tx, operation, &row).await?;
    failpoint::reach("second.before_commit");
    tx.commit().await?;
    failpoint::reach("second.after_commit");
    Ok(Ok(Answer::Done))
}
