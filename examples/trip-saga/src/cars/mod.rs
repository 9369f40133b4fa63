//! The cars service.

mod hooks;

use unanimity_sdk::{Client, Fence, Participant};

use crate::database::Pools;
use crate::world;

pub use hooks::{Car, Rent, Rental};

/// Makes the tables, and the cars if there are none.
pub(crate) async fn prepare(pools: &Pools, demo_trips: u32) -> anyhow::Result<()> {
    sqlx::raw_sql(include_str!("schema.sql")).execute(&pools.write).await?;
    let mut tx = pools.write.begin().await?;
    for (class, _) in world::CARS {
        for car in 1..=world::capacity(class, demo_trips) {
            sqlx::query("INSERT OR IGNORE INTO cars (class, car) VALUES (?1, ?2)")
                .bind(class)
                .bind(car)
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
    Ok(Participant::builder("cars", fence).saga_step("rent", Rent).attach(client).await?)
}
