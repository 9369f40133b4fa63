//! The relay as a service: beside the shop, or in it. Any number may run on one outbox.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use unanimity_sdk::{Client, Outbox, OutboxDatabase, Relay, ReplayError, Xid};
use uuid::Uuid;

use crate::services::Failure;

/// Dead letters on one page.
const PAGE: u32 = 100;

/// Starts a relay from this outbox to the coordinator.
pub(crate) fn start<DB: OutboxDatabase>(
    outbox: &Outbox<DB>,
    client: Client,
    lease: Duration,
) -> Arc<Relay<DB>> {
    // Looks often: orders are written by another process, which cannot wake it.
    let relay = Relay::builder(outbox, client).lease(lease).poll(Duration::from_millis(100));
    // A coordinator, or a warehouse, that comes back shall not wait long for the next attempt.
    Arc::new(relay.retry_cap(Duration::from_secs(1)).check_every(Duration::from_secs(2)).start())
}

/// What `GET /relay` answers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Lag {
    /// Messages that no relay took yet.
    pub pending: u64,
    /// Messages that the coordinator may have and that are not known to be delivered.
    pub handed: u64,
    /// Dead letters.
    pub dead: u64,
    /// How long the oldest pending message has waited, in milliseconds.
    pub lag_ms: u64,
}

/// One entry of `GET /dead-letters`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dead {
    /// The place to go on after: `?after=`.
    pub place: i64,
    /// The message's id.
    pub id: Uuid,
    /// Its key: the customer.
    pub key: String,
    /// Why it is dead, in a word.
    pub cause: String,
    /// The same in a sentence.
    pub reason: String,
}

/// The relay's routes.
pub fn routes<DB: OutboxDatabase>(relay: Arc<Relay<DB>>) -> Router {
    Router::new()
        .route("/relay", get(lag::<DB>))
        .route("/dead-letters", get(dead_letters::<DB>))
        .route("/dead-letters/{id}/replay", post(replay::<DB>))
        .with_state(relay)
}

async fn lag<DB: OutboxDatabase>(State(relay): State<Arc<Relay<DB>>>) -> Result<Json<Lag>, Failure> {
    let stats = relay.stats().await?;
    let lag = stats.oldest_pending_age.unwrap_or_default().as_millis();
    Ok(Json(Lag {
        pending: stats.pending,
        handed: stats.handed,
        dead: stats.dead,
        lag_ms: u64::try_from(lag).unwrap_or(u64::MAX),
    }))
}

#[derive(Debug, Deserialize)]
struct Page {
    #[serde(default)]
    after: i64,
}

async fn dead_letters<DB: OutboxDatabase>(
    State(relay): State<Arc<Relay<DB>>>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<Dead>>, Failure> {
    let letters = relay.dead_letters(page.after, PAGE).await?;
    let dead = letters.into_iter().map(|letter| Dead {
        place: letter.n,
        id: letter.id.uuid(),
        key: letter.key.unwrap_or_default(),
        cause: letter.cause.as_str().to_owned(),
        reason: letter.reason,
    });
    Ok(Json(dead.collect()))
}

/// 202: it is on its way again. 404 and 409: there is no such message, it is not dead, or it cannot be
/// brought back. 503: ask again.
async fn replay<DB: OutboxDatabase>(
    State(relay): State<Arc<Relay<DB>>>,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, Response> {
    let status = match relay.replay(Xid::new(id)).await {
        Ok(()) => return Ok(StatusCode::ACCEPTED),
        Err(error @ ReplayError::NotFound) => (StatusCode::NOT_FOUND, error),
        Err(error @ (ReplayError::NotDead | ReplayError::Aborted)) => (StatusCode::CONFLICT, error),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error),
    };
    Err((status.0, status.1.to_string()).into_response())
}
