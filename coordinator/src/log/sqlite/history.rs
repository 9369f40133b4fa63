//! The SQL of history.

use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use unanimity_types::{Epoch, PartitionId, Seq, Xid};

use super::{error, in_transaction};
use crate::log::row::{HistoryRecord, from_sql, json_texts, to_sql};
use crate::log::{Error, HistoryBatch, HistoryFilter, HistoryPage, HistoryRow, HistoryWatermark, rules};

const UPSERT: &str = "/* write_history */ \
    INSERT INTO history (xid, partition, mode, name, status, decision, abort_reason, digest, \
        begun_at_ms, deadline_ms, decided_at_ms, finished_at_ms, attention, heuristic, participants, \
        detail, epoch, seq) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) \
    ON CONFLICT (xid) DO UPDATE SET \
        partition = excluded.partition, mode = excluded.mode, name = excluded.name, \
        status = excluded.status, decision = excluded.decision, abort_reason = excluded.abort_reason, \
        digest = excluded.digest, begun_at_ms = excluded.begun_at_ms, \
        deadline_ms = excluded.deadline_ms, decided_at_ms = excluded.decided_at_ms, \
        finished_at_ms = excluded.finished_at_ms, attention = excluded.attention, \
        heuristic = excluded.heuristic, participants = excluded.participants, \
        detail = excluded.detail, epoch = excluded.epoch, seq = excluded.seq \
    WHERE (history.epoch, history.seq) < (excluded.epoch, excluded.seq) \
        AND (history.status NOT IN ('committed', 'aborted') \
            OR (excluded.heuristic AND excluded.status = history.status))";

const UPSERT_WATERMARK: &str = "/* write_history */ \
    INSERT INTO history_watermarks (partition, epoch, seq) VALUES ($1, $2, $3) \
    ON CONFLICT (partition) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq \
    WHERE (history_watermarks.epoch, history_watermarks.seq) < (excluded.epoch, excluded.seq)";

const WATERMARK: &str =
    "/* history_watermark */ SELECT epoch, seq FROM history_watermarks WHERE partition = $1";

const COLUMNS: &str = "xid, partition, mode, name, status, decision, abort_reason, digest, begun_at_ms, \
    deadline_ms, decided_at_ms, finished_at_ms, attention, heuristic, participants, detail, epoch, seq";

/// Xids of one query: far below SQLite's limit of 32,766 parameters.
const XIDS_PER_QUERY: usize = 1_000;

pub(super) async fn write(connection: &mut SqliteConnection, batch: &HistoryBatch) -> Result<(), Error> {
    in_transaction(connection, "/* write_history */ BEGIN IMMEDIATE", async |connection| {
        for row in &batch.rows {
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
        .bind(row.xid.to_string())
        .bind(i64::from(partition.0))
        .bind(row.mode.map(|mode| mode.as_str()))
        .bind(&row.name)
        .bind(row.status.as_str())
        .bind(row.decision.map(|decision| decision.as_str()))
        .bind(row.abort_reason.map(|reason| reason.as_str()))
        .bind(&row.digest.0[..])
        .bind(to_sql(row.begun_at.0))
        .bind(to_sql(row.deadline.0))
        .bind(row.decided_at.map(|at| to_sql(at.0)))
        .bind(row.finished_at.map(|at| to_sql(at.0)))
        .bind(row.attention.as_deref())
        .bind(row.heuristic)
        .bind(json_texts(&row.participants))
        .bind(&row.detail)
        .bind(to_sql(row.epoch.0))
        .bind(to_sql(row.seq.0))
        .execute(connection)
        .await
        .map(drop)
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
        query.push(COLUMNS).push(" FROM history WHERE xid IN (");
        let mut list = query.separated(", ");
        for xid in some {
            list.push_bind(xid.to_string());
        }
        query.push(")");
        let records = query.build_query_as::<HistoryRecord>().fetch_all(&mut *connection).await;
        for record in records.map_err(|e| error::reading(&e))? {
            found.push(record.into_row()?);
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
    query.push(COLUMNS).push(" FROM history WHERE true");
    if let Some(status) = filter.status {
        query.push(" AND status = ").push_bind(status.as_str());
        if !status.is_terminal() {
            // Says the same once more, in the words of the index of open transactions.
            query.push(" AND status NOT IN ('committed', 'aborted')");
        }
    }
    if let Some(mode) = filter.mode {
        query.push(" AND mode = ").push_bind(mode.as_str());
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
        query.push(", ").push_bind(xid.to_string()).push(")");
    }
    query.push(" ORDER BY begun_at_ms DESC, xid DESC LIMIT ").push_bind(page as i64 + 1);
    let records = query.build_query_as::<HistoryRecord>().fetch_all(connection).await;
    let mut records = records.map_err(|e| error::reading(&e))?;
    let more = records.len() > page;
    records.truncate(page);
    let rows = records.into_iter().map(HistoryRecord::into_row).collect::<Result<_, _>>()?;
    Ok(HistoryPage { rows, more })
}
