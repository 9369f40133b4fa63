//! Orders are carried out here, whoever gives them (session, callback, in-doubt loop); and what ends a
//! branch: confirm, cancel, compensate.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::FutureExt as _;
use unanimity_types::{BranchKind, Operation};

use crate::failpoint;
use crate::fence::{Closing, FenceDatabase, FenceError, FenceRow, SecondPhase, finish, start_second_phase};
use crate::participant::hooks::{HookError, RawBranch};
use crate::participant::order::{Answer, Order};
use crate::participant::{HookSet, Shared, messages, panic_text, steps, two_phase};

/// What the hook, and the fence around it, said.
pub(super) type Fenced = Result<Result<Answer, HookError>, FenceError>;

impl<DB: FenceDatabase> Shared<DB> {
    /// Carries an order out in a task that nobody cancels, when there is room for it.
    pub(super) async fn carry_out(self: &Arc<Self>, order: Order) -> Answer {
        let shared = Arc::clone(self);
        let work = async move { shared.carry_out_here(order).await };
        self.unstoppable(work).await.unwrap_or_else(Answer::Unknown)
    }

    /// The same in the caller's own task, which must be one that nobody cancels.
    pub(super) async fn carry_out_here(self: &Arc<Self>, order: Order) -> Answer {
        let Ok(_permit) = self.permits.acquire().await else {
            return Answer::Unknown("the participant shuts down".into());
        };
        let _in_hand = InHand::new(self);
        let (xid, key, operation) = (order.xid, order.key.clone(), order.operation);
        let result = AssertUnwindSafe(self.carry_out_now(order)).catch_unwind().await;
        let done = result.unwrap_or_else(|panic| {
            Answer::Unknown(format!("the hook panicked: {}", panic_text(panic.as_ref())))
        });
        match &done {
            Answer::Done | Answer::Result(_) | Answer::Voted(_) => self.attention.settled(xid, &key),
            Answer::NotYet(why) => tracing::debug!(%xid, %key, %operation, %why, "not yet"),
            Answer::Sealed(why) => tracing::debug!(%xid, %key, %operation, %why, "refused for good"),
            Answer::Refused(why) if operation.is_forward() || operation == Operation::CommitOnePhase => {
                tracing::debug!(%xid, %key, %operation, %why, "refused");
            }
            Answer::Refused(error) | Answer::Unknown(error) => {
                tracing::warn!(%xid, %key, %operation, %error, "an operation did not succeed; it comes again");
            }
        }
        done
    }

    async fn carry_out_now(&self, order: Order) -> Answer {
        let (operation, branch) = (order.operation, (order.xid, order.key.clone()));
        let at = Some((branch.0, &branch.1));
        let fenced = match operation {
            Operation::Action => steps::action(self, order).await,
            Operation::Deliver => messages::deliver(self, order).await,
            Operation::CheckBack => messages::answer_check_back(self, order).await,
            Operation::Prepare | Operation::Commit | Operation::Rollback | Operation::CommitOnePhase => {
                return two_phase::carry_out(self, order).await;
            }
            Operation::Try | Operation::Confirm | Operation::Cancel | Operation::Compensate => {
                settle(self, order).await
            }
        };
        match fenced {
            Ok(Ok(done)) => done,
            Ok(Err(HookError::Refused(refused))) => {
                // An action may refuse; nobody else is expected to.
                if !operation.is_forward() {
                    let message = format!("the hook refused to {operation}: {refused}");
                    self.attention.raise("hook_failed", at, message);
                }
                Answer::Refused(refused.to_string())
            }
            Ok(Err(HookError::Failed(error))) => {
                if !operation.is_forward() {
                    self.attention.raise("hook_failed", at, error.to_string());
                }
                Answer::Unknown(error.to_string())
            }
            Err(error) if error.is_contention() && operation == Operation::CheckBack => {
                Answer::NotYet(format!("the local transaction may still be open: {error}"))
            }
            Err(error) if error.is_contention() => Answer::Unknown(format!("busy: {error}")),
            Err(error) => Answer::Unknown(error.to_string()),
        }
    }

    /// Hooks that are missing: somebody must look, and nothing is known.
    pub(super) fn unknown_hooks(&self, order: &Order, what: &str, name: &str) -> Answer {
        let message = format!("no hooks of {what} are registered as {name:?}");
        self.attention.raise("unknown_hooks", Some((order.xid, &order.key)), message.as_str());
        Answer::Unknown(message)
    }

    /// A row that says that it is not ours to touch.
    pub(super) fn not_ours(&self, order: &Order, code: &'static str, why: &str) -> Answer {
        let message = format!("asked to {} {why}", order.operation);
        self.attention.raise(code, Some((order.xid, &order.key)), message.as_str());
        Answer::Unknown(message)
    }
}

/// Counts an operation for as long as it is carried out.
struct InHand<'a, DB: FenceDatabase>(&'a Shared<DB>);

impl<'a, DB: FenceDatabase> InHand<'a, DB> {
    fn new(shared: &'a Shared<DB>) -> Self {
        shared.in_hand.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl<DB: FenceDatabase> Drop for InHand<'_, DB> {
    fn drop(&mut self) {
        self.0.in_hand.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Confirm, cancel, compensate: fence and hook in one local transaction. After it returns `Done` the
/// effect is durable; after anything else it is rolled back, or, if the commit's answer was lost,
/// unknown: asked again, the row tells.
async fn settle<DB: FenceDatabase>(shared: &Shared<DB>, order: Order) -> Fenced {
    let operation = order.operation;
    let kind = if operation == Operation::Compensate { BranchKind::Step } else { BranchKind::Tcc };
    let new = order.row(kind, &shared.name, &order.name);
    let mut tx = shared.begin_local().await?;
    let row = match start_second_phase::<DB>(&mut tx, operation, &new).await? {
        SecondPhase::Run(row) => row,
        SecondPhase::Done => {
            // Keeps a tombstone that was made just now.
            tx.commit().await?;
            return Ok(Ok(Answer::Done));
        }
        SecondPhase::NotYet => {
            tx.rollback().await?;
            return Ok(Ok(Answer::NotYet("the try has not ended".into())));
        }
        SecondPhase::Contradicts(state) => {
            tx.rollback().await?;
            let message = format!("asked to {operation} a branch that is {state} (I6)");
            shared.attention.raise("contradiction", Some((order.xid, &order.key)), message.as_str());
            return Ok(Ok(Answer::Refused(message)));
        }
        SecondPhase::OtherLog(mine) => {
            tx.rollback().await?;
            return Ok(Ok(shared.not_ours(&order, "not_mine", &format!("a branch of another log, {mine}"))));
        }
        SecondPhase::OtherKind(kind) => {
            tx.rollback().await?;
            return Ok(Ok(shared.not_ours(&order, "contradiction", &format!("a branch of kind {kind}"))));
        }
    };
    let work = run_hook(shared, &mut tx, &order, &row);
    match tokio::time::timeout(shared.settings.hook_timeout, work).await {
        Ok(Some(Ok(()))) => {}
        Ok(Some(Err(error))) => {
            let _ = tx.rollback().await;
            return Ok(Err(error));
        }
        Ok(None) => {
            tx.rollback().await?;
            return Ok(Ok(shared.unknown_hooks(&order, kind.as_str(), &row.operation)));
        }
        Err(_) => return Ok(Err(HookError::failed("the hook took longer than it may"))),
    }
    failpoint::reach("second.before_commit");
    finish::<DB>(tx, &row.claim(), Closing::default()).await?;
    failpoint::reach("second.after_commit");
    Ok(Ok(Answer::Done))
}

/// `None`: there are no hooks for it.
async fn run_hook<DB: FenceDatabase>(
    shared: &Shared<DB>,
    tx: &mut crate::fence::LocalTransaction<'static, DB>,
    order: &Order,
    row: &FenceRow,
) -> Option<Result<(), HookError>> {
    match shared.hooks.get(&row.operation)? {
        HookSet::Tcc { hooks, .. } if row.kind == BranchKind::Tcc => {
            // The row's own payload: what the try was given.
            let branch = RawBranch { xid: row.xid, key: row.key.clone(), payload: row.payload.clone() };
            Some(hooks.run_second(order.operation, tx, branch).await)
        }
        HookSet::Step { hooks, external } if row.kind == BranchKind::Step => {
            let call = steps::call(order, row.payload.clone(), shared.settings.hook_timeout, *external);
            // What the row holds is what the action really brought; the coordinator may not know it.
            let result = row.answer.clone().or_else(|| Some(order.result.to_vec()).filter(|r| !r.is_empty()));
            Some(hooks.run_compensate(tx, call, result).await)
        }
        _ => None,
    }
}
