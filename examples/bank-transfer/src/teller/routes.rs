//! The teller over HTTP.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use unanimity_sdk::Xid;
use uuid::Uuid;

use super::transfer::{Answer, Outcome, ask, settle, transfer};
use super::{Teller, Transfer};
use crate::services::Failure;

/// The teller's routes.
pub(crate) fn routes(teller: Teller) -> Router {
    Router::new()
        .route("/transfers", post(post_transfer))
        .route("/transfers/{id}", get(get_transfer))
        .route("/transfers/{id}/settle", post(settle_transfer))
        .route("/healthz", get(|| async { "ok" }))
        .with_state(teller)
}

/// 201: the money moves. 409: it does not, with the reason. 202: nobody knows yet.
async fn post_transfer(
    State(teller): State<Teller>,
    Json(wanted): Json<Transfer>,
) -> Result<(StatusCode, Json<Answer>), Failure> {
    if wanted.cents <= 0 {
        return Err(Failure::bad_request("cents must be more than nothing"));
    }
    if wanted.from.bank == wanted.to.bank {
        return Err(Failure::bad_request("a transfer goes to another bank"));
    }
    Ok(answered(transfer(&teller, &wanted).await))
}

async fn get_transfer(
    State(teller): State<Teller>,
    Path(id): Path<Uuid>,
) -> Result<(StatusCode, Json<Answer>), Failure> {
    match ask(&teller, Xid::new(id)).await {
        Some(answer) => Ok((StatusCode::OK, Json(answer))),
        None => Err(Failure::not_found(format!("nobody knows of a transfer {id}"))),
    }
}

async fn settle_transfer(State(teller): State<Teller>, Path(id): Path<Uuid>) -> (StatusCode, Json<Answer>) {
    answered(settle(&teller, Xid::new(id)).await)
}

fn answered(answer: Answer) -> (StatusCode, Json<Answer>) {
    let status = match answer.outcome {
        Outcome::Committed => StatusCode::CREATED,
        Outcome::Aborted => StatusCode::CONFLICT,
        Outcome::Unknown => StatusCode::ACCEPTED,
    };
    (status, Json(answer))
}
