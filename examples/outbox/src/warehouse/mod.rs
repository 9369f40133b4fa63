//! The warehouse: hears of each line once, in each customer's order.

mod hooks;
mod routes;

use sqlx::Pool;
use unanimity_sdk::{Client, Fence, FenceDatabase, Participant};

use crate::database::{Database, values};
use crate::demo;

pub use hooks::{Mailing, Pick, Picking, Voucher};
pub use routes::{NewShelf, routes};

/// What messages are addressed to.
pub const PARTICIPANT: &str = "warehouse";
/// The receiver of [`Pick`].
pub const PICK: &str = "pick";
/// The receiver of [`Voucher`].
pub const VOUCHER: &str = "voucher";

/// Makes the tables, and a shelf for every product but one.
pub(crate) async fn prepare<DB: Database>(pool: &Pool<DB>) -> anyhow::Result<()> {
    DB::create(pool, include_str!("schema.sql")).await?;
    let mut tx = DB::begin_writing(pool).await?;
    for (sku, _) in demo::PRODUCTS.into_iter().filter(|(sku, _)| *sku != demo::NO_SHELF) {
        add_shelf::<DB>(&mut tx, sku).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Makes a shelf, if it is not there.
pub(crate) async fn add_shelf<DB: Database>(connection: &mut DB::Connection, sku: &str) -> sqlx::Result<u64> {
    let sql = "INSERT INTO shelves (sku, taken) VALUES ($1, 0) ON CONFLICT DO NOTHING";
    DB::execute(connection, sql, values![sku]).await
}

/// Starts the participant: from here on messages come.
pub(crate) async fn start<DB: Database + FenceDatabase>(
    client: &Client,
    pool: &Pool<DB>,
) -> anyhow::Result<Participant<DB>> {
    let fence = Fence::new(pool.clone());
    fence.migrate().await?;
    let builder = Participant::builder(PARTICIPANT, fence);
    Ok(builder.receiver(PICK, Picking).receiver(VOUCHER, Mailing).attach(client).await?)
}
