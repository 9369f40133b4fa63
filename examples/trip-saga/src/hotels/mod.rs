//! The hotels service: rooms, and a house that takes no cancellations until its manager says so.

mod hooks;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use unanimity_sdk::{Client, Fence, Participant};

use crate::database::Pools;
use crate::services::Failure;
use crate::world;

pub use hooks::{Book, Room, Stay};

/// Makes the tables, and the rooms if there are none.
pub(crate) async fn prepare(pools: &Pools, demo_trips: u32) -> anyhow::Result<()> {
    sqlx::raw_sql(include_str!("schema.sql")).execute(&pools.write).await?;
    for (hotel, _) in world::HOTELS {
        sqlx::query("INSERT OR IGNORE INTO hotels (hotel, takes_cancellations) VALUES (?1, ?2)")
            .bind(hotel)
            .bind(i64::from(hotel != world::STRICT_HOTEL))
            .execute(&pools.write)
            .await?;
        let sql = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?2)
                   INSERT OR IGNORE INTO rooms (hotel, room) SELECT ?1, n FROM numbers";
        let count = world::capacity(hotel, demo_trips);
        sqlx::query(sql).bind(hotel).bind(count).execute(&pools.write).await?;
    }
    Ok(())
}

/// Starts the participant: from here on actions and compensations come.
pub(crate) async fn start(client: &Client, pools: &Pools) -> anyhow::Result<Participant<sqlx::Sqlite>> {
    let fence = Fence::new(pools.write.clone());
    fence.migrate().await?;
    Ok(Participant::builder("hotels", fence).saga_step("book", Book).attach(client).await?)
}

/// What a hotel's manager can do.
pub(crate) fn routes(pools: Pools) -> Router {
    Router::new().route("/hotels/{hotel}/take-cancellations", post(take_cancellations)).with_state(pools)
}

/// From now on the hotel takes cancellations.
async fn take_cancellations(
    State(pools): State<Pools>,
    Path(hotel): Path<String>,
) -> Result<StatusCode, Failure> {
    let sql = "UPDATE hotels SET takes_cancellations = 1 WHERE hotel = ?1";
    let changed = sqlx::query(sql).bind(&hotel).execute(&pools.write).await?.rows_affected();
    if changed == 0 {
        return Err(Failure::not_found(format!("no such hotel: {hotel}")));
    }
    Ok(StatusCode::NO_CONTENT)
}
