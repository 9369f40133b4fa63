//! The commands of a transaction's life, from the wire to the handlers and back: the same whether they come
//! as calls or on a stream.

use tokio::time::Instant;
use unanimity_proto::{plan_from_wire, position_to_wire, ticket_from_wire, v1};
use unanimity_types::{BranchId, BranchKey, ErrorCode, Mode};

use super::convert;
use super::service::{action, named, operator, optional_name, resolve_as, vote_set};
use crate::api::handlers::{Handlers, MoveInput, ResolveInput, remaining};
use crate::engine::{Begin, Error, Wait};

pub(super) async fn begin(
    handlers: &Handlers,
    request: v1::BeginRequest,
    deadline: Instant,
) -> Result<v1::BeginResponse, Error> {
    let mode = v1::Mode::try_from(request.mode).unwrap_or(v1::Mode::Unspecified);
    let begin = Begin {
        mode: Mode::try_from(mode)?,
        name: optional_name("name", request.name)?,
        xid: if request.xid.is_empty() { None } else { Some(convert::xid(&request.xid)?) },
        timeout: convert::duration(request.timeout_ms),
        plan: plan_from_wire(request.saga, request.message)?,
        ticket: request.ticket.as_ref().map(ticket_from_wire).transpose()?,
    };
    let wait = convert::wait(request.wait, Wait::Accepted)?;
    let begun = handlers.begin(begin, wait, deadline).await?;
    Ok(v1::BeginResponse {
        xid: begun.xid.to_string(),
        status: v1::Status::from(begun.status) as i32,
        position: Some(position_to_wire(begun.position)),
        log_id: handlers.coordinator().log_id().to_string(),
    })
}

pub(super) async fn register(
    handlers: &Handlers,
    request: v1::RegisterBranchRequest,
    _: Instant,
) -> Result<v1::RegisterBranchResponse, Error> {
    let registered = handlers.register(convert::registration(request)?).await?;
    Ok(v1::RegisterBranchResponse {
        branch_id: registered.branch_id.0,
        key: registered.key.to_string(),
        position: Some(position_to_wire(registered.position)),
        log_id: handlers.coordinator().log_id().to_string(),
    })
}

pub(super) async fn vote(
    handlers: &Handlers,
    request: v1::VoteRequest,
    _: Instant,
) -> Result<v1::VoteResponse, Error> {
    let xid = convert::xid(&request.xid)?;
    let vote = request
        .vote()
        .to_domain()
        .ok_or_else(|| Error::new(ErrorCode::InvalidRequest, "vote: missing or no such value"))?;
    let key = BranchKey::new(request.key).map_err(|error| named("key", error))?;
    let standing = handlers.vote(xid, key, vote).await?;
    Ok(v1::VoteResponse {
        position: Some(position_to_wire(standing.position)),
        status: v1::Status::from(standing.status).into(),
    })
}

pub(super) async fn commit(
    handlers: &Handlers,
    request: v1::CommitRequest,
    deadline: Instant,
) -> Result<v1::DecideResponse, Error> {
    let xid = convert::xid(&request.xid)?;
    let votes = request.votes.map(|votes| vote_set(votes.keys)).transpose()?;
    let wait = convert::wait(request.wait, Wait::Decided)?;
    let claim = convert::claim(request.birth, &request.secret)?;
    let standing = handlers.commit(xid, votes, claim, wait, deadline).await?;
    Ok(convert::standing(&standing))
}

pub(super) async fn abort(
    handlers: &Handlers,
    request: v1::AbortRequest,
    deadline: Instant,
) -> Result<v1::DecideResponse, Error> {
    let xid = convert::xid(&request.xid)?;
    let wait = convert::wait(request.wait, Wait::Decided)?;
    let by = operator(request.operator, request.reason);
    let claim = convert::claim(request.birth, &request.secret)?;
    let standing = handlers.abort(xid, by, claim, wait, deadline).await?;
    Ok(convert::standing(&standing))
}

pub(super) async fn get(
    handlers: &Handlers,
    request: v1::GetTransactionRequest,
    deadline: Instant,
) -> Result<v1::Transaction, Error> {
    let xid = convert::xid(&request.xid)?;
    let wait = convert::wait(request.wait, Wait::Accepted)?;
    let left = remaining(deadline);
    let limit = convert::duration(request.wait_ms).map_or(left, |limit| limit.min(left));
    Ok(convert::transaction(handlers.get(xid, wait, limit).await?))
}

pub(super) async fn retry(
    handlers: &Handlers,
    request: v1::RetryTransactionRequest,
    _: Instant,
) -> Result<v1::DecideResponse, Error> {
    let xid = convert::xid(&request.xid)?;
    let standing = handlers.retry(xid, action(request.operator, request.reason)).await?;
    Ok(convert::standing(&standing))
}

pub(super) async fn resolve(
    handlers: &Handlers,
    request: v1::ResolveBranchRequest,
    _: Instant,
) -> Result<v1::DecideResponse, Error> {
    let input = ResolveInput {
        xid: convert::xid(&request.xid)?,
        branch_id: BranchId(request.branch_id),
        resolve_as: resolve_as(&request.resolve_as)?,
        action: action(request.operator, request.reason),
    };
    let standing = handlers.resolve(input).await?;
    Ok(convert::standing(&standing))
}

pub(super) async fn accept_loss(
    handlers: &Handlers,
    request: v1::AcceptLossRequest,
    _: Instant,
) -> Result<v1::AcceptLossResponse, Error> {
    let partition = convert::partition(request.partition)?;
    let position = handlers.accept_loss(partition, action(request.operator, request.reason)).await?;
    Ok(v1::AcceptLossResponse { position: Some(position_to_wire(position)) })
}

pub(super) async fn record_restored(
    handlers: &Handlers,
    request: v1::RecordRestoredRequest,
    _: Instant,
) -> Result<v1::RecordRestoredResponse, Error> {
    let partition = convert::partition(request.partition)?;
    let position = handlers.record_restored(partition, action(request.operator, request.reason)).await?;
    Ok(v1::RecordRestoredResponse { position: Some(position_to_wire(position)) })
}

pub(super) async fn move_partition(
    handlers: &Handlers,
    request: v1::MovePartitionRequest,
    _: Instant,
) -> Result<v1::MovePartitionResponse, Error> {
    let partition = convert::partition(request.partition)?;
    let action = action(request.operator, request.reason);
    let position = handlers.move_partition(MoveInput { partition, server: request.server, action }).await?;
    Ok(v1::MovePartitionResponse { position: Some(position_to_wire(position)) })
}
