//! Between the wire and the domain, for the service `Coordinator`.

use std::time::Duration;

use unanimity_core::{BranchView, StepView};
use unanimity_proto::{
    InvalidWire, birth_from_wire, policy_from_wire, position_to_wire, targets_from_wire, v1,
};
use unanimity_types::{BranchId, BranchKey, ErrorCode, LogId, Name, PartitionId, Timestamp, Xid};

use super::service::{named, optional_name};
use crate::api::handlers::{PageOutput, RegisterInput};
use crate::api::kind::branch_kind;
use crate::cluster::Census;
use crate::engine::{
    Claim, Error, Info, Inquiry, PartitionCounters, Register, Standing, TransactionView, TwoPhase, Wait,
};
use crate::process::ProcessUse;
use crate::telemetry::{state_detail, state_word};

impl From<InvalidWire> for Error {
    fn from(invalid: InvalidWire) -> Self {
        Self::new(invalid.code, invalid.message)
    }
}

/// An xid from the wire.
pub(super) fn xid(text: &str) -> Result<Xid, Error> {
    text.parse()
        .map_err(|error: unanimity_types::ParseXidError| Error::new(ErrorCode::InvalidXid, error.to_string()))
}

/// A partition's number from the wire.
pub(super) fn partition(number: u32) -> Result<PartitionId, Error> {
    let message = || format!("there is no partition {number}");
    u16::try_from(number).map(PartitionId).map_err(|_| Error::new(ErrorCode::InvalidRequest, message()))
}

/// A log's id from the wire; none for an empty text.
pub(super) fn log_id(text: &str) -> Result<Option<LogId>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let uuid = uuid::Uuid::try_parse(text)
        .map_err(|_| Error::new(ErrorCode::InvalidRequest, "log_id: not a UUID"))?;
    Ok(Some(LogId(uuid)))
}

/// How far to wait, with what the call does by itself.
pub(super) fn wait(number: i32, default: Wait) -> Result<Wait, Error> {
    match v1::Wait::try_from(number) {
        Ok(v1::Wait::Unspecified) => Ok(default),
        Ok(v1::Wait::Accepted) => Ok(Wait::Accepted),
        Ok(v1::Wait::Decided) => Ok(Wait::Decided),
        Ok(v1::Wait::Finished) => Ok(Wait::Finished),
        Err(_) => Err(Error::new(ErrorCode::InvalidRequest, format!("wait: {number} is no such value"))),
    }
}

/// Milliseconds from the wire; none for 0.
pub(super) fn duration(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

fn moment(at: Option<Timestamp>) -> u64 {
    at.map_or(0, |at| at.0)
}

fn word(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// A registration.
pub(super) fn registration(request: v1::RegisterBranchRequest) -> Result<RegisterInput, Error> {
    let kind = request.kind().to_domain();
    let targets = request.targets.ok_or_else(|| {
        Error::new(
            ErrorCode::InvalidTarget,
            "targets: missing; a branch has one target, or one for each operation",
        )
    })?;
    let targets = targets_from_wire(targets)?;
    let key = if request.key.is_empty() {
        None
    } else {
        Some(BranchKey::new(request.key).map_err(|error| named("key", error))?)
    };
    let two_phase = request.two_phase.unwrap_or_default();
    let two_phase = TwoPhase {
        early: two_phase.early,
        one_phase: two_phase.one_phase,
        instance: optional_name("instance", two_phase.instance)?,
    };
    let lock_key = |key: String| Name::new(key).map_err(|error| named("lock_keys", error));
    let register = Register {
        xid: xid(&request.xid)?,
        key,
        payload: request.payload,
        kind: branch_kind(kind, &targets, &two_phase)?,
        targets,
        two_phase,
        // A branch is no plan that could be invalid.
        policy: policy_from_wire(request.policy)
            .map_err(|invalid| Error::new(ErrorCode::InvalidRequest, invalid.message))?,
        lock_keys: request.lock_keys.into_iter().map(lock_key).collect::<Result<_, _>>()?,
        lock_wait: Duration::from_millis(request.lock_wait_ms),
    };
    Ok(RegisterInput { register, log_id: log_id(&request.log_id)?, claim: claim(request.birth, &[])? })
}

/// What a caller shows about a transaction begun without a call.
pub(super) fn claim(birth: Option<v1::Birth>, secret: &[u8]) -> Result<Claim, Error> {
    const SECRET_BYTES_MAX: usize = 64;
    if secret.len() > SECRET_BYTES_MAX {
        let message = format!("secret: at most {SECRET_BYTES_MAX} bytes");
        return Err(Error::new(ErrorCode::InvalidRequest, message));
    }
    Ok(Claim::showing(birth.map(birth_from_wire).transpose()?, secret))
}

/// Where a transaction stands.
pub(super) fn standing(standing: &Standing) -> v1::DecideResponse {
    v1::DecideResponse {
        xid: standing.xid.to_string(),
        status: v1::Status::from(standing.status) as i32,
        abort_reason: word(standing.abort_reason),
        position: Some(position_to_wire(standing.position)),
    }
}

/// A transaction.
pub(super) fn transaction(view: TransactionView) -> v1::Transaction {
    let keys: Vec<String> = view.branches.iter().map(|branch| branch.key.clone()).collect();
    v1::Transaction {
        xid: view.xid.to_string(),
        mode: view.mode.map_or(v1::Mode::Unspecified, v1::Mode::from) as i32,
        name: view.name,
        status: v1::Status::from(view.status) as i32,
        decision: word(view.decision),
        abort_reason: word(view.abort_reason),
        begun_at_ms: view.begun_at.0,
        deadline_ms: view.deadline.0,
        decided_at_ms: moment(view.decided_at),
        finished_at_ms: moment(view.finished_at),
        branches: view.branches.into_iter().map(|view| branch(view, &keys)).collect(),
        timeline: view.timeline.into_iter().map(entry).collect(),
        attention: view.attention.map(|attention| v1::Attention {
            code: attention.code.as_str().to_owned(),
            message: attention.message.into(),
            since_ms: attention.since.0,
        }),
        partition: u32::from(view.position.partition.0),
        position: Some(position_to_wire(view.position)),
    }
}

fn branch(view: BranchView, keys: &[String]) -> v1::Branch {
    let step = view.step;
    let (resolved_by, resolved_reason) = view.resolved.unwrap_or_default();
    v1::Branch {
        branch_id: view.id.0,
        key: view.key,
        target: view.target,
        status: view.status.to_string(),
        attempts: view.attempts,
        last_error: view.last_error.unwrap_or_default(),
        next_attempt_at_ms: moment(view.next_attempt_at),
        resolved_by,
        resolved_reason,
        kind: v1::BranchKind::from(view.kind).into(),
        parked: view.parked,
        lock_keys: view.lock_keys,
        after: after(step.as_ref(), keys),
        role: step.as_ref().map_or(v1::StepRole::Unspecified, |step| step.role.into()).into(),
        result: step.and_then(|step| step.result).unwrap_or_default(),
    }
}

/// The keys of the steps before a step.
fn after(step: Option<&StepView>, keys: &[String]) -> Vec<String> {
    let key = |id: &BranchId| keys.get(usize::try_from(id.0).ok()?.checked_sub(1)?).cloned();
    step.map(|step| step.after.iter().filter_map(key).collect()).unwrap_or_default()
}

fn entry(entry: unanimity_core::TimelineEntry) -> v1::TimelineEntry {
    v1::TimelineEntry {
        at_ms: entry.at.0,
        event: entry.kind.as_str().to_owned(),
        branch_id: entry.branch_id.map_or(0, |id| id.0),
        detail: entry.detail.map(String::from).unwrap_or_default(),
    }
}

/// The answer about one xid of an inquiry.
pub(super) fn inquiry(inquiry: &Inquiry) -> v1::Inquiry {
    v1::Inquiry { xid: inquiry.xid.to_string(), answer: inquiry.answer.to_string(), settled: inquiry.settled }
}

/// A page.
pub(super) fn page(page: PageOutput) -> v1::ListTransactionsResponse {
    v1::ListTransactionsResponse {
        transactions: page.transactions.into_iter().map(transaction).collect(),
        next_cursor: page.next_cursor,
        missing_nodes: page.missing,
    }
}

/// Who the coordinator is.
pub(super) fn info(info: Info) -> v1::Info {
    v1::Info {
        log_id: info.log_id.to_string(),
        partitions: u32::from(info.partitions),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: info.node,
        partition_states: info
            .states
            .into_iter()
            .map(|info| v1::PartitionInfo {
                partition: u32::from(info.partition.0),
                state: state_word(&info.state).to_owned(),
                detail: state_detail(&info.state).to_owned(),
                position: info.position.map(position_to_wire),
                open_transactions: info.open,
                counters: Some(counters(&info.counters)),
                history_lag: info.history_lag,
            })
            .collect(),
        process: Some(process(ProcessUse::now())),
    }
}

/// The cluster as this node sees it.
pub(super) fn cluster(census: Census, log_id: LogId) -> v1::Cluster {
    let nodes = census.nodes.into_iter().map(|node| v1::NodeState {
        node: node.node,
        address: node.address,
        version: node.version,
        formats: node.formats,
        state: node.state.to_owned(),
        silent_ms: in_ms(node.silent_for),
        partitions: node.partitions,
        servers: node.servers,
    });
    let partitions = census.partitions.into_iter().map(|place| v1::PartitionPlace {
        partition: u32::from(place.partition.0),
        owner: place.owner,
        planned: place.planned,
        lease_ms: in_ms(place.remaining),
        server: place.server,
        unserved: place.unserved,
        info: place.info.map(|says| v1::PartitionInfo {
            partition: u32::from(place.partition.0),
            state: says.state,
            detail: says.detail,
            position: says.position.map(position_to_wire),
            open_transactions: says.open,
            counters: None,
            history_lag: says.history_lag,
        }),
    });
    v1::Cluster {
        node: census.node,
        log_id: log_id.to_string(),
        format: census.format,
        nodes: nodes.collect(),
        partitions: partitions.collect(),
        missing_nodes: census.missing,
        stale: census.stale,
    }
}

fn in_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn process(used: ProcessUse) -> v1::ProcessInfo {
    v1::ProcessInfo { cpu_us: used.cpu_us, resident_bytes: used.resident_bytes }
}

fn counters(counters: &PartitionCounters) -> v1::PartitionCounters {
    v1::PartitionCounters {
        begun: counters.begun,
        committed: counters.committed,
        aborted: counters.aborted,
        finished: counters.finished,
        events: counters.events,
        blocks: counters.blocks,
        block_bytes: counters.block_bytes,
        rewritten_bytes: counters.rewritten_bytes,
        held_answers: counters.held_answers,
        history_rows: counters.history_rows,
        history_bytes: counters.history_bytes,
    }
}
