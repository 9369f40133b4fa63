//! HTTP/JSON: the same handlers as gRPC, for curl and for every language without gRPC.

mod body;
mod calls;
mod cluster;
mod extract;
mod openapi;
mod operator;
mod pages;
mod pass;
mod problem;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio_util::sync::CancellationToken;
use unanimity_types::ErrorCode;

use super::grpc;
use super::handlers::Handlers;
use crate::engine::Error;
use crate::telemetry::Metrics;

pub(crate) use body::rfc3339;
pub(super) use {openapi::document, problem::Problem};

/// What every HTTP handler may need.
#[derive(Debug, Clone)]
pub(super) struct State {
    handlers: Handlers,
    metrics: Arc<Metrics>,
    closing: CancellationToken,
}

impl State {
    pub(super) fn new(handlers: Handlers, metrics: Arc<Metrics>, closing: CancellationToken) -> Self {
        Self { handlers, metrics, closing }
    }
}

/// All HTTP routes. `openapi` describes those under `/v1`; a test compares the two.
pub(super) fn routes(state: State, body_bytes_max: usize) -> Router {
    Router::new()
        .route("/v1/transactions", post(calls::begin).get(calls::list))
        .route("/v1/transactions/{xid}", get(calls::get))
        .route("/v1/transactions/{xid}/branches", post(calls::register))
        .route("/v1/transactions/{xid}/vote", post(calls::vote))
        .route("/v1/transactions/{xid}/commit", post(calls::commit))
        .route("/v1/transactions/{xid}/abort", post(calls::abort))
        .route("/v1/transactions/{xid}/retry", post(operator::retry))
        .route("/v1/transactions/{xid}/branches/{branch_id}/resolve", post(operator::resolve))
        .route("/v1/inquiries", post(calls::inquire))
        .route("/v1/info", get(calls::info))
        .route("/v1/partitions/{partition}/accept-loss", post(operator::accept_loss))
        .route("/v1/partitions/{partition}/restored", post(operator::record_restored))
        .route("/v1/partitions/{partition}/move", post(operator::move_partition))
        .route("/v1/cluster", get(cluster::cluster))
        .route("/v1/cluster/nodes/{node}/drain", post(cluster::drain))
        .route("/v1/cluster/nodes/{node}/undrain", post(cluster::undrain))
        .route("/", get(pages::index))
        .route("/healthz", get(pages::healthz))
        .route("/readyz", get(pages::readyz))
        .route("/metrics", get(pages::metrics))
        .route("/openapi.json", get(pages::openapi))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(axum::middleware::from_fn_with_state(state.clone(), pass::pass))
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .with_state(state)
}

/// An error as HTTP says it.
pub(super) fn problem(error: &Error) -> Problem {
    Problem::new(error)
}

/// The answer to a path that does not exist, in the caller's language.
pub(super) async fn not_found(request: Request) -> Response {
    let path: String = request.uri().path().chars().take(200).collect();
    let message = format!("there is no {path}; /openapi.json lists what there is");
    let error = Error::new(ErrorCode::RouteNotFound, message);
    if grpc::is_grpc(request.headers()) {
        return grpc::status(&error).into_http();
    }
    problem(&error).into_response()
}

/// The answer to a method that a path does not have. axum adds the header `Allow`.
async fn method_not_allowed(request: Request) -> Response {
    let message = format!("{} is not possible here; the header Allow says what is", request.method());
    problem(&Error::new(ErrorCode::MethodNotAllowed, message)).into_response()
}
