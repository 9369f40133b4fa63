//! Leases, by the database's clock. `now()` stands still inside a transaction; `clock_timestamp()`
//! does not.

use std::time::Duration;

use sqlx::FromRow;
use unanimity_types::{PartitionId, Seq, Timestamp};

use super::blocks::{read_limited, write_limited};
use super::connections::Lent;
use crate::log::placed::Place;
use crate::log::row::{from_sql, to_sql};
use crate::log::{Error, Lease, rules};

const TAKE: &str = "/* take_lease */ \
    UPDATE partitions \
    SET owner = $2, address = $3, lease_until = clock_timestamp() + $4 * interval '1 millisecond' \
    WHERE partition = $1 AND (owner IS NULL OR owner = $2 OR lease_until <= clock_timestamp()) \
        AND server = ANY($5) \
    RETURNING server, placed_seq";

const SHOW: &str = "/* show_lease */ \
    SELECT owner, address, server, placed_seq, \
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
    server: String,
    placed_seq: i64,
    remaining_ms: Option<i64>,
}

/// Takes a lease of a partition on one of the servers that the node can reach. Answers where it is as well.
pub(super) async fn take(
    mut lent: Lent,
    partition: PartitionId,
    node: String,
    address: String,
    duration: Duration,
    reachable: Vec<String>,
    limit: Duration,
) -> Result<(Lease, Place), Error> {
    let duration = duration.min(LEASE_MAX);
    let milliseconds = to_sql(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    let query = sqlx::query_as::<_, (String, i64)>(TAKE)
        .bind(i32::from(partition.0))
        .bind(&node)
        .bind(&address)
        .bind(milliseconds as f64)
        .bind(&reachable);
    let mut taken = write_limited(limit, query.fetch_all(lent.connection())).await?;
    let place = |server, seq| Place { partition, server, since: Seq(from_sql(seq)) };
    if let Some((server, since)) = taken.pop() {
        lent.give_back();
        let lease = Lease { held: true, owner: node, address, remaining: duration };
        return Ok((lease, place(server, since)));
    }
    let query = sqlx::query_as::<_, LeaseRow>(SHOW).bind(i32::from(partition.0));
    let row = read_limited(limit, query.fetch_optional(lent.connection())).await?;
    lent.give_back();
    let row = row.ok_or_else(|| rules::no_partition(partition))?;
    if !reachable.contains(&row.server) {
        return Err(Error::Refused(format!(
            "partition {partition} cannot be taken: its log is on server {:?}, and this node does not know where \
             that is: add it to database.servers",
            row.server
        )));
    }
    // If it became free in between, the caller finds out at its next try.
    let lease = Lease {
        held: false,
        owner: row.owner.unwrap_or_default(),
        address: row.address.unwrap_or_default(),
        remaining: Duration::from_millis(from_sql(row.remaining_ms.unwrap_or(0))),
    };
    Ok((lease, place(row.server, row.placed_seq)))
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
