//! The shop over HTTP.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use unanimity_sdk::{FenceDatabase, Outbox};
use uuid::Uuid;

use super::place::{NewOrder, OrderError, place};
use super::vouchers::{NewVoucher, VoucherError, Vouchers, issue};
use crate::database::{Database, values};
use crate::services::Failure;

/// Orders.
pub fn order_routes<DB: Database>(outbox: Outbox<DB>) -> Router {
    Router::new()
        .route("/orders", post(post_order::<DB>))
        .route("/orders/{id}", get(get_order::<DB>))
        .with_state(outbox)
}

/// Vouchers: of databases that can hold a fence.
pub fn voucher_routes<DB: Database + FenceDatabase>(vouchers: Vouchers<DB>) -> Router {
    Router::new().route("/vouchers", post(post_voucher::<DB>)).with_state(vouchers)
}

/// 201: taken, also if it was before. 409: the business says no. 503: nobody knows, send it again.
async fn post_order<DB: Database>(
    State(outbox): State<Outbox<DB>>,
    Json(order): Json<NewOrder>,
) -> Result<StatusCode, Response> {
    // In a task of its own: a customer who hangs up must not end it half-way.
    let placed = tokio::spawn(async move { place(&outbox, &order).await });
    match placed.await.unwrap_or_else(|ended| Err(ended.into())) {
        Ok(()) => Ok(StatusCode::CREATED),
        Err(OrderError::NoCredit) => Err((StatusCode::CONFLICT, "not enough credit").into_response()),
        Err(OrderError::Invalid(why)) => Err((StatusCode::BAD_REQUEST, why).into_response()),
        Err(OrderError::Database(error)) => Err(Failure::from(error).into_response()),
    }
}

async fn get_order<DB: Database>(
    State(outbox): State<Outbox<DB>>,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, Failure> {
    let mut connection = outbox.pool().acquire().await?;
    let known: Vec<(i64,)> =
        DB::fetch(&mut connection, "SELECT cents FROM orders WHERE id = $1", values![id]).await?;
    Ok(if known.is_empty() { StatusCode::NOT_FOUND } else { StatusCode::OK })
}

async fn post_voucher<DB: Database + FenceDatabase>(
    State(vouchers): State<Vouchers<DB>>,
    Json(voucher): Json<NewVoucher>,
) -> Result<StatusCode, Response> {
    if voucher.cents < 1 {
        return Err((StatusCode::BAD_REQUEST, "a voucher has at least one cent").into_response());
    }
    let issued = tokio::spawn(async move { issue(&vouchers, &voucher).await });
    match issued.await.unwrap_or_else(|ended| Err(VoucherError::Failed(ended.into()))) {
        Ok(()) => Ok(StatusCode::CREATED),
        Err(VoucherError::NoCredit) => Err((StatusCode::CONFLICT, "not enough credit").into_response()),
        Err(VoucherError::Failed(error)) => Err(Failure::from(error).into_response()),
    }
}
