//! The payment service over HTTP.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use unanimity_sdk::{Participant, ServerLayer, TryError};

use super::invariants::Money;
use super::{Debit, Hold};
use crate::database::{Database, Pools};
use crate::services::{Failure, health};

/// What the handlers share.
#[derive(Debug)]
pub struct Payment<DB: Database> {
    /// Owns this service's branches.
    pub participant: Participant<DB>,
    /// The service's database.
    pub pools: Pools<DB>,
}

impl<DB: Database> Clone for Payment<DB> {
    fn clone(&self) -> Self {
        Self { participant: self.participant.clone(), pools: self.pools.clone() }
    }
}

/// The service's routes.
pub fn routes<DB: Database>(payment: Payment<DB>) -> Router {
    Router::new()
        .route("/hold", post(hold::<DB>))
        .route("/invariants", get(invariants::<DB>))
        .layer(ServerLayer::new())
        .with_state(payment.clone())
        .merge(health::routes(payment.participant))
}

async fn hold<DB: Database>(
    State(payment): State<Payment<DB>>,
    Json(debit): Json<Debit>,
) -> Result<StatusCode, TryError> {
    payment.participant.try_branch::<Hold>(debit).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn invariants<DB: Database>(State(payment): State<Payment<DB>>) -> Result<Json<Money>, Failure> {
    Ok(Json(Money::read(&payment.pools).await?))
}
