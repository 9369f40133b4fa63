//! Domain events to the messages of format 1, which format 2 uses for what is rare.
//!
//! Format 1 is written while a node of the cluster reads no other (protocol M18): see `write.rs`.

use std::time::Duration;

use bytes::Bytes;
use unanimity_core::{
    AttentionCode, Branch, BranchTraits, Event, LockEvent, OperatorAction, TimelineKind, Transaction,
};
use unanimity_proto::log;
use unanimity_types::{
    AbortReason, BranchId, BranchKind, BranchStatus, BranchTargets, CallPolicy, DecideHash, Decision, Mode,
    ResolveAs, StepRole, Target, Timestamp, Vote,
};

use super::PartitionEvent;

/// The bits of `log::Registered::two_phase`.
pub(super) const EARLY: u32 = 1;
pub(super) const ONE_PHASE: u32 = 2;

/// The message of an event; `None` for a volatile one, which is not written.
pub(super) fn encode_event(event: &Event) -> Option<log::Record> {
    use log::record::Event as Wire;
    let event = match event {
        Event::Begun { mode, name, digest, deadline, decide_hash } => Wire::Begun(log::Begun {
            mode: mode_number(*mode),
            name: name.as_ref().map(ToString::to_string).unwrap_or_default(),
            digest: digest.0.to_vec().into(),
            deadline_ms: deadline.0,
            decide_hash: encode_hash(decide_hash.as_deref()),
        }),
        Event::Presumed => Wire::Presumed(log::Presumed {}),
        Event::Registered { branch_id, key, targets, payload, digest, traits } => {
            let mut registered = log::Registered {
                branch_id: branch_id.0,
                key: key.to_string(),
                targets: Some(encode_targets(targets)),
                payload: payload.clone(),
                digest: digest.0.to_vec().into(),
                ..Default::default()
            };
            encode_traits(&mut registered, traits);
            Wire::Registered(registered)
        }
        Event::PlanAccepted { branches } => Wire::PlanAccepted(log::PlanAccepted { branches: *branches }),
        Event::Voted { branch_id, vote } => {
            Wire::Voted(log::Voted { branch_id: branch_id.0, vote: number_in(Vote::ALL, *vote) })
        }
        Event::PreparesAsked { until } => Wire::PreparesAsked(log::PreparesAsked { until_ms: until.0 }),
        Event::Delegated { branch_id } => Wire::Delegated(log::Delegated { branch_id: branch_id.0 }),
        Event::CheckBackAsked { branch_id } => {
            Wire::CheckBackAsked(log::CheckBackAsked { branch_id: branch_id.0 })
        }
        Event::ActionDone { branch_id, attempts, result } => Wire::ActionDone(log::ActionDone {
            branch_id: branch_id.0,
            attempts: *attempts,
            result: result.clone(),
        }),
        Event::ActionRefused { branch_id, attempts, error } => Wire::ActionRefused(log::ActionRefused {
            branch_id: branch_id.0,
            attempts: *attempts,
            error: error.to_string(),
        }),
        Event::Parked { branch_id, attempts, error } => Wire::Parked(log::Parked {
            branch_id: branch_id.0,
            attempts: *attempts,
            error: error.to_string(),
        }),
        Event::Decided { decision, reason, branches, by } => Wire::Decided(log::Decided {
            decision: decision_number(*decision),
            abort_reason: reason.map_or(0, reason_number),
            branches: *branches,
            operator: by.as_ref().map(|by| by.operator.to_string()).unwrap_or_default(),
            reason: by.as_ref().map(|by| by.reason.to_string()).unwrap_or_default(),
        }),
        Event::AttemptFailed { branch_id, attempts, error, .. } => Wire::AttemptFailed(log::AttemptFailed {
            branch_id: branch_id.0,
            attempts: *attempts,
            error: error.to_string(),
        }),
        Event::BranchSettled { branch_id, attempts } => {
            Wire::BranchSettled(log::BranchSettled { branch_id: branch_id.0, attempts: *attempts })
        }
        Event::BranchResolved { branch_id, resolve_as, by } => {
            Wire::BranchResolved(resolved(*branch_id, *resolve_as, by))
        }
        Event::Contradicted { branch_id, operation } => {
            Wire::Contradicted(log::Contradicted { branch_id: branch_id.0, message: operation.to_string() })
        }
        Event::AttentionRaised { code, branch_id, message } => {
            Wire::AttentionRaised(attention(*code, *branch_id, message))
        }
        Event::RetryRequested { by } => Wire::RetryRequested(log::RetryRequested {
            operator: by.operator.to_string(),
            reason: by.reason.to_string(),
        }),
        Event::Finished => Wire::Finished(log::Finished {}),
        Event::Snapshot(transaction) => Wire::Snapshot(snapshot(transaction)),
        Event::CommitAsked { .. }
        | Event::Dispatched { .. }
        | Event::Returned { .. }
        | Event::Deferred { .. } => return None,
    };
    Some(log::Record { event: Some(event), ..Default::default() })
}

/// The message of the partition's own event.
pub(super) fn encode_partition_event(event: &PartitionEvent) -> log::Record {
    use log::record::Event as Wire;
    let event = match event {
        PartitionEvent::LostTailFound { epoch, epoch_tag, seq } => {
            Wire::LostTailFound(log::LostTailFound { epoch: epoch.0, epoch_tag: *epoch_tag, seq: seq.0 })
        }
        PartitionEvent::LossAccepted { epoch, operator, reason } => Wire::LossAccepted(log::LossAccepted {
            epoch: epoch.0,
            operator: operator.clone(),
            reason: reason.clone(),
        }),
        PartitionEvent::Restored { epoch, at, operator, reason } => Wire::Restored(log::Restored {
            epoch: epoch.0,
            at_ms: at.0,
            operator: operator.clone(),
            reason: reason.clone(),
        }),
        PartitionEvent::Lock(LockEvent::Acquired { key, xid, since }) => {
            Wire::LockAcquired(log::LockAcquired {
                key: key.to_string(),
                xid: xid.as_bytes().to_vec().into(),
                at_ms: since.0,
            })
        }
        PartitionEvent::Lock(LockEvent::Released { key, xid }) => Wire::LockReleased(log::LockReleased {
            key: key.to_string(),
            xid: xid.as_bytes().to_vec().into(),
        }),
    };
    log::Record { event: Some(event), ..Default::default() }
}

fn snapshot(transaction: &Transaction) -> log::Snapshot {
    let millis = |at: Option<Timestamp>| at.map_or(0, |at| at.0);
    let decision = transaction.decision.as_ref();
    log::Snapshot {
        mode: transaction.mode.map_or(0, mode_number),
        name: transaction.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        digest: transaction.digest.0.to_vec().into(),
        begun_at_ms: transaction.begun_at.0,
        deadline_ms: transaction.deadline.0,
        decision: decision.map_or(0, |record| decision_number(record.decision)),
        abort_reason: transaction.abort_reason().map_or(0, reason_number),
        decided_at_ms: millis(decision.map(|record| record.at)),
        finished_at_ms: millis(transaction.finished_at),
        branches: transaction.branches.iter().map(snapshot_branch).collect(),
        timeline: transaction
            .timeline
            .iter()
            .map(|entry| log::SnapshotEntry {
                at_ms: entry.at.0,
                event: number_in(TimelineKind::ALL, entry.kind),
                branch_id: entry.branch_id.map_or(0, |id| id.0),
                detail: entry.detail.as_deref().unwrap_or_default().to_owned(),
            })
            .collect(),
        attention: transaction
            .attention
            .as_ref()
            .map(|raised| attention(raised.code, raised.branch_id, &raised.message)),
        attention_since_ms: millis(transaction.attention.as_ref().map(|raised| raised.since)),
        planned: transaction.planned,
        preparing_until_ms: millis(transaction.preparing),
        decide_hash: encode_hash(transaction.decide_hash.as_deref()),
    }
}

/// Empty for a transaction begun by call.
fn encode_hash(hash: Option<&DecideHash>) -> Bytes {
    hash.map(|hash| Bytes::copy_from_slice(&hash.0)).unwrap_or_default()
}

fn snapshot_branch(branch: &Branch) -> log::SnapshotBranch {
    let mut registered = log::Registered {
        branch_id: branch.id.0,
        key: branch.key.to_string(),
        targets: Some(encode_targets(&branch.targets)),
        payload: branch.payload.clone(),
        digest: branch.digest.0.to_vec().into(),
        ..Default::default()
    };
    encode_traits(&mut registered, &branch.traits());
    let result = branch.step.as_ref().and_then(|step| step.result.clone());
    log::SnapshotBranch {
        registered: Some(registered),
        parked: branch.parked,
        has_result: result.is_some(),
        result: result.unwrap_or_default(),
        vote: branch.vote.map_or(0, |vote| number_in(Vote::ALL, vote)),
        status: number_in(BranchStatus::ALL, branch.status),
        attempts: branch.attempts,
        last_error: branch.last_error.as_deref().unwrap_or_default().to_owned(),
        resolved: branch.resolved.as_ref().map(|by| log::BranchResolved {
            branch_id: branch.id.0,
            resolve_as: match branch.status {
                BranchStatus::HeuristicCancelled => resolve_number(ResolveAs::Cancelled),
                _ => resolve_number(ResolveAs::Confirmed),
            },
            operator: by.operator.to_string(),
            reason: by.reason.to_string(),
        }),
        contradicted: branch.resolved.as_ref().is_some_and(|by| by.contradicted),
    }
}

fn attention(code: AttentionCode, branch_id: Option<BranchId>, message: &str) -> log::AttentionRaised {
    log::AttentionRaised {
        code: code.as_str().to_owned(),
        message: message.to_owned(),
        branch_id: branch_id.map_or(0, |id| id.0),
    }
}

fn resolved(branch_id: BranchId, resolve_as: ResolveAs, by: &OperatorAction) -> log::BranchResolved {
    log::BranchResolved {
        branch_id: branch_id.0,
        resolve_as: resolve_number(resolve_as),
        operator: by.operator.to_string(),
        reason: by.reason.to_string(),
    }
}

/// What a branch is besides a plain TCC one, which needs none of these fields.
pub(super) fn encode_traits(registered: &mut log::Registered, traits: &BranchTraits) {
    let millis =
        |wait: Option<Duration>| wait.map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    let BranchTraits { kind, two_phase, policy, lock_keys, step } = traits;
    registered.kind = if *kind == BranchKind::Tcc { 0 } else { number_in(BranchKind::ALL, *kind) };
    registered.two_phase = u32::from(two_phase.early) * EARLY + u32::from(two_phase.one_phase) * ONE_PHASE;
    registered.instance = two_phase.instance.as_ref().map(ToString::to_string).unwrap_or_default();
    registered.lock_keys = lock_keys.iter().map(ToString::to_string).collect();
    registered.policy = (*policy != CallPolicy::default()).then(|| log::Policy {
        initial_ms: millis(policy.initial),
        cap_ms: millis(policy.cap),
        give_up_after: policy.give_up_after.unwrap_or(0),
        timeout_ms: millis(policy.timeout),
    });
    registered.step = step.as_ref().map(|step| log::Step {
        role: number_in(StepRole::ALL, step.role),
        after: step.after.iter().map(|id| id.0).collect(),
    });
}

pub(super) fn encode_targets(targets: &BranchTargets) -> log::Targets {
    match targets {
        BranchTargets::One(one) => log::Targets { one: Some(encode_target(one)), ..Default::default() },
        BranchTargets::Tcc { confirm, cancel } => log::Targets {
            confirm: Some(encode_target(confirm)),
            cancel: Some(encode_target(cancel)),
            ..Default::default()
        },
        BranchTargets::TwoPhase { prepare, commit, rollback } => log::Targets {
            prepare: prepare.as_ref().map(encode_target),
            commit: Some(encode_target(commit)),
            rollback: Some(encode_target(rollback)),
            ..Default::default()
        },
        BranchTargets::Step { action, compensate } => log::Targets {
            action: Some(encode_target(action)),
            compensate: compensate.as_ref().map(encode_target),
            ..Default::default()
        },
    }
}

fn encode_target(target: &Target) -> log::Target {
    let kind = match target {
        Target::Participant { participant, operation } => {
            log::target::Kind::Participant(log::ParticipantTarget {
                participant: participant.to_string(),
                operation: operation.to_string(),
            })
        }
        Target::Grpc(url) => log::target::Kind::Grpc(url.to_string()),
        Target::Http(url) => log::target::Kind::Url(url.to_string()),
    };
    log::Target { kind: Some(kind) }
}

fn mode_number(mode: Mode) -> u32 {
    number_in(Mode::ALL, mode)
}

fn decision_number(decision: Decision) -> u32 {
    number_in(Decision::ALL, decision)
}

fn reason_number(reason: AbortReason) -> u32 {
    number_in(AbortReason::ALL, reason)
}

fn resolve_number(resolve_as: ResolveAs) -> u32 {
    number_in(ResolveAs::ALL, resolve_as)
}

/// A value's place in its type's order, from 1: the orders are part of the format and only grow at
/// their end.
pub(super) fn number_in<T: PartialEq + Copy>(all: &[T], value: T) -> u32 {
    let place = all.iter().position(|candidate| *candidate == value).unwrap_or(usize::MAX - 1);
    u32::try_from(place + 1).unwrap_or(u32::MAX)
}
