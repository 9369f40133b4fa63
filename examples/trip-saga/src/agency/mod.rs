//! The travel agency: it submits the sagas, and takes the money.

pub mod book;
pub mod charge;
pub mod plan;
pub(crate) mod routes;

use unanimity_sdk::{Client, Fence, Participant};

use crate::database::Pools;
use crate::world;

pub use book::{Answer, Booked, Outcome};
pub use routes::{Agency, NewTrip};

/// Makes the tables, and the accounts if there are none.
pub(crate) async fn prepare(pools: &Pools, demo_trips: u32) -> anyhow::Result<()> {
    sqlx::raw_sql(include_str!("schema.sql")).execute(&pools.write).await?;
    let mut tx = pools.write.begin().await?;
    for customer in world::CUSTOMERS.into_iter().chain([world::BROKE]) {
        sqlx::query("INSERT OR IGNORE INTO accounts (customer, opening, balance) VALUES (?1, ?2, ?2)")
            .bind(customer)
            .bind(world::balance(customer, demo_trips))
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Starts the participant of the agency's own step.
pub(crate) async fn start(client: &Client, pools: &Pools) -> anyhow::Result<Participant<sqlx::Sqlite>> {
    let fence = Fence::new(pools.write.clone());
    fence.migrate().await?;
    Ok(Participant::builder("agency", fence).saga_step("charge", charge::Charge).attach(client).await?)
}
