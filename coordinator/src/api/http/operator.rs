//! What operators call. Each action has a name and a reason, which are recorded with it.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Shared};
use unanimity_types::{BranchId, ErrorCode, PartitionId};

use super::State;
use super::body::{AcceptLossBody, MoveBody, OperatorBody, ResolveBody, StandingBody};
use super::extract::{Json, PathXid};
use super::problem::{Failure, Problem};
use crate::api::grpc::resolve_as;
use crate::api::handlers::{MoveInput, ResolveInput};
use crate::engine::OperatorAction;

/// Operator: try what is owed again now.
#[utoipa::path(
    post,
    path = "/v1/transactions/{xid}/retry",
    params(("xid" = String, Path, description = "The transaction's UUID")),
    request_body = OperatorBody,
    responses(
        (status = 200, body = StandingBody, description = "Done"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "An error")
    )
)]
pub(super) async fn retry(
    Shared(state): Shared<State>,
    PathXid(xid): PathXid,
    Json(body): Json<OperatorBody>,
) -> Result<axum::Json<StandingBody>, Failure> {
    let standing = state.handlers.retry(xid, body.into()).await?;
    Ok(axum::Json(standing.into()))
}

/// Operator: settle a branch by hand. Recorded as a heuristic outcome, for ever.
#[utoipa::path(
    post,
    path = "/v1/transactions/{xid}/branches/{branch_id}/resolve",
    params(("xid" = String, Path, description = "The transaction's UUID"), ("branch_id" = u32, Path, description = "The branch's number")),
    request_body = ResolveBody,
    responses(
        (status = 200, body = StandingBody, description = "Done"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "An error")
    )
)]
pub(super) async fn resolve(
    Shared(state): Shared<State>,
    PathXid(xid): PathXid,
    Path((_, branch_id)): Path<(String, String)>,
    Json(body): Json<ResolveBody>,
) -> Result<axum::Json<StandingBody>, Failure> {
    let branch_id = branch_id.parse().map(BranchId).map_err(|_| {
        Failure::new(
            ErrorCode::InvalidRequest,
            "the branch in the path is its number (branch_id), counted from 1",
        )
    })?;
    let input = ResolveInput {
        xid,
        branch_id,
        resolve_as: resolve_as(&body.resolve_as)?,
        action: OperatorAction { operator: body.operator, reason: body.reason },
    };
    let standing = state.handlers.resolve(input).await?;
    Ok(axum::Json(standing.into()))
}

/// Operator: go on with a partition whose log lost its tail.
#[utoipa::path(
    post,
    path = "/v1/partitions/{partition}/accept-loss",
    params(("partition" = u16, Path, description = "The partition's number")),
    request_body = OperatorBody,
    responses(
        (status = 200, body = AcceptLossBody, description = "Done"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "An error")
    )
)]
pub(super) async fn accept_loss(
    Shared(state): Shared<State>,
    // Also text that is no text (`%FF`) gets our own answer.
    partition: Result<Path<String>, PathRejection>,
    Json(body): Json<OperatorBody>,
) -> Result<axum::Json<AcceptLossBody>, Failure> {
    let partition = number(partition)?;
    let position = state.handlers.accept_loss(partition, body.into()).await?;
    Ok(axum::Json(AcceptLossBody { position: position.into() }))
}

/// Operator: the log was restored from a backup; nothing from before is presumed.
#[utoipa::path(
    post,
    path = "/v1/partitions/{partition}/restored",
    params(("partition" = u16, Path, description = "The partition's number")),
    request_body = OperatorBody,
    responses(
        (status = 200, body = AcceptLossBody, description = "Done"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "An error")
    )
)]
pub(super) async fn record_restored(
    Shared(state): Shared<State>,
    partition: Result<Path<String>, PathRejection>,
    Json(body): Json<OperatorBody>,
) -> Result<axum::Json<AcceptLossBody>, Failure> {
    let partition = number(partition)?;
    let position = state.handlers.record_restored(partition, body.into()).await?;
    Ok(axum::Json(AcceptLossBody { position: position.into() }))
}

/// Operator: move a partition's log to another server of the log.
#[utoipa::path(
    post,
    path = "/v1/partitions/{partition}/move",
    params(("partition" = u16, Path, description = "The partition's number")),
    request_body = MoveBody,
    responses(
        (status = 200, body = AcceptLossBody, description = "It works there"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "An error")
    )
)]
pub(super) async fn move_partition(
    Shared(state): Shared<State>,
    partition: Result<Path<String>, PathRejection>,
    Json(body): Json<MoveBody>,
) -> Result<axum::Json<AcceptLossBody>, Failure> {
    let partition = number(partition)?;
    let action = OperatorAction { operator: body.operator, reason: body.reason };
    let input = MoveInput { partition, server: body.server, action };
    let position = state.handlers.move_partition(input).await?;
    Ok(axum::Json(AcceptLossBody { position: position.into() }))
}

fn number(partition: Result<Path<String>, PathRejection>) -> Result<PartitionId, Failure> {
    partition.ok().and_then(|Path(text)| text.parse().ok()).map(PartitionId).ok_or_else(|| {
        Failure::new(ErrorCode::InvalidRequest, "the partition in the path is its number, counted from 0")
    })
}
