//! The node of this file. There is one at a time; it is kept so that nobody need know.

use std::time::Duration;

use sqlx::SqliteConnection;
use unanimity_types::{PartitionId, Timestamp};
use uuid::Uuid;

use super::{error, in_transaction, leases};
use crate::log::nodes::{self, FORGET_AFTER, HOME_SERVER};
use crate::log::row::{from_sql, to_sql};
use crate::log::{ClusterView, Error, NodeBeat, NodeRow, PartitionRow};

const FORMAT: &str = "/* heartbeat */ SELECT format FROM log_format";

const BEARS: &str =
    "/* heartbeat */ SELECT instance, address FROM nodes WHERE node = $1 AND alive_until_ms > $2";

const FORGET: &str = "/* forget_nodes */ DELETE FROM nodes WHERE heard_at_ms < $1 AND draining = 0";

const BEAT: &str = "/* heartbeat */ \
    INSERT INTO nodes (node, instance, address, version, formats, leaving, heard_at_ms, alive_until_ms) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
    ON CONFLICT (node) DO UPDATE SET instance = excluded.instance, address = excluded.address, \
        version = excluded.version, formats = excluded.formats, leaving = excluded.leaving, \
        heard_at_ms = excluded.heard_at_ms, alive_until_ms = excluded.alive_until_ms";

const NODES: &str = "/* list_nodes */ \
    SELECT node, address, version, formats, draining, leaving, heard_at_ms, alive_until_ms FROM nodes ORDER BY node";

const RAISE: &str = "/* raise_format */ UPDATE log_format SET format = $1 WHERE format < $1";

const PARTITIONS: &str = "/* list_partitions */ \
    SELECT partition, owner, address, lease_until_ms FROM partitions ORDER BY partition";

const DRAIN: &str = "/* drain_node */ UPDATE nodes SET draining = $2 WHERE node = $1";

type NodeRecord = (String, String, String, i64, bool, bool, i64, i64);
type PartitionRecord = (i64, Option<String>, Option<String>, Option<i64>);

pub(super) async fn beat(
    connection: &mut SqliteConnection,
    beat: NodeBeat,
    duration: Duration,
) -> Result<ClusterView, Error> {
    in_transaction(connection, "/* heartbeat */ BEGIN IMMEDIATE", async |connection| {
        let (reading, writing) = (|e: sqlx::Error| error::reading(&e), |e: sqlx::Error| error::writing(&e));
        let now = leases::now(connection).await?;
        let agreed: i64 = sqlx::query_scalar(FORMAT).fetch_one(&mut *connection).await.map_err(reading)?;
        let agreed = u32::try_from(agreed).unwrap_or(u32::MAX);
        nodes::check_format(&beat, agreed)?;
        let bears: Option<(String, String)> = sqlx::query_as(BEARS)
            .bind(&beat.node)
            .bind(to_sql(now.0))
            .fetch_optional(&mut *connection)
            .await
            .map_err(reading)?;
        let bears = bears.and_then(|(instance, address)| Some((Uuid::try_parse(&instance).ok()?, address)));
        nodes::check_instance(&beat, bears)?;
        if beat.joins {
            let before = Timestamp(now.0.saturating_sub(in_ms(FORGET_AFTER)));
            let forgetting = sqlx::query(FORGET).bind(to_sql(before.0)).execute(&mut *connection).await;
            forgetting.map_err(writing)?;
        }
        let beating = sqlx::query(BEAT)
            .bind(&beat.node)
            .bind(beat.instance.to_string())
            .bind(&beat.address)
            .bind(&beat.version)
            .bind(i64::from(beat.formats))
            .bind(beat.leaving)
            .bind(to_sql(now.0))
            .bind(to_sql(now.after(duration).0))
            .execute(&mut *connection)
            .await;
        beating.map_err(writing)?;
        let records: Vec<NodeRecord> =
            sqlx::query_as(NODES).fetch_all(&mut *connection).await.map_err(reading)?;
        let nodes: Vec<NodeRow> = records.into_iter().map(|record| node(record, now)).collect();
        let format = nodes::agree(agreed, &nodes);
        let raising = sqlx::query(RAISE).bind(i64::from(format)).execute(&mut *connection).await;
        raising.map_err(writing)?;
        let records: Vec<PartitionRecord> =
            sqlx::query_as(PARTITIONS).fetch_all(&mut *connection).await.map_err(reading)?;
        let partitions = records.into_iter().map(|record| partition(record, now)).collect();
        Ok(ClusterView { nodes, partitions, format })
    })
    .await
}

pub(super) async fn set_draining(
    connection: &mut SqliteConnection,
    node: String,
    draining: bool,
) -> Result<bool, Error> {
    let query = sqlx::query(DRAIN).bind(node).bind(draining).execute(connection).await;
    Ok(query.map_err(|e| error::writing(&e))?.rows_affected() == 1)
}

fn in_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn node(record: NodeRecord, now: Timestamp) -> NodeRow {
    let (node, address, version, formats, draining, leaving, heard_at, alive_until) = record;
    let (heard_at, alive_until) = (Timestamp(from_sql(heard_at)), Timestamp(from_sql(alive_until)));
    NodeRow {
        node,
        address,
        version,
        formats: u32::try_from(formats).unwrap_or(0),
        // The file is the only place.
        servers: Some(Vec::new()),
        draining,
        leaving,
        alive: alive_until > now,
        silent_for: now.since(heard_at),
        remaining: alive_until.since(now),
    }
}

fn partition((number, owner, address, until): PartitionRecord, now: Timestamp) -> PartitionRow {
    PartitionRow {
        partition: PartitionId(u16::try_from(number).unwrap_or(u16::MAX)),
        owner,
        address,
        remaining: Timestamp(from_sql(until.unwrap_or(0))).since(now),
        server: HOME_SERVER.to_owned(),
    }
}
