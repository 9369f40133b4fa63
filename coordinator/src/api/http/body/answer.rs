//! What answers look like.

use serde::{Deserialize, Serialize};
use unanimity_types::{BranchId, LogPosition, Timestamp};
use utoipa::ToSchema;

use crate::engine::{Standing, TransactionView};

/// A durable place in the log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PositionBody {
    pub(crate) partition: u16,
    pub(crate) epoch: u64,
    pub(crate) epoch_tag: u32,
    pub(crate) seq: u64,
}

impl From<LogPosition> for PositionBody {
    fn from(position: LogPosition) -> Self {
        Self {
            partition: position.partition.0,
            epoch: position.epoch.0,
            epoch_tag: position.epoch_tag,
            seq: position.seq.0,
        }
    }
}

impl From<PositionBody> for LogPosition {
    fn from(body: PositionBody) -> Self {
        use unanimity_types::{Epoch, PartitionId, Seq};
        Self {
            partition: PartitionId(body.partition),
            epoch: Epoch(body.epoch),
            epoch_tag: body.epoch_tag,
            seq: Seq(body.seq),
        }
    }
}

/// A transaction that was begun.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BegunBody {
    pub(crate) xid: String,
    pub(crate) status: String,
    pub(crate) log_id: String,
    pub(crate) position: PositionBody,
}

/// A branch that was registered.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RegisteredBody {
    pub(crate) branch_id: u32,
    pub(crate) key: String,
    pub(crate) log_id: String,
    pub(crate) position: PositionBody,
}

/// Where a transaction stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StandingBody {
    pub(crate) xid: String,
    /// `active`, `preparing`, `committing`, `committed`, `aborting`, `aborted`.
    pub(crate) status: String,
    /// Why it was aborted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) abort_reason: Option<String>,
    pub(crate) position: PositionBody,
}

impl From<Standing> for StandingBody {
    fn from(standing: Standing) -> Self {
        Self {
            xid: standing.xid.to_string(),
            status: standing.status.to_string(),
            abort_reason: standing.abort_reason.map(|reason| reason.to_string()),
            position: standing.position.into(),
        }
    }
}

/// A transaction. Times are RFC 3339 in UTC.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TransactionBody {
    pub(crate) xid: String,
    /// Missing for a presumed abort of an xid that nobody had begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<String>,
    pub(crate) name: String,
    pub(crate) status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) decision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) abort_reason: Option<String>,
    pub(crate) begun_at: String,
    pub(crate) deadline: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) decided_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) finished_at: Option<String>,
    /// Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) branches: Option<Vec<BranchViewBody>>,
    /// Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeline: Option<Vec<TimelineBody>>,
    /// Why somebody should look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attention: Option<AttentionBody>,
    pub(crate) position: PositionBody,
}

/// A branch of a transaction.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BranchViewBody {
    pub(crate) branch_id: u32,
    pub(crate) key: String,
    /// `tcc`, `step`, `two_phase`, `message` or `sender`.
    pub(crate) kind: String,
    pub(crate) target: String,
    /// docs/glossary.md has the words of each kind.
    pub(crate) status: String,
    /// No more attempts are made until an operator asks for a retry.
    pub(crate) parked: bool,
    pub(crate) attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_attempt_at: Option<String>,
    /// A step's: `compensatable`, `pivot` or `forward_only`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<String>,
    /// A step's: the steps before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<Vec<String>>,
    /// What a step's action brought: JSON if it is JSON, else text; missing if it is neither, or
    /// nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub(crate) result: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) lock_keys: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resolved_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resolved_reason: Option<String>,
}

/// What happened, and when.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TimelineBody {
    pub(crate) at: String,
    pub(crate) event: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) branch_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

/// Why somebody should look.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AttentionBody {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) since: String,
}

/// A page of transactions, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PageBody {
    pub(crate) transactions: Vec<TransactionBody>,
    /// Missing on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_cursor: Option<String>,
    /// Nodes that did not answer in time: open transactions of theirs may be missing or shown as they were.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) missing_nodes: Vec<String>,
}

/// The answers of an inquiry, in the order asked.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InquiriesBody {
    pub(crate) answers: Vec<InquiryAnswerBody>,
    pub(crate) positions: Vec<PositionBody>,
}

/// What became of one transaction.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InquiryAnswerBody {
    pub(crate) xid: String,
    /// `active`, `committed`, `aborted`; on `forgotten` and `not_mine` do nothing and tell somebody.
    pub(crate) answer: String,
    /// Every branch is settled: fence rows may go.
    pub(crate) settled: bool,
}

/// Who this coordinator is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InfoBody {
    pub(crate) log_id: String,
    pub(crate) partitions: u16,
    pub(crate) version: &'static str,
    pub(crate) node: String,
    pub(crate) partition_states: Vec<PartitionBody>,
}

/// How a partition is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PartitionBody {
    pub(crate) partition: u16,
    /// `recovering`, `running`, `waiting`, `unavailable`, `stopped`, `closed`.
    pub(crate) state: String,
    /// Why, if it does not run.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) position: Option<PositionBody>,
    pub(crate) open_transactions: u64,
    /// Transactions that are over and not yet in history.
    pub(crate) history_lag: u64,
}

/// The place from which the partition goes on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AcceptLossBody {
    pub(crate) position: PositionBody,
}

/// A transaction with its branches and timeline.
pub(in crate::api::http) fn whole(view: TransactionView) -> TransactionBody {
    let keys: Vec<&str> = view.branches.iter().map(|branch| branch.key.as_str()).collect();
    let branches = view.branches.iter().map(|view| branch(view, &keys)).collect();
    let timeline = view
        .timeline
        .iter()
        .map(|entry| TimelineBody {
            at: rfc3339(entry.at),
            event: entry.kind.as_str().to_owned(),
            branch_id: entry.branch_id.map(|id| id.0),
            detail: entry.detail.as_deref().map(str::to_owned),
        })
        .collect();
    TransactionBody { branches: Some(branches), timeline: Some(timeline), ..summary(view) }
}

/// A transaction as lists show it.
pub(in crate::api::http) fn summary(view: TransactionView) -> TransactionBody {
    TransactionBody {
        xid: view.xid.to_string(),
        mode: view.mode.map(|mode| mode.to_string()),
        name: view.name,
        status: view.status.to_string(),
        decision: view.decision.map(|decision| decision.to_string()),
        abort_reason: view.abort_reason.map(|reason| reason.to_string()),
        begun_at: rfc3339(view.begun_at),
        deadline: rfc3339(view.deadline),
        decided_at: view.decided_at.map(rfc3339),
        finished_at: view.finished_at.map(rfc3339),
        branches: None,
        timeline: None,
        attention: view.attention.map(|attention| AttentionBody {
            code: attention.code.as_str().to_owned(),
            message: attention.message.into(),
            since: rfc3339(attention.since),
        }),
        position: view.position.into(),
    }
}

fn branch(view: &unanimity_core::BranchView, keys: &[&str]) -> BranchViewBody {
    let step = view.step.as_ref();
    let key =
        |id: &BranchId| keys.get(usize::try_from(id.0).ok()?.checked_sub(1)?).map(|key| (*key).to_owned());
    let (resolved_by, resolved_reason) = view.resolved.clone().unzip();
    BranchViewBody {
        branch_id: view.id.0,
        key: view.key.clone(),
        kind: view.kind.to_string(),
        target: view.target.clone(),
        status: view.status.to_string(),
        parked: view.parked,
        attempts: view.attempts,
        last_error: view.last_error.clone(),
        next_attempt_at: view.next_attempt_at.map(rfc3339),
        role: step.map(|step| step.role.to_string()),
        after: step.map(|step| step.after.iter().filter_map(key).collect()),
        result: step
            .and_then(|step| step.result.as_deref())
            .filter(|text| !text.is_empty())
            .map(json_or_text),
        lock_keys: view.lock_keys.clone(),
        resolved_by,
        resolved_reason,
    }
}

/// A result as people want to read it.
fn json_or_text(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// A moment for people and programs: RFC 3339, UTC, always with three digits of milliseconds, so that
/// columns align and texts sort.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    let nanos = i128::from(at.0) * 1_000_000;
    match time::OffsetDateTime::from_unix_timestamp_nanos(nanos) {
        Ok(moment) => {
            let (date, time) = (moment.date(), moment.time());
            let (hour, minute, second, milli) = time.as_hms_milli();
            format!("{date}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
        }
        // Beyond the year 9999: the number says as much.
        Err(_) => format!("{}ms", at.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_rfc_3339() {
        assert_eq!(rfc3339(Timestamp(1_795_265_167_620)), "2026-11-21T12:46:07.620Z");
        assert_eq!(rfc3339(Timestamp(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(Timestamp(u64::MAX)), "18446744073709551615ms");
    }
}
