//! Events of what happens without a decision behind it: plans, votes, actions; and what follows from
//! the end of one branch for the others.

use unanimity_types::{BranchId, BranchStatus, Decision, Mode, Timestamp};

use super::{IllegalEvent, dispatch, note, show_parked};
use crate::command::Timer;
use crate::effect::Effect;
use crate::event::Event;
use crate::saga;
use crate::timeline::TimelineKind;
use crate::transaction::Transaction;
use crate::two_phase;

pub(super) fn apply(
    transaction: &mut Transaction,
    event: Event,
    at: Timestamp,
    effects: &mut Vec<Effect>,
) -> Result<(), IllegalEvent> {
    let xid = transaction.xid;
    let illegal = |what| Err(IllegalEvent { xid, what });
    match event {
        Event::PlanAccepted { branches } => {
            if transaction.planned || usize::try_from(branches) != Ok(transaction.branches.len()) {
                return illegal("a plan with another number of branches, or a second one");
            }
            transaction.planned = true;
            note(transaction, at, TimelineKind::Accepted, None, None);
            go_on(transaction, at, effects);
            Ok(())
        }
        Event::Voted { branch_id, vote } => {
            let undecided = transaction.decision.is_none();
            let Some(branch) = transaction.branch_mut(branch_id) else {
                return illegal("a vote of nobody");
            };
            let waits = matches!(branch.status, BranchStatus::Registered | BranchStatus::Preparing);
            if !undecided || !waits || branch.vote.is_some() {
                return illegal("a vote after the decision, or a second one");
            }
            branch.vote = Some(vote);
            // A branch may vote by itself while it is being asked: what runs is over when it returns.
            branch.status = two_phase::after_vote(vote);
            branch.next_attempt_at = None;
            if branch.status.is_settled() {
                transaction.unsettled -= 1;
            }
            note(transaction, at, TimelineKind::Voted, Some(branch_id), Some(vote.as_str().into()));
            Ok(())
        }
        Event::PreparesAsked { until } => {
            if transaction.decision.is_some() || transaction.preparing.is_some() {
                return illegal("a round of prepares after the decision, or a second one");
            }
            transaction.commit_asked = None;
            transaction.preparing = Some(until);
            effects.push(Effect::SetTimer { at: until, timer: Timer::Prepare });
            for id in two_phase::to_prepare(transaction) {
                if let Some(branch) = transaction.branch_mut(id) {
                    branch.status = BranchStatus::Preparing;
                }
                dispatch(transaction, id, effects);
            }
            note(transaction, at, TimelineKind::Preparing, None, None);
            Ok(())
        }
        Event::Delegated { branch_id } => {
            let alone = transaction.branches.len() == 1 && transaction.decision.is_none();
            let Some(branch) = transaction.branch_mut(branch_id) else {
                return illegal("a delegation to nobody");
            };
            if !alone || branch.status != BranchStatus::Registered {
                return illegal("a delegation to one of several branches, or after the decision");
            }
            branch.status = BranchStatus::Delegated;
            transaction.commit_asked = None;
            dispatch(transaction, branch_id, effects);
            note(transaction, at, TimelineKind::Delegated, Some(branch_id), None);
            Ok(())
        }
        Event::CheckBackAsked { branch_id } => {
            let undecided = transaction.decision.is_none();
            let Some(branch) = transaction.branch_mut(branch_id) else {
                return illegal("a check-back to nobody");
            };
            if !undecided || branch.status != BranchStatus::Registered {
                return illegal("a check-back after the decision, or a second one");
            }
            branch.status = BranchStatus::Checking;
            dispatch(transaction, branch_id, effects);
            note(transaction, at, TimelineKind::CheckedBack, Some(branch_id), None);
            Ok(())
        }
        Event::ActionDone { branch_id, attempts, result } => {
            let Some(branch) = transaction.branch_mut(branch_id) else {
                return illegal("an action of nobody");
            };
            let settles = branch.status == BranchStatus::Running;
            match branch.status {
                BranchStatus::Running => {
                    branch.status = BranchStatus::Done;
                    branch.attempts = attempts;
                    branch.next_attempt_at = None;
                    branch.parked = false;
                }
                // The saga turned while it ran: what it brought is for its compensation. In a replay the
                // compensation may seem to be on its way: that the attempt had begun is not written.
                BranchStatus::ToCompensate | BranchStatus::Compensating => {}
                _ => return illegal("the end of an action that does not run"),
            }
            branch.in_flight = false;
            if let Some(step) = &mut branch.step {
                step.result = Some(result);
            }
            if settles {
                transaction.unsettled -= 1;
            }
            show_parked(transaction, at);
            note(transaction, at, TimelineKind::Done, Some(branch_id), None);
            go_on(transaction, at, effects);
            Ok(())
        }
        Event::ActionRefused { branch_id, attempts, error } => {
            let Some(branch) = transaction.branch_mut(branch_id) else {
                return illegal("a refusal of nobody");
            };
            // In a replay the compensation may seem to be on its way, as above.
            let running = matches!(
                branch.status,
                BranchStatus::Running | BranchStatus::ToCompensate | BranchStatus::Compensating
            );
            if !running {
                return illegal("a refusal of a step that does not run");
            }
            branch.in_flight = false;
            branch.status = BranchStatus::Refused;
            branch.attempts = attempts;
            branch.next_attempt_at = None;
            branch.last_error = Some(error.clone());
            transaction.unsettled -= 1;
            note(transaction, at, TimelineKind::Refused, Some(branch_id), Some(error));
            go_on(transaction, at, effects);
            Ok(())
        }
        Event::Returned { branch_id } => {
            let Some(branch) = transaction.branch_mut(branch_id) else {
                return illegal("a return of nobody");
            };
            branch.in_flight = false;
            if branch.status == BranchStatus::RollingBack {
                dispatch(transaction, branch_id, effects);
            }
            go_on(transaction, at, effects);
            Ok(())
        }
        _ => illegal("an event of another kind"),
    }
}

/// The saga turns back: nothing more goes forward, and what may have run waits for its compensation.
pub(super) fn turn(transaction: &mut Transaction) {
    for branch in &mut transaction.branches {
        branch.status = saga::turned(branch, branch.status);
        branch.next_attempt_at = None;
        branch.parked = false;
        if branch.status == BranchStatus::ToCompensate {
            // From here on they count the compensation's. An attempt that failed before may have run: no
            // refusal of another one is clean (protocol H2).
            branch.tainted |= branch.attempts > 0;
            branch.attempts = 0;
        }
    }
}

/// Lets the steps of a saga go on whose turn has come, forward or back.
pub(crate) fn go_on(transaction: &mut Transaction, at: Timestamp, effects: &mut Vec<Effect>) {
    if transaction.mode != Some(Mode::Saga) || !transaction.planned {
        return;
    }
    match transaction.decision.as_ref().map(|record| record.decision) {
        None => {
            for id in saga::ready_to_run(transaction) {
                if let Some(branch) = transaction.branch_mut(id) {
                    branch.status = BranchStatus::Running;
                }
                dispatch(transaction, id, effects);
            }
        }
        Some(Decision::Abort) => {
            for id in saga::ready_to_compensate(transaction) {
                compensate(transaction, id, at, effects);
            }
        }
        Some(Decision::Commit) => {}
    }
}

/// Sends a compensation, or sets the time from which it may go (protocol H3). What has nothing to undo is
/// settled then, which is an event of its own.
fn compensate(transaction: &mut Transaction, id: BranchId, at: Timestamp, effects: &mut Vec<Effect>) {
    let Some(branch) = transaction.branch_mut(id) else { return };
    let held = branch.hold_until.filter(|until| *until > at);
    if held.is_none() && branch.has_compensation() {
        dispatch(transaction, id, effects);
        return;
    }
    let until = held.unwrap_or(at);
    branch.next_attempt_at = Some(until);
    effects.push(Effect::SetTimer { at: until, timer: Timer::Retry(id) });
}
