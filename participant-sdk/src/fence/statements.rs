//! The fence's SQL: what both databases share, and the seam between them.

use std::future::Future;
use std::time::Duration;

use sqlx::{Database, Pool, Transaction};
use unanimity_types::{BranchKey, Xid};

use crate::durability::Durability;
use crate::fence::FenceError;
use crate::fence::row::{Claim, Closing, Cursor, FenceRow, FenceState, NewRow, Place, Tally};

/// A database that can hold a fence: `sqlx::Postgres`, `sqlx::Sqlite`. Its methods are this
/// crate's own; the trait is sealed.
pub trait FenceDatabase: Database + sealed::Statements {}

pub(crate) mod sealed {
    #![allow(unreachable_pub)]

    use super::*;

    /// The statements. Each runs in the caller's transaction.
    pub trait Statements: Database {
        /// Whether an open transaction leaves others their work, so that a registration may run beside it.
        const SHARED: bool;

        /// Begins a transaction that can write and whose waits for locks are bounded.
        fn begin(
            pool: &Pool<Self>,
            lock_timeout: Duration,
        ) -> impl Future<Output = Result<Transaction<'static, Self>, FenceError>> + Send;
        fn migrate(pool: &Pool<Self>) -> impl Future<Output = Result<(), FenceError>> + Send;
        fn check_durability(
            connection: &mut Self::Connection,
        ) -> impl Future<Output = Result<Vec<Durability>, FenceError>> + Send;
        /// What stands where a row's last change does until its transaction ends.
        fn mark(now_ms: i64) -> i64;
        /// Inserts a row, and answers its mark; `None` if the branch has one. Waits for a transaction
        /// that inserts it. A row that is done has the answer of `()`.
        fn insert(
            connection: &mut Self::Connection,
            row: &NewRow,
            state: FenceState,
        ) -> impl Future<Output = Result<Option<i64>, FenceError>> + Send;
        /// Settles a row that a confirm (one that is tried) or a cancel (one that is open) may settle,
        /// and reads it.
        fn take(
            connection: &mut Self::Connection,
            xid: Xid,
            key: &BranchKey,
            to: FenceState,
        ) -> impl Future<Output = Result<Option<FenceRow>, FenceError>> + Send;
        /// Completes the row that this transaction's first statement left, makes sure that it is still
        /// this transaction, and commits.
        fn finish(
            tx: Transaction<'static, Self>,
            claim: &Claim,
            closing: Closing<'_>,
        ) -> impl Future<Output = Result<(), FenceError>> + Send;
        /// Reads a row and keeps others from changing it.
        fn read_locked(
            connection: &mut Self::Connection,
            xid: Xid,
            key: &BranchKey,
        ) -> impl Future<Output = Result<Option<FenceRow>, FenceError>> + Send;
        /// Reads a row that is open, keeps others from changing it, and puts a mark into it that
        /// only this transaction knows.
        fn claim(
            connection: &mut Self::Connection,
            xid: Xid,
            key: &BranchKey,
        ) -> impl Future<Output = Result<Option<FenceRow>, FenceError>> + Send;
        /// Changes a row's state, if it bears the mark of its claim; answers how many rows changed.
        fn set_state(
            connection: &mut Self::Connection,
            xid: Xid,
            key: &BranchKey,
            from: FenceState,
            to: FenceState,
            mark: Option<i64>,
            answer: Option<&[u8]>,
        ) -> impl Future<Output = Result<u64, FenceError>> + Send;
        /// Where the newest rows that are open (`true`) or settled were registered.
        fn newest(
            connection: &mut Self::Connection,
            participant: &str,
            open: bool,
            limit: i64,
        ) -> impl Future<Output = Result<Vec<Place>, FenceError>> + Send;
        /// A page of rows that are open (`true`) or settled, not touched since `before_ms`. Without their
        /// payloads and answers, which may be large.
        fn page(
            connection: &mut Self::Connection,
            participant: &str,
            open: bool,
            before_ms: i64,
            after: &Cursor,
            limit: i64,
        ) -> impl Future<Output = Result<Vec<FenceRow>, FenceError>> + Send;
        /// Deletes the row of an external action that refused, unless another attempt has begun since.
        fn delete_refused(
            connection: &mut Self::Connection,
            xid: Xid,
            key: &BranchKey,
        ) -> impl Future<Output = Result<u64, FenceError>> + Send;
        /// Fails, and with it the transaction where the database fails it as a whole: there is a row.
        fn spoil(
            connection: &mut Self::Connection,
            xid: Xid,
            key: &BranchKey,
        ) -> impl Future<Output = Result<(), FenceError>> + Send;
        /// Deletes a settled row.
        fn delete_settled(
            connection: &mut Self::Connection,
            xid: Xid,
            key: &BranchKey,
        ) -> impl Future<Output = Result<u64, FenceError>> + Send;
        fn tally(
            connection: &mut Self::Connection,
            participant: &str,
            doubtful_before_ms: i64,
        ) -> impl Future<Output = Result<Tally, FenceError>> + Send;
    }
}

/// The statements that read alike in both databases.
macro_rules! shared_statements {
    ($connection:ty, $xid:ty, $for_update:literal, $no_bytes:literal) => {
        async fn insert(
            connection: &mut $connection,
            row: &NewRow,
            state: FenceState,
        ) -> Result<Option<i64>, FenceError> {
            let now = $crate::wall_clock::now_ms();
            let witness = row.witness;
            let is_done = matches!(state, FenceState::Tried | FenceState::Confirmed);
            let mark = if is_done { Self::mark(now) } else { now };
            let answer = is_done.then_some($crate::fence::rules::NO_ANSWER);
            let done = sqlx::query(
                "-- unanimity fence: insert
                 INSERT INTO unanimity_fence (xid, branch_key, participant, operation, state, log_id, payload,
                     witness_partition, witness_epoch, witness_epoch_tag, witness_seq, created_at_ms, updated_at_ms, kind, answer)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
                 ON CONFLICT (xid, branch_key) DO NOTHING",
            )
            .bind(<$xid>::from(row.xid.uuid()))
            .bind(row.key.as_str())
            .bind(row.participant.as_str())
            .bind(row.operation.as_str())
            .bind(state.as_str())
            .bind(row.log_id.map(|id| id.to_string()))
            .bind(row.payload.as_slice())
            .bind(witness.map(|w| i64::from(w.partition.0)))
            .bind(witness.map(|w| w.epoch.0.cast_signed()))
            .bind(witness.map(|w| i64::from(w.epoch_tag)))
            .bind(witness.map(|w| w.seq.0.cast_signed()))
            .bind(now)
            .bind(mark)
            .bind(row.kind.as_str())
            .bind(answer)
            .execute(connection)
            .await?;
            Ok((done.rows_affected() == 1).then_some(mark))
        }

        async fn take(
            connection: &mut $connection,
            xid: Xid,
            key: &BranchKey,
            to: FenceState,
        ) -> Result<Option<FenceRow>, FenceError> {
            let rows = sqlx::query(
                "-- unanimity fence: take
                 UPDATE unanimity_fence SET state = $3, updated_at_ms = $4
                 WHERE xid = $1 AND branch_key = $2
                   AND (state = 'tried' OR (state = 'trying' AND $3 <> 'confirmed')) RETURNING *",
            )
            .bind(<$xid>::from(xid.uuid()))
            .bind(key.as_str())
            .bind(to.as_str())
            .bind(Self::mark($crate::wall_clock::now_ms()))
            .fetch_all(connection)
            .await?;
            rows.first().map(read_row).transpose()
        }

        async fn read_locked(
            connection: &mut $connection,
            xid: Xid,
            key: &BranchKey,
        ) -> Result<Option<FenceRow>, FenceError> {
            let row = sqlx::query(concat!(
                "-- unanimity fence: read_locked
                 SELECT * FROM unanimity_fence WHERE xid = $1 AND branch_key = $2 ",
                $for_update
            ))
            .bind(<$xid>::from(xid.uuid()))
            .bind(key.as_str())
            .fetch_optional(connection)
            .await?;
            row.as_ref().map(read_row).transpose()
        }

        async fn claim(
            connection: &mut $connection,
            xid: Xid,
            key: &BranchKey,
        ) -> Result<Option<FenceRow>, FenceError> {
            // No time is below zero, so that no other transaction's value is like it. The state's
            // change puts a time there again.
            let mark = -fastrand::i64(1..);
            let rows = sqlx::query(
                "-- unanimity fence: claim
                 UPDATE unanimity_fence SET updated_at_ms = $3
                 WHERE xid = $1 AND branch_key = $2 AND state IN ('trying', 'tried') RETURNING *",
            )
            .bind(<$xid>::from(xid.uuid()))
            .bind(key.as_str())
            .bind(mark)
            .fetch_all(connection)
            .await?;
            rows.first().map(read_row).transpose()
        }

        async fn set_state(
            connection: &mut $connection,
            xid: Xid,
            key: &BranchKey,
            from: FenceState,
            to: FenceState,
            mark: Option<i64>,
            answer: Option<&[u8]>,
        ) -> Result<u64, FenceError> {
            let done = sqlx::query(
                "-- unanimity fence: set_state
                 UPDATE unanimity_fence SET state = $4, answer = coalesce($5, answer), updated_at_ms = $6
                 WHERE xid = $1 AND branch_key = $2 AND state = $3
                   AND (CAST($7 AS BIGINT) IS NULL OR updated_at_ms = $7)",
            )
            .bind(<$xid>::from(xid.uuid()))
            .bind(key.as_str())
            .bind(from.as_str())
            .bind(to.as_str())
            .bind(answer)
            .bind($crate::wall_clock::now_ms())
            .bind(mark)
            .execute(connection)
            .await?;
            Ok(done.rows_affected())
        }

        async fn newest(
            connection: &mut $connection,
            participant: &str,
            open: bool,
            limit: i64,
        ) -> Result<Vec<Place>, FenceError> {
            let sql = if open {
                "-- unanimity fence: newest open rows
                 SELECT log_id, witness_partition, witness_epoch, witness_epoch_tag, witness_seq
                 FROM unanimity_fence WHERE participant = $1 AND state IN ('trying', 'tried')
                 ORDER BY created_at_ms DESC, xid DESC, branch_key DESC LIMIT $2"
            } else {
                "-- unanimity fence: newest settled rows
                 SELECT log_id, witness_partition, witness_epoch, witness_epoch_tag, witness_seq
                 FROM unanimity_fence
                 WHERE participant = $1 AND state IN ('confirmed', 'cancelled', 'tombstone')
                 ORDER BY updated_at_ms DESC, xid DESC, branch_key DESC LIMIT $2"
            };
            let rows = sqlx::query(sql).bind(participant).bind(limit).fetch_all(connection).await?;
            rows.iter().map(|row| Ok((read_log_id(row)?, read_witness(row)?))).collect()
        }

        async fn page(
            connection: &mut $connection,
            participant: &str,
            open: bool,
            before_ms: i64,
            after: &Cursor,
            limit: i64,
        ) -> Result<Vec<FenceRow>, FenceError> {
            let sql = if open {
                concat!(
                    "-- unanimity fence: page of open rows
                 SELECT kind, xid, branch_key, operation, state, log_id, witness_partition, witness_epoch,
                     witness_epoch_tag, witness_seq, created_at_ms, updated_at_ms, ",
                    $no_bytes,
                    " FROM unanimity_fence
                 WHERE participant = $1 AND state IN ('trying', 'tried') AND created_at_ms < $2
                   AND (created_at_ms, xid, branch_key) > ($3, $4, $5)
                 ORDER BY created_at_ms, xid, branch_key LIMIT $6"
                )
            } else {
                concat!(
                    "-- unanimity fence: page of settled rows
                 SELECT kind, xid, branch_key, operation, state, log_id, witness_partition, witness_epoch,
                     witness_epoch_tag, witness_seq, created_at_ms, updated_at_ms, ",
                    $no_bytes,
                    " FROM unanimity_fence
                 WHERE participant = $1 AND state IN ('confirmed', 'cancelled', 'tombstone') AND updated_at_ms < $2
                   AND (updated_at_ms, xid, branch_key) > ($3, $4, $5)
                 ORDER BY updated_at_ms, xid, branch_key LIMIT $6"
                )
            };
            let rows = sqlx::query(sql)
                .bind(participant)
                .bind(before_ms)
                .bind(after.at_ms)
                .bind(<$xid>::from(after.xid))
                .bind(after.key.as_str())
                .bind(limit)
                .fetch_all(connection)
                .await?;
            rows.iter().map(read_row).collect()
        }

        async fn delete_refused(
            connection: &mut $connection,
            xid: Xid,
            key: &BranchKey,
        ) -> Result<u64, FenceError> {
            // A later attempt's claim has put its mark into the row, committed with its first half.
            let done = sqlx::query(
                "-- unanimity fence: delete_refused
                 DELETE FROM unanimity_fence
                 WHERE xid = $1 AND branch_key = $2 AND state = 'trying' AND updated_at_ms = created_at_ms",
            )
            .bind(<$xid>::from(xid.uuid()))
            .bind(key.as_str())
            .execute(connection)
            .await?;
            Ok(done.rows_affected())
        }

        async fn spoil(connection: &mut $connection, xid: Xid, key: &BranchKey) -> Result<(), FenceError> {
            sqlx::query(
                "-- unanimity fence: spoil
                 INSERT INTO unanimity_fence SELECT * FROM unanimity_fence WHERE xid = $1 AND branch_key = $2",
            )
            .bind(<$xid>::from(xid.uuid()))
            .bind(key.as_str())
            .execute(connection)
            .await?;
            Ok(())
        }

        async fn delete_settled(
            connection: &mut $connection,
            xid: Xid,
            key: &BranchKey,
        ) -> Result<u64, FenceError> {
            let done = sqlx::query(
                "-- unanimity fence: delete_settled
                 DELETE FROM unanimity_fence
                 WHERE xid = $1 AND branch_key = $2 AND state IN ('confirmed', 'cancelled', 'tombstone')",
            )
            .bind(<$xid>::from(xid.uuid()))
            .bind(key.as_str())
            .execute(connection)
            .await?;
            Ok(done.rows_affected())
        }

        async fn tally(
            connection: &mut $connection,
            participant: &str,
            doubtful_before_ms: i64,
        ) -> Result<Tally, FenceError> {
            let row = sqlx::query(
                "-- unanimity fence: tally
                 SELECT count(*), count(CASE WHEN created_at_ms < $2 THEN 1 END), min(created_at_ms)
                 FROM unanimity_fence WHERE participant = $1 AND state IN ('trying', 'tried')",
            )
            .bind(participant)
            .bind(doubtful_before_ms)
            .fetch_one(connection)
            .await?;
            Ok(Tally {
                open: row.try_get::<i64, _>(0)?.unsigned_abs(),
                in_doubt: row.try_get::<i64, _>(1)?.unsigned_abs(),
                oldest_ms: row.try_get(2)?,
            })
        }
    };
}

/// Reads a row, for the database of the module that uses it.
macro_rules! read_row {
    ($row:ty, $xid:ty) => {
        fn read_witness(row: &$row) -> Result<Option<LogPosition>, FenceError> {
            let partition: Option<i64> = row.try_get("witness_partition")?;
            let epoch: Option<i64> = row.try_get("witness_epoch")?;
            let tag: Option<i64> = row.try_get("witness_epoch_tag")?;
            let seq: Option<i64> = row.try_get("witness_seq")?;
            Ok(match (partition.and_then(|p| u16::try_from(p).ok()), epoch, tag, seq) {
                (Some(partition), Some(epoch), Some(tag), Some(seq)) => Some(LogPosition {
                    partition: PartitionId(partition),
                    epoch: Epoch(epoch.cast_unsigned()),
                    epoch_tag: u32::try_from(tag).map_err(|_| FenceError::Unreadable("witness".into()))?,
                    seq: Seq(seq.cast_unsigned()),
                }),
                _ => None,
            })
        }

        fn read_log_id(row: &$row) -> Result<Option<LogId>, FenceError> {
            let log_id: Option<String> = row.try_get("log_id")?;
            let parse = |text: String| uuid::Uuid::try_parse(&text).map(LogId);
            log_id.map(parse).transpose().map_err(|_| FenceError::Unreadable("log_id".into()))
        }

        fn read_row(row: &$row) -> Result<FenceRow, FenceError> {
            let unreadable = |what: &str| FenceError::Unreadable(what.to_owned());
            let xid = uuid::Uuid::from(row.try_get::<$xid, _>("xid")?);
            Ok(FenceRow {
                kind: row.try_get::<&str, _>("kind")?.parse().map_err(|_| unreadable("kind"))?,
                xid: Xid::new(xid),
                key: BranchKey::new(row.try_get::<String, _>("branch_key")?)
                    .map_err(|_| unreadable("branch_key"))?,
                operation: row.try_get("operation")?,
                state: FenceState::parse(row.try_get("state")?)?,
                log_id: read_log_id(row)?,
                payload: row.try_get("payload")?,
                answer: row.try_get("answer")?,
                witness: read_witness(row)?,
                created_at_ms: row.try_get("created_at_ms")?,
                updated_at_ms: row.try_get("updated_at_ms")?,
            })
        }
    };
}

/// A migrator with a record of its own, beside the user's `_sqlx_migrations`. Of the folder's files it
/// takes the fence's own: the ledger and the outbox, in the same folder, are made by their own rooms.
pub(crate) async fn run_migrations<DB>(
    pool: &Pool<DB>,
    migrations: &'static sqlx::migrate::Migrator,
) -> Result<(), FenceError>
where
    DB: Database,
    DB::Connection: sqlx::migrate::Migrate,
{
    let own = migrations.iter().filter(|migration| migration.description == "fence").cloned().collect();
    let mut migrator = sqlx::migrate::Migrator::with_migrations(own);
    migrator.dangerous_set_table_name("unanimity_fence_migrations");
    let mut connection = pool.acquire().await?;
    // SQLite has no lock around migrations: who loses the race fails, and then finds the work done.
    for pause_ms in [50, 100, 200, 400] {
        match migrator.run_direct(None, &mut *connection, false).await {
            Err(error) if is_execution(&error) => {
                tracing::debug!(%error, "the fence's migration failed, trying again");
                tokio::time::sleep(Duration::from_millis(fastrand::u64(pause_ms / 2..pause_ms))).await;
            }
            result => return Ok(result?),
        }
    }
    Ok(migrator.run_direct(None, &mut *connection, false).await?)
}

/// Whether a statement failed, as opposed to a record that does not fit this version.
fn is_execution(error: &sqlx::migrate::MigrateError) -> bool {
    use sqlx::migrate::MigrateError::{Execute, ExecuteMigration};
    matches!(error, Execute(_) | ExecuteMigration(..))
}

pub(crate) use {read_row, shared_statements};
