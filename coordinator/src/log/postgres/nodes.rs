//! Nodes, and who owns what.
//!
//! Two who must not miss one another lock the one row of `log_format`: a node that joins, so that nobody is let in who
//! does not know what is agreed, and one that raises the format. A plain beat of a node that lives waits for nobody: it
//! changes the node's own row, and only while that row lives and its format is enough. Whoever raises locks the nodes'
//! rows as well before it counts them: a beat that is under way is waited for, and one that comes later looks at the
//! format once more behind its own word.

use std::time::Duration;

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{FromRow, Postgres};
use unanimity_types::PartitionId;
use uuid::Uuid;

use super::blocks::{control, read_limited, write_limited};
use super::connections::Lent;
use crate::log::nodes::{self, FORGET_AFTER};
use crate::log::row::{from_sql, to_sql};
use crate::log::{ClusterView, Error, NodeBeat, NodeRow, PartitionRow};

/// Each statement is to see what the one that held a lock before has written. Locks are others' too: of a node that is
/// frozen or cut off in the middle of its beat, the server takes them back, long before the others' leases are over; and
/// whoever waits for one gives up in time to try again.
const BEGIN: &str = "/* heartbeat */ BEGIN ISOLATION LEVEL READ COMMITTED; \
    SET LOCAL idle_in_transaction_session_timeout = 1500; SET LOCAL lock_timeout = 2000";
const COMMIT: &str = "/* heartbeat */ COMMIT";

/// What one statement of a beat may take: half of a lease.
const STATEMENT_MAX: Duration = Duration::from_secs(3);

const LOCK: &str = "/* heartbeat */ SELECT format FROM log_format FOR UPDATE";

/// In one order: whoever locks several of them waits in one direction.
const LOCK_NODES: &str = "/* heartbeat */ SELECT node FROM nodes ORDER BY node FOR UPDATE";

const FORMAT: &str = "/* heartbeat */ SELECT format FROM log_format";

const LIVE_ON: &str = "/* heartbeat */ \
    UPDATE nodes SET address = $3, version = $4, formats = $5, leaving = $6, servers = $8, \
        heard_at = clock_timestamp(), alive_until = clock_timestamp() + $7 * interval '1 millisecond' \
    WHERE node = $1 AND instance = $2 AND alive_until > clock_timestamp() \
        AND $5 >= (SELECT format FROM log_format)";

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
    let limit = limit.min(STATEMENT_MAX);
    if beat.joins || !live_on(&mut lent, &beat, duration, limit).await? {
        join(&mut lent, &beat, duration, limit).await?;
    }
    let nodes = list(&mut lent, limit).await?;
    let listing = sqlx::query_as::<_, PartitionRecord>(PARTITIONS);
    let records = read_limited(limit, listing.fetch_all(lent.connection())).await?;
    // Last: what was raised before our word was heard is seen here.
    let reading = sqlx::query_scalar::<_, i32>(FORMAT);
    let agreed = read_limited(limit, reading.fetch_one(lent.connection())).await?;
    let agreed = u32::try_from(agreed).unwrap_or(u32::MAX);
    nodes::check_format(&beat, agreed)?;
    let format = if nodes::agree(agreed, &nodes) > agreed {
        match raise(&mut lent, limit).await {
            Ok(format) => {
                lent.give_back();
                format
            }
            // The next beat tries again.
            Err(error) => {
                tracing::debug!(%error, "the block format could not be raised");
                agreed
            }
        }
    } else {
        lent.give_back();
        agreed
    };
    Ok(ClusterView { nodes, partitions: records.into_iter().map(partition).collect(), format })
}

/// The word of a node that lives. Answers whether it was taken: if not, it is for [`join`] to say why.
async fn live_on(
    lent: &mut Lent,
    beat: &NodeBeat,
    duration: Duration,
    limit: Duration,
) -> Result<bool, Error> {
    control(lent, limit, BEGIN).await?;
    let living = bind(sqlx::query(LIVE_ON), beat, duration);
    let taken = write_limited(limit, living.execute(lent.connection())).await?.rows_affected() == 1;
    control(lent, limit, COMMIT).await?;
    Ok(taken)
}

/// The word of a node that comes, or comes back: alone with the format.
async fn join(lent: &mut Lent, beat: &NodeBeat, duration: Duration, limit: Duration) -> Result<(), Error> {
    control(lent, limit, BEGIN).await?;
    let locking = sqlx::query_scalar::<_, i32>(LOCK);
    let agreed = write_limited(limit, locking.fetch_one(lent.connection())).await?;
    nodes::check_format(beat, u32::try_from(agreed).unwrap_or(u32::MAX))?;
    let bearing = sqlx::query_as::<_, (Uuid, String)>(BEARS).bind(&beat.node);
    let bears = read_limited(limit, bearing.fetch_optional(lent.connection())).await?;
    nodes::check_instance(beat, bears)?;
    if beat.joins {
        let forgetting = sqlx::query(FORGET).bind(milliseconds(FORGET_AFTER));
        write_limited(limit, forgetting.execute(lent.connection())).await?;
    }
    let beating = bind(sqlx::query(BEAT), beat, duration);
    write_limited(limit, beating.execute(lent.connection())).await?;
    control(lent, limit, COMMIT).await
}

/// Raises the format to what every living node knows. Answers the format.
async fn raise(lent: &mut Lent, limit: Duration) -> Result<u32, Error> {
    control(lent, limit, BEGIN).await?;
    let locking = sqlx::query_scalar::<_, i32>(LOCK);
    let agreed = write_limited(limit, locking.fetch_one(lent.connection())).await?;
    let agreed = u32::try_from(agreed).unwrap_or(u32::MAX);
    let locking = sqlx::query_scalar::<_, String>(LOCK_NODES);
    write_limited(limit, locking.fetch_all(lent.connection())).await?;
    let format = nodes::agree(agreed, &list(lent, limit).await?);
    let raising = sqlx::query(RAISE).bind(i32::try_from(format).unwrap_or(i32::MAX));
    write_limited(limit, raising.execute(lent.connection())).await?;
    control(lent, limit, COMMIT).await?;
    Ok(format)
}

/// What [`BEAT`] and [`LIVE_ON`] say of a node.
fn bind<'q>(
    query: Query<'q, Postgres, PgArguments>,
    beat: &'q NodeBeat,
    duration: Duration,
) -> Query<'q, Postgres, PgArguments> {
    query
        .bind(&beat.node)
        .bind(beat.instance)
        .bind(&beat.address)
        .bind(&beat.version)
        .bind(i32::try_from(beat.formats).unwrap_or(i32::MAX))
        .bind(beat.leaving)
        .bind(milliseconds(duration))
        .bind(&beat.servers)
}

async fn list(lent: &mut Lent, limit: Duration) -> Result<Vec<NodeRow>, Error> {
    let listing = sqlx::query_as::<_, NodeRecord>(NODES);
    let records = read_limited(limit, listing.fetch_all(lent.connection())).await?;
    let mut nodes: Vec<NodeRow> = records.into_iter().map(node).collect();
    // Not by the database's collation: every node is to see the same order.
    nodes.sort_unstable_by(|one, other| one.node.cmp(&other.node));
    Ok(nodes)
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
