//! `GET /healthz`: how a service's participant is.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use unanimity_sdk::Participant;

use super::Failure;

/// The route.
pub(crate) fn routes(participant: Participant<sqlx::Sqlite>) -> Router {
    Router::new().route("/healthz", get(healthz)).with_state(participant)
}

/// 200 while attached to the coordinator and nothing needs a look, else 503.
async fn healthz(
    State(participant): State<Participant<sqlx::Sqlite>>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let health = participant.health().await?;
    let well = health.attached && health.is_well();
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let attention: Vec<_> = health.attention.iter().map(|a| format!("{}: {}", a.code, a.message)).collect();
    let body = json!({
        "participant": health.participant,
        "instance": health.instance,
        "attached": health.attached,
        "open_branches": health.open,
        "in_doubt": health.in_doubt,
        "attention": attention,
    });
    Ok((status, Json(body)))
}
