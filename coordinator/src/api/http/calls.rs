//! What transaction managers and registering participants call.

use std::time::Duration;

use axum::extract::{Extension, State as Shared};
use http::StatusCode;
use unanimity_types::{BranchKey, ErrorCode, LogId, Name, NameError, Xid};

use super::State;
use super::body::{
    AbortBody, BeginBody, BegunBody, BranchBody, CommitBody, GetQuery, InfoBody, InquiriesBody,
    InquiryAnswerBody, InquiryBody, ListQuery, PageBody, PartitionBody, RegisteredBody, StandingBody,
    TransactionBody, VoteBody,
};
use super::body::{key, mode, status, summary, whole};
use super::extract::{Deadline, Json, PathXid, Query, xid};
use super::pass::Minted;
use super::problem::{Failure, Problem};
use crate::api::duration::parse_duration;
use crate::api::grpc::vote_set;
use crate::api::handlers::{InquireInput, ListInput, RegisterInput, remaining};
use crate::engine::{Claim, OperatorAction, Wait};
use crate::telemetry::{state_detail, state_word};

type Answer<T> = Result<axum::Json<T>, Failure>;

fn named(what: &str, error: NameError) -> Failure {
    Failure::new(ErrorCode::InvalidName, format!("{what}: {error}"))
}

fn name(what: &str, text: Option<String>) -> Result<Option<Name>, Failure> {
    text.map(|text| Name::new(text).map_err(|error| named(what, error))).transpose()
}

/// Begins a global transaction; a saga and a submitted message go on by themselves. Durable when answered; a repeated xid with the same body is answered as the first time.
#[utoipa::path(
    post,
    path = "/v1/transactions",
    request_body = BeginBody,
    responses(
        (status = 201, body = BegunBody, description = "Done"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "An error")
    )
)]
pub(super) async fn begin(
    Shared(state): Shared<State>,
    Deadline(deadline): Deadline,
    minted: Option<Extension<Minted>>,
    Json(body): Json<BeginBody>,
) -> Result<(StatusCode, axum::Json<BegunBody>), Failure> {
    let (mut begin, wait) = body.into_begin()?;
    if let Some(Extension(minted)) = minted
        && begin.xid.is_none()
    {
        begin.xid = Some(Xid::new(minted.uuid));
        begin.ticket = minted.ticket;
    }
    let begun = state.handlers.begin(begin, wait, deadline).await?;
    let body = BegunBody {
        xid: begun.xid.to_string(),
        status: begun.status.to_string(),
        log_id: state.handlers.coordinator().log_id().to_string(),
        position: begun.position.into(),
    };
    Ok((StatusCode::CREATED, axum::Json(body)))
}

/// Registers a branch. Durable when answered; the same key is the same branch.
#[utoipa::path(
    post,
    path = "/v1/transactions/{xid}/branches",
    params(("xid" = String, Path, description = "The transaction's UUID")),
    request_body = BranchBody,
    responses(
        (status = 201, body = RegisteredBody, description = "Done"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "An error")
    )
)]
pub(super) async fn register(
    Shared(state): Shared<State>,
    PathXid(xid): PathXid,
    minted: Option<Extension<Minted>>,
    Json(body): Json<BranchBody>,
) -> Result<(StatusCode, axum::Json<RegisteredBody>), Failure> {
    let mut body = body;
    let claim = body.claim()?;
    let mut register = body.into_register(xid)?;
    if let Some(Extension(minted)) = minted
        && register.key.is_none()
    {
        register.key = BranchKey::new(minted.uuid.to_string()).ok();
    }
    let registered = state.handlers.register(RegisterInput { register, log_id: None, claim }).await?;
    let body = RegisteredBody {
        branch_id: registered.branch_id.0,
        key: registered.key.to_string(),
        log_id: state.handlers.coordinator().log_id().to_string(),
        position: registered.position.into(),
    };
    Ok((StatusCode::CREATED, axum::Json(body)))
}

/// A two-phase branch votes by itself: early, without being asked to prepare. The same vote again is answered as the
/// first time.
#[utoipa::path(
    post,
    path = "/v1/transactions/{xid}/vote",
    params(("xid" = String, Path, description = "The transaction's UUID")),
    request_body = VoteBody,
    responses(
        (status = 200, body = StandingBody, description = "Done"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "An error")
    )
)]
pub(super) async fn vote(
    Shared(state): Shared<State>,
    PathXid(xid): PathXid,
    Json(body): Json<VoteBody>,
) -> Answer<StandingBody> {
    let key = key("key", body.key)?;
    let vote = body.vote.parse().map_err(|_| {
        Failure::new(
            ErrorCode::InvalidRequest,
            "vote: prepared, refused, or read_only as the answer to a prepare",
        )
    })?;
    let standing = state.handlers.vote(xid, key, vote).await?;
    Ok(axum::Json(standing.into()))
}

/// Asks for the decision commit; submits, if it is a message. 409 with the true status if it is an abort.
#[utoipa::path(
    post,
    path = "/v1/transactions/{xid}/commit",
    params(("xid" = String, Path, description = "The transaction's UUID")),
    request_body = CommitBody,
    responses(
        (status = 200, body = StandingBody, description = "Done"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "An error")
    )
)]
pub(super) async fn commit(
    Shared(state): Shared<State>,
    PathXid(xid): PathXid,
    Deadline(deadline): Deadline,
    Json(body): Json<CommitBody>,
) -> Answer<StandingBody> {
    let votes = body.votes.map(vote_set).transpose()?;
    let wait = body.wait.map_or(Wait::Decided, Wait::from);
    let standing = state.handlers.commit(xid, votes, Claim::default(), wait, deadline).await?;
    Ok(axum::Json(standing.into()))
}

/// Asks for the decision abort. 409 with the true status if it was committed.
#[utoipa::path(
    post,
    path = "/v1/transactions/{xid}/abort",
    params(("xid" = String, Path, description = "The transaction's UUID")),
    request_body = AbortBody,
    responses(
        (status = 200, body = StandingBody, description = "Done"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "An error")
    )
)]
pub(super) async fn abort(
    Shared(state): Shared<State>,
    PathXid(xid): PathXid,
    Deadline(deadline): Deadline,
    Json(body): Json<AbortBody>,
) -> Answer<StandingBody> {
    let by = match (body.operator, body.reason) {
        (None, None) => None,
        (operator, reason) => Some(OperatorAction {
            operator: operator.unwrap_or_default(),
            reason: reason.unwrap_or_default(),
        }),
    };
    let wait = body.wait.map_or(Wait::Decided, Wait::from);
    let standing = state.handlers.abort(xid, by, Claim::default(), wait, deadline).await?;
    Ok(axum::Json(standing.into()))
}

/// A transaction with its branches and timeline. 404 is no outcome: a commit may be on its way.
#[utoipa::path(
    get,
    path = "/v1/transactions/{xid}",
    params(("xid" = String, Path, description = "The transaction's UUID"), GetQuery),
    responses(
        (status = 200, body = TransactionBody, description = "Done"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "An error")
    )
)]
pub(super) async fn get(
    Shared(state): Shared<State>,
    PathXid(xid): PathXid,
    Deadline(deadline): Deadline,
    Query(query): Query<GetQuery>,
) -> Answer<TransactionBody> {
    let wait = query.wait.map_or(Wait::Accepted, Wait::from);
    let longest = remaining(deadline);
    let limit = query.wait_ms.map_or(longest, |ms| Duration::from_millis(ms).min(longest));
    let view = state.handlers.get(xid, wait, limit).await?;
    Ok(axum::Json(whole(view)))
}

/// A page of transactions, newest first, without branches and timelines.
#[utoipa::path(
    get,
    path = "/v1/transactions",
    params(ListQuery),
    responses(
        (status = 200, body = PageBody, description = "Done"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "An error")
    )
)]
pub(super) async fn list(Shared(state): Shared<State>, Query(query): Query<ListQuery>) -> Answer<PageBody> {
    let older_than = query
        .older_than
        .map(|text| {
            parse_duration(&text)
                .map_err(|error| Failure::new(ErrorCode::InvalidRequest, format!("older_than: {error}")))
        })
        .transpose()?;
    let input = ListInput {
        status: query.status.as_deref().map(status).transpose()?,
        mode: query.mode.as_deref().map(mode).transpose()?,
        name: name("name", query.name)?.map(String::from),
        participant: name("participant", query.participant)?.map(String::from),
        older_than,
        attention: query.attention.unwrap_or_default(),
        cursor: query.cursor.unwrap_or_default(),
        limit: query.limit.unwrap_or_default(),
    };
    let page = state.handlers.list(input).await?;
    Ok(axum::Json(PageBody {
        transactions: page.transactions.into_iter().map(summary).collect(),
        next_cursor: Some(page.next_cursor).filter(|cursor| !cursor.is_empty()),
        missing_nodes: page.missing,
    }))
}

/// What became of transactions whose branches are in doubt. An unknown xid is aborted by asking.
#[utoipa::path(
    post,
    path = "/v1/inquiries",
    request_body = InquiryBody,
    responses(
        (status = 200, body = InquiriesBody, description = "Done"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "An error")
    )
)]
pub(super) async fn inquire(
    Shared(state): Shared<State>,
    Deadline(deadline): Deadline,
    Json(body): Json<InquiryBody>,
) -> Answer<InquiriesBody> {
    let log_id = body
        .log_id
        .map(|text| {
            uuid::Uuid::try_parse(&text)
                .map(LogId)
                .map_err(|_| Failure::new(ErrorCode::InvalidRequest, "log_id: not a UUID"))
        })
        .transpose()?;
    let input = InquireInput {
        xids: body.xids.iter().map(|text| xid(text)).collect::<Result<_, _>>()?,
        ages_ms: body.ages_ms,
        log_id,
        witnesses: body.witnesses.into_iter().map(Into::into).collect(),
    };
    let answers = state.handlers.inquire(input, deadline).await?;
    Ok(axum::Json(InquiriesBody {
        answers: answers
            .into_iter()
            .map(|inquiry| InquiryAnswerBody {
                xid: inquiry.xid.to_string(),
                answer: inquiry.answer.to_string(),
                settled: inquiry.settled,
            })
            .collect(),
        positions: state.handlers.coordinator().positions().into_iter().map(Into::into).collect(),
    }))
}

/// This coordinator and its partitions.
#[utoipa::path(
    get,
    path = "/v1/info",
    responses(
        (status = 200, body = InfoBody, description = "Done"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "An error")
    )
)]
pub(super) async fn info(Shared(state): Shared<State>) -> axum::Json<InfoBody> {
    let info = state.handlers.info();
    axum::Json(InfoBody {
        log_id: info.log_id.to_string(),
        partitions: info.partitions,
        version: env!("CARGO_PKG_VERSION"),
        node: info.node,
        partition_states: info
            .states
            .into_iter()
            .map(|info| PartitionBody {
                partition: info.partition.0,
                state: state_word(&info.state).to_owned(),
                detail: state_detail(&info.state).to_owned(),
                position: info.position.map(Into::into),
                open_transactions: info.open,
                history_lag: info.history_lag,
            })
            .collect(),
    })
}
