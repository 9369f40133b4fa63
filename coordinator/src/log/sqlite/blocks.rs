//! The SQL of the log itself: append, read, trim.

use sqlx::{FromRow, SqliteConnection};
use unanimity_types::{LogId, PartitionId, Seq};

use super::{error, in_transaction};
use crate::log::chain::{self, ChainReader};
use crate::log::row::{BlockRow, TipRow, to_sql};
use crate::log::{Appended, Block, BlockKind, Error, Tip, rules};

/// At the end only, never into a place that a trim has freed.
/// Alone it is one statement, one implicit transaction. No RETURNING: a row would come before the commit.
const APPEND: &str = "/* append_block */ \
    INSERT INTO log_blocks \
        (partition, seq, version, kind, epoch, floor, time_ms, previous, checksum, body) \
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 \
    WHERE EXISTS (SELECT 1 FROM log_blocks WHERE partition = $1 AND seq = $2 - 1 AND checksum = $8) \
        AND NOT EXISTS (SELECT 1 FROM log_blocks WHERE partition = $1 AND seq > $2) \
        AND ($4 = 1 OR $5 = coalesce((SELECT epoch FROM partitions WHERE partition = $1), $5)) \
    ON CONFLICT (partition, seq) DO NOTHING";

/// Says which epoch is to come: from here on the owner before is turned away (protocol M22).
const CLAIM: &str = "/* claim */ \
    UPDATE partitions SET epoch = $2 WHERE partition = $1 AND epoch IS NOT $2 AND $2 > ( \
        SELECT epoch FROM log_blocks WHERE partition = $1 ORDER BY seq DESC LIMIT 1)";

const LOOK: &str = "/* look_at_refused_append */ \
    SELECT checksum FROM log_blocks WHERE partition = $1 AND seq = $2";

const TIP: &str = "/* read_tip */ \
    SELECT seq, epoch, floor, time_ms, checksum FROM log_blocks \
    WHERE partition = $1 ORDER BY seq DESC LIMIT 1";

const PAGE: &str = "/* read_page */ \
    SELECT partition, seq, version, kind, epoch, floor, time_ms, previous, checksum, body FROM log_blocks \
    WHERE partition = $1 AND seq > $2 AND (seq >= $3 OR kind <= 1) ORDER BY seq LIMIT $4";

const BLOCK_AT: &str = "/* block_at */ \
    SELECT partition, seq, version, kind, epoch, floor, time_ms, previous, checksum, body FROM log_blocks \
    WHERE partition = $1 AND seq = $2";

/// An ascending prefix, never a birth or an epoch block (protocol C7).
const TRIM: &str = "/* trim */ \
    DELETE FROM log_blocks WHERE partition = $1 AND seq IN ( \
        SELECT seq FROM log_blocks WHERE partition = $1 AND seq < $2 AND kind >= 2 ORDER BY seq LIMIT $3)";

/// Rows of a page: a few MB at the usual block size.
const PAGE_ROWS: i64 = 500;

/// Rows that one DELETE takes: appends wait for it.
const TRIM_ROWS: i64 = 500;

#[derive(FromRow)]
struct Look {
    checksum: Vec<u8>,
}

/// Writes blocks of different partitions in one transaction, that is, with one flush. Answers whose
/// block was written.
pub(super) async fn append_many(
    connection: &mut SqliteConnection,
    blocks: &[&Block],
) -> Result<Vec<PartitionId>, Error> {
    in_transaction(connection, "/* append_blocks */ BEGIN IMMEDIATE", async |connection| {
        let mut written = Vec::with_capacity(blocks.len());
        for block in blocks {
            if insert(connection, block).await? {
                written.push(block.partition);
            }
        }
        Ok(written)
    })
    .await
}

/// Answers whether the block was written.
async fn insert(connection: &mut SqliteConnection, block: &Block) -> Result<bool, Error> {
    if block.kind == BlockKind::Epoch {
        sqlx::query(CLAIM)
            .bind(i64::from(block.partition.0))
            .bind(to_sql(block.epoch.0))
            .execute(&mut *connection)
            .await
            .map_err(|e| error::writing(&e))?;
    }
    let done = sqlx::query(APPEND)
        .bind(i64::from(block.partition.0))
        .bind(to_sql(block.seq.0))
        .bind(i64::from(block.version))
        .bind(i64::from(block.kind.number()))
        .bind(to_sql(block.epoch.0))
        .bind(to_sql(block.floor.0))
        .bind(to_sql(block.time.0))
        .bind(&block.previous.0[..])
        .bind(&block.checksum.0[..])
        .bind(&block.body[..])
        .execute(connection)
        .await
        .map_err(|e| error::writing(&e))?;
    Ok(done.rows_affected() == 1)
}

/// Writes one block, or finds out why it cannot.
pub(super) async fn append(connection: &mut SqliteConnection, block: &Block) -> Result<Appended, Error> {
    if insert(connection, block).await? {
        return Ok(Appended::Written);
    }
    let there: Option<Look> = sqlx::query_as(LOOK)
        .bind(i64::from(block.partition.0))
        .bind(to_sql(block.seq.0))
        .fetch_optional(connection)
        .await
        .map_err(|e| error::reading(&e))?;
    match there {
        Some(look) if look.checksum == block.checksum.0 => Ok(Appended::AlreadyThere),
        Some(_) | None => Ok(Appended::Conflict),
    }
}

pub(super) async fn tip(connection: &mut SqliteConnection, partition: PartitionId) -> Result<Tip, Error> {
    tip_and_floor(connection, partition).await.map(|(tip, _)| tip)
}

async fn tip_and_floor(
    connection: &mut SqliteConnection,
    partition: PartitionId,
) -> Result<(Tip, Seq), Error> {
    let row: Option<TipRow> = sqlx::query_as(TIP)
        .bind(i64::from(partition.0))
        .fetch_optional(connection)
        .await
        .map_err(|e| error::reading(&e))?;
    row.ok_or_else(|| chain::never_born(partition))?.into_tip(partition)
}

/// In pages, but in one snapshot (protocol H17).
pub(super) async fn read(
    connection: &mut SqliteConnection,
    log_id: LogId,
    partition: PartitionId,
) -> Result<Vec<Block>, Error> {
    in_transaction(connection, "/* read */ BEGIN", async |connection| {
        let (tip, floor) = tip_and_floor(connection, partition).await?;
        let mut reader = ChainReader::new(log_id, partition, floor, tip.seq)?;
        let mut after = -1;
        loop {
            let rows: Vec<BlockRow> = sqlx::query_as(PAGE)
                .bind(i64::from(partition.0))
                .bind(after)
                .bind(to_sql(floor.0))
                .bind(PAGE_ROWS)
                .fetch_all(&mut *connection)
                .await
                .map_err(|e| error::reading(&e))?;
            let full = rows.len() as i64 == PAGE_ROWS;
            for row in rows {
                let block = row.into_block()?;
                after = to_sql(block.seq.0);
                reader.push(block)?;
            }
            if !full {
                return reader.finish();
            }
        }
    })
    .await
}

pub(super) async fn block_at(
    connection: &mut SqliteConnection,
    partition: PartitionId,
    seq: Seq,
) -> Result<Option<Block>, Error> {
    let row: Option<BlockRow> = sqlx::query_as(BLOCK_AT)
        .bind(i64::from(partition.0))
        .bind(to_sql(seq.0))
        .fetch_optional(connection)
        .await
        .map_err(|e| error::reading(&e))?;
    row.map(BlockRow::into_block).transpose()
}

/// Deletes one batch of rows below a floor that the last block records (protocol H17).
/// Answers how many, and whether there may be more.
pub(super) async fn trim(
    connection: &mut SqliteConnection,
    partition: PartitionId,
    floor: Seq,
) -> Result<(u64, bool), Error> {
    let (_, recorded) = tip_and_floor(connection, partition).await?;
    if floor > recorded {
        return Err(rules::trim_above_floor(partition, floor, recorded));
    }
    let done = sqlx::query(TRIM)
        .bind(i64::from(partition.0))
        .bind(to_sql(floor.0))
        .bind(TRIM_ROWS)
        .execute(connection)
        .await
        .map_err(|e| error::writing(&e))?;
    Ok((done.rows_affected(), done.rows_affected() == TRIM_ROWS.unsigned_abs()))
}
