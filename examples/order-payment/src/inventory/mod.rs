//! The inventory service: what is on the shelves, and for whom it is held back.

mod hooks;
mod invariants;
mod routes;

use unanimity_sdk::{Client, Participant};

use crate::database::{Database, Pools, values};
use crate::demo;

pub use hooks::{Reservation, Reserve};
pub use invariants::Stock;
pub use routes::{Inventory, routes};

/// Makes the tables, and fills them if they are empty.
pub(crate) async fn prepare<DB: Database>(pools: &Pools<DB>, demo_orders: u32) -> anyhow::Result<()> {
    DB::create(pools, include_str!("schema.sql")).await?;
    let mut tx = pools.write.begin().await?;
    for (sku, _) in demo::PRODUCTS {
        let sql = "INSERT INTO stock (sku, initial, available, reserved) VALUES ($1, $2, $2, 0)
                   ON CONFLICT DO NOTHING";
        DB::execute(&mut tx, sql, values![sku, demo::stock(sku, demo_orders)]).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Starts the participant: from here on confirms and cancels come.
pub(crate) async fn start<DB: Database>(client: &Client, pools: Pools<DB>) -> anyhow::Result<Inventory<DB>> {
    let fence = unanimity_sdk::Fence::new(pools.write.clone());
    fence.migrate().await?;
    let participant = Participant::builder("inventory", fence).tcc("reserve", Reserve).attach(client).await?;
    Ok(Inventory { participant, pools })
}
