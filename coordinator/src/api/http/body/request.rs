//! What requests look like.

use serde::Deserialize;
use serde_json::value::RawValue;
use unanimity_types::{BranchTargets, ErrorCode, Mode, Status, Target};
use utoipa::{IntoParams, ToSchema};

use super::PositionBody;
use crate::api::http::problem::Failure;
use crate::engine::Wait;

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
pub(in crate::api::http) fn mode(word: &str) -> Result<Mode, Failure> {
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
pub(in crate::api::http) type BranchParts = (Option<String>, BranchTargets, Option<Box<RawValue>>);

impl BranchBody {
    /// The targets, and what is left: key and payload.
    pub(in crate::api::http) fn into_parts(self) -> Result<BranchParts, Failure> {
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

/// A status' word from a query.
pub(in crate::api::http) fn status(word: &str) -> Result<Status, Failure> {
    word.parse().map_err(|_| {
        let known: Vec<&str> = Status::ALL.iter().map(|status| status.as_str()).collect();
        Failure::new(ErrorCode::InvalidRequest, format!("status: one of {}", known.join(", ")))
    })
}
