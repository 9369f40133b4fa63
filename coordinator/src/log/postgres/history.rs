//! The SQL of history.

use std::cmp::Reverse;
use std::time::Duration;

use sqlx::{Postgres, QueryBuilder};
use tokio::time::timeout;
use unanimity_types::{Epoch, PartitionId, Seq, Xid};
use uuid::Uuid;

use super::blocks::{control, read_limited, write_limited};
use super::connections::Lent;
use super::error;
use crate::log::row::{HistoryRecord, from_sql, to_sql};
use crate::log::{
    Checksum, Error, HistoryBatch, HistoryFilter, HistoryPage, HistoryRow, HistoryWatermark, codes, rules,
};

/// Rows and watermark in one statement: one round trip, one transaction. Rows go in the order of their
/// key, so that two projectors do not lock each other out for ever. A row's begin never changes: its key
/// finds the row that was there before (protocol H12). 4 and 6 are committed and aborted. Nothing is written beside a
/// log without the block that the rows speak of (protocol C8, H6): answers how many such blocks there are, 0 or 1.
const WRITE: &str = "/* write_history */ \
    WITH line AS ( \
        SELECT seq FROM log_blocks WHERE partition = $17 AND seq = $20 AND checksum = $21 \
    ), offered AS ( \
        SELECT o.* FROM line, unnest($1::uuid[], $2::smallint[], $3::text[], $4::smallint[], $5::text[], \
            $6::bytea[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::text[], \
            $12::boolean[], $13::text[], $14::text[], $15::bigint[], $16::bigint[]) \
        AS o (xid, mode, name, status, abort_reason, digest, begun_at_ms, deadline_ms, \
            decided_at_ms, finished_at_ms, attention, heuristic, participants, detail, epoch, seq) \
    ), written AS ( \
        INSERT INTO history AS h (xid, partition, mode, name, status, abort_reason, digest, begun_at_ms, \
            deadline_ms, decided_at_ms, finished_at_ms, attention, heuristic, participants, detail, \
            epoch, seq) \
        SELECT xid, $17::smallint, mode, name, status, abort_reason, digest, begun_at_ms, deadline_ms, \
            decided_at_ms, finished_at_ms, attention, heuristic, participants, detail::json, epoch, seq \
        FROM offered ORDER BY begun_at_ms, xid \
        ON CONFLICT (begun_at_ms, xid) DO UPDATE SET \
            partition = excluded.partition, mode = excluded.mode, name = excluded.name, \
            status = excluded.status, abort_reason = excluded.abort_reason, \
            digest = excluded.digest, deadline_ms = excluded.deadline_ms, \
            decided_at_ms = excluded.decided_at_ms, finished_at_ms = excluded.finished_at_ms, \
            attention = excluded.attention, heuristic = excluded.heuristic, \
            participants = excluded.participants, detail = excluded.detail, \
            epoch = excluded.epoch, seq = excluded.seq \
        WHERE (h.epoch, h.seq) < (excluded.epoch, excluded.seq) \
            AND (h.status NOT IN (4, 6) OR (excluded.heuristic AND excluded.status = h.status)) \
    ), marked AS ( \
        INSERT INTO history_watermarks AS w (partition, epoch, seq) SELECT $17, $18, $19 FROM line \
        ON CONFLICT (partition) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq \
        WHERE (w.epoch, w.seq) < (excluded.epoch, excluded.seq) \
    ) \
    SELECT count(*) FROM line";

const WATERMARK: &str =
    "/* history_watermark */ SELECT epoch, seq FROM history_watermarks WHERE partition = $1";

/// Everything but the detail.
const COLUMNS: &str = "uuid_send(xid) AS xid, partition::bigint AS partition, mode::bigint AS mode, name, \
    status::bigint AS status, abort_reason, digest, begun_at_ms, deadline_ms, decided_at_ms, \
    finished_at_ms, attention, heuristic, participants, epoch, seq";

const WHOLE_DETAIL: &str = ", detail::text AS detail";

/// As lists show it: branches and timelines stay in the database.
const BRIEF_DETAIL: &str = ", CASE WHEN attention IS NULL OR detail -> 'a' IS NULL THEN '{}' \
    ELSE json_build_object('a', detail -> 'a')::text END AS detail";

pub(super) async fn write(mut lent: Lent, batch: HistoryBatch, limit: Duration) -> Result<(), Error> {
    let HistoryBatch { partition, rows, watermark, line } = batch;
    let rows: Vec<HistoryRow> = rows.into_iter().map(rules::storable).collect();
    let about = About { partition, line };
    let whole = write_rows(&mut lent, about, &rows, watermark);
    match timeout(limit, whole).await {
        Ok(Ok(true)) => {
            lent.give_back();
            Ok(())
        }
        Ok(Ok(false)) => {
            lent.give_back();
            Err(rules::not_on_this_line(partition, line.0))
        }
        Ok(Err(e)) if error::is_about_data(&e) => {
            write_one_by_one(lent, about, &rows, watermark, limit).await
        }
        Ok(Err(e)) => Err(error::writing(&e)),
        Err(_) => Err(Error::Unknown(format!("no answer within {} s", limit.as_secs_f32()))),
    }
}

/// What rows speak of.
#[derive(Debug, Clone, Copy)]
struct About {
    partition: PartitionId,
    line: (Seq, Checksum),
}

/// One row holds something that the database does not take, and must not hold up the others, nor
/// the trim behind them (protocol M5).
async fn write_one_by_one(
    mut lent: Lent,
    about: About,
    rows: &[HistoryRow],
    watermark: HistoryWatermark,
    limit: Duration,
) -> Result<(), Error> {
    let nothing = HistoryWatermark::default();
    control(&mut lent, limit, "/* write_history */ BEGIN").await?;
    for row in rows {
        control(&mut lent, limit, "/* write_history */ SAVEPOINT poisoned_row").await?;
        let one = std::slice::from_ref(row);
        let written = timeout(limit, write_rows(&mut lent, about, one, nothing)).await;
        match written {
            // What is not written beside this log is seen by the watermark's statement, which ends it.
            Ok(Ok(_)) => {}
            Ok(Err(e)) if error::is_about_data(&e) => {
                tracing::warn!(xid = %row.xid, error = %error::describe(&e), "history row stored without its texts");
                control(&mut lent, limit, "/* write_history */ ROLLBACK TO SAVEPOINT poisoned_row").await?;
                let bare = [rules::bare(row)];
                let call = write_rows(&mut lent, about, &bare, nothing);
                write_limited(limit, call).await?;
            }
            Ok(Err(e)) => return Err(error::writing(&e)),
            Err(_) => return Err(Error::Unknown(format!("no answer within {} s", limit.as_secs_f32()))),
        }
    }
    let is_on_line = write_limited(limit, write_rows(&mut lent, about, &[], watermark)).await?;
    if !is_on_line {
        // The connection goes, and its transaction with it.
        return Err(rules::not_on_this_line(about.partition, about.line.0));
    }
    // Every failed statement was rolled back to its savepoint or ended the function: this commits.
    control(&mut lent, limit, "/* write_history */ COMMIT").await?;
    lent.give_back();
    Ok(())
}

/// Answers whether the log holds the block that they speak of.
async fn write_rows(
    lent: &mut Lent,
    about: About,
    rows: &[HistoryRow],
    watermark: HistoryWatermark,
) -> Result<bool, sqlx::Error> {
    let column = |of: fn(&HistoryRow) -> i64| rows.iter().map(of).collect::<Vec<_>>();
    let moment = |of: fn(&HistoryRow) -> Option<i64>| rows.iter().map(of).collect::<Vec<_>>();
    let (line, checksum) = about.line;
    let lines: i64 = sqlx::query_scalar(WRITE)
        .bind(rows.iter().map(|row| row.xid.uuid()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.mode.map(codes::of_mode)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| codes::of_status(row.status)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.abort_reason.map(|reason| reason.as_str())).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.digest.0.as_slice()).collect::<Vec<_>>())
        .bind(column(|row| to_sql(row.begun_at.0)))
        .bind(column(|row| to_sql(row.deadline.0)))
        .bind(moment(|row| row.decided_at.map(|at| to_sql(at.0))))
        .bind(moment(|row| row.finished_at.map(|at| to_sql(at.0))))
        .bind(rows.iter().map(|row| row.attention.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.heuristic).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| lines(&row.participants)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.detail.as_str()).collect::<Vec<_>>())
        .bind(column(|row| to_sql(row.epoch.0)))
        .bind(column(|row| to_sql(row.seq.0)))
        .bind(i32::from(about.partition.0))
        .bind(to_sql(watermark.epoch.0))
        .bind(to_sql(watermark.seq.0))
        .bind(to_sql(line.0))
        .bind(&checksum.0[..])
        .fetch_one(lent.connection())
        .await?;
    Ok(lines > 0)
}

pub(super) async fn watermark(
    mut lent: Lent,
    partition: PartitionId,
    limit: Duration,
) -> Result<HistoryWatermark, Error> {
    let query = sqlx::query_as::<_, (i64, i64)>(WATERMARK).bind(i32::from(partition.0));
    let row = read_limited(limit, query.fetch_optional(lent.connection())).await?;
    lent.give_back();
    let (epoch, seq) = row.unwrap_or_default();
    Ok(HistoryWatermark { epoch: Epoch(from_sql(epoch)), seq: Seq(from_sql(seq)) })
}

pub(super) async fn find(mut lent: Lent, xids: Vec<Xid>, limit: Duration) -> Result<Vec<HistoryRow>, Error> {
    let xids: Vec<Uuid> = xids.into_iter().map(Xid::uuid).collect();
    let mut query = QueryBuilder::<Postgres>::new("/* find_history */ SELECT ");
    query.push(COLUMNS).push(WHOLE_DETAIL);
    query.push(" FROM history WHERE xid = ANY(").push_bind(xids).push(")");
    let call = query.build_query_as::<HistoryRecord>().fetch_all(lent.connection());
    let records = read_limited(limit, call).await?;
    lent.give_back();
    let mut rows = records.into_iter().map(into_row).collect::<Result<Vec<_>, _>>()?;
    // The key has the begin, too. An xid of before a lost tail that was used again after it has two rows:
    // what was over stays so, and else the later one tells (protocol H12).
    rows.sort_unstable_by_key(|row| (row.xid, !row.status.is_terminal(), Reverse((row.epoch, row.seq))));
    rows.dedup_by_key(|row| row.xid);
    Ok(rows)
}

fn into_row(record: HistoryRecord) -> Result<HistoryRow, Error> {
    record.into_row(|text| {
        Some(if text.is_empty() { Vec::new() } else { text.split('\n').map(str::to_owned).collect() })
    })
}

/// One a line. A name has no line break; what is stored as one would break the list.
fn lines(texts: &[String]) -> String {
    let mut lines = String::with_capacity(texts.iter().map(|text| text.len() + 1).sum());
    for text in texts {
        if !lines.is_empty() {
            lines.push('\n');
        }
        lines.extend(text.chars().map(|c| if c == '\n' { ' ' } else { c }));
    }
    lines
}

pub(super) async fn list(
    mut lent: Lent,
    filter: HistoryFilter,
    open_of: Option<Vec<PartitionId>>,
    limit: Duration,
) -> Result<HistoryPage, Error> {
    let page = rules::page_limit(&filter);
    let mut query = QueryBuilder::<Postgres>::new("/* list_history */ SELECT ");
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
        query.push(" AND string_to_array(participants, E'\\n') @> ARRAY[");
        query.push_bind(rules::strip(&participant)).push("]::text[]");
    }
    if let Some(moment) = filter.begun_before {
        query.push(" AND begun_at_ms < ").push_bind(to_sql(moment.0));
    }
    if filter.attention {
        query.push(" AND attention IS NOT NULL");
    }
    if let Some(partitions) = open_of {
        let partitions: Vec<i32> = partitions.into_iter().map(|partition| i32::from(partition.0)).collect();
        query.push(" AND (status IN (4, 6) OR partition = ANY(").push_bind(partitions).push("))");
    }
    if let Some((moment, xid)) = filter.after {
        query.push(" AND (begun_at_ms, xid) < (").push_bind(to_sql(moment.0));
        query.push(", ").push_bind(xid.uuid()).push(")");
    }
    query.push(" ORDER BY begun_at_ms DESC, xid DESC LIMIT ").push_bind(page as i64 + 1);
    let call = query.build_query_as::<HistoryRecord>().fetch_all(lent.connection());
    let mut records = read_limited(limit, call).await?;
    lent.give_back();
    let more = records.len() > page;
    records.truncate(page);
    let rows = records.into_iter().map(into_row).collect::<Result<_, _>>()?;
    Ok(HistoryPage { rows, more })
}
