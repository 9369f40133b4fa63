//! The payment service: accounts, and what is set aside on them.

mod hooks;
mod invariants;
mod routes;

use unanimity_sdk::{Client, Participant};

use crate::database::{Database, Pools, values};
use crate::demo;

pub use hooks::{Debit, Hold};
pub use invariants::Money;
pub use routes::{Payment, routes};

/// Makes the tables, and fills them if they are empty.
pub(crate) async fn prepare<DB: Database>(pools: &Pools<DB>, demo_orders: u32) -> anyhow::Result<()> {
    DB::create(pools, include_str!("schema.sql")).await?;
    let mut tx = pools.write.begin().await?;
    let customers = demo::CUSTOMERS.map(|name| (name, demo::balance(name, demo_orders)));
    for (name, cents) in customers.into_iter().chain([(demo::MERCHANT, 0)]) {
        let sql = "INSERT INTO accounts (name, opening, balance, held) VALUES ($1, $2, $2, 0)
                   ON CONFLICT DO NOTHING";
        DB::execute(&mut tx, sql, values![name, cents]).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Starts the participant: from here on confirms and cancels come.
pub(crate) async fn start<DB: Database>(client: &Client, pools: Pools<DB>) -> anyhow::Result<Payment<DB>> {
    let fence = unanimity_sdk::Fence::new(pools.write.clone());
    fence.migrate().await?;
    let participant = Participant::builder("payment", fence).tcc("hold", Hold).attach(client).await?;
    Ok(Payment { participant, pools })
}
