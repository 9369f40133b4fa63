//! Two-phase branches: operations go to the resource manager that is registered under their name.
//!
//! Nothing is fenced here: a resource manager keeps its own record of what became of a branch. What it
//! calls an alarm raises attention and is answered as unknown: **never as a success** (reliability, row
//! P5), so the coordinator asks again and an operator sees both sides.

mod branch;
mod in_doubt;

use std::sync::Arc;

use unanimity_types::{LogId, Operation, Vote};

use crate::fence::FenceDatabase;
use crate::participant::health::TwoPhaseHealth;
use crate::participant::order::{Answer, Order};
use crate::participant::{HookSet, Shared};
use crate::xa::{Alarm, ErasedManager, Gid, OnePhase, Prepared, Settled, TwoPhaseCall};

pub use branch::TwoPhaseBranch;
pub(super) use in_doubt::{run, run_collection};

/// How many prepared transactions of others are shown for each resource manager.
const OTHERS_MAX: usize = 100;

/// A resource manager and its name.
type Named = (String, Arc<dyn ErasedManager>);

/// The resource managers of a participant.
fn managers<DB: FenceDatabase>(shared: &Shared<DB>) -> Vec<Named> {
    let mut managers: Vec<Named> = shared
        .hooks
        .iter()
        .filter_map(|(name, set)| match set {
            HookSet::TwoPhase(manager) => Some((name.clone(), Arc::clone(manager))),
            _ => None,
        })
        .collect();
    managers.sort_by(|one, other| one.0.cmp(&other.0));
    managers
}

/// Prepare, commit, rollback, commit in one phase.
pub(super) async fn carry_out<DB: FenceDatabase>(shared: &Shared<DB>, order: Order) -> Answer {
    let name = manager_name(shared, &order);
    let Some(HookSet::TwoPhase(manager)) = shared.hooks.get(&name) else {
        return shared.unknown_hooks(&order, "resource manager", &name);
    };
    let Some(log_id) = order.log_id else {
        return Answer::Unknown("the operation does not say in which log its transaction lives".into());
    };
    let gid = Gid::new(log_id, order.xid, &order.key);
    let call = TwoPhaseCall::new(gid, Some(order.key), order.payload);
    apply(shared, manager.as_ref(), order.operation, &call).await
}

/// The name for an order. At an address the coordinator names none: our keys begin with it.
fn manager_name<DB: FenceDatabase>(shared: &Shared<DB>, order: &Order) -> String {
    let is_manager = |set: &HookSet<DB>| matches!(set, HookSet::TwoPhase(_));
    if order.name.is_empty() {
        let operation = |key: &str| {
            let rest = key.strip_prefix(&shared.name)?.strip_prefix('/')?;
            let named = shared.hooks.iter().filter(|(name, set)| {
                is_manager(set) && rest.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('#'))
            });
            named.map(|(name, _)| name.clone()).max_by_key(String::len)
        };
        if let Some(name) = operation(order.key.as_str()) {
            return name;
        }
    }
    shared.hooks_name(order, is_manager)
}

/// One operation on a resource manager, within the time that a hook may take.
async fn apply<DB: FenceDatabase>(
    shared: &Shared<DB>,
    manager: &dyn ErasedManager,
    operation: Operation,
    call: &TwoPhaseCall,
) -> Answer {
    let work = async {
        match operation {
            Operation::Prepare => match manager.run_prepare(call).await {
                Prepared::Yes => Answer::Voted(Vote::Prepared),
                Prepared::ReadOnly => Answer::Voted(Vote::ReadOnly),
                Prepared::Refused(why) => Answer::Refused(why),
                Prepared::Unknown(error) => Answer::Unknown(error.to_string()),
            },
            Operation::Commit => settled(shared, call, manager.run_commit(call).await),
            Operation::Rollback => settled(shared, call, manager.run_rollback(call).await),
            Operation::CommitOnePhase => match manager.run_commit_one_phase(call).await {
                OnePhase::Committed => Answer::Done,
                OnePhase::Refused(why) => Answer::Refused(why),
                OnePhase::Unknown(error) => Answer::Unknown(error.to_string()),
                OnePhase::Alarm(alarm) => alarmed(shared, call, &alarm),
            },
            other => Answer::Unknown(format!("{other} is no operation of a two-phase branch")),
        }
    };
    tokio::time::timeout(shared.settings.hook_timeout, work)
        .await
        .unwrap_or_else(|_| Answer::Unknown("the resource manager took longer than it may".into()))
}

fn settled<DB: FenceDatabase>(shared: &Shared<DB>, call: &TwoPhaseCall, settled: Settled) -> Answer {
    match settled {
        Settled::Done => Answer::Done,
        Settled::Unknown(error) => Answer::Unknown(error.to_string()),
        Settled::Alarm(alarm) => alarmed(shared, call, &alarm),
    }
}

/// P5: somebody must look, and nobody is told that it is done.
fn alarmed<DB: FenceDatabase>(shared: &Shared<DB>, call: &TwoPhaseCall, alarm: &Alarm) -> Answer {
    let message = alarm.to_string();
    shared.attention.raise_at("xa_alarm", Some(call.gid.xid()), call.key.as_ref(), message.as_str());
    Answer::Unknown(message)
}

/// What the resource managers have prepared, and at work.
pub(super) async fn health<DB: FenceDatabase>(shared: &Shared<DB>) -> Vec<TwoPhaseHealth> {
    let log_id = shared.client.log_id();
    let mut all = Vec::new();
    for (operation, manager) in managers(shared) {
        let open = manager.count_open();
        // Before the log is known nothing is ours for certain.
        let listed = manager.list_in_doubt(log_id.unwrap_or(LogId(uuid::Uuid::nil()))).await;
        let mut health = TwoPhaseHealth { operation, open, ..TwoPhaseHealth::default() };
        match listed {
            Ok(listed) => {
                health.prepared = listed.ours.len();
                health.oldest_prepared = listed.ours.iter().map(|branch| branch.age).max();
                health.others_total = listed.others.len();
                health.others = listed.others.into_iter().take(OTHERS_MAX).collect();
            }
            Err(error) => health.error = Some(error.to_string()),
        }
        all.push(health);
    }
    all
}
