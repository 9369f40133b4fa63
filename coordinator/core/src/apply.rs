//! Events change the state, live and in recovery alike.

mod forward;

pub(crate) use forward::go_on;
use unanimity_types::{
    AbortReason, BranchId, BranchStatus, Decision, Limits, Mode, Operation, Timestamp, Xid,
};

use crate::command::{OperatorAction, Timer};
use crate::effect::Effect;
use crate::event::Event;
use crate::owed;
use crate::saga;
use crate::timeline::{TIMELINE_MAX, TimelineEntry, TimelineKind};
use crate::transaction::{
    Attention, AttentionCode, Branch, CommitAsked, DecisionRecord, Resolution, Transaction,
};

/// An event that cannot have happened in this state: a bug, or a log that somebody changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot happen to {xid} now")]
pub struct IllegalEvent {
    /// The transaction.
    pub xid: Xid,
    /// Which event and why not.
    pub what: &'static str,
}

/// Applies an event that happened at `at` to a transaction (`None` before its first) and adds what
/// follows from it to `effects`.
///
/// # Errors
/// [`IllegalEvent`]; the state is then as before.
pub fn apply(
    state: &mut Option<Transaction>,
    xid: Xid,
    event: Event,
    at: Timestamp,
    effects: &mut Vec<Effect>,
) -> Result<(), IllegalEvent> {
    let illegal = |what| Err(IllegalEvent { xid, what });
    match (state.as_mut(), event) {
        (None, Event::Begun { mode, name, digest, deadline, decide_hash }) => {
            let mut transaction = new(xid, at, deadline);
            transaction.mode = Some(mode);
            transaction.name = name;
            transaction.digest = digest;
            transaction.decide_hash = decide_hash;
            note(&mut transaction, at, TimelineKind::Begun, None, None);
            effects.push(Effect::SetTimer { at: deadline, timer: Timer::Deadline });
            *state = Some(transaction);
            Ok(())
        }
        (None, Event::Presumed) => {
            let mut transaction = new(xid, at, at);
            transaction.decision =
                Some(DecisionRecord { decision: Decision::Abort, reason: Some(AbortReason::Presumed), at });
            transaction.finished_at = Some(at);
            let detail = Some(abort_detail(Some(AbortReason::Presumed), None));
            note(&mut transaction, at, TimelineKind::Decided, None, detail);
            effects.push(Effect::Decided(Decision::Abort));
            effects.push(Effect::Finished);
            *state = Some(transaction);
            Ok(())
        }
        // A snapshot stands for all events before it. In recovery those may still be there.
        (_, Event::Snapshot(snapshot)) => {
            if snapshot.xid != xid {
                return illegal("a snapshot of another transaction");
            }
            let mut snapshot = *snapshot;
            if let Some(known) = state.take() {
                if forgets(&snapshot, &known) {
                    *state = Some(known);
                    return illegal("a snapshot without what happened before it");
                }
                keep_volatile(&mut snapshot, known);
            }
            *state = Some(snapshot);
            Ok(())
        }
        (None, _) => illegal("an event before its beginning"),
        (Some(_), Event::Begun { .. } | Event::Presumed) => illegal("a second beginning"),
        (Some(transaction), event) => apply_to(transaction, event, at, effects),
    }
}

/// Whether the snapshot lacks something that is known to have happened: a decision, a branch or how
/// one ended (I3).
fn forgets(snapshot: &Transaction, known: &Transaction) -> bool {
    let undecides = known.decision.is_some() && snapshot.decision != known.decision;
    let reopens = known.finished_at.is_some() && snapshot.finished_at.is_none();
    let loses_a_branch = snapshot.branches.len() < known.branches.len();
    let unsettles =
        known.branches.iter().zip(&snapshot.branches).any(|(known, now)| {
            known.key != now.key || known.status.is_settled() && known.status != now.status
        });
    undecides || reopens || loses_a_branch || unsettles
}

/// A snapshot that is applied live must not lose the waits that it does not hold: nobody sets their
/// timers again.
fn keep_volatile(snapshot: &mut Transaction, known: Transaction) {
    if snapshot.decision.is_none() {
        snapshot.commit_asked = known.commit_asked;
    }
    for (branch, known) in snapshot.branches.iter_mut().zip(known.branches) {
        if owed::operation(branch.status).is_some() || branch.status == BranchStatus::ToCompensate {
            branch.next_attempt_at = known.next_attempt_at;
        }
        branch.in_flight = known.in_flight;
        branch.tainted = known.tainted;
        branch.hold_until = known.hold_until;
    }
}

fn new(xid: Xid, at: Timestamp, deadline: Timestamp) -> Transaction {
    Transaction { begun_at: at, deadline, ..Transaction::empty(xid) }
}

fn apply_to(
    transaction: &mut Transaction,
    event: Event,
    at: Timestamp,
    effects: &mut Vec<Effect>,
) -> Result<(), IllegalEvent> {
    let xid = transaction.xid;
    let illegal = |what| Err(IllegalEvent { xid, what });
    match event {
        Event::Begun { .. } | Event::Presumed | Event::Snapshot(_) => illegal("a second beginning"),
        Event::Registered { branch_id, key, targets, payload, digest, traits } => {
            if transaction.decision.is_some() {
                return illegal("a registration after the decision");
            }
            if usize::try_from(branch_id.0) != Ok(transaction.branches.len() + 1) {
                return illegal("a registration out of order");
            }
            let branch = Branch::new(branch_id, key, targets, payload, digest, *traits);
            // Most have two, and there are many transactions: no room for four, as `push` would make.
            if transaction.branches.len() == transaction.branches.capacity() {
                transaction.branches.reserve_exact(transaction.branches.len().max(2));
            }
            transaction.branches.push(branch);
            transaction.unsettled += 1;
            note(transaction, at, TimelineKind::Registered, Some(branch_id), None);
            Ok(())
        }
        Event::PlanAccepted { .. }
        | Event::Voted { .. }
        | Event::PreparesAsked { .. }
        | Event::Delegated { .. }
        | Event::CheckBackAsked { .. }
        | Event::ActionDone { .. }
        | Event::ActionRefused { .. }
        | Event::Returned { .. } => forward::apply(transaction, event, at, effects),
        Event::CommitAsked { votes, until } => {
            if transaction.decision.is_some() {
                return illegal("a waiting commit after the decision");
            }
            transaction.commit_asked = Some(CommitAsked { votes, until });
            effects.push(Effect::SetTimer { at: until, timer: Timer::CommitWait });
            Ok(())
        }
        Event::Decided { decision, reason, branches, by } => {
            if transaction.decision.is_some() {
                return illegal("a second decision");
            }
            if usize::try_from(branches) != Ok(transaction.branches.len()) {
                return illegal("a decision over another number of branches");
            }
            decided(transaction, decision, reason, by.as_ref(), at, effects);
            Ok(())
        }
        Event::Dispatched { branch_id } => {
            if !dispatch(transaction, branch_id, effects) {
                return illegal("a dispatch that nobody is owed");
            }
            Ok(())
        }
        Event::AttemptFailed { branch_id, attempts, error, next_at } => {
            let Some((branch, _)) = owed(transaction, branch_id) else {
                return illegal("a failed attempt of what nobody is owed");
            };
            branch.attempts = attempts;
            branch.in_flight = false;
            branch.next_attempt_at = Some(next_at);
            branch.last_error = Some(error.clone());
            effects.push(Effect::SetTimer { at: next_at, timer: Timer::Retry(branch_id) });
            if attempts.is_power_of_two() {
                note(transaction, at, TimelineKind::AttemptFailed, Some(branch_id), Some(error));
            }
            Ok(())
        }
        Event::Parked { branch_id, attempts, error } => {
            let Some((branch, _)) = owed(transaction, branch_id) else {
                return illegal("a parking of what nobody is owed");
            };
            branch.attempts = attempts;
            branch.in_flight = false;
            branch.next_attempt_at = None;
            branch.parked = true;
            branch.last_error = Some(error.clone());
            note(transaction, at, TimelineKind::Parked, Some(branch_id), Some(error));
            Ok(())
        }
        Event::Deferred { branch_id, next_at } => {
            let Some((branch, _)) = owed(transaction, branch_id) else {
                return illegal("a deferral of what nobody is owed");
            };
            branch.in_flight = false;
            branch.next_attempt_at = Some(next_at);
            effects.push(Effect::SetTimer { at: next_at, timer: Timer::Retry(branch_id) });
            Ok(())
        }
        Event::BranchSettled { branch_id, attempts } => {
            let Some((branch, _)) = owed(transaction, branch_id) else {
                return illegal("a settlement of what nobody is owed");
            };
            let Some(status) = owed::settled(branch) else {
                return illegal("a settlement of what is not decided");
            };
            branch.status = status;
            branch.attempts = attempts;
            branch.next_attempt_at = None;
            branch.parked = false;
            transaction.unsettled -= 1;
            show_parked(transaction, at);
            note(transaction, at, TimelineKind::Settled, Some(branch_id), None);
            go_on(transaction, at, effects);
            Ok(())
        }
        Event::BranchResolved { branch_id, resolve_as, by } => {
            let Some((branch, _)) = owed(transaction, branch_id) else {
                return illegal("a resolution of what nobody is owed");
            };
            branch.status = owed::by_hand(resolve_as);
            branch.next_attempt_at = None;
            branch.parked = false;
            branch.in_flight = false;
            let detail = format!("{resolve_as} by {}: {}", by.operator, by.reason);
            branch.resolved =
                Some(Box::new(Resolution { operator: by.operator, reason: by.reason, contradicted: false }));
            transaction.unsettled -= 1;
            show_parked(transaction, at);
            note(transaction, at, TimelineKind::Resolved, Some(branch_id), Some(detail.into()));
            go_on(transaction, at, effects);
            Ok(())
        }
        Event::Contradicted { branch_id, operation } => {
            let Some(branch) = transaction.branch_mut(branch_id) else {
                return illegal("a contradiction of what nobody resolved");
            };
            let did = contradiction(branch.status, operation);
            let Some(resolved) = branch.resolved.as_mut() else {
                return illegal("a contradiction of what nobody resolved");
            };
            resolved.contradicted = true;
            let detail = format!("its participant says that it {did} {operation}");
            note(transaction, at, TimelineKind::Contradicted, Some(branch_id), Some(detail.into()));
            Ok(())
        }
        Event::AttentionRaised { code, branch_id, message } => {
            let message = clip(message);
            let detail = Some(format!("{}: {message}", code.as_str()).into());
            // Graver trouble is not covered up.
            if transaction.attention.as_ref().is_none_or(|known| known.code <= code) {
                transaction.attention = Some(Attention { code, branch_id, message, since: at });
            }
            note(transaction, at, TimelineKind::Attention, branch_id, detail);
            Ok(())
        }
        Event::RetryRequested { by } => {
            let detail = Some(format!("{}: {}", by.operator, by.reason).into());
            // The attempts follow, here or after a recovery.
            for branch in transaction.branches.iter_mut().filter(|branch| branch.parked) {
                branch.parked = false;
                // As many attempts again as its policy allows; a refusal of them is no clean one (H2).
                branch.attempts = 0;
                branch.tainted |= branch.status == BranchStatus::Running;
            }
            show_parked(transaction, at);
            note(transaction, at, TimelineKind::Retried, None, detail);
            Ok(())
        }
        Event::Finished => {
            if transaction.decision.is_none()
                || transaction.unsettled > 0
                || transaction.finished_at.is_some()
            {
                return illegal("an end before every branch is settled, or a second one");
            }
            transaction.finished_at = Some(at);
            if transaction.attention.as_ref().is_some_and(|attention| attention.code.ends_with_transaction())
            {
                transaction.attention = None;
            }
            note(transaction, at, TimelineKind::Finished, None, None);
            effects.push(Effect::Finished);
            Ok(())
        }
    }
}

/// Attention `parked` names a branch that is parked: when the one that it named is not any more, another
/// one, or nobody. What it covered up is shown again.
fn show_parked(transaction: &mut Transaction, at: Timestamp) {
    let is_parked = |id: BranchId| transaction.branch(id).is_some_and(|branch| branch.parked);
    let over = transaction
        .attention
        .as_ref()
        .is_some_and(|now| now.code == AttentionCode::Parked && !now.branch_id.is_some_and(is_parked));
    if !over {
        return;
    }
    let attention = |code, branch_id, message| Attention { code, branch_id, message, since: at };
    let parked = transaction.branches.iter().find(|branch| branch.parked).map(|branch| {
        let message = parked_message(branch, branch.last_error.as_deref().unwrap_or_default());
        attention(AttentionCode::Parked, Some(branch.id), message)
    });
    let is_overdue =
        transaction.mode == Some(Mode::Saga) && transaction.decision.is_none() && at >= transaction.deadline;
    let overdue =
        || is_overdue.then(|| attention(AttentionCode::Overdue, None, saga::overdue_message(transaction)));
    transaction.attention = parked.or_else(overdue);
}

/// What people are told of a branch of which no more attempts are made.
pub(crate) fn parked_message(branch: &Branch, error: &str) -> Box<str> {
    let message = format!("branch {} ({}) is parked: {error}", branch.id, branch.key);
    clip(message.into())
}

fn decided(
    transaction: &mut Transaction,
    decision: Decision,
    reason: Option<AbortReason>,
    by: Option<&OperatorAction>,
    at: Timestamp,
    effects: &mut Vec<Effect>,
) {
    transaction.decision = Some(DecisionRecord { decision, reason, at });
    transaction.commit_asked = None;
    transaction.preparing = None;
    effects.push(Effect::Decided(decision));
    if transaction.mode == Some(Mode::Saga) {
        if decision == Decision::Abort {
            forward::turn(transaction);
        }
    } else {
        for branch in &mut transaction.branches {
            tell(branch, decision, effects);
        }
    }
    let unsettled = transaction.branches.iter().filter(|branch| !branch.status.is_settled()).count();
    transaction.unsettled = u32::try_from(unsettled).unwrap_or(u32::MAX);
    let detail = match decision {
        Decision::Commit => "commit".into(),
        Decision::Abort => abort_detail(reason, by),
    };
    note(transaction, at, TimelineKind::Decided, None, Some(detail));
    go_on(transaction, at, effects);
}

/// Brings the decision to a branch. A rollback waits until the prepare that runs here has returned
/// (protocol H3).
fn tell(branch: &mut Branch, decision: Decision, effects: &mut Vec<Effect>) {
    let status = owed::on_decision(branch.kind, branch.status, decision);
    if status == branch.status {
        return;
    }
    branch.status = status;
    branch.next_attempt_at = None;
    branch.attempts = 0;
    if branch.in_flight && status == BranchStatus::RollingBack {
        return;
    }
    branch.in_flight = false;
    if let Some(operation) = owed::operation(status) {
        effects.push(Effect::Dispatch { branch_id: branch.id, operation, attempt: 1 });
    }
}

/// Sends the next attempt of what a branch is owed; `false` if nothing is.
fn dispatch(transaction: &mut Transaction, branch_id: BranchId, effects: &mut Vec<Effect>) -> bool {
    let Some((branch, operation)) = owed(transaction, branch_id) else { return false };
    branch.next_attempt_at = None;
    branch.parked = false;
    branch.in_flight = operation.is_forward();
    let attempt = branch.attempts.saturating_add(1);
    effects.push(Effect::Dispatch { branch_id, operation, attempt });
    true
}

/// What a participant did, against what somebody settled by hand.
pub(crate) fn contradiction(status: BranchStatus, operation: Operation) -> &'static str {
    // A delegate decides, so its refusal says as much as its commit.
    let refused = status == BranchStatus::HeuristicConfirmed && operation == Operation::CommitOnePhase;
    if refused { "refused" } else { "did" }
}

fn abort_detail(reason: Option<AbortReason>, by: Option<&OperatorAction>) -> Box<str> {
    let reason = reason.map_or("", AbortReason::as_str);
    match by {
        Some(by) => format!("abort ({reason}) by {}: {}", by.operator, by.reason).into(),
        None => format!("abort ({reason})").into(),
    }
}

/// The branch and the operation that it is owed. A step that waited for its turn has got it.
fn owed(transaction: &mut Transaction, id: BranchId) -> Option<(&mut Branch, Operation)> {
    let branch = transaction.branch_mut(id)?;
    if branch.status == BranchStatus::ToCompensate {
        branch.status = BranchStatus::Compensating;
    }
    owed::operation(branch.status).map(|operation| (branch, operation))
}

fn note(
    transaction: &mut Transaction,
    at: Timestamp,
    kind: TimelineKind,
    branch_id: Option<BranchId>,
    detail: Option<Box<str>>,
) {
    if transaction.timeline.len() >= TIMELINE_MAX && kind.is_frequent() {
        return;
    }
    // Operators can act for ever; what they did is in the log's audit, here the first acts stay.
    if transaction.timeline.len() >= 2 * TIMELINE_MAX && kind != TimelineKind::Finished {
        return;
    }
    transaction.timeline.push(TimelineEntry { at, kind, branch_id, detail });
}

/// Cuts a text to what is kept of an error, at a character's boundary.
pub(crate) fn clip(text: Box<str>) -> Box<str> {
    if text.len() <= Limits::ERROR_BYTES_MAX {
        return text;
    }
    let end = (0..=Limits::ERROR_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].into()
}
