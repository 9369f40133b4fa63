//! What is owed: the effects that recovery lets out in place of those that it dropped.

use crate::command::{Context, Timer};
use crate::effect::Effect;
use crate::tcc;
use crate::transaction::Transaction;

/// The effects that a recovered transaction owes (protocol M7).
///
/// A branch that was tried before waits for a back-off of the magnitude that it had, so that a herd
/// spreads (protocol M9), which sets the volatile `next_attempt_at`; one that was not is tried at once.
#[must_use]
pub fn pending(transaction: &mut Transaction, context: Context) -> Vec<Effect> {
    if transaction.decision.is_none() {
        return vec![Effect::SetTimer { at: transaction.deadline, timer: Timer::Deadline }];
    }
    let mut effects = Vec::new();
    for branch in &mut transaction.branches {
        let Some(operation) = tcc::owed_operation(branch.status) else { continue };
        if branch.attempts == 0 {
            branch.next_attempt_at = None;
            effects.push(Effect::Dispatch { branch_id: branch.id, operation, attempt: 1 });
        } else {
            let wait = context.retry.wait(context.xid, branch.id, branch.attempts);
            let at = context.now.after(wait);
            branch.next_attempt_at = Some(at);
            effects.push(Effect::SetTimer { at, timer: Timer::Retry(branch.id) });
        }
    }
    effects
}
