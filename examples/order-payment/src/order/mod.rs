//! The order service: begins a global transaction for each order, and owns a branch of it.

mod hooks;
mod invariants;
mod place;
mod routes;

use unanimity_sdk::{Client, Participant};

use crate::database::{Database, Pools, values};
use crate::demo;
use crate::services::{Options, http_client};

pub use hooks::{Place, PricedOrder};
pub use invariants::OrderCounts;
pub use place::{Answer, Outcome};
pub use routes::{NewOrder, Orders, routes};

/// Makes the tables, and fills them if they are empty.
pub(crate) async fn prepare<DB: Database>(pools: &Pools<DB>) -> anyhow::Result<()> {
    DB::create(pools, include_str!("schema.sql")).await?;
    let mut tx = pools.write.begin().await?;
    for (sku, price) in demo::PRODUCTS {
        let sql = "INSERT INTO products (sku, price_cents) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        DB::execute(&mut tx, sql, values![sku, price]).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Starts the participant, and what begins transactions.
pub(crate) async fn start<DB: Database>(
    client: &Client,
    pools: Pools<DB>,
    options: &Options,
) -> anyhow::Result<Orders<DB>> {
    let fence = unanimity_sdk::Fence::new(pools.write.clone());
    fence.migrate().await?;
    let participant = Participant::builder("order", fence).tcc("place", Place).attach(client).await?;
    Ok(Orders {
        client: client.clone(),
        participant,
        pools,
        http: http_client()?,
        inventory_url: options.inventory_url.trim_end_matches('/').to_owned(),
        payment_url: options.payment_url.trim_end_matches('/').to_owned(),
        transaction_timeout: options.transaction_timeout(),
    })
}
