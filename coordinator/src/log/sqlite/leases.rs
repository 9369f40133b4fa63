//! Leases, by this machine's clock as SQLite reads it. With one coordinator per file they are always
//! had; they are kept so that the engine need not know.

use std::time::Duration;

use sqlx::SqliteConnection;
use unanimity_types::{PartitionId, Timestamp};

use super::error;
use crate::log::row::{from_sql, to_sql};
use crate::log::{Error, Lease, rules};

const NOW: &str = "/* now */ SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)";

const TAKE: &str = "/* take_lease */ \
    UPDATE partitions SET owner = $2, address = $3, lease_until_ms = $4 + $5 \
    WHERE partition = $1 AND (owner IS NULL OR owner = $2 OR lease_until_ms <= $4)";

const SHOW: &str =
    "/* show_lease */ SELECT owner, address, lease_until_ms FROM partitions WHERE partition = $1";

const RELEASE: &str = "/* release_lease */ \
    UPDATE partitions SET owner = NULL, address = NULL, lease_until_ms = NULL \
    WHERE partition = $1 AND owner = $2";

const HAND_OVER: &str = "/* hand_over_lease */ \
    UPDATE partitions SET owner = $3, address = $4, lease_until_ms = $5 WHERE partition = $1 AND owner = $2";

/// The longest lease: keeps the arithmetic in range.
const LEASE_MAX: Duration = Duration::from_secs(24 * 3_600);

pub(super) async fn now(connection: &mut SqliteConnection) -> Result<Timestamp, Error> {
    let now: i64 = sqlx::query_scalar(NOW).fetch_one(connection).await.map_err(|e| error::reading(&e))?;
    Ok(Timestamp(from_sql(now)))
}

pub(super) async fn take(
    connection: &mut SqliteConnection,
    partition: PartitionId,
    node: String,
    address: String,
    duration: Duration,
) -> Result<Lease, Error> {
    let now = now(connection).await?;
    let duration = duration.min(LEASE_MAX);
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let taken = sqlx::query(TAKE)
        .bind(i64::from(partition.0))
        .bind(&node)
        .bind(&address)
        .bind(to_sql(now.0))
        .bind(to_sql(milliseconds))
        .execute(&mut *connection)
        .await
        .map_err(|e| error::writing(&e))?;
    if taken.rows_affected() == 1 {
        return Ok(Lease { held: true, owner: node, address, remaining: duration });
    }
    let row: Option<(Option<String>, Option<String>, Option<i64>)> = sqlx::query_as(SHOW)
        .bind(i64::from(partition.0))
        .fetch_optional(connection)
        .await
        .map_err(|e| error::reading(&e))?;
    let (owner, address, until) = row.ok_or_else(|| rules::no_partition(partition))?;
    Ok(Lease {
        held: false,
        owner: owner.unwrap_or_default(),
        address: address.unwrap_or_default(),
        remaining: Timestamp(from_sql(until.unwrap_or(0))).since(now),
    })
}

pub(super) async fn release(
    connection: &mut SqliteConnection,
    partition: PartitionId,
    node: String,
) -> Result<(), Error> {
    let query = sqlx::query(RELEASE).bind(i64::from(partition.0)).bind(node);
    query.execute(connection).await.map(drop).map_err(|e| error::writing(&e))
}

pub(super) async fn hand_over(
    connection: &mut SqliteConnection,
    partition: PartitionId,
    node: String,
    to: String,
    address: String,
    duration: Duration,
) -> Result<bool, Error> {
    let until = now(connection).await?.after(duration.min(LEASE_MAX));
    let query = sqlx::query(HAND_OVER)
        .bind(i64::from(partition.0))
        .bind(node)
        .bind(to)
        .bind(address)
        .bind(to_sql(until.0));
    let given = query.execute(connection).await.map_err(|e| error::writing(&e))?;
    Ok(given.rows_affected() == 1)
}
