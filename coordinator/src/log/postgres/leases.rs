//! Leases, by the database's clock. `now()` stands still inside a transaction; `clock_timestamp()`
//! does not.

use std::time::Duration;

use sqlx::FromRow;
use unanimity_types::{PartitionId, Timestamp};

use super::blocks::{read_limited, write_limited};
use super::connections::Lent;
use crate::log::row::{from_sql, to_sql};
use crate::log::{Error, Lease, rules};

const TAKE: &str = "/* take_lease */ \
    UPDATE partitions \
    SET owner = $2, address = $3, lease_until = clock_timestamp() + $4 * interval '1 millisecond' \
    WHERE partition = $1 AND (owner IS NULL OR owner = $2 OR lease_until <= clock_timestamp())";

const SHOW: &str = "/* show_lease */ \
    SELECT owner, address, \
        (extract(epoch FROM lease_until - clock_timestamp()) * 1000)::bigint AS remaining_ms \
    FROM partitions WHERE partition = $1";

const RELEASE: &str = "/* release_lease */ \
    UPDATE partitions SET owner = NULL, address = NULL, lease_until = NULL \
    WHERE partition = $1 AND owner = $2";

const HAND_OVER: &str = "/* hand_over_lease */ \
    UPDATE partitions \
    SET owner = $3, address = $4, lease_until = clock_timestamp() + $5 * interval '1 millisecond' \
    WHERE partition = $1 AND owner = $2";

const NOW: &str = "/* now */ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// The longest lease: keeps the database's arithmetic in range.
const LEASE_MAX: Duration = Duration::from_secs(24 * 3_600);

#[derive(FromRow)]
struct LeaseRow {
    owner: Option<String>,
    address: Option<String>,
    remaining_ms: Option<i64>,
}

pub(super) async fn take(
    mut lent: Lent,
    partition: PartitionId,
    node: String,
    address: String,
    duration: Duration,
    limit: Duration,
) -> Result<Lease, Error> {
    let duration = duration.min(LEASE_MAX);
    let milliseconds = to_sql(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    let query =
        sqlx::query(TAKE).bind(i32::from(partition.0)).bind(&node).bind(&address).bind(milliseconds as f64);
    let taken = write_limited(limit, query.execute(lent.connection())).await?.rows_affected() == 1;
    if taken {
        lent.give_back();
        return Ok(Lease { held: true, owner: node, address, remaining: duration });
    }
    let query = sqlx::query_as::<_, LeaseRow>(SHOW).bind(i32::from(partition.0));
    let row = read_limited(limit, query.fetch_optional(lent.connection())).await?;
    lent.give_back();
    let row = row.ok_or_else(|| rules::no_partition(partition))?;
    // If it became free in between, the caller finds out at its next try.
    Ok(Lease {
        held: false,
        owner: row.owner.unwrap_or_default(),
        address: row.address.unwrap_or_default(),
        remaining: Duration::from_millis(from_sql(row.remaining_ms.unwrap_or(0))),
    })
}

pub(super) async fn release(
    mut lent: Lent,
    partition: PartitionId,
    node: String,
    limit: Duration,
) -> Result<(), Error> {
    let query = sqlx::query(RELEASE).bind(i32::from(partition.0)).bind(node);
    write_limited(limit, query.execute(lent.connection())).await?;
    lent.give_back();
    Ok(())
}

/// Who is to have a lease next.
pub(super) struct Heir {
    node: String,
    address: String,
    duration: Duration,
}

impl Heir {
    pub(super) fn new(node: &str, address: &str, duration: Duration) -> Self {
        Self { node: node.to_owned(), address: address.to_owned(), duration: duration.min(LEASE_MAX) }
    }
}

pub(super) async fn hand_over(
    mut lent: Lent,
    partition: PartitionId,
    node: String,
    heir: Heir,
    limit: Duration,
) -> Result<bool, Error> {
    let milliseconds = to_sql(u64::try_from(heir.duration.as_millis()).unwrap_or(u64::MAX));
    let query = sqlx::query(HAND_OVER)
        .bind(i32::from(partition.0))
        .bind(node)
        .bind(heir.node)
        .bind(heir.address)
        .bind(milliseconds as f64);
    let given = write_limited(limit, query.execute(lent.connection())).await?.rows_affected() == 1;
    lent.give_back();
    Ok(given)
}

pub(super) async fn now(mut lent: Lent, limit: Duration) -> Result<Timestamp, Error> {
    let query = sqlx::query_scalar::<_, i64>(NOW);
    let now = read_limited(limit, query.fetch_one(lent.connection())).await?;
    lent.give_back();
    Ok(Timestamp(from_sql(now)))
}
