//! The cluster: who lives and who owns what, and what an operator says about a node.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Shared};
use http::StatusCode;
use unanimity_types::ErrorCode;

use super::State;
use super::body::{ClusterBody, OperatorBody};
use super::extract::Json;
use super::problem::{Failure, Problem};

/// The nodes, and each partition with its owner.
#[utoipa::path(
    get,
    path = "/v1/cluster",
    responses(
        (status = 200, body = ClusterBody, description = "As this node sees it"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "An error")
    )
)]
pub(super) async fn cluster(Shared(state): Shared<State>) -> Result<axum::Json<ClusterBody>, Failure> {
    Ok(axum::Json(state.handlers.cluster().await?.into()))
}

/// Operator: a node is to own nothing. It hands over what it owns, and goes on passing calls on.
#[utoipa::path(
    post,
    path = "/v1/cluster/nodes/{node}/drain",
    params(("node" = String, Path, description = "The node's name")),
    request_body = OperatorBody,
    responses(
        (status = 204, description = "Said; the node hands over what it owns"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "An error")
    )
)]
pub(super) async fn drain(
    Shared(state): Shared<State>,
    node: Result<Path<String>, PathRejection>,
    Json(body): Json<OperatorBody>,
) -> Result<StatusCode, Failure> {
    tell(&state, node, true, body).await
}

/// Operator: a node may own something again.
#[utoipa::path(
    post,
    path = "/v1/cluster/nodes/{node}/undrain",
    params(("node" = String, Path, description = "The node's name")),
    request_body = OperatorBody,
    responses(
        (status = 204, description = "Said; the node gets its share"),
        (status = "default", body = Problem, content_type = "application/problem+json", description = "An error")
    )
)]
pub(super) async fn undrain(
    Shared(state): Shared<State>,
    node: Result<Path<String>, PathRejection>,
    Json(body): Json<OperatorBody>,
) -> Result<StatusCode, Failure> {
    tell(&state, node, false, body).await
}

async fn tell(
    state: &State,
    node: Result<Path<String>, PathRejection>,
    draining: bool,
    body: OperatorBody,
) -> Result<StatusCode, Failure> {
    let Ok(Path(node)) = node else {
        return Err(Failure::new(ErrorCode::InvalidRequest, "the node in the path is its name"));
    };
    state.handlers.drain(node, draining, body.into()).await?;
    Ok(StatusCode::NO_CONTENT)
}
