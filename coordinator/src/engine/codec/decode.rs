//! Log records to domain events: what the disk says is checked like what a stranger says.

use prost::Message;
use unanimity_core::{
    Attention, AttentionCode, Branch, DecisionRecord, Event, OperatorAction, Resolution, TimelineEntry,
    TimelineKind, Transaction,
};
use unanimity_proto::log;
use unanimity_types::{
    AbortReason, BranchId, BranchKey, BranchStatus, BranchTargets, Decision, Digest, Epoch, Mode, Name,
    Operation, ResolveAs, Seq, Target, Timestamp, Xid,
};

use super::{CodecError, Logged, LoggedEvent, PartitionEvent};
use crate::log::Block;

type Result<T> = std::result::Result<T, CodecError>;

/// The records of a data block, in order.
///
/// # Errors
/// [`CodecError`] if the body is not of this format.
pub fn decode(block: &Block) -> Result<Vec<Logged>> {
    let body =
        log::Body::decode(block.body.clone()).map_err(|error| CodecError::Malformed(error.to_string()))?;
    body.records.into_iter().map(|record| decode_record(block.time, record)).collect()
}

fn decode_record(base: Timestamp, record: log::Record) -> Result<Logged> {
    use log::record::Event as Wire;
    let bytes = record.encoded_len();
    let at = Timestamp(base.0.saturating_add(u64::from(record.at_delta_ms)));
    let Some(event) = record.event else {
        return Err(CodecError::Unknown("a record has an event that this version does not know".into()));
    };
    let what = match event {
        Wire::LostTailFound(found) => LoggedEvent::Partition(PartitionEvent::LostTailFound {
            epoch: Epoch(found.epoch),
            epoch_tag: found.epoch_tag,
            seq: Seq(found.seq),
        }),
        Wire::LossAccepted(accepted) => LoggedEvent::Partition(PartitionEvent::LossAccepted {
            epoch: Epoch(accepted.epoch),
            operator: accepted.operator,
            reason: accepted.reason,
        }),
        event => {
            let xid = Xid::from_slice(&record.xid).ok_or_else(|| invalid("a record has no xid"))?;
            LoggedEvent::Transaction(xid, decode_event(xid, event)?)
        }
    };
    Ok(Logged { at, what, bytes })
}

fn decode_event(xid: Xid, event: log::record::Event) -> Result<Event> {
    use log::record::Event as Wire;
    Ok(match event {
        Wire::Begun(begun) => Event::Begun {
            mode: value_in(Mode::ALL, begun.mode, "mode")?,
            name: optional_name(begun.name)?,
            digest: digest(&begun.digest)?,
            deadline: Timestamp(begun.deadline_ms),
        },
        Wire::Presumed(_) => Event::Presumed,
        Wire::Registered(registered) => {
            let branch = decode_registered(registered)?;
            Event::Registered {
                branch_id: branch.id,
                key: branch.key,
                targets: branch.targets,
                payload: branch.payload,
                digest: branch.digest,
            }
        }
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
        Wire::LostTailFound(_) | Wire::LossAccepted(_) => {
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
    Transaction::from_snapshot(transaction)
        .ok_or_else(|| invalid("a snapshot's branches are not numbered from 1"))
}

fn decode_snapshot_branch(snapshot: log::SnapshotBranch) -> Result<Branch> {
    let registered =
        snapshot.registered.ok_or_else(|| invalid("a snapshot's branch without a registration"))?;
    let mut branch = decode_registered(registered)?;
    branch.status = value_in(BranchStatus::ALL, snapshot.status, "branch status")?;
    branch.attempts = snapshot.attempts;
    branch.last_error = (!snapshot.last_error.is_empty()).then(|| snapshot.last_error.into());
    let contradicted = snapshot.contradicted;
    branch.resolved = snapshot.resolved.map(|by| Resolution {
        operator: by.operator.into(),
        reason: by.reason.into(),
        contradicted,
    });
    Ok(branch)
}

fn decode_registered(registered: log::Registered) -> Result<Branch> {
    Ok(Branch {
        id: BranchId(registered.branch_id),
        key: BranchKey::new(registered.key).map_err(|error| invalid(&error.to_string()))?,
        targets: decode_targets(registered.targets.unwrap_or_default())?,
        payload: registered.payload,
        digest: digest(&registered.digest)?,
        status: BranchStatus::Registered,
        attempts: 0,
        last_error: None,
        next_attempt_at: None,
        resolved: None,
    })
}

fn decode_targets(targets: log::Targets) -> Result<BranchTargets> {
    match (targets.one, targets.confirm, targets.cancel) {
        (Some(one), None, None) => Ok(BranchTargets::One(decode_target(one)?)),
        (None, Some(confirm), Some(cancel)) => {
            Ok(BranchTargets::Tcc { confirm: decode_target(confirm)?, cancel: decode_target(cancel)? })
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

fn value_in<T: Copy>(all: &[T], number: u32, what: &str) -> Result<T> {
    optional_in(all, number, what)?.ok_or_else(|| invalid(&format!("no {what}")))
}

fn optional_in<T: Copy>(all: &[T], number: u32, what: &str) -> Result<Option<T>> {
    let Some(place) = usize::try_from(number).ok().and_then(|number| number.checked_sub(1)) else {
        return Ok(None);
    };
    match all.get(place) {
        Some(value) => Ok(Some(*value)),
        None => Err(CodecError::Unknown(format!("{what} number {number}"))),
    }
}

fn invalid(what: &str) -> CodecError {
    CodecError::Invalid(what.to_owned())
}
