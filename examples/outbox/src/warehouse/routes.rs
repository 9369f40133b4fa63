//! The warehouse over HTTP: what an operator does there. Messages come by the participant's session.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use sqlx::Pool;

use super::add_shelf;
use crate::database::Database;
use crate::services::Failure;

/// The body of `POST /shelves`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewShelf {
    /// For which product.
    pub sku: String,
}

/// The warehouse's routes.
pub fn routes<DB: Database>(pool: Pool<DB>) -> Router {
    Router::new().route("/shelves", post(post_shelf::<DB>)).with_state(pool)
}

async fn post_shelf<DB: Database>(
    State(pool): State<Pool<DB>>,
    Json(shelf): Json<NewShelf>,
) -> Result<StatusCode, Failure> {
    let mut tx = DB::begin_writing(&pool).await?;
    add_shelf::<DB>(&mut tx, &shelf.sku).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
