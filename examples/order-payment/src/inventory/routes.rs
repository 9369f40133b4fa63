//! The inventory service over HTTP.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use unanimity_sdk::{Participant, ServerLayer, TryError};

use super::invariants::Stock;
use super::{Reservation, Reserve};
use crate::database::{Database, Pools};
use crate::services::{Failure, health};

/// What the handlers share.
#[derive(Debug)]
pub struct Inventory<DB: Database> {
    /// Owns this service's branches.
    pub participant: Participant<DB>,
    /// The service's database.
    pub pools: Pools<DB>,
}

impl<DB: Database> Clone for Inventory<DB> {
    fn clone(&self) -> Self {
        Self { participant: self.participant.clone(), pools: self.pools.clone() }
    }
}

/// The service's routes.
pub fn routes<DB: Database>(inventory: Inventory<DB>) -> Router {
    Router::new()
        .route("/reserve", post(reserve::<DB>))
        .route("/invariants", get(invariants::<DB>))
        // Makes the transaction in a request's header the current one, and sends the votes back.
        .layer(ServerLayer::new())
        .with_state(inventory.clone())
        .merge(health::routes(inventory.participant))
}

async fn reserve<DB: Database>(
    State(inventory): State<Inventory<DB>>,
    Json(reservation): Json<Reservation>,
) -> Result<StatusCode, TryError> {
    // Registers the branch, then runs `Reserve::try_` together with its fence row.
    inventory.participant.try_branch::<Reserve>(reservation).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn invariants<DB: Database>(State(inventory): State<Inventory<DB>>) -> Result<Json<Stock>, Failure> {
    Ok(Json(Stock::read(&inventory.pools).await?))
}
