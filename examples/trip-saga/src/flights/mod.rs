//! The flights service: seats, and the tickets at the end of a trip.

mod hooks;

use unanimity_sdk::{Client, Fence, Participant};

use crate::database::Pools;
use crate::world;

pub use hooks::{Book, Flight, Print, Seat};

/// Makes the tables, and the seats if there are none.
pub(crate) async fn prepare(pools: &Pools, demo_trips: u32) -> anyhow::Result<()> {
    sqlx::raw_sql(include_str!("schema.sql")).execute(&pools.write).await?;
    let mut tx = pools.write.begin().await?;
    for (flight, _) in world::FLIGHTS {
        for seat in 1..=world::capacity(flight, demo_trips) {
            sqlx::query("INSERT OR IGNORE INTO seats (flight, seat) VALUES (?1, ?2)")
                .bind(flight)
                .bind(seat)
                .execute(&mut *tx)
                .await?;
        }
    }
    tx.commit().await?;
    Ok(())
}

/// Starts the participant: from here on actions and compensations come.
pub(crate) async fn start(client: &Client, pools: &Pools) -> anyhow::Result<Participant<sqlx::Sqlite>> {
    let fence = Fence::new(pools.write.clone());
    fence.migrate().await?;
    let flights = Participant::builder("flights", fence).saga_step("book", Book).saga_step("print", Print);
    Ok(flights.attach(client).await?)
}
