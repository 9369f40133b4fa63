//! A coordinator inside of your own process: `cargo run -p embedded`.
//!
//! Without arguments its log is in memory; with `-- FILE` it is a SQLite file and survives the process.
#![allow(clippy::print_stdout, reason = "an example that shows what it does")]

use std::time::Duration;

use anyhow::Context as _;
use sqlx::{Sqlite, Transaction};
use unanimity_coordinator::Node;
use unanimity_sdk::{
    Branch, Client, Fence, HookError, Participant, Refused, TccHooks, TransactionError, sqlite_pool,
};

/// Takes seats in a hall: the branch's payload says how many.
struct Seats;

impl TccHooks<Sqlite> for Seats {
    type Payload = i64;
    type Output = ();

    async fn try_(&self, tx: &mut Transaction<'_, Sqlite>, branch: &Branch<i64>) -> Result<(), HookError> {
        let sql = "UPDATE hall SET free = free - $1, held = held + $1 WHERE free >= $1";
        let taken = sqlx::query(sql).bind(branch.payload).execute(&mut **tx).await?;
        if taken.rows_affected() == 0 { Err(Refused::new("not enough seats").into()) } else { Ok(()) }
    }

    async fn confirm(&self, tx: &mut Transaction<'_, Sqlite>, branch: &Branch<i64>) -> Result<(), HookError> {
        let sql = "UPDATE hall SET held = held - $1, sold = sold + $1";
        sqlx::query(sql).bind(branch.payload).execute(&mut **tx).await?;
        Ok(())
    }

    async fn cancel(&self, tx: &mut Transaction<'_, Sqlite>, branch: &Branch<i64>) -> Result<(), HookError> {
        let sql = "UPDATE hall SET held = held - $1, free = free + $1";
        sqlx::query(sql).bind(branch.payload).execute(&mut **tx).await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The coordinator. Other processes may attach to its URL as well.
    let node = Node::builder().listen("127.0.0.1:0".parse()?);
    let node = match std::env::args_os().nth(1) {
        Some(file) => node.sqlite(file),
        None => node.memory(),
    };
    let node = node.start().await?;
    node.ready(Duration::from_secs(10)).await?;
    let client = Client::connect(node.url().context("the node listens")?)?;

    // A participant with a database of its own.
    let directory = tempfile::tempdir()?;
    let pool = sqlite_pool(directory.path().join("hall.db")).await?;
    sqlx::raw_sql(
        "CREATE TABLE hall (free BIGINT, held BIGINT, sold BIGINT); INSERT INTO hall VALUES (10, 0, 0)",
    )
    .execute(&pool)
    .await?;
    let fence = Fence::new(pool.clone());
    fence.migrate().await?;
    let hall = Participant::builder("hall", fence).tcc("seats", Seats).attach(&client).await?;

    // Two transactions: one has room, one has not.
    for seats in [4, 7] {
        let booking = client.transaction("book").timeout(Duration::from_secs(10)).wait_finished();
        match booking.run(async |tx| hall.try_in::<Seats>(&tx, seats).await).await {
            Ok(()) => println!("{seats} seats: booked"),
            Err(TransactionError::User { error, .. }) => println!("{seats} seats: not booked, {error}"),
            Err(other) => println!("{seats} seats: {other}"),
        }
    }
    let (free, held, sold): (i64, i64, i64) =
        sqlx::query_as("SELECT free, held, sold FROM hall").fetch_one(&pool).await?;
    println!("{free} free, {held} held, {sold} sold");

    hall.shutdown().await;
    node.shutdown().await;
    Ok(())
}
