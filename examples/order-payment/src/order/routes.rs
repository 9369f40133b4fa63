//! The order service over HTTP.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use unanimity_sdk::{Client, Participant, Xid};
use uuid::Uuid;

use super::hooks::PricedOrder;
use super::invariants::OrderCounts;
use super::place::{Answer, Outcome, ask, known, place, settle};
use crate::database::{Database, Pools, values};
use crate::services::{Failure, health};

/// More of one product than anybody needs; also keeps prices far from overflowing.
const QUANTITY_MAX: i64 = 1_000;

/// What the handlers share.
#[derive(Debug)]
pub struct Orders<DB: Database> {
    /// Begins and decides transactions.
    pub client: Client,
    /// Owns this service's branches.
    pub participant: Participant<DB>,
    /// The service's database.
    pub pools: Pools<DB>,
    /// Calls the other services.
    pub http: reqwest::Client,
    /// Where the inventory service is.
    pub inventory_url: String,
    /// Where the payment service is.
    pub payment_url: String,
    /// Undecided for so long, an order is aborted.
    pub transaction_timeout: Duration,
}

impl<DB: Database> Clone for Orders<DB> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            participant: self.participant.clone(),
            pools: self.pools.clone(),
            http: self.http.clone(),
            inventory_url: self.inventory_url.clone(),
            payment_url: self.payment_url.clone(),
            transaction_timeout: self.transaction_timeout,
        }
    }
}

/// The body of `POST /orders`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewOrder {
    /// The order's id. A customer who mints it can ask what became of the order even if no answer
    /// came, and sending it twice does not buy twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// Who buys.
    pub customer: String,
    /// Which product.
    pub sku: String,
    /// How many of it.
    pub quantity: i64,
}

/// The service's routes.
pub fn routes<DB: Database>(orders: Orders<DB>) -> Router {
    Router::new()
        .route("/orders", post(post_order::<DB>))
        .route("/orders/{id}", get(get_order::<DB>))
        .route("/orders/{id}/settle", post(settle_order::<DB>))
        .route("/invariants", get(invariants::<DB>))
        // No `ServerLayer`: transactions begin here, they do not arrive.
        .with_state(orders.clone())
        .merge(health::routes(orders.participant))
}

/// 201: committed. 409: the business says no. 503: aborted, a new order may succeed. 202: nobody
/// knows yet.
async fn post_order<DB: Database>(
    State(orders): State<Orders<DB>>,
    Json(order): Json<NewOrder>,
) -> Result<(StatusCode, Json<Answer>), Failure> {
    if !(1..=QUANTITY_MAX).contains(&order.quantity) {
        return Err(Failure::bad_request(format!("the quantity is between 1 and {QUANTITY_MAX}")));
    }
    let xid = Xid::new(order.id.unwrap_or_else(Uuid::new_v4));
    // An id that was used before is the same order again, however often it is sent.
    if order.id.is_some()
        && let Some(answer) = known(&orders, xid).await?
    {
        return Ok((status_of(&answer), Json(answer)));
    }
    let sql = "SELECT price_cents FROM products WHERE sku = $1";
    let price: Vec<(i64,)> = {
        // Given back before the transaction: it takes its time.
        let mut connection = orders.pools.read.acquire().await?;
        DB::fetch(&mut connection, sql, values![&order.sku]).await?
    };
    let Some((price,)) = price.first() else {
        return Err(Failure::bad_request(format!("no such product: {}", order.sku)));
    };
    let NewOrder { customer, sku, quantity, .. } = order;
    let cents = price.saturating_mul(quantity);
    let answer = place(&orders, xid, PricedOrder { customer, sku, quantity, cents }).await;
    Ok((status_of(&answer), Json(answer)))
}

fn status_of(answer: &Answer) -> StatusCode {
    match (answer.outcome, answer.refused) {
        (Outcome::Committed, _) => StatusCode::CREATED,
        (Outcome::Aborted, true) => StatusCode::CONFLICT,
        (Outcome::Aborted, false) => StatusCode::SERVICE_UNAVAILABLE,
        (Outcome::Unknown, _) => StatusCode::ACCEPTED,
    }
}

async fn get_order<DB: Database>(
    State(orders): State<Orders<DB>>,
    Path(id): Path<Uuid>,
) -> Result<Json<Answer>, Failure> {
    let answer = ask(&orders, Xid::new(id)).await?;
    answer.map(Json).ok_or_else(|| Failure::not_found("no such order is known"))
}

async fn settle_order<DB: Database>(State(orders): State<Orders<DB>>, Path(id): Path<Uuid>) -> Json<Answer> {
    Json(settle(&orders, Xid::new(id)).await)
}

async fn invariants<DB: Database>(State(orders): State<Orders<DB>>) -> Result<Json<OrderCounts>, Failure> {
    Ok(Json(OrderCounts::read(&orders.pools).await?))
}
