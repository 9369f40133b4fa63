//! Events of the log as words and fields.

use serde_json::{Value, json};
use unanimity_core::{Event, LockEvent, Step, TwoPhase};
use unanimity_types::{BranchId, Name, Xid};

use crate::api::rfc3339;
use crate::engine::{LoggedEvent, PartitionEvent};

/// An event, told.
pub(super) struct Told {
    pub(super) word: &'static str,
    pub(super) xid: Option<Xid>,
    pub(super) fields: Vec<(&'static str, Value)>,
}

/// Tells an event. Payloads are left out but for their size: they are the application's.
pub(super) fn describe(what: &LoggedEvent) -> Told {
    match what {
        LoggedEvent::Transaction(xid, event) => {
            let (word, fields) = transaction(event);
            Told { word, xid: Some(*xid), fields: present(fields) }
        }
        LoggedEvent::Partition(event) => {
            let (word, fields) = partition(event);
            Told { word, xid: None, fields }
        }
    }
}

type Fields = Vec<(&'static str, Value)>;

/// Without what is not there.
fn present(fields: Fields) -> Fields {
    fields.into_iter().filter(|(_, value)| !value.is_null()).collect()
}

fn transaction(event: &Event) -> (&'static str, Fields) {
    match event {
        Event::Begun { mode, name, digest, deadline, decide_hash } => (
            "begun",
            vec![
                ("mode", json!(mode.as_str())),
                ("name", json!(name.as_ref().map(ToString::to_string))),
                ("deadline", json!(rfc3339(*deadline))),
                ("digest", json!(format!("{digest:?}"))),
                ("without_a_call", json!(decide_hash.is_some().then_some(true))),
            ],
        ),
        Event::Presumed => ("presumed", Vec::new()),
        Event::Registered { branch_id, key, targets, payload, digest, traits } => (
            "registered",
            vec![
                ("branch_id", json!(branch_id.0)),
                ("key", json!(key.as_str())),
                ("kind", json!(traits.kind.as_str())),
                ("targets", json!(targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "))),
                ("payload_bytes", json!(payload.len())),
                ("step", json!(traits.step.as_ref().map(step_of))),
                ("two_phase", json!(two_phase_of(&traits.two_phase))),
                ("lock_keys", json!(lock_keys_of(&traits.lock_keys))),
                ("digest", json!(format!("{digest:?}"))),
            ],
        ),
        Event::PlanAccepted { branches } => ("plan_accepted", vec![("branches", json!(branches))]),
        Event::Voted { branch_id, vote } => {
            ("voted", vec![("branch_id", json!(branch_id.0)), ("vote", json!(vote.as_str()))])
        }
        Event::PreparesAsked { until } => ("prepares_asked", vec![("until", json!(rfc3339(*until)))]),
        Event::Delegated { branch_id } => ("delegated", vec![("branch_id", json!(branch_id.0))]),
        Event::CheckBackAsked { branch_id } => ("check_back_asked", vec![("branch_id", json!(branch_id.0))]),
        Event::ActionDone { branch_id, attempts, result } => (
            "action_done",
            vec![
                ("branch_id", json!(branch_id.0)),
                ("attempts", json!(attempts)),
                ("result_bytes", json!(result.len())),
            ],
        ),
        Event::ActionRefused { branch_id, attempts, error } => {
            ("action_refused", attempt(*branch_id, *attempts, error))
        }
        Event::Returned { branch_id } => ("returned", vec![("branch_id", json!(branch_id.0))]),
        Event::Parked { branch_id, attempts, error } => ("parked", attempt(*branch_id, *attempts, error)),
        Event::CommitAsked { votes, until } => {
            ("commit_asked", vec![("votes", json!(votes.len())), ("until", json!(rfc3339(*until)))])
        }
        Event::Decided { decision, reason, branches, by } => (
            "decided",
            vec![
                ("decision", json!(decision.as_str())),
                ("reason", json!(reason.map(|reason| reason.as_str()))),
                ("branches", json!(branches)),
                ("operator", json!(by.as_ref().map(|by| by.operator.to_string()))),
                ("why", json!(by.as_ref().map(|by| by.reason.to_string()))),
            ],
        ),
        Event::Dispatched { branch_id } => ("dispatched", vec![("branch_id", json!(branch_id.0))]),
        Event::AttemptFailed { branch_id, attempts, error, .. } => {
            ("attempt_failed", attempt(*branch_id, *attempts, error))
        }
        Event::Deferred { branch_id, next_at } => {
            ("deferred", vec![("branch_id", json!(branch_id.0)), ("next_at", json!(rfc3339(*next_at)))])
        }
        Event::BranchSettled { branch_id, attempts } => {
            ("settled", vec![("branch_id", json!(branch_id.0)), ("attempts", json!(attempts))])
        }
        Event::BranchResolved { branch_id, resolve_as, by } => (
            "resolved",
            vec![
                ("branch_id", json!(branch_id.0)),
                ("as", json!(resolve_as.as_str())),
                ("operator", json!(by.operator.to_string())),
                ("why", json!(by.reason.to_string())),
            ],
        ),
        Event::Contradicted { branch_id, operation } => (
            "contradicted",
            vec![("branch_id", json!(branch_id.0)), ("operation", json!(operation.as_str()))],
        ),
        Event::AttentionRaised { code, branch_id, message } => (
            "attention",
            vec![
                ("code", json!(code.as_str())),
                ("branch_id", json!(branch_id.map(|id| id.0))),
                ("message", json!(message.to_string())),
            ],
        ),
        Event::RetryRequested { by } => (
            "retried",
            vec![("operator", json!(by.operator.to_string())), ("why", json!(by.reason.to_string()))],
        ),
        Event::Finished => ("finished", Vec::new()),
        Event::Snapshot(whole) => (
            "snapshot",
            vec![
                ("status", json!(whole.status().as_str())),
                ("branches", json!(whole.branches.len())),
                ("preparing_until", json!(whole.preparing.map(rfc3339))),
                ("parked", json!(some_of(whole.branches.iter().filter(|branch| branch.parked).count()))),
            ],
        ),
    }
}

/// Its role and the steps before it: `pivot after 1, 2`.
fn step_of(step: &Step) -> String {
    let after: Vec<_> = step.after.iter().map(|id| id.0.to_string()).collect();
    if after.is_empty() { step.role.to_string() } else { format!("{} after {}", step.role, after.join(", ")) }
}

/// How it votes, if it does: `early`, `one_phase`, and the instance that it is pinned to.
fn two_phase_of(two_phase: &TwoPhase) -> Option<String> {
    let early = two_phase.early.then(|| "early".to_owned());
    let one_phase = two_phase.one_phase.then(|| "one_phase".to_owned());
    let instance = two_phase.instance.as_ref().map(|instance| format!("at {instance}"));
    let words: Vec<_> = [early, one_phase, instance].into_iter().flatten().collect();
    (!words.is_empty()).then(|| words.join(", "))
}

fn some_of(count: usize) -> Option<usize> {
    (count > 0).then_some(count)
}

fn lock_keys_of(keys: &[Name]) -> Option<String> {
    let keys: Vec<_> = keys.iter().map(Name::as_str).collect();
    (!keys.is_empty()).then(|| keys.join(", "))
}

fn attempt(branch_id: BranchId, attempts: u32, error: &str) -> Fields {
    vec![("branch_id", json!(branch_id.0)), ("attempts", json!(attempts)), ("error", json!(error))]
}

fn partition(event: &PartitionEvent) -> (&'static str, Fields) {
    match event {
        PartitionEvent::LostTailFound { epoch, epoch_tag, seq } => (
            "lost_tail_found",
            vec![
                ("epoch", json!(epoch.0)),
                ("epoch_tag", json!(format!("{epoch_tag:08x}"))),
                ("seq", json!(seq.0)),
            ],
        ),
        PartitionEvent::LossAccepted { epoch, operator, reason } => (
            "loss_accepted",
            vec![("epoch", json!(epoch.0)), ("operator", json!(operator)), ("why", json!(reason))],
        ),
        PartitionEvent::Restored { epoch, at, operator, reason } => (
            "restored",
            vec![
                ("epoch", json!(epoch.0)),
                ("at", json!(rfc3339(*at))),
                ("operator", json!(operator)),
                ("why", json!(reason)),
            ],
        ),
        PartitionEvent::Lock(LockEvent::Acquired { key, xid, since }) => (
            "lock_acquired",
            vec![
                ("key", json!(key.as_str())),
                ("holder", json!(xid.to_string())),
                ("since", json!(rfc3339(*since))),
            ],
        ),
        PartitionEvent::Lock(LockEvent::Released { key, xid }) => {
            ("lock_released", vec![("key", json!(key.as_str())), ("holder", json!(xid.to_string()))])
        }
    }
}
