//! `unanimity migrate` for SQLite, and what `dev` does by itself: file, tables, birth.

use std::path::Path;

use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};
use unanimity_types::{LogId, PartitionId};
use uuid::Uuid;

use super::lock::{DataLock, create_private};
use super::{connect, error, leases};
use crate::log::row::to_sql;
use crate::log::schema::{self, Applied, MIGRATIONS_TABLE, Migrated};
use crate::log::{Block, Error, LogIdentity};

/// How many partitions a SQLite log is born with: one file has one writer, so more than one
/// partition only costs (protocol M16).
const PARTITIONS_DEFAULT: u16 = 1;

const LIST_TABLE: &str =
    "/* schema_exists */ SELECT count(*) > 0 FROM sqlite_master WHERE type = 'table' AND name = $1";

const IDENTITY: &str = "/* read_identity */ SELECT log_id, partitions FROM log_identity";

const BEAR: &str = "/* bear_log */ \
    INSERT INTO log_identity (singleton, log_id, partitions, born_at_ms) VALUES (1, $1, $2, $3) \
    ON CONFLICT DO NOTHING";

const BIRTH: &str = "/* write_birth */ \
    INSERT INTO log_blocks \
        (partition, seq, version, kind, epoch, floor, time_ms, previous, checksum, body) \
    VALUES ($1, 0, $2, 0, 0, 0, $3, zeroblob(16), $4, $5)";

const BEAR_PARTITION: &str = "/* bear_partitions */ INSERT INTO partitions (partition) VALUES ($1)";

/// Creates or upgrades the log in this file and, if it is new, bears it with this many partitions (by
/// default 1). The file and the directory above it are made if they are not there, for the owner's
/// eyes only.
///
/// # Errors
/// [`Error::InUse`] if a coordinator runs on the file, [`Error::Schema`] if its schema is not one
/// that this binary knows; others as SQLite says.
pub async fn migrate_sqlite(path: &Path, partitions: Option<u16>) -> Result<Migrated, Error> {
    create_private(path)?;
    let _lock = DataLock::take(path).await?;
    let mut connection = connect(path, false).await?;
    let migrated = migrate(&mut connection, partitions).await;
    // Closing merges the write-ahead log; if that fails the next opening does it.
    let _ = connection.close().await;
    migrated
}

/// The same on an open connection, under the caller's lock.
pub(super) async fn migrate(
    connection: &mut SqliteConnection,
    partitions: Option<u16>,
) -> Result<Migrated, Error> {
    let partitions = partitions.map(schema::check_birth).transpose()?;
    let before = applied(connection).await?.len();
    migrator()
        .run_direct(None, connection, false)
        .await
        .map_err(|e| schema::migration_failed(&e, error::writing))?;
    let after = applied(connection).await?.len();
    let (identity, born) = bear(connection, partitions).await?;
    Ok(Migrated { identity, born, applied: after.saturating_sub(before) })
}

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("../migrations/coordinator/sqlite");
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    migrator
}

/// Once, in one transaction; a birth block that is missing later is a loss and is not written again
/// (protocol H17).
async fn bear(
    connection: &mut SqliteConnection,
    partitions: Option<u16>,
) -> Result<(LogIdentity, bool), Error> {
    let log_id = LogId(Uuid::new_v4());
    let count = partitions.unwrap_or(PARTITIONS_DEFAULT);
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(|e| error::writing(&e))?;
    let born = write_births(&mut transaction, log_id, count).await?;
    transaction.commit().await.map_err(|e| error::writing(&e))?;
    let identity = identity(connection).await?;
    schema::check_partitions(identity, partitions)?;
    Ok((identity, born))
}

async fn write_births(connection: &mut SqliteConnection, log_id: LogId, count: u16) -> Result<bool, Error> {
    let now = leases::now(connection).await?;
    let failed = |e: sqlx::Error| error::writing(&e);
    let inserted = sqlx::query(BEAR)
        .bind(log_id.to_string())
        .bind(i64::from(count))
        .bind(to_sql(now.0))
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    if inserted.rows_affected() == 0 {
        return Ok(false);
    }
    for number in 0..count {
        let block = Block::birth(PartitionId(number), log_id, now);
        let birth = sqlx::query(BIRTH)
            .bind(i64::from(number))
            .bind(i64::from(block.version))
            .bind(to_sql(now.0))
            .bind(&block.checksum.0[..])
            .bind(&block.body[..]);
        birth.execute(&mut *connection).await.map_err(failed)?;
        let partition = sqlx::query(BEAR_PARTITION).bind(i64::from(number));
        partition.execute(&mut *connection).await.map_err(failed)?;
    }
    Ok(true)
}

/// The log's identity, if its schema is one that this binary knows.
pub(super) async fn check_schema(connection: &mut SqliteConnection) -> Result<LogIdentity, Error> {
    schema::check_applied(&migrator(), &applied(connection).await?)?;
    identity(connection).await
}

async fn applied(connection: &mut SqliteConnection) -> Result<Vec<Applied>, Error> {
    let exists: bool = sqlx::query_scalar(LIST_TABLE)
        .bind(MIGRATIONS_TABLE)
        .fetch_one(&mut *connection)
        .await
        .map_err(|e| error::reading(&e))?;
    if !exists {
        return Ok(Vec::new());
    }
    // The table's name is a constant of ours.
    let sql = format!("/* applied_migrations */ SELECT version, success, checksum FROM {MIGRATIONS_TABLE}");
    let rows = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(connection).await;
    rows.map_err(|e| error::reading(&e))
}

async fn identity(connection: &mut SqliteConnection) -> Result<LogIdentity, Error> {
    let row: Option<(String, i64)> =
        sqlx::query_as(IDENTITY).fetch_optional(connection).await.map_err(|e| error::reading(&e))?;
    let (log_id, partitions) = row.ok_or_else(schema::missing)?;
    let log_id = Uuid::try_parse(&log_id).map_err(|_| schema::missing())?;
    let partitions = u16::try_from(partitions).map_err(|_| schema::missing())?;
    Ok(LogIdentity { log_id: LogId(log_id), partitions })
}
