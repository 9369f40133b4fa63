//! The SQL of several servers: where partitions are, births of servers, and taking over a chain.

use std::time::Duration;

use sqlx::FromRow;
use unanimity_types::{PartitionId, Seq};

use super::blocks::{Columns, control, read_limited, synchronous_commit_off, write_limited};
use super::connections::Lent;
use crate::log::placed::Place;
use crate::log::row::{from_sql, to_sql};
use crate::log::{Block, Error, HistoryWatermark};

const PLACES: &str =
    "/* read_places */ SELECT partition, server, placed_seq FROM partitions ORDER BY partition";

const FORMER: &str = "/* read_former_places */ SELECT partition, server FROM partition_servers";

const KNOWS: &str = "/* knows_server */ SELECT EXISTS (SELECT 1 FROM log_servers WHERE name = $1)";

const REACHED: &str = "/* read_reached_servers */ \
    SELECT servers FROM nodes WHERE alive_until > clock_timestamp() AND NOT leaving";

const LEFT: &str = "/* note_left_server */ \
    INSERT INTO partition_servers (partition, server) VALUES ($1, $2) \
    ON CONFLICT (partition, server) DO UPDATE SET left_at = clock_timestamp()";

/// Only from where it is, and only to a later seal: a mover that slept changes nothing.
const FLIP: &str = "/* flip_placement */ \
    UPDATE partitions SET server = $3, placed_seq = $4 \
    WHERE partition = $1 AND server = $2 AND placed_seq < $4";

/// What is there stays as it is; whether it is the same is found out by reading the chain.
const IMPORT: &str = "/* import_blocks */ \
    INSERT INTO log_blocks \
        (partition, seq, version, kind, epoch, floor, time_ms, previous, checksum, body) \
    SELECT b.* \
    FROM unnest($1::int4[], $2::int8[], $3::int4[], $4::int2[], $5::int8[], $6::int8[], $7::int8[], \
        $8::bytea[], $9::bytea[], $10::bytea[]) \
        AS b (partition, seq, version, kind, epoch, floor, time_ms, previous, checksum, body) \
    ORDER BY b.seq ON CONFLICT (partition, seq) DO NOTHING";

const WATERMARK: &str = "/* import_watermark */ \
    INSERT INTO history_watermarks AS w (partition, epoch, seq) VALUES ($1, $2, $3) \
    ON CONFLICT (partition) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq \
    WHERE (w.epoch, w.seq) < (excluded.epoch, excluded.seq)";

const COMMITS: &str = "/* check_commits */ SELECT current_setting('synchronous_commit')";

/// A write that changes nothing, and is durable only when all before it is.
const BARRIER: &str = "/* make_seal_durable */ UPDATE partitions SET epoch = epoch WHERE partition = $1";

const DROP_OPEN: &str = "/* drop_open_history */ \
    DELETE FROM history WHERE partition = $1 AND status NOT IN (4, 6)";

/// Bytes of one statement: what the engine's blocks have together, some thousands of them.
const IMPORT_BYTES: usize = 4 * 1024 * 1024;

#[derive(FromRow)]
struct PlaceRow {
    partition: i32,
    server: String,
    placed_seq: i64,
}

impl PlaceRow {
    fn into_place(self) -> Place {
        let partition = PartitionId(u16::try_from(self.partition).unwrap_or(u16::MAX));
        Place { partition, server: self.server, since: Seq(from_sql(self.placed_seq)) }
    }
}

/// Every partition's place, and the servers that partitions left.
pub(super) async fn places(
    mut lent: Lent,
    limit: Duration,
) -> Result<(Vec<Place>, Vec<(PartitionId, String)>), Error> {
    // In this order: a partition that moves in between is known to have left where it is said to be.
    let query = sqlx::query_as::<_, PlaceRow>(PLACES);
    let places = read_limited(limit, query.fetch_all(lent.connection())).await?;
    let query = sqlx::query_as::<_, (i32, String)>(FORMER);
    let former = read_limited(limit, query.fetch_all(lent.connection())).await?;
    lent.give_back();
    let id = |partition: i32| PartitionId(u16::try_from(partition).unwrap_or(u16::MAX));
    let former = former.into_iter().map(|(partition, server)| (id(partition), server)).collect();
    Ok((places.into_iter().map(PlaceRow::into_place).collect(), former))
}

pub(super) async fn knows_server(mut lent: Lent, name: String, limit: Duration) -> Result<bool, Error> {
    let query = sqlx::query_scalar::<_, bool>(KNOWS).bind(name);
    let known = read_limited(limit, query.fetch_one(lent.connection())).await?;
    lent.give_back();
    Ok(known)
}

/// The servers that each living node that stays says that it reaches.
pub(super) async fn reached_servers(
    mut lent: Lent,
    limit: Duration,
) -> Result<Vec<Option<Vec<String>>>, Error> {
    let query = sqlx::query_scalar::<_, Option<Vec<String>>>(REACHED);
    let reached = read_limited(limit, query.fetch_all(lent.connection())).await?;
    lent.give_back();
    Ok(reached)
}

/// A partition's log is on another server now, unless somebody said something later.
pub(super) async fn flip(
    mut lent: Lent,
    partition: PartitionId,
    from: String,
    to: String,
    seal: Seq,
    limit: Duration,
) -> Result<(), Error> {
    let left = sqlx::query(LEFT).bind(i32::from(partition.0)).bind(&from);
    write_limited(limit, left.execute(lent.connection())).await?;
    let flip = sqlx::query(FLIP).bind(i32::from(partition.0)).bind(&from).bind(&to).bind(to_sql(seal.0));
    write_limited(limit, flip.execute(lent.connection())).await?;
    lent.give_back();
    Ok(())
}

/// Whether a commit here is kept (protocol M16).
pub(super) async fn check_commits(mut lent: Lent, limit: Duration) -> Result<(), Error> {
    look_at_commits(&mut lent, limit).await?;
    lent.give_back();
    Ok(())
}

async fn look_at_commits(lent: &mut Lent, limit: Duration) -> Result<(), Error> {
    let query = sqlx::query_scalar::<_, String>(COMMITS);
    let found = read_limited(limit, query.fetch_one(lent.connection())).await?;
    if matches!(found.as_str(), "on" | "remote_apply") { Ok(()) } else { Err(synchronous_commit_off(&found)) }
}

/// Everything that was written here before is durable when this is answered: also a seal that was found there
/// after an offer of unknown outcome (protocol C4).
pub(super) async fn barrier(mut lent: Lent, partition: PartitionId, limit: Duration) -> Result<(), Error> {
    look_at_commits(&mut lent, limit).await?;
    let query = sqlx::query(BARRIER).bind(i32::from(partition.0));
    write_limited(limit, query.execute(lent.connection())).await?;
    lent.give_back();
    Ok(())
}

/// Takes over a chain as it is, with its checksums, and how far its history speaks, in one transaction. Two who do
/// it at once wait for each other in one direction.
pub(super) async fn import(
    mut lent: Lent,
    chain: &[Block],
    watermark: HistoryWatermark,
    limit: Duration,
) -> Result<(), Error> {
    let Some(first) = chain.first() else { return Ok(()) };
    control(&mut lent, limit, "/* import */ BEGIN").await?;
    look_at_commits(&mut lent, limit).await?;
    let mut rest = chain;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|block| {
            bytes += block.bytes();
            bytes <= IMPORT_BYTES
        });
        // One block is always taken, however large.
        let (batch, after) = rest.split_at(fits.count().max(1));
        let batch: Vec<&Block> = batch.iter().collect();
        let columns = Columns::of(&batch);
        let query = sqlx::query(IMPORT)
            .bind(columns.partition)
            .bind(columns.seq)
            .bind(columns.version)
            .bind(columns.kind)
            .bind(columns.epoch)
            .bind(columns.floor)
            .bind(columns.time)
            .bind(columns.previous)
            .bind(columns.checksum)
            .bind(columns.body);
        write_limited(limit, query.execute(lent.connection())).await?;
        rest = after;
    }
    // What stayed open here when the partition left was settled elsewhere: a row that came late, or that nobody dropped,
    // would speak again.
    let dropping = sqlx::query(DROP_OPEN).bind(i32::from(first.partition.0));
    write_limited(limit, dropping.execute(lent.connection())).await?;
    let query = sqlx::query(WATERMARK)
        .bind(i32::from(first.partition.0))
        .bind(to_sql(watermark.epoch.0))
        .bind(to_sql(watermark.seq.0));
    write_limited(limit, query.execute(lent.connection())).await?;
    control(&mut lent, limit, "/* import */ COMMIT").await?;
    lent.give_back();
    Ok(())
}

pub(super) async fn drop_open_history(
    mut lent: Lent,
    partition: PartitionId,
    limit: Duration,
) -> Result<(), Error> {
    let query = sqlx::query(DROP_OPEN).bind(i32::from(partition.0));
    write_limited(limit, query.execute(lent.connection())).await?;
    lent.give_back();
    Ok(())
}
