//! What operators do: with who and why in the log.

use unanimity_types::{AbortReason, BranchId, BranchStatus, Decision, Mode, ResolveAs, StepRole};

use super::{decision_events_after, is_last};
use crate::answer::{Answer, Refusal, Verdict};
use crate::command::OperatorAction;
use crate::event::Event;
use crate::transaction::{AttentionCode, Branch, Transaction};
use crate::{owed, saga};

/// An abort would lose a message whose sender committed.
const UNDECIDED_MESSAGE: &str = "the message is not submitted: look at its sender's database; submit it (POST …/commit) if the local transaction committed there, and abort it if it did not and cannot any more";

/// Try what is owed again now, also what is parked.
pub(super) fn retry(transaction: &Transaction, by: OperatorAction) -> Verdict {
    if transaction.finished_at.is_some() {
        return Verdict::refused(Refusal::Illegal { what: "the transaction is over: nothing is owed" });
    }
    let owes = |branch: &&Branch| owed::operation(branch.status).is_some();
    if transaction.decision.is_none() && !transaction.branches.iter().any(|branch| owes(&branch)) {
        return Verdict::refused(Refusal::Illegal {
            what: if transaction.mode == Some(Mode::Message) {
                UNDECIDED_MESSAGE
            } else {
                "the transaction is undecided: nothing is owed yet; it can be aborted"
            },
        });
    }
    let mut events = vec![Event::RetryRequested { by }];
    let waiting = transaction
        .branches
        .iter()
        .filter(owes)
        .filter(|branch| branch.next_attempt_at.is_some() || branch.parked);
    events.extend(waiting.map(|branch| Event::Dispatched { branch_id: branch.id }));
    Verdict::events(events)
}

/// Settle a branch by hand: a heuristic outcome.
///
/// After the decision only, with two exceptions where the transaction cannot be aborted: a delegate, and a
/// step past which there is no way back. Otherwise there is nothing to settle: it can be aborted.
pub(super) fn resolve(
    transaction: &Transaction,
    branch_id: BranchId,
    resolve_as: ResolveAs,
    by: OperatorAction,
) -> Verdict {
    let Some(branch) = transaction.branch(branch_id) else {
        return Verdict::refused(Refusal::BranchNotFound { branch_id });
    };
    let Some(decision) = transaction.decision.as_ref().map(|record| record.decision) else {
        return resolve_undecided(transaction, branch, resolve_as, &by);
    };
    if owed::operation(branch.status).is_none() && branch.status != BranchStatus::ToCompensate {
        let same = matches!(
            (branch.status, resolve_as),
            (BranchStatus::HeuristicConfirmed, ResolveAs::Confirmed)
                | (BranchStatus::HeuristicCancelled, ResolveAs::Cancelled)
        );
        if same {
            return Verdict::nothing(Answer::Status);
        }
        return Verdict::refused(Refusal::Illegal { what: "the branch is settled already" });
    }
    let mixed = !matches!(
        (decision, resolve_as),
        (Decision::Commit, ResolveAs::Confirmed) | (Decision::Abort, ResolveAs::Cancelled)
    );
    let message = format!(
        "branch {branch_id} ({}) was settled by hand as {resolve_as} by {}, the decision is {decision}",
        branch.key, by.operator
    );
    let mut events = vec![Event::BranchResolved { branch_id, resolve_as, by }];
    if mixed {
        events.push(Event::AttentionRaised {
            code: AttentionCode::HeuristicMixed,
            branch_id: Some(branch_id),
            message: message.into(),
        });
    }
    if is_last(transaction, branch.status) {
        events.push(Event::Finished);
    }
    Verdict::events(events)
}

/// Settles a branch by hand that holds up an undecided transaction.
fn resolve_undecided(
    transaction: &Transaction,
    branch: &Branch,
    resolve_as: ResolveAs,
    by: &OperatorAction,
) -> Verdict {
    let branch_id = branch.id;
    let resolved = Event::BranchResolved { branch_id, resolve_as, by: by.clone() };
    let took_effect = resolve_as == ResolveAs::Confirmed;
    let decide = |decision, reason| {
        let changed = Some((branch_id, owed::by_hand(resolve_as)));
        let decided = decision_events_after(transaction, changed, decision, reason, Some(by.clone()));
        Verdict::events(std::iter::once(resolved.clone()).chain(decided).collect())
    };
    match (branch.status, branch.role()) {
        (BranchStatus::Delegated, _) => {
            if took_effect {
                decide(Decision::Commit, None)
            } else {
                decide(Decision::Abort, Some(AbortReason::Operator))
            }
        }
        // The pivot did nothing: the saga turns back, as with its own refusal.
        (BranchStatus::Running, Some(StepRole::Pivot)) if !took_effect => {
            decide(Decision::Abort, Some(AbortReason::Operator))
        }
        (BranchStatus::Running, Some(StepRole::Pivot | StepRole::ForwardOnly)) => {
            let mut events = vec![resolved];
            if !took_effect {
                let message =
                    format!("step {} was left out by hand: the saga goes on without it", branch.key);
                events.push(Event::AttentionRaised {
                    code: AttentionCode::HeuristicMixed,
                    branch_id: Some(branch_id),
                    message: message.into(),
                });
            }
            events.extend(saga::end_if_last(transaction, branch));
            Verdict::events(events)
        }
        _ if transaction.mode == Some(Mode::Message) => {
            Verdict::refused(Refusal::Illegal { what: UNDECIDED_MESSAGE })
        }
        _ => Verdict::refused(Refusal::Illegal {
            what: "the transaction is undecided: no branch can be settled by hand; abort the transaction instead",
        }),
    }
}
