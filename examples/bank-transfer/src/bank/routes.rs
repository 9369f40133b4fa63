//! A bank over HTTP.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use sqlx::Pool;
use unanimity_sdk::xa::Worked;
use unanimity_sdk::{Context, NoFence, Participant, ServerLayer, TryError};

use super::{Bank, Entry, OPERATION};
use crate::services::Failure;

/// What the handlers share.
struct Shared<DB: Bank> {
    participant: Participant<NoFence>,
    pool: Pool<DB>,
}

impl<DB: Bank> Clone for Shared<DB> {
    fn clone(&self) -> Self {
        Self { participant: self.participant.clone(), pool: self.pool.clone() }
    }
}

/// The bank's routes.
pub(super) fn routes<DB: Bank>(participant: Participant<NoFence>, pool: Pool<DB>) -> Router {
    Router::new()
        .route("/entries", post(post_entry::<DB>))
        // Reads the transaction from the request's header, and puts the branch's vote into the answer's.
        .layer(ServerLayer::new())
        .route("/accounts/{name}", get(get_account::<DB>))
        .route("/healthz", get(healthz::<DB>))
        .with_state(Shared { participant, pool })
}

/// 204: booked and prepared; it takes effect if the transfer commits. 409: the bank says no.
async fn post_entry<DB: Bank>(
    State(bank): State<Shared<DB>>,
    context: Context,
    Json(entry): Json<Entry>,
) -> Result<StatusCode, TryError> {
    let xid = context.xid();
    let booking = entry.clone();
    let branch = bank.participant.two_phase_branch(OPERATION);
    let work = branch.work(&context, entry, move |tx: &mut DB::Connection| DB::book(tx, xid, booking));
    match work.await? {
        // The same call came before, and its work is there: the answer is the same.
        Worked::Prepared(()) | Worked::Before => Ok(StatusCode::NO_CONTENT),
        other => Err(TryError::Hook(format!("an early branch ended as {other:?}").into())),
    }
}

async fn get_account<DB: Bank>(
    State(bank): State<Shared<DB>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Failure> {
    match DB::balance(&bank.pool, &name).await? {
        Some(cents) => Ok(Json(json!({"account": name, "cents": cents}))),
        None => Err(Failure::not_found(format!("no account {name}"))),
    }
}

/// 200 while attached to the coordinator and nothing needs a look, else 503.
async fn healthz<DB: Bank>(State(bank): State<Shared<DB>>) -> Result<(StatusCode, Json<Value>), Failure> {
    let health = bank.participant.health().await?;
    let well = health.attached && health.is_well();
    let attention: Vec<_> = health.attention.iter().map(|a| format!("{}: {}", a.code, a.message)).collect();
    let body = json!({
        "participant": health.participant,
        "attached": health.attached,
        "prepared": health.two_phase.iter().map(|manager| manager.prepared).sum::<usize>(),
        "attention": attention,
        "settings": health.durability.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "errors": health.two_phase.iter().filter_map(|manager| manager.error.as_ref()).collect::<Vec<_>>(),
    });
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(body)))
}
