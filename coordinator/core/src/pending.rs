//! What is owed: the effects that recovery lets out in place of those that it dropped.

use unanimity_types::mutant::{self, Mutant};
use unanimity_types::{BranchStatus, Timestamp};

use crate::apply::go_on;
use crate::command::{Context, Timer};
use crate::effect::Effect;
use crate::owed;
use crate::transaction::{Branch, Transaction};

/// The effects that a recovered transaction owes (protocol M7).
///
/// A branch that was tried before waits for a back-off of the magnitude that it had, so that a herd
/// spreads (protocol M9), which sets the volatile `next_attempt_at`; one that was not is tried at once.
/// What an earlier owner may have sent forward is marked: its refusal is no clean one any more (H2),
/// and no compensation goes out until that owner's attempts must be over (H3), also where a result is
/// known: that came from one attempt, and an owner before may still send another.
#[must_use]
pub fn pending(transaction: &mut Transaction, context: Context) -> Vec<Effect> {
    let mut effects = Vec::new();
    if transaction.decision.is_none() {
        effects.push(Effect::SetTimer { at: transaction.deadline, timer: Timer::Deadline });
        if let Some(until) = transaction.preparing {
            effects.push(Effect::SetTimer { at: until, timer: Timer::Prepare });
        }
    }
    for branch in &mut transaction.branches {
        if branch.status == BranchStatus::Compensating && branch.attempts == 0 && !branch.parked {
            // On its way, or seemingly so in a replay: which attempts of its action had begun is not
            // written.
            branch.status = BranchStatus::ToCompensate;
        }
    }
    let held = hold(transaction, context);
    for branch in &mut transaction.branches {
        branch.in_flight = false;
        branch.next_attempt_at = None;
        if matches!(branch.status, BranchStatus::Running | BranchStatus::ToCompensate) {
            branch.tainted = true;
        }
        if may_have_run(branch) {
            branch.hold_until = Some(held);
        }
        let Some(operation) = owed::operation(branch.status) else { continue };
        if branch.parked {
            continue;
        }
        if branch.attempts == 0 {
            branch.in_flight = operation.is_forward();
            effects.push(Effect::Dispatch { branch_id: branch.id, operation, attempt: 1 });
        } else {
            let wait = context.retry.with(&branch.policy()).wait(context.xid, branch.id, branch.attempts);
            let at = context.now.after(wait);
            branch.next_attempt_at = Some(at);
            effects.push(Effect::SetTimer { at, timer: Timer::Retry(branch.id) });
        }
    }
    go_on(transaction, context.now, &mut effects);
    effects
}

/// Whether an earlier owner may have sent the step's action. A compensation that failed before was
/// sent when none of them could send it any more.
const fn may_have_run(branch: &Branch) -> bool {
    matches!(
        branch.status,
        BranchStatus::Running | BranchStatus::Done | BranchStatus::ToCompensate | BranchStatus::Kept
    )
}

/// Until when an attempt of an earlier owner may run: it sends for as long as it believes in its lease,
/// and then waits for its answer. The same for all steps: what comes before a slow step that has nothing
/// to undo must not be undone while that may still run.
fn hold(transaction: &Transaction, context: Context) -> Timestamp {
    if mutant::is(Mutant::NoHoldAfterTakeover) {
        return context.now;
    }
    let ran = transaction.branches.iter().filter(|branch| may_have_run(branch));
    let longest = ran.filter_map(|branch| branch.policy().timeout).max().unwrap_or_default();
    context.now.after(context.lease).after(longest.max(context.call_timeout))
}
