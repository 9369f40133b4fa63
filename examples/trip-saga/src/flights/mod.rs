//! The flights service: seats, and the tickets at the end of a trip.

mod hooks;

use unanimity_sdk::{Client, Fence, Participant};

use crate::database::Pools;
use crate::world;

pub use hooks::{Book, Flight, Print, Seat};

/// Makes the tables, and the seats if there are none.
pub(crate) async fn prepare(pools: &Pools, demo_trips: u32) -> anyhow::Result<()> {
    sqlx::raw_sql(include_str!("schema.sql")).execute(&pools.write).await?;
    for (flight, _) in world::FLIGHTS {
        let sql = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?2)
                   INSERT OR IGNORE INTO seats (flight, seat) SELECT ?1, n FROM numbers";
        let count = world::capacity(flight, demo_trips);
        sqlx::query(sql).bind(flight).bind(count).execute(&pools.write).await?;
    }
    Ok(())
}

/// Starts the participant: from here on actions and compensations come.
pub(crate) async fn start(client: &Client, pools: &Pools) -> anyhow::Result<Participant<sqlx::Sqlite>> {
    let fence = Fence::new(pools.write.clone());
    fence.migrate().await?;
    let flights = Participant::builder("flights", fence).saga_step("book", Book).saga_step("print", Print);
    Ok(flights.attach(client).await?)
}
