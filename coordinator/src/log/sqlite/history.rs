//! The SQL of history.

use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use unanimity_types::{Epoch, PartitionId, Seq, Xid};

use super::{error, in_transaction};
use crate::log::row::{HistoryRecord, from_sql, to_sql};
use crate::log::{
    Error, HistoryBatch, HistoryFilter, HistoryPage, HistoryRow, HistoryWatermark, codes, rules,
};

/// 4 and 6 are committed and aborted.
const UPSERT: &str = "/* write_history */ \
    INSERT INTO history (xid, begun_at_ms, partition, mode, status, deadline_ms, decided_at_ms, \
        finished_at_ms, heuristic, epoch, seq, digest, abort_reason, attention, name, participants, detail) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) \
    ON CONFLICT (xid) DO UPDATE SET \
        begun_at_ms = excluded.begun_at_ms, partition = excluded.partition, mode = excluded.mode, \
        status = excluded.status, deadline_ms = excluded.deadline_ms, \
        decided_at_ms = excluded.decided_at_ms, finished_at_ms = excluded.finished_at_ms, \
        heuristic = excluded.heuristic, epoch = excluded.epoch, seq = excluded.seq, \
        digest = excluded.digest, abort_reason = excluded.abort_reason, attention = excluded.attention, \
        name = excluded.name, participants = excluded.participants, detail = excluded.detail \
    WHERE (history.epoch, history.seq) < (excluded.epoch, excluded.seq) \
        AND (history.status NOT IN (4, 6) OR (excluded.heuristic AND excluded.status = history.status))";

const UPSERT_WATERMARK: &str = "/* write_history */ \
    INSERT INTO history_watermarks (partition, epoch, seq) VALUES ($1, $2, $3) \
    ON CONFLICT (partition) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq \
    WHERE (history_watermarks.epoch, history_watermarks.seq) < (excluded.epoch, excluded.seq)";

/// Whether the log holds the block that the rows speak of (protocol C8, H6).
const IS_ON_LINE: &str = "/* write_history */ \
    SELECT EXISTS (SELECT 1 FROM log_blocks WHERE partition = $1 AND seq = $2 AND checksum = $3)";

const WATERMARK: &str =
    "/* history_watermark */ SELECT epoch, seq FROM history_watermarks WHERE partition = $1";

/// Everything but the detail.
const COLUMNS: &str = "xid, partition, mode, name, status, abort_reason, digest, begun_at_ms, deadline_ms, \
    decided_at_ms, finished_at_ms, attention, heuristic, participants, epoch, seq";

const WHOLE_DETAIL: &str = ", detail";

/// As lists show it: branches and timelines stay in the database.
const BRIEF_DETAIL: &str = ", CASE WHEN attention IS NULL OR json_type(detail, '$.a') IS NULL THEN '{}' \
    ELSE json_object('a', json_extract(detail, '$.a')) END AS detail";

/// Xids of one query: far below SQLite's limit of 32,766 parameters.
const XIDS_PER_QUERY: usize = 1_000;

pub(super) async fn write(connection: &mut SqliteConnection, batch: HistoryBatch) -> Result<(), Error> {
    in_transaction(connection, "/* write_history */ BEGIN IMMEDIATE", async |connection| {
        let (seq, checksum) = batch.line;
        let is_on_line = sqlx::query_scalar::<_, bool>(IS_ON_LINE)
            .bind(i64::from(batch.partition.0))
            .bind(to_sql(seq.0))
            .bind(&checksum.0[..])
            .fetch_one(&mut *connection)
            .await
            .map_err(|e| error::writing(&e))?;
        if !is_on_line {
            return Err(rules::not_on_this_line(batch.partition, seq));
        }
        for row in batch.rows {
            let row = rules::storable(row);
            match upsert(connection, batch.partition, &row).await {
                Ok(()) => {}
                // A failed statement is undone alone; the transaction goes on. One row that SQLite does
                // not take must not hold up the others, nor the trim behind them (protocol M5).
                Err(e) if error::is_about_data(&e) => {
                    tracing::warn!(xid = %row.xid, error = %error::describe(&e), "history row stored without its texts");
                    let bare = rules::bare(&row);
                    upsert(connection, batch.partition, &bare).await.map_err(|e| error::writing(&e))?;
                }
                Err(e) => return Err(error::writing(&e)),
            }
        }
        sqlx::query(UPSERT_WATERMARK)
            .bind(i64::from(batch.partition.0))
            .bind(to_sql(batch.watermark.epoch.0))
            .bind(to_sql(batch.watermark.seq.0))
            .execute(connection)
            .await
            .map(drop)
            .map_err(|e| error::writing(&e))
    })
    .await
}

async fn upsert(
    connection: &mut SqliteConnection,
    partition: PartitionId,
    row: &HistoryRow,
) -> Result<(), sqlx::Error> {
    sqlx::query(UPSERT)
        .bind(&row.xid.uuid().as_bytes()[..])
        .bind(to_sql(row.begun_at.0))
        .bind(i64::from(partition.0))
        .bind(row.mode.map(codes::of_mode))
        .bind(codes::of_status(row.status))
        .bind(to_sql(row.deadline.0))
        .bind(row.decided_at.map(|at| to_sql(at.0)))
        .bind(row.finished_at.map(|at| to_sql(at.0)))
        .bind(row.heuristic)
        .bind(to_sql(row.epoch.0))
        .bind(to_sql(row.seq.0))
        .bind(&row.digest.0[..])
        .bind(row.abort_reason.map(|reason| reason.as_str()))
        .bind(row.attention.as_deref())
        .bind(&row.name)
        .bind(json_texts(&row.participants))
        .bind(&row.detail)
        .execute(connection)
        .await
        .map(drop)
}

fn into_row(record: HistoryRecord) -> Result<HistoryRow, Error> {
    record.into_row(|json| serde_json::from_str(json).ok())
}

/// A list of texts as a JSON array.
fn json_texts(texts: &[String]) -> String {
    serde_json::Value::from(texts).to_string()
}

pub(super) async fn watermark(
    connection: &mut SqliteConnection,
    partition: PartitionId,
) -> Result<HistoryWatermark, Error> {
    let row: Option<(i64, i64)> = sqlx::query_as(WATERMARK)
        .bind(i64::from(partition.0))
        .fetch_optional(connection)
        .await
        .map_err(|e| error::reading(&e))?;
    let (epoch, seq) = row.unwrap_or_default();
    Ok(HistoryWatermark { epoch: Epoch(from_sql(epoch)), seq: Seq(from_sql(seq)) })
}

pub(super) async fn find(connection: &mut SqliteConnection, xids: &[Xid]) -> Result<Vec<HistoryRow>, Error> {
    let mut distinct = xids.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let mut found = Vec::new();
    for some in distinct.chunks(XIDS_PER_QUERY) {
        let mut query = QueryBuilder::<Sqlite>::new("/* find_history */ SELECT ");
        query.push(COLUMNS).push(WHOLE_DETAIL).push(" FROM history WHERE xid IN (");
        let mut list = query.separated(", ");
        for xid in some {
            list.push_bind(xid.uuid().as_bytes().to_vec());
        }
        query.push(")");
        let records = query.build_query_as::<HistoryRecord>().fetch_all(&mut *connection).await;
        for record in records.map_err(|e| error::reading(&e))? {
            found.push(into_row(record)?);
        }
    }
    Ok(found)
}

pub(super) async fn list(
    connection: &mut SqliteConnection,
    filter: HistoryFilter,
) -> Result<HistoryPage, Error> {
    let page = rules::page_limit(&filter);
    let mut query = QueryBuilder::<Sqlite>::new("/* list_history */ SELECT ");
    query.push(COLUMNS).push(BRIEF_DETAIL).push(" FROM history WHERE true");
    if let Some(status) = filter.status {
        query.push(" AND status = ").push_bind(codes::of_status(status));
        if !status.is_terminal() {
            // Says the same once more, in the words of the index of what is watched.
            query.push(" AND status NOT IN (4, 6)");
        }
    }
    if let Some(mode) = filter.mode {
        query.push(" AND mode = ").push_bind(codes::of_mode(mode));
    }
    if let Some(name) = filter.name {
        query.push(" AND name = ").push_bind(rules::strip(&name));
    }
    if let Some(participant) = filter.participant {
        query.push(" AND EXISTS (SELECT 1 FROM json_each(participants) WHERE value = ");
        query.push_bind(rules::strip(&participant)).push(")");
    }
    if let Some(moment) = filter.begun_before {
        query.push(" AND begun_at_ms < ").push_bind(to_sql(moment.0));
    }
    if filter.attention {
        query.push(" AND attention IS NOT NULL");
    }
    if let Some((moment, xid)) = filter.after {
        query.push(" AND (begun_at_ms, xid) < (").push_bind(to_sql(moment.0));
        query.push(", ").push_bind(xid.uuid().as_bytes().to_vec()).push(")");
    }
    query.push(" ORDER BY begun_at_ms DESC, xid DESC LIMIT ").push_bind(page as i64 + 1);
    let records = query.build_query_as::<HistoryRecord>().fetch_all(connection).await;
    let mut records = records.map_err(|e| error::reading(&e))?;
    let more = records.len() > page;
    records.truncate(page);
    let rows = records.into_iter().map(into_row).collect::<Result<_, _>>()?;
    Ok(HistoryPage { rows, more })
}
