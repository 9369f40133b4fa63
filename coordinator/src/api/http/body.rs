//! The JSON shapes of requests and answers.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use unanimity_types::{BranchTargets, ErrorCode, LogPosition, Mode, Status, Target, Timestamp};
use utoipa::{IntoParams, ToSchema};

use super::problem::Failure;
use crate::engine::{Standing, TransactionView, Wait};

/// How far an answer waits.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WaitWord {
    /// The command is durable.
    Accepted,
    /// The decision is durable.
    Decided,
    /// Every branch is settled, or the time to answer is over.
    Finished,
}

impl From<WaitWord> for Wait {
    fn from(word: WaitWord) -> Self {
        match word {
            WaitWord::Accepted => Self::Accepted,
            WaitWord::Decided => Self::Decided,
            WaitWord::Finished => Self::Finished,
        }
    }
}

/// Begin a transaction.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BeginBody {
    /// `tcc`.
    #[schema(example = "tcc")]
    pub(crate) mode: String,
    /// What it is, for people.
    #[schema(example = "place-order")]
    pub(crate) name: Option<String>,
    /// A UUID of your own: a repeated call with the same body is answered as the first time.
    pub(crate) xid: Option<String>,
    /// Until when it must be decided; the default is a minute.
    #[schema(example = 30_000)]
    pub(crate) timeout_ms: Option<u64>,
    /// How far to wait; `accepted` if not given.
    pub(crate) wait: Option<WaitWord>,
    /// Of sagas, which this version does not run.
    #[schema(value_type = Option<Vec<Object>>)]
    pub(crate) steps: Option<Box<RawValue>>,
}

/// A mode's word.
pub(super) fn mode(word: &str) -> Result<Mode, Failure> {
    word.parse().map_err(|_| {
        let message = match word {
            "saga" | "two_phase" | "message" => {
                format!("mode {word} is not available in this version of the coordinator; available: tcc")
            }
            _ => "mode: unknown; available: tcc".to_owned(),
        };
        Failure::new(ErrorCode::InvalidMode, message)
    })
}

/// Where an operation goes: one of `url`, `grpc`, or `participant` with `operation`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TargetBody {
    /// A URL that is called by POST.
    #[schema(example = "http://127.0.0.1:9001/confirm")]
    pub(crate) url: Option<String>,
    /// The address of a server with the gRPC service `unanimity.v1.BranchCallback`.
    pub(crate) grpc: Option<String>,
    /// The name of an attached participant.
    pub(crate) participant: Option<String>,
    /// The name of its hooks.
    pub(crate) operation: Option<String>,
}

impl TargetBody {
    fn into_target(self, what: &str) -> Result<Target, Failure> {
        use unanimity_proto::v1;
        let kind = match (self.url, self.grpc, self.participant, self.operation) {
            (Some(url), None, None, None) => v1::target::Kind::Url(url),
            (None, Some(grpc), None, None) => v1::target::Kind::Grpc(grpc),
            (None, None, Some(participant), Some(operation)) => {
                v1::target::Kind::Participant(v1::ParticipantTarget { participant, operation })
            }
            _ => {
                let message = format!(
                    "{what}: a target is {{\"url\": …}}, {{\"grpc\": …}} or {{\"participant\": …, \"operation\": …}}"
                );
                return Err(Failure::new(ErrorCode::InvalidTarget, message));
            }
        };
        let target = v1::Target { kind: Some(kind) };
        unanimity_proto::target_from_wire(target)
            .map_err(|invalid| Failure::new(invalid.code, format!("{what}: {}", invalid.message)))
    }
}

/// Register a branch: with `participant` and `operation`, or with `confirm` and `cancel`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BranchBody {
    /// The branch's identity inside the transaction: the same key is the same branch. Minted if not
    /// given, but then a repeated call makes a second branch.
    #[schema(example = "payment-1")]
    pub(crate) key: Option<String>,
    /// The name of an attached participant.
    pub(crate) participant: Option<String>,
    /// The name of its hooks.
    pub(crate) operation: Option<String>,
    /// Where confirm goes.
    pub(crate) confirm: Option<TargetBody>,
    /// Where cancel goes.
    pub(crate) cancel: Option<TargetBody>,
    /// Of two_phase, which this version does not run.
    pub(crate) prepare: Option<TargetBody>,
    /// Of two_phase, which this version does not run.
    pub(crate) commit: Option<TargetBody>,
    /// Of two_phase, which this version does not run.
    pub(crate) rollback: Option<TargetBody>,
    /// Any JSON; given back with every operation of the branch. At most 1 MiB.
    #[schema(value_type = Option<Object>)]
    pub(crate) payload: Option<Box<RawValue>>,
}

/// Key, targets, payload.
pub(super) type BranchParts = (Option<String>, BranchTargets, Option<Box<RawValue>>);

impl BranchBody {
    /// The targets, and what is left: key and payload.
    pub(super) fn into_parts(self) -> Result<BranchParts, Failure> {
        if self.prepare.is_some() || self.commit.is_some() || self.rollback.is_some() {
            let message = "prepare, commit and rollback belong to mode two_phase, which this version does not run; a \
                           TCC branch has confirm and cancel";
            return Err(Failure::new(ErrorCode::InvalidMode, message));
        }
        let targets = match (self.participant, self.operation, self.confirm, self.cancel) {
            (Some(participant), Some(operation), None, None) => {
                let target = TargetBody {
                    url: None,
                    grpc: None,
                    participant: Some(participant),
                    operation: Some(operation),
                };
                BranchTargets::One(target.into_target("participant")?)
            }
            (None, None, Some(confirm), Some(cancel)) => BranchTargets::Tcc {
                confirm: confirm.into_target("confirm")?,
                cancel: cancel.into_target("cancel")?,
            },
            _ => {
                let message = "a TCC branch has either participant and operation, or confirm and cancel";
                return Err(Failure::new(ErrorCode::InvalidTarget, message));
            }
        };
        Ok((self.key, targets, self.payload))
    }
}

/// Commit.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommitBody {
    /// The keys of the branches that answered their try with a yes. Without it, those that are
    /// registered are those that voted, on your word.
    pub(crate) votes: Option<Vec<String>>,
    /// How far to wait; `decided` if not given.
    pub(crate) wait: Option<WaitWord>,
}

/// Abort.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AbortBody {
    /// How far to wait; `decided` if not given.
    pub(crate) wait: Option<WaitWord>,
    /// An operator's abort: who.
    pub(crate) operator: Option<String>,
    /// An operator's abort: why.
    pub(crate) reason: Option<String>,
}

/// An operator's action.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OperatorBody {
    /// Who.
    #[schema(example = "ada")]
    pub(crate) operator: String,
    /// Why; it is recorded.
    #[schema(example = "payment is back")]
    pub(crate) reason: String,
}

/// Settle a branch by hand.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResolveBody {
    /// `confirmed` (its effect is there) or `cancelled` (it is not).
    #[schema(example = "confirmed")]
    pub(crate) resolve_as: String,
    /// Who.
    pub(crate) operator: String,
    /// Why; it is recorded.
    pub(crate) reason: String,
}

/// Ask about branches in doubt.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InquiryBody {
    /// At most 1,000.
    pub(crate) xids: Vec<String>,
    /// The log that the branches were registered with.
    pub(crate) log_id: Option<String>,
    /// The highest positions that you saw.
    #[serde(default)]
    pub(crate) witnesses: Vec<PositionBody>,
}

/// What to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only this status.
    pub(crate) status: Option<String>,
    /// Only this mode.
    pub(crate) mode: Option<String>,
    /// Only this name.
    pub(crate) name: Option<String>,
    /// Only with a branch at this participant.
    pub(crate) participant: Option<String>,
    /// Only begun at least so long ago: `500ms`, `30s`, `5m`, `2h`, `7d`.
    pub(crate) older_than: Option<String>,
    /// `true`: only what needs attention.
    pub(crate) attention: Option<bool>,
    /// From the page before.
    pub(crate) cursor: Option<String>,
    /// At most 500; 50 if not given.
    pub(crate) limit: Option<u32>,
}

/// How a GET waits.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GetQuery {
    /// `decided` or `finished`: wait until it is so.
    #[param(value_type = Option<String>)]
    pub(crate) wait: Option<WaitWord>,
    /// At most so long; then the transaction is answered as it is.
    pub(crate) wait_ms: Option<u64>,
}

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
    pub(crate) target: String,
    /// `registered`, `confirming`, `confirmed`, `cancelling`, `cancelled`, `heuristic_confirmed`,
    /// `heuristic_cancelled`.
    pub(crate) status: String,
    pub(crate) attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_attempt_at: Option<String>,
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
}

/// The place from which the partition goes on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AcceptLossBody {
    pub(crate) position: PositionBody,
}

/// A transaction with its branches and timeline.
pub(super) fn whole(view: TransactionView) -> TransactionBody {
    let branches = view.branches.iter().map(branch).collect();
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
pub(super) fn summary(view: TransactionView) -> TransactionBody {
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

fn branch(view: &unanimity_core::BranchView) -> BranchViewBody {
    let (resolved_by, resolved_reason) = view.resolved.clone().unzip();
    BranchViewBody {
        branch_id: view.id.0,
        key: view.key.clone(),
        target: view.target.clone(),
        status: view.status.to_string(),
        attempts: view.attempts,
        last_error: view.last_error.clone(),
        next_attempt_at: view.next_attempt_at.map(rfc3339),
        resolved_by,
        resolved_reason,
    }
}

/// A status' word from a query.
pub(super) fn status(word: &str) -> Result<Status, Failure> {
    word.parse().map_err(|_| {
        let known: Vec<&str> = Status::ALL.iter().map(|status| status.as_str()).collect();
        Failure::new(ErrorCode::InvalidRequest, format!("status: one of {}", known.join(", ")))
    })
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
