//! The cars service.

mod hooks;

use unanimity_sdk::{Client, Fence, Participant};

use crate::database::Pools;
use crate::world;

pub use hooks::{Car, Rent, Rental};

/// Makes the tables, and the cars if there are none.
pub(crate) async fn prepare(pools: &Pools, demo_trips: u32) -> anyhow::Result<()> {
    sqlx::raw_sql(include_str!("schema.sql")).execute(&pools.write).await?;
    for (class, _) in world::CARS {
        let sql = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?2)
                   INSERT OR IGNORE INTO cars (class, car) SELECT ?1, n FROM numbers";
        let count = world::capacity(class, demo_trips);
        sqlx::query(sql).bind(class).bind(count).execute(&pools.write).await?;
    }
    Ok(())
}

/// Starts the participant: from here on actions and compensations come.
pub(crate) async fn start(client: &Client, pools: &Pools) -> anyhow::Result<Participant<sqlx::Sqlite>> {
    let fence = Fence::new(pools.write.clone());
    fence.migrate().await?;
    Ok(Participant::builder("cars", fence).saga_step("rent", Rent).attach(client).await?)
}
