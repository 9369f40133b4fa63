//! Nodes, and who owns what.
//!
//! Every beat locks the one row of `log_format`: a node that joins and one that would raise the format wait for
//! one another, so nobody joins unseen that does not know what is agreed.

use std::time::Duration;

use sqlx::FromRow;
use unanimity_types::PartitionId;
use uuid::Uuid;

use super::blocks::{control, read_limited, write_limited};
use super::connections::Lent;
use crate::log::nodes::{self, FORGET_AFTER};
use crate::log::row::{from_sql, to_sql};
use crate::log::{ClusterView, Error, NodeBeat, NodeRow, PartitionRow};

/// Each statement is to see what the one that held the lock before has written. The lock is everybody's: of a node that
/// is frozen or cut off in the middle of its beat, the server takes it back, long before the others' leases are over.
const BEGIN: &str = "/* heartbeat */ BEGIN ISOLATION LEVEL READ COMMITTED; \
    SET LOCAL idle_in_transaction_session_timeout = 1500";
const COMMIT: &str = "/* heartbeat */ COMMIT";

const LOCK: &str = "/* heartbeat */ SELECT format FROM log_format FOR UPDATE";

const BEARS: &str = "/* heartbeat */ \
    SELECT instance, address FROM nodes WHERE node = $1 AND alive_until > clock_timestamp()";

const FORGET: &str = "/* forget_nodes */ \
    DELETE FROM nodes WHERE heard_at < clock_timestamp() - $1 * interval '1 millisecond' AND NOT draining";

const BEAT: &str = "/* heartbeat */ \
    INSERT INTO nodes (node, instance, address, version, formats, leaving, servers, heard_at, alive_until) \
    VALUES ($1, $2, $3, $4, $5, $6, $8, clock_timestamp(), clock_timestamp() + $7 * interval '1 millisecond') \
    ON CONFLICT (node) DO UPDATE SET instance = excluded.instance, address = excluded.address, \
        version = excluded.version, formats = excluded.formats, leaving = excluded.leaving, \
        servers = excluded.servers, \
        heard_at = excluded.heard_at, alive_until = excluded.alive_until";

const NODES: &str = "/* list_nodes */ \
    SELECT node, address, version, formats, servers, draining, leaving, alive_until > clock_timestamp() AS alive, \
        (extract(epoch FROM clock_timestamp() - heard_at) * 1000)::bigint AS silent_ms, \
        (extract(epoch FROM alive_until - clock_timestamp()) * 1000)::bigint AS remaining_ms \
    FROM nodes";

const RAISE: &str = "/* raise_format */ UPDATE log_format SET format = $1 WHERE format < $1";

const PARTITIONS: &str = "/* list_partitions */ \
    SELECT partition, owner, address, server, \
        (extract(epoch FROM lease_until - clock_timestamp()) * 1000)::bigint AS remaining_ms \
    FROM partitions ORDER BY partition";

const DRAIN: &str = "/* drain_node */ UPDATE nodes SET draining = $2 WHERE node = $1";

#[derive(FromRow)]
struct NodeRecord {
    node: String,
    address: String,
    version: String,
    formats: i32,
    servers: Option<Vec<String>>,
    draining: bool,
    leaving: bool,
    alive: bool,
    silent_ms: i64,
    remaining_ms: i64,
}

#[derive(FromRow)]
struct PartitionRecord {
    partition: i32,
    owner: Option<String>,
    address: Option<String>,
    server: String,
    remaining_ms: Option<i64>,
}

pub(super) async fn beat(
    mut lent: Lent,
    beat: NodeBeat,
    duration: Duration,
    limit: Duration,
) -> Result<ClusterView, Error> {
    control(&mut lent, limit, BEGIN).await?;
    let locking = sqlx::query_scalar::<_, i32>(LOCK);
    let agreed = write_limited(limit, locking.fetch_one(lent.connection())).await?;
    let agreed = u32::try_from(agreed).unwrap_or(u32::MAX);
    nodes::check_format(&beat, agreed)?;
    let bearing = sqlx::query_as::<_, (Uuid, String)>(BEARS).bind(&beat.node);
    let bears = read_limited(limit, bearing.fetch_optional(lent.connection())).await?;
    nodes::check_instance(&beat, bears)?;
    if beat.joins {
        let forgetting = sqlx::query(FORGET).bind(milliseconds(FORGET_AFTER));
        write_limited(limit, forgetting.execute(lent.connection())).await?;
    }
    let beating = sqlx::query(BEAT)
        .bind(&beat.node)
        .bind(beat.instance)
        .bind(&beat.address)
        .bind(&beat.version)
        .bind(i32::try_from(beat.formats).unwrap_or(i32::MAX))
        .bind(beat.leaving)
        .bind(milliseconds(duration))
        .bind(&beat.servers);
    write_limited(limit, beating.execute(lent.connection())).await?;
    let listing = sqlx::query_as::<_, NodeRecord>(NODES);
    let records = read_limited(limit, listing.fetch_all(lent.connection())).await?;
    let mut nodes: Vec<NodeRow> = records.into_iter().map(node).collect();
    // Not by the database's collation: every node is to see the same order.
    nodes.sort_unstable_by(|one, other| one.node.cmp(&other.node));
    let format = nodes::agree(agreed, &nodes);
    if format > agreed {
        let raising = sqlx::query(RAISE).bind(i32::try_from(format).unwrap_or(i32::MAX));
        write_limited(limit, raising.execute(lent.connection())).await?;
    }
    let listing = sqlx::query_as::<_, PartitionRecord>(PARTITIONS);
    let records = read_limited(limit, listing.fetch_all(lent.connection())).await?;
    control(&mut lent, limit, COMMIT).await?;
    lent.give_back();
    Ok(ClusterView { nodes, partitions: records.into_iter().map(partition).collect(), format })
}

pub(super) async fn set_draining(
    mut lent: Lent,
    node: String,
    draining: bool,
    limit: Duration,
) -> Result<bool, Error> {
    let query = sqlx::query(DRAIN).bind(node).bind(draining);
    let there = write_limited(limit, query.execute(lent.connection())).await?.rows_affected() == 1;
    lent.give_back();
    Ok(there)
}

fn milliseconds(duration: Duration) -> f64 {
    to_sql(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)) as f64
}

fn node(record: NodeRecord) -> NodeRow {
    NodeRow {
        node: record.node,
        address: record.address,
        version: record.version,
        formats: u32::try_from(record.formats).unwrap_or(0),
        servers: record.servers,
        draining: record.draining,
        leaving: record.leaving,
        alive: record.alive,
        silent_for: Duration::from_millis(from_sql(record.silent_ms)),
        remaining: Duration::from_millis(from_sql(record.remaining_ms)),
    }
}

fn partition(record: PartitionRecord) -> PartitionRow {
    PartitionRow {
        partition: PartitionId(u16::try_from(record.partition).unwrap_or(u16::MAX)),
        owner: record.owner,
        address: record.address,
        remaining: Duration::from_millis(from_sql(record.remaining_ms.unwrap_or(0))),
        server: record.server,
    }
}
