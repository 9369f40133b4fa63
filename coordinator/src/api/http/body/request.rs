//! What requests look like that name a transaction, or look for some.

use serde::Deserialize;
use unanimity_types::{ErrorCode, Status};
use utoipa::{IntoParams, ToSchema};

use super::PositionBody;
use crate::api::http::problem::Failure;
use crate::engine::{OperatorAction, Wait};

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

/// A two-phase branch votes by itself.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VoteBody {
    /// The branch's key.
    #[schema(example = "account-1")]
    pub(crate) key: String,
    /// `prepared` or `refused`; `read_only` only as the answer to a prepare.
    #[schema(example = "prepared")]
    pub(crate) vote: String,
}

/// Commit; submit, if it is a message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommitBody {
    /// The keys of the branches that answered with a yes: their try, or their early prepare. Without it,
    /// those that are registered are those that voted, on your word. A message has none.
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

impl From<OperatorBody> for OperatorAction {
    fn from(body: OperatorBody) -> Self {
        Self { operator: body.operator, reason: body.reason }
    }
}

/// Move a partition's log.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MoveBody {
    /// The server's name: `home`, or one of `database.servers`.
    #[schema(example = "b")]
    pub(crate) server: String,
    /// Who.
    #[schema(example = "ada")]
    pub(crate) operator: String,
    /// Why; it is recorded.
    #[schema(example = "home is full")]
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
    /// How long ago you made your own record of each, in the order of the xids. What nobody knows and is older
    /// than the history that is kept is answered `forgotten`; without an age it is aborted.
    #[serde(default)]
    pub(crate) ages_ms: Vec<u64>,
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
