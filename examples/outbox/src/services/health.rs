//! `GET /healthz`: whether a service works.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use unanimity_sdk::{FenceDatabase, Participant};

use super::Failure;

/// The route of a service with a participant: 200 while it is attached and nothing needs a look.
pub(crate) fn of_participant<DB: FenceDatabase>(participant: Participant<DB>) -> Router {
    Router::new().route("/healthz", get(healthz::<DB>)).with_state(participant)
}

/// The route of a service without one: it answers.
pub(crate) fn of_server() -> Router {
    Router::new().route("/healthz", get(async || StatusCode::OK))
}

async fn healthz<DB: FenceDatabase>(
    State(participant): State<Participant<DB>>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let health = participant.health().await?;
    let well = health.attached && health.is_well();
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let attention: Vec<_> = health.attention.iter().map(|a| format!("{}: {}", a.code, a.message)).collect();
    Ok((status, Json(json!({ "attached": health.attached, "attention": attention }))))
}
