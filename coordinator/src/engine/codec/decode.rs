//! Messages of format 1 to domain events: what the disk says is checked like what a stranger says.

use std::time::Duration;

use prost::Message;
use unanimity_core::{
    Attention, AttentionCode, Branch, BranchTraits, DecisionRecord, Event, LockEvent, OperatorAction,
    Resolution, Step, TimelineEntry, TimelineKind, Transaction, TwoPhase,
};
use unanimity_proto::log;
use unanimity_types::{
    AbortReason, BranchId, BranchKey, BranchKind, BranchStatus, BranchTargets, CallPolicy, DecideHash,
    Decision, Digest, Epoch, Mode, Name, Operation, ResolveAs, Seq, StepRole, Target, Timestamp, Vote, Xid,
};

use super::encode::{EARLY, ONE_PHASE};
use super::read::read;
use super::{CodecError, Logged, LoggedEvent, PartitionEvent};
use crate::log::{Block, known_format};

pub(super) type Result<T> = std::result::Result<T, CodecError>;

/// The records of a data block, in order.
///
/// # Errors
/// [`CodecError`] if the body is not of its format, or of one that this binary does not know.
pub fn decode(block: &Block) -> Result<Vec<Logged>> {
    if block.version > known_format() {
        return Err(CodecError::Unknown(format!("a block of format {}", block.version)));
    }
    match block.version {
        1 => decode_first(block),
        2 => read(block.time, &block.body),
        version => Err(CodecError::Unknown(format!("a block of format {version}"))),
    }
}

/// A body of format 1: one message with all records.
fn decode_first(block: &Block) -> Result<Vec<Logged>> {
    // Copied out: what stays in memory must not hold on to the whole block.
    let body = log::Body::decode(&*block.body).map_err(|error| CodecError::Malformed(error.to_string()))?;
    let decode = |record: log::Record| {
        let bytes = record.encoded_len();
        let at = Timestamp(block.time.0.saturating_add(u64::from(record.at_delta_ms)));
        let what = if record.xid.is_empty() {
            LoggedEvent::Partition(decode_partition_event(record)?)
        } else {
            let xid = Xid::from_slice(&record.xid).ok_or_else(|| invalid("a record has no xid"))?;
            LoggedEvent::Transaction(xid, decode_event(xid, record)?)
        };
        Ok(Logged { at, what, bytes })
    };
    body.records.into_iter().map(decode).collect()
}

fn known(record: log::Record) -> Result<log::record::Event> {
    let unknown = || CodecError::Unknown("a record has an event that this version does not know".into());
    record.event.ok_or_else(unknown)
}

pub(super) fn decode_partition_event(record: log::Record) -> Result<PartitionEvent> {
    use log::record::Event as Wire;
    Ok(match known(record)? {
        Wire::LostTailFound(found) => PartitionEvent::LostTailFound {
            epoch: Epoch(found.epoch),
            epoch_tag: found.epoch_tag,
            seq: Seq(found.seq),
        },
        Wire::LossAccepted(accepted) => PartitionEvent::LossAccepted {
            epoch: Epoch(accepted.epoch),
            operator: accepted.operator,
            reason: accepted.reason,
        },
        Wire::Restored(restored) => PartitionEvent::Restored {
            epoch: Epoch(restored.epoch),
            at: Timestamp(restored.at_ms),
            operator: restored.operator,
            reason: restored.reason,
        },
        Wire::LockAcquired(acquired) => PartitionEvent::Lock(LockEvent::Acquired {
            key: lock_key(acquired.key)?,
            xid: holder(&acquired.xid)?,
            since: Timestamp(acquired.at_ms),
        }),
        Wire::LockReleased(released) => PartitionEvent::Lock(LockEvent::Released {
            key: lock_key(released.key)?,
            xid: holder(&released.xid)?,
        }),
        _ => return Err(invalid("a transaction's event without an xid")),
    })
}

fn lock_key(text: String) -> Result<Name> {
    Name::new(text).map_err(|error| invalid(&error.to_string()))
}

fn holder(bytes: &[u8]) -> Result<Xid> {
    Xid::from_slice(bytes).ok_or_else(|| invalid("a lock without a holder"))
}

pub(super) fn decode_event(xid: Xid, record: log::Record) -> Result<Event> {
    use log::record::Event as Wire;
    Ok(match known(record)? {
        Wire::Begun(begun) => Event::Begun {
            mode: value_in(Mode::ALL, begun.mode, "mode")?,
            name: optional_name(begun.name)?,
            digest: digest(&begun.digest)?,
            deadline: Timestamp(begun.deadline_ms),
            decide_hash: decide_hash(&begun.decide_hash)?,
        },
        Wire::Presumed(_) => Event::Presumed,
        Wire::Registered(registered) => {
            let branch = decode_registered(registered)?;
            let traits = Box::new(branch.traits());
            Event::Registered {
                branch_id: branch.id,
                key: branch.key,
                targets: branch.targets,
                payload: branch.payload,
                digest: branch.digest,
                traits,
            }
        }
        Wire::PlanAccepted(accepted) => Event::PlanAccepted { branches: accepted.branches },
        Wire::Voted(voted) => Event::Voted {
            branch_id: BranchId(voted.branch_id),
            vote: value_in(Vote::ALL, voted.vote, "vote")?,
        },
        Wire::PreparesAsked(asked) => Event::PreparesAsked { until: Timestamp(asked.until_ms) },
        Wire::Delegated(delegated) => Event::Delegated { branch_id: BranchId(delegated.branch_id) },
        Wire::CheckBackAsked(asked) => Event::CheckBackAsked { branch_id: BranchId(asked.branch_id) },
        Wire::ActionDone(done) => Event::ActionDone {
            branch_id: BranchId(done.branch_id),
            attempts: done.attempts,
            result: done.result,
        },
        Wire::ActionRefused(refused) => Event::ActionRefused {
            branch_id: BranchId(refused.branch_id),
            attempts: refused.attempts,
            error: refused.error.into(),
        },
        Wire::Parked(parked) => Event::Parked {
            branch_id: BranchId(parked.branch_id),
            attempts: parked.attempts,
            error: parked.error.into(),
        },
        Wire::Decided(decided) => Event::Decided {
            decision: value_in(Decision::ALL, decided.decision, "decision")?,
            reason: optional_in(AbortReason::ALL, decided.abort_reason, "abort reason")?,
            branches: decided.branches,
            by: (!decided.operator.is_empty())
                .then(|| OperatorAction { operator: decided.operator.into(), reason: decided.reason.into() }),
        },
        Wire::AttemptFailed(failed) => Event::AttemptFailed {
            branch_id: BranchId(failed.branch_id),
            attempts: failed.attempts,
            error: failed.error.into(),
            next_at: Timestamp(0),
        },
        Wire::BranchSettled(settled) => {
            Event::BranchSettled { branch_id: BranchId(settled.branch_id), attempts: settled.attempts }
        }
        Wire::BranchResolved(resolved) => Event::BranchResolved {
            branch_id: BranchId(resolved.branch_id),
            resolve_as: value_in(ResolveAs::ALL, resolved.resolve_as, "resolution")?,
            by: OperatorAction { operator: resolved.operator.into(), reason: resolved.reason.into() },
        },
        Wire::AttentionRaised(raised) => Event::AttentionRaised {
            code: attention_code(&raised.code)?,
            branch_id: optional_branch(raised.branch_id),
            message: raised.message.into(),
        },
        Wire::RetryRequested(requested) => Event::RetryRequested {
            by: OperatorAction { operator: requested.operator.into(), reason: requested.reason.into() },
        },
        Wire::Contradicted(contradicted) => Event::Contradicted {
            branch_id: BranchId(contradicted.branch_id),
            operation: contradicted
                .message
                .parse::<Operation>()
                .map_err(|error| CodecError::Unknown(error.to_string()))?,
        },
        Wire::Finished(_) => Event::Finished,
        Wire::Snapshot(snapshot) => Event::Snapshot(Box::new(decode_snapshot(xid, snapshot)?)),
        Wire::LostTailFound(_)
        | Wire::LossAccepted(_)
        | Wire::LockAcquired(_)
        | Wire::LockReleased(_)
        | Wire::Restored(_) => {
            return Err(invalid("a partition's event with an xid"));
        }
    })
}

fn decode_snapshot(xid: Xid, snapshot: log::Snapshot) -> Result<Transaction> {
    let decision = optional_in(Decision::ALL, snapshot.decision, "decision")?;
    let reason = optional_in(AbortReason::ALL, snapshot.abort_reason, "abort reason")?;
    let branches = snapshot.branches.into_iter().map(decode_snapshot_branch).collect::<Result<Vec<_>>>()?;
    let timeline = snapshot
        .timeline
        .into_iter()
        .map(|entry| {
            Ok(TimelineEntry {
                at: Timestamp(entry.at_ms),
                kind: value_in(TimelineKind::ALL, entry.event, "timeline entry")?,
                branch_id: optional_branch(entry.branch_id),
                detail: (!entry.detail.is_empty()).then(|| entry.detail.into()),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let attention = snapshot
        .attention
        .map(|raised| {
            Ok(Attention {
                code: attention_code(&raised.code)?,
                branch_id: optional_branch(raised.branch_id),
                message: raised.message.into(),
                since: Timestamp(snapshot.attention_since_ms),
            })
        })
        .transpose()?;
    let mut transaction = Transaction::empty(xid);
    transaction.mode = optional_in(Mode::ALL, snapshot.mode, "mode")?;
    transaction.name = optional_name(snapshot.name)?;
    transaction.digest = digest(&snapshot.digest)?;
    transaction.begun_at = Timestamp(snapshot.begun_at_ms);
    transaction.deadline = Timestamp(snapshot.deadline_ms);
    transaction.decision =
        decision.map(|decision| DecisionRecord { decision, reason, at: Timestamp(snapshot.decided_at_ms) });
    transaction.finished_at = (snapshot.finished_at_ms > 0).then_some(Timestamp(snapshot.finished_at_ms));
    transaction.branches = branches;
    transaction.timeline = timeline;
    transaction.attention = attention;
    transaction.planned = snapshot.planned;
    transaction.preparing =
        (snapshot.preparing_until_ms > 0).then_some(Timestamp(snapshot.preparing_until_ms));
    transaction.decide_hash = decide_hash(&snapshot.decide_hash)?;
    Transaction::from_snapshot(transaction)
        .ok_or_else(|| invalid("a snapshot's branches are not numbered from 1"))
}

fn decide_hash(bytes: &[u8]) -> Result<Option<Box<DecideHash>>> {
    match bytes.len() {
        0 => Ok(None),
        _ => bytes
            .try_into()
            .map(|bytes| Some(Box::new(DecideHash(bytes))))
            .map_err(|_| invalid("a decide-hash has 32 bytes")),
    }
}

fn decode_snapshot_branch(snapshot: log::SnapshotBranch) -> Result<Branch> {
    let registered =
        snapshot.registered.ok_or_else(|| invalid("a snapshot's branch without a registration"))?;
    let mut branch = decode_registered(registered)?;
    branch.status = value_in(BranchStatus::ALL, snapshot.status, "branch status")?;
    branch.attempts = snapshot.attempts;
    branch.last_error = (!snapshot.last_error.is_empty()).then(|| snapshot.last_error.into());
    let contradicted = snapshot.contradicted;
    branch.resolved = snapshot.resolved.map(|by| {
        Box::new(Resolution { operator: by.operator.into(), reason: by.reason.into(), contradicted })
    });
    branch.parked = snapshot.parked;
    branch.vote = optional_in(Vote::ALL, snapshot.vote, "vote")?;
    if snapshot.has_result
        && let Some(step) = &mut branch.step
    {
        step.result = Some(snapshot.result);
    }
    Ok(branch)
}

fn decode_registered(registered: log::Registered) -> Result<Branch> {
    let traits = decode_traits(&registered)?;
    let key = BranchKey::new(registered.key).map_err(|error| invalid(&error.to_string()))?;
    Ok(Branch::new(
        BranchId(registered.branch_id),
        key,
        decode_targets(registered.targets.unwrap_or_default())?,
        registered.payload,
        digest(&registered.digest)?,
        traits,
    ))
}

pub(super) fn decode_traits(registered: &log::Registered) -> Result<BranchTraits> {
    let some = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
    let name = |text: &String| Name::new(text.clone()).map_err(|error| invalid(&error.to_string()));
    let kind = optional_in(BranchKind::ALL, registered.kind, "branch kind")?.unwrap_or(BranchKind::Tcc);
    let policy = registered.policy.as_ref().map_or_else(CallPolicy::default, |policy| CallPolicy {
        initial: some(policy.initial_ms),
        cap: some(policy.cap_ms),
        give_up_after: (policy.give_up_after > 0).then_some(policy.give_up_after),
        timeout: some(policy.timeout_ms),
    });
    let step = registered.step.as_ref().map(|step| {
        let after = step.after.iter().copied().map(BranchId).collect();
        value_in(StepRole::ALL, step.role, "step role").map(|role| Step { role, after, result: None })
    });
    Ok(BranchTraits {
        kind,
        two_phase: TwoPhase {
            early: registered.two_phase & EARLY != 0,
            one_phase: registered.two_phase & ONE_PHASE != 0,
            instance: optional_name(registered.instance.clone())?,
        },
        policy,
        lock_keys: registered.lock_keys.iter().map(name).collect::<Result<_>>()?,
        step: step.transpose()?,
    })
}

pub(super) fn decode_targets(targets: log::Targets) -> Result<BranchTargets> {
    let log::Targets { one, confirm, cancel, prepare, commit, rollback, action, compensate } = targets;
    let optional = |target: Option<log::Target>| target.map(decode_target).transpose();
    match (one, confirm, cancel, commit, rollback, action) {
        (Some(one), None, None, None, None, None) => Ok(BranchTargets::One(decode_target(one)?)),
        (None, Some(confirm), Some(cancel), None, None, None) => {
            Ok(BranchTargets::Tcc { confirm: decode_target(confirm)?, cancel: decode_target(cancel)? })
        }
        (None, None, None, Some(commit), Some(rollback), None) => Ok(BranchTargets::TwoPhase {
            prepare: optional(prepare)?,
            commit: decode_target(commit)?,
            rollback: decode_target(rollback)?,
        }),
        (None, None, None, None, None, Some(action)) => {
            Ok(BranchTargets::Step { action: decode_target(action)?, compensate: optional(compensate)? })
        }
        _ => Err(invalid("a branch without targets")),
    }
}

fn decode_target(target: log::Target) -> Result<Target> {
    let name = |text: String| Name::new(text).map_err(|error| invalid(&error.to_string()));
    match target.kind {
        Some(log::target::Kind::Participant(target)) => Ok(Target::Participant {
            participant: name(target.participant)?,
            operation: name(target.operation)?,
        }),
        Some(log::target::Kind::Grpc(url)) => Ok(Target::Grpc(url.into())),
        Some(log::target::Kind::Url(url)) => Ok(Target::Http(url.into())),
        None => Err(CodecError::Unknown("a target of a kind that this version does not know".into())),
    }
}

fn optional_name(text: String) -> Result<Option<Name>> {
    if text.is_empty() {
        return Ok(None);
    }
    Name::new(text).map(Some).map_err(|error| invalid(&error.to_string()))
}

fn attention_code(word: &str) -> Result<AttentionCode> {
    AttentionCode::from_word(word).ok_or_else(|| CodecError::Unknown(format!("attention {word:?}")))
}

fn optional_branch(number: u32) -> Option<BranchId> {
    (number > 0).then_some(BranchId(number))
}

fn digest(bytes: &[u8]) -> Result<Digest> {
    bytes.try_into().map(Digest).map_err(|_| invalid("a digest has 16 bytes"))
}

pub(super) fn value_in<T: Copy>(all: &[T], number: u32, what: &str) -> Result<T> {
    optional_in(all, number, what)?.ok_or_else(|| invalid(&format!("no {what}")))
}

pub(super) fn optional_in<T: Copy>(all: &[T], number: u32, what: &str) -> Result<Option<T>> {
    let Some(place) = usize::try_from(number).ok().and_then(|number| number.checked_sub(1)) else {
        return Ok(None);
    };
    match all.get(place) {
        Some(value) => Ok(Some(*value)),
        None => Err(CodecError::Unknown(format!("{what} number {number}"))),
    }
}

pub(super) fn invalid(what: &str) -> CodecError {
    CodecError::Invalid(what.to_owned())
}
