//! The shop: writes orders and the messages about them, both or neither.

mod place;
mod routes;
mod vouchers;

use sqlx::Pool;
use unanimity_sdk::{Client, Fence, FenceDatabase, Outbox, Participant};

use crate::database::{Database, values};
use crate::demo;

pub use place::{Line, NewOrder, OrderError, place};
pub use routes::{order_routes, voucher_routes};
pub use vouchers::{Crash, NewVoucher, VoucherError, Vouchers, issue};

/// Makes the tables, and so many customers if they are not there.
pub(crate) async fn prepare<DB: Database>(pool: &Pool<DB>, customers: u32) -> anyhow::Result<Outbox<DB>> {
    DB::create(pool, include_str!("schema.sql")).await?;
    let mut tx = DB::begin_writing(pool).await?;
    for name in demo::customers(customers) {
        let known: Vec<(String,)> =
            DB::fetch(&mut tx, "SELECT name FROM customers WHERE name = $1", values![&name]).await?;
        if known.is_empty() {
            let sql = "INSERT INTO customers (name, ordered, credit) VALUES ($1, 0, $2)";
            DB::execute(&mut tx, sql, values![&name, demo::credit(&name)]).await?;
        }
    }
    tx.commit().await?;
    let outbox = Outbox::new(pool.clone());
    outbox.migrate().await?;
    Ok(outbox)
}

/// Starts the participant that check-backs about vouchers come to.
pub(crate) async fn start_vouchers<DB: Database + FenceDatabase>(
    client: &Client,
    pool: &Pool<DB>,
    allow_crashes: bool,
) -> anyhow::Result<Vouchers<DB>> {
    let fence = Fence::new(pool.clone());
    fence.migrate().await?;
    let participant =
        Participant::builder("shop", fence.clone()).sender(vouchers::NAME).attach(client).await?;
    Ok(Vouchers { client: client.clone(), fence, participant, allow_crashes })
}
