//! The SQL of the log itself: append, read, trim.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgArguments;
use sqlx::query::QueryScalar;
use sqlx::{FromRow, Postgres};
use tokio::time::timeout;
use unanimity_types::{LogId, PartitionId, Seq};

use super::connections::Lent;
use super::error;
use crate::log::chain::{self, ChainReader};
use crate::log::row::{BlockRow, TipRow, to_sql};
use crate::log::{Appended, Block, BlockKind, Checksum, Error, Tip, rules};

/// Blocks of different partitions, each on its own condition: its predecessor is its partition's last
/// block. At the end only: without that a claimant whose view ends at a kept block would write into a
/// place that a trim has freed.
///
/// Ordered by partition, so that two nodes that fight over several partitions wait for each other in
/// one direction only (protocol H18). One statement, one implicit transaction: there is no COMMIT that
/// could answer ROLLBACK unnoticed. `fetch_all` reads up to the server's ready message, which comes
/// after the commit.
///
/// The condition is a subquery for each row, which no planner turns into a join over the whole table. Two more
/// things hold an append back. `partitions.epoch` is of whoever claimed the partition last: an unlocked hint, which may leak
/// and never fences, so that a live owner without a lease does not starve a claimant (protocol M22). And nothing follows a sealing
/// block on another server than the one that it names (H10): `$11` is this server's name as it stands in a seal.
const APPEND: &str = "/* append_blocks */ \
    INSERT INTO log_blocks \
        (partition, seq, version, kind, epoch, floor, time_ms, previous, checksum, body) \
    SELECT b.* \
    FROM unnest($1::int4[], $2::int8[], $3::int4[], $4::int2[], $5::int8[], $6::int8[], $7::int8[], \
        $8::bytea[], $9::bytea[], $10::bytea[]) \
        AS b (partition, seq, version, kind, epoch, floor, time_ms, previous, checksum, body) \
    WHERE current_setting('synchronous_commit') IN ('on', 'remote_apply') \
        AND (b.seq - 1, b.previous, true) = ( \
            SELECT l.seq, l.checksum, l.kind <> 4 OR substring(l.body FROM 9 FOR octet_length($11::bytea)) = $11::bytea \
            FROM log_blocks l WHERE l.partition = b.partition ORDER BY l.seq DESC LIMIT 1) \
        AND (b.kind = 1 OR b.epoch = coalesce( \
            (SELECT p.epoch FROM partitions p WHERE p.partition = b.partition), b.epoch)) \
    ORDER BY b.partition \
    ON CONFLICT (partition, seq) DO NOTHING \
    RETURNING partition";

/// The same for a single block. The server plans it once for a connection; [`APPEND`], whose cost depends on the
/// length of its arrays, each time, which takes as long as it does to run. Where few transactions are under way
/// nearly every write is of one block, and its latency is theirs.
const APPEND_ONE: &str = "/* append_block */ \
    INSERT INTO log_blocks \
        (partition, seq, version, kind, epoch, floor, time_ms, previous, checksum, body) \
    SELECT $1::int4, $2::int8, $3::int4, $4::int2, $5::int8, $6::int8, $7::int8, $8::bytea, $9::bytea, $10::bytea \
    WHERE current_setting('synchronous_commit') IN ('on', 'remote_apply') \
        AND ($2::int8 - 1, $8::bytea, true) = ( \
            SELECT l.seq, l.checksum, l.kind <> 4 OR substring(l.body FROM 9 FOR octet_length($11::bytea)) = $11::bytea \
            FROM log_blocks l WHERE l.partition = $1::int4 ORDER BY l.seq DESC LIMIT 1) \
        AND ($4::int2 = 1 OR $5::int8 = coalesce( \
            (SELECT p.epoch FROM partitions p WHERE p.partition = $1::int4), $5::int8)) \
    ON CONFLICT (partition, seq) DO NOTHING \
    RETURNING partition";

/// Says which epoch is to come, in a statement of its own before its block: from here on the owner before is
/// turned away. Not by a claimant whose epoch the log has reached: it is too late. One row at a time: two nodes never wait
/// for each other crosswise.
const CLAIM: &str = "/* claim */ \
    UPDATE partitions SET epoch = $2 WHERE partition = $1 AND epoch IS DISTINCT FROM $2 AND $2 > ( \
        SELECT l.epoch FROM log_blocks l WHERE l.partition = $1 ORDER BY l.seq DESC LIMIT 1)";

const LOOK: &str = "/* look_at_refused_append */ \
    SELECT \
        (SELECT epoch FROM partitions WHERE partition = $1) AS claimed, \
        EXISTS (SELECT 1 FROM log_blocks WHERE partition = $1 AND seq = $2 - 1 AND kind = 4 \
            AND substring(body FROM 9 FOR octet_length($3::bytea)) <> $3::bytea) AS sealed, \
        (SELECT checksum FROM log_blocks WHERE partition = $1 AND seq = $2) AS there, \
        (SELECT checksum FROM log_blocks WHERE partition = $1 AND seq = $2 - 1) AS before, \
        EXISTS (SELECT 1 FROM log_blocks WHERE partition = $1 AND seq > $2) AS passed, \
        current_setting('synchronous_commit') AS synchronous_commit";

const TIP: &str = "/* read_tip */ \
    SELECT seq, epoch, floor, time_ms, checksum FROM log_blocks \
    WHERE partition = $1 ORDER BY seq DESC LIMIT 1";

const PAGE: &str = "/* read_page */ \
    SELECT partition::bigint AS partition, seq, version::bigint AS version, kind::bigint AS kind, epoch, \
        floor, time_ms, previous, checksum, body \
    FROM log_blocks \
    WHERE partition = $1 AND seq > $2 AND (seq >= $3 OR kind IN (0, 1, 4)) ORDER BY seq LIMIT $4";

const BLOCK_AT: &str = "/* block_at */ \
    SELECT partition::bigint AS partition, seq, version::bigint AS version, kind::bigint AS kind, epoch, \
        floor, time_ms, previous, checksum, body \
    FROM log_blocks WHERE partition = $1 AND seq = $2";

/// Where a trim of this process begins that knows of none before it.
const FIRST_TRIMMABLE: &str = "/* first_trimmable */ \
    SELECT min(seq) FROM log_blocks WHERE partition = $1 AND seq < $2 AND kind IN (2, 3)";

/// A range of what may go, never a birth, an epoch block or a seal (protocol C7), and only below what the last block
/// records (H17). Ranges are ascending, so what is gone is a prefix. Its lower end keeps the search from the
/// index entries of what went before, which stay until the next vacuum.
const TRIM: &str = "/* trim */ \
    DELETE FROM log_blocks WHERE partition = $1 AND seq >= $2 AND seq < $3 AND kind IN (2, 3)";

/// Rows of a page: a few MB at the usual block size.
const PAGE_ROWS: i64 = 500;

/// Places that one DELETE looks at: short transactions, so that a trim hinders nobody.
const TRIM_PLACES: u64 = 1_000;

/// How often an append is offered that found its place free and its predecessor there after it was
/// refused. That takes a row that was there for one statement and gone for the next.
const OFFERS: u32 = 3;

#[derive(FromRow)]
struct Look {
    claimed: Option<i64>,
    sealed: bool,
    there: Option<Vec<u8>>,
    before: Option<Vec<u8>>,
    passed: bool,
    synchronous_commit: String,
}

/// Writes one block, or finds out why it cannot.
pub(super) async fn append(
    mut lent: Lent,
    block: &Block,
    here: &[u8],
    limit: Duration,
) -> Result<Appended, Error> {
    claim(&mut lent, block, limit).await?;
    for _ in 0..OFFERS {
        if !offer(&mut lent, &[block], here, limit).await?.is_empty() {
            lent.give_back();
            return Ok(Appended::Written);
        }
        let look = look(&mut lent, block, here, limit).await?;
        let claimed = look.claimed.is_some_and(|epoch| epoch != to_sql(block.epoch.0));
        let there = look.there.as_deref();
        let settled = if there == Some(&block.checksum.0) {
            Ok(Appended::AlreadyThere)
        } else if there.is_some() {
            Ok(Appended::Conflict)
        } else if !matches!(look.synchronous_commit.as_str(), "on" | "remote_apply") {
            Err(synchronous_commit_off(&look.synchronous_commit))
        } else if look.passed
            || look.before.as_deref() != Some(&block.previous.0)
            || look.sealed
            || (claimed && block.kind != BlockKind::Epoch)
        {
            Ok(Appended::Conflict)
        } else {
            continue;
        };
        lent.give_back();
        return settled;
    }
    Err(Error::Unavailable(format!("block {} was refused {OFFERS} times without a reason", block.seq)))
}

/// Writes blocks of different partitions, ascending by partition. Answers whose block was written.
pub(super) async fn append_many(
    mut lent: Lent,
    blocks: &[&Block],
    here: &[u8],
    limit: Duration,
) -> Result<Vec<PartitionId>, Error> {
    for block in blocks {
        claim(&mut lent, block, limit).await?;
    }
    let written = offer(&mut lent, blocks, here, limit).await?;
    lent.give_back();
    Ok(written)
}

/// An epoch block says first that it comes. That nothing of the block was sent if this fails is certain.
async fn claim(lent: &mut Lent, block: &Block, limit: Duration) -> Result<(), Error> {
    if block.kind != BlockKind::Epoch {
        return Ok(());
    }
    let query = sqlx::query(CLAIM).bind(i32::from(block.partition.0)).bind(to_sql(block.epoch.0));
    read_limited(limit, query.execute(lent.connection())).await.map(drop)
}

async fn offer(
    lent: &mut Lent,
    blocks: &[&Block],
    here: &[u8],
    limit: Duration,
) -> Result<Vec<PartitionId>, Error> {
    let query = match blocks {
        [block] => append_one(block),
        _ => append_all(blocks),
    };
    let query = query.bind(here);
    // When the time runs out the statement is not cancelled: the connection is closed and the server
    // goes on by itself. (A cancelled wait for a standby would answer success: protocol C4.)
    match timeout(limit, query.fetch_all(lent.connection())).await {
        Ok(Ok(rows)) => Ok(rows.into_iter().filter_map(|p| u16::try_from(p).ok()).map(PartitionId).collect()),
        Ok(Err(e)) => Err(error::writing(&e)),
        Err(_) => Err(Error::Unknown(format!("no answer to an append within {} s", limit.as_secs_f32()))),
    }
}

type AppendQuery<'q> = QueryScalar<'q, Postgres, i32, PgArguments>;

fn append_one(block: &Block) -> AppendQuery<'_> {
    sqlx::query_scalar(APPEND_ONE)
        .bind(i32::from(block.partition.0))
        .bind(to_sql(block.seq.0))
        .bind(i32::from(block.version))
        .bind(i16::from(block.kind.number()))
        .bind(to_sql(block.epoch.0))
        .bind(to_sql(block.floor.0))
        .bind(to_sql(block.time.0))
        .bind(&block.previous.0[..])
        .bind(&block.checksum.0[..])
        .bind(&block.body[..])
}

fn append_all<'q>(blocks: &[&'q Block]) -> AppendQuery<'q> {
    let Columns { partition, seq, version, kind, epoch, floor, time, previous, checksum, body } =
        Columns::of(blocks);
    sqlx::query_scalar(APPEND)
        .bind(partition)
        .bind(seq)
        .bind(version)
        .bind(kind)
        .bind(epoch)
        .bind(floor)
        .bind(time)
        .bind(previous)
        .bind(checksum)
        .bind(body)
}

/// Blocks as columns of a statement.
pub(super) struct Columns<'a> {
    pub(super) partition: Vec<i32>,
    pub(super) seq: Vec<i64>,
    pub(super) version: Vec<i32>,
    pub(super) kind: Vec<i16>,
    pub(super) epoch: Vec<i64>,
    pub(super) floor: Vec<i64>,
    pub(super) time: Vec<i64>,
    pub(super) previous: Vec<&'a [u8]>,
    pub(super) checksum: Vec<&'a [u8]>,
    pub(super) body: Vec<&'a [u8]>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(blocks: &[&'a Block]) -> Self {
        Self {
            partition: blocks.iter().map(|block| i32::from(block.partition.0)).collect(),
            seq: blocks.iter().map(|block| to_sql(block.seq.0)).collect(),
            version: blocks.iter().map(|block| i32::from(block.version)).collect(),
            kind: blocks.iter().map(|block| i16::from(block.kind.number())).collect(),
            epoch: blocks.iter().map(|block| to_sql(block.epoch.0)).collect(),
            floor: blocks.iter().map(|block| to_sql(block.floor.0)).collect(),
            time: blocks.iter().map(|block| to_sql(block.time.0)).collect(),
            previous: blocks.iter().map(|block| &block.previous.0[..]).collect(),
            checksum: blocks.iter().map(|block| &block.checksum.0[..]).collect(),
            body: blocks.iter().map(|block| &block.body[..]).collect(),
        }
    }
}

/// The offer wrote nothing, for certain: a failure of this look is no unknown outcome.
async fn look(lent: &mut Lent, block: &Block, here: &[u8], limit: Duration) -> Result<Look, Error> {
    let query = sqlx::query_as(LOOK).bind(i32::from(block.partition.0)).bind(to_sql(block.seq.0)).bind(here);
    read_limited(limit, query.fetch_one(lent.connection())).await
}

pub(super) fn synchronous_commit_off(found: &str) -> Error {
    Error::Refused(format!(
        "synchronous_commit is {found:?} for this role or database, so that a crash could lose what was \
         answered: set it to \"on\" (ALTER ROLE … SET synchronous_commit = on)"
    ))
}

pub(super) async fn tip(mut lent: Lent, partition: PartitionId, limit: Duration) -> Result<Tip, Error> {
    let (tip, _) = tip_and_floor(&mut lent, partition, limit).await?;
    lent.give_back();
    Ok(tip)
}

async fn tip_and_floor(
    lent: &mut Lent,
    partition: PartitionId,
    limit: Duration,
) -> Result<(Tip, Seq), Error> {
    let query = sqlx::query_as::<_, TipRow>(TIP).bind(i32::from(partition.0));
    let row = read_limited(limit, query.fetch_optional(lent.connection())).await?;
    row.ok_or_else(|| chain::never_born(partition))?.into_tip(partition)
}

/// In pages, but in one snapshot: a trim that runs meanwhile makes no gap (protocol H17).
pub(super) async fn read(
    mut lent: Lent,
    log_id: LogId,
    partition: PartitionId,
    limit: Duration,
) -> Result<Vec<Block>, Error> {
    let begin = sqlx::raw_sql("/* read */ BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
    read_limited(limit, begin.execute(lent.connection())).await?;
    let (tip, floor) = tip_and_floor(&mut lent, partition, limit).await?;
    let mut reader = ChainReader::new(log_id, partition, floor, tip.seq)?;
    let mut after = -1;
    loop {
        let query = sqlx::query_as::<_, BlockRow>(PAGE)
            .bind(i32::from(partition.0))
            .bind(after)
            .bind(to_sql(floor.0))
            .bind(PAGE_ROWS);
        let rows = read_limited(limit, query.fetch_all(lent.connection())).await?;
        let full = rows.len() as i64 == PAGE_ROWS;
        for row in rows {
            let block = row.into_block()?;
            after = to_sql(block.seq.0);
            reader.push(block)?;
        }
        if !full {
            break;
        }
    }
    let commit = sqlx::raw_sql("/* read */ COMMIT");
    read_limited(limit, commit.execute(lent.connection())).await?;
    lent.give_back();
    reader.finish()
}

pub(super) async fn block_at(
    mut lent: Lent,
    partition: PartitionId,
    seq: Seq,
    limit: Duration,
) -> Result<Option<Block>, Error> {
    let query = sqlx::query_as::<_, BlockRow>(BLOCK_AT).bind(i32::from(partition.0)).bind(to_sql(seq.0));
    let row = read_limited(limit, query.fetch_optional(lent.connection())).await?;
    lent.give_back();
    row.map(BlockRow::into_block).transpose()
}

/// Up to where this process trimmed each partition.
#[derive(Debug, Default)]
pub(super) struct Trimmed(Mutex<HashMap<PartitionId, Seq>>);

impl Trimmed {
    fn get(&self, partition: PartitionId) -> Option<Seq> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&partition).copied()
    }

    /// A log that was restored, or failed over, may have rows again that were trimmed.
    pub(super) fn forget(&self, partition: PartitionId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&partition);
    }

    fn set(&self, partition: PartitionId, below: Seq) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, below);
    }
}

pub(super) async fn trim(
    mut lent: Lent,
    partition: PartitionId,
    floor: Seq,
    trimmed: &Trimmed,
    limit: Duration,
) -> Result<u64, Error> {
    let (_, recorded) = tip_and_floor(&mut lent, partition, limit).await?;
    if floor > recorded {
        return Err(rules::trim_above_floor(partition, floor, recorded));
    }
    let mut deleted = 0;
    let mut from = match trimmed.get(partition) {
        Some(below) => below,
        None => {
            let query = sqlx::query_scalar::<_, Option<i64>>(FIRST_TRIMMABLE);
            let query = query.bind(i32::from(partition.0)).bind(to_sql(floor.0));
            let first = read_limited(limit, query.fetch_one(lent.connection())).await?;
            first.map_or(floor, |seq| Seq(seq.unsigned_abs()))
        }
    };
    while from < floor {
        let to = Seq(from.0.saturating_add(TRIM_PLACES)).min(floor);
        let query = sqlx::query(TRIM).bind(i32::from(partition.0)).bind(to_sql(from.0)).bind(to_sql(to.0));
        deleted += write_limited(limit, query.execute(lent.connection())).await?.rows_affected();
        trimmed.set(partition, to);
        from = to;
    }
    lent.give_back();
    Ok(deleted)
}

/// A statement that only reads, within a limit.
pub(super) async fn read_limited<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Error> {
    match timeout(limit, call).await {
        Ok(done) => done.map_err(|e| error::reading(&e)),
        Err(_) => Err(Error::Unavailable(format!("no answer within {} s", limit.as_secs_f32()))),
    }
}

/// A statement that writes, within a limit.
pub(super) async fn write_limited<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Error> {
    match timeout(limit, call).await {
        Ok(done) => done.map_err(|e| error::writing(&e)),
        Err(_) => Err(Error::Unknown(format!("no answer within {} s", limit.as_secs_f32()))),
    }
}

/// BEGIN and its like. Not for a COMMIT whose outcome matters: inside a failed transaction it
/// answers ROLLBACK without an error.
pub(super) async fn control(lent: &mut Lent, limit: Duration, sql: &'static str) -> Result<(), Error> {
    write_limited(limit, sqlx::raw_sql(sql).execute(lent.connection())).await.map(drop)
}

/// Writes a birth block where there is none (in `migrate`).
pub(super) const BIRTH: &str = "/* write_birth */ \
    INSERT INTO log_blocks \
        (partition, seq, version, kind, epoch, floor, time_ms, previous, checksum, body) \
    VALUES ($1, 0, $2, 0, 0, 0, $3, $4, $5, $6)";

/// What [`BIRTH`] binds for `previous`.
pub(super) const NO_CHECKSUM: Checksum = Checksum([0; 16]);
