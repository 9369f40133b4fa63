//! What operators do: with who and why in the log.

use unanimity_types::{BranchId, BranchStatus, Decision, ResolveAs};

use super::is_last;
use crate::answer::{Answer, Refusal, Verdict};
use crate::command::OperatorAction;
use crate::event::Event;
use crate::tcc;
use crate::transaction::{AttentionCode, Transaction};

/// Try what is owed again now.
pub(super) fn retry(transaction: &Transaction, by: OperatorAction) -> Verdict {
    if transaction.decision.is_none() {
        return Verdict::refused(Refusal::Illegal {
            what: "the transaction is undecided: nothing is owed yet; it can be aborted",
        });
    }
    if transaction.finished_at.is_some() {
        return Verdict::refused(Refusal::Illegal { what: "the transaction is over: nothing is owed" });
    }
    let mut events = vec![Event::RetryRequested { by }];
    let waiting = transaction.branches.iter().filter(|branch| branch.next_attempt_at.is_some());
    events.extend(waiting.map(|branch| Event::Dispatched { branch_id: branch.id }));
    Verdict::events(events)
}

/// Settle a branch by hand: a heuristic outcome, after the decision only. Before it there is
/// nothing to settle: the transaction can be aborted.
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
        return Verdict::refused(Refusal::Illegal {
            what: "the transaction is undecided: no branch can be settled by hand; abort the transaction instead",
        });
    };
    if tcc::owed_operation(branch.status).is_none() {
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
