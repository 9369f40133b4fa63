//! `unanimity migrate` for PostgreSQL: tables, then birth.

use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use unanimity_types::{LogId, PartitionId, Timestamp};
use uuid::Uuid;

use super::hosts::Hosts;
use super::{blocks, error};
use crate::log::row::{from_sql, to_sql};
use crate::log::schema::{self, Applied, MIGRATIONS_TABLE, Migrated, PARTITIONS_DEFAULT};
use crate::log::{Block, Error, HOME_SERVER, LogIdentity};

/// How long one connection attempt may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

const LIST_TABLE: &str = "/* schema_exists */ SELECT to_regclass($1) IS NOT NULL";

const IDENTITY: &str = "/* read_identity */ SELECT log_id, partitions, server FROM log_identity";

const BEAR: &str = "/* bear_log */ \
    INSERT INTO log_identity (log_id, partitions) VALUES ($1, $2) ON CONFLICT DO NOTHING";

const BEAR_SERVER: &str = "/* bear_server */ \
    INSERT INTO log_identity (log_id, partitions, server) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";

const JOIN: &str = "/* join_log */ INSERT INTO log_servers (name) VALUES ($1) ON CONFLICT DO NOTHING";

const BEAR_PARTITIONS: &str =
    "/* bear_partitions */ INSERT INTO partitions (partition) SELECT generate_series(0, $1 - 1)";

/// Creates or upgrades the log's tables and, if the log is new, bears it with this many partitions
/// (by default 16). May run twice and at the same time; changes nothing that is up to date.
///
/// # Errors
/// [`Error::Schema`] if the database has a schema that this binary does not know, or a log with
/// another number of partitions; others as the database says.
pub async fn migrate_postgres(url: &str, partitions: Option<u16>) -> Result<Migrated, Error> {
    let partitions = partitions.map(schema::check_birth).transpose()?;
    let mut connection = Hosts::parse(url)?.connect(CONNECT_LIMIT).await?;
    let before = applied(&mut connection).await?.len();
    // A connection of its own: the migrator's advisory lock ends with it, also after an error.
    migrator()
        .run_direct(None, &mut connection, false)
        .await
        .map_err(|e| schema::migration_failed(&e, error::writing))?;
    let after = applied(&mut connection).await?.len();
    let (identity, born) = bear(&mut connection, partitions).await?;
    // Whether the goodbye arrives is of no interest.
    let _ = connection.close().await;
    Ok(Migrated { identity, born, applied: after.saturating_sub(before) })
}

/// Creates or upgrades the tables of a further server of the log whose home is behind `home`, and bears it there under
/// this name: with the log's id and no blocks, which come when a partition is moved (protocol H10). May run again.
///
/// # Errors
/// [`Error::Schema`] if that database belongs to another log or is another server of this one; others as
/// [`migrate_postgres`].
pub async fn migrate_postgres_server(home: &str, name: &str, url: &str) -> Result<Migrated, Error> {
    let mut home = Hosts::parse(home)?.connect(CONNECT_LIMIT).await?;
    let (identity, server) = check_schema(&mut home).await?;
    if server != HOME_SERVER {
        return Err(Error::Schema(format!("the home's address leads to server {server:?}")));
    }
    let mut connection = Hosts::parse(url)?.connect(CONNECT_LIMIT).await?;
    let before = applied(&mut connection).await?.len();
    migrator()
        .run_direct(None, &mut connection, false)
        .await
        .map_err(|e| schema::migration_failed(&e, error::writing))?;
    let after = applied(&mut connection).await?.len();
    let born = bear_server(&mut connection, identity, name).await?;
    sqlx::query(JOIN).bind(name).execute(&mut home).await.map_err(|e| error::writing(&e))?;
    for connection in [home, connection] {
        let _ = connection.close().await;
    }
    Ok(Migrated { identity, born, applied: after.saturating_sub(before) })
}

async fn bear_server(
    connection: &mut PgConnection,
    identity: LogIdentity,
    name: &str,
) -> Result<bool, Error> {
    let failed = |e: sqlx::Error| error::writing(&e);
    let mut transaction = connection.begin().await.map_err(failed)?;
    let inserted = sqlx::query(BEAR_SERVER)
        .bind(identity.log_id.0)
        .bind(i32::from(identity.partitions))
        .bind(name)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    let born = inserted.rows_affected() == 1;
    if born {
        let rows = sqlx::query(BEAR_PARTITIONS).bind(i32::from(identity.partitions));
        rows.execute(&mut *transaction).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)?;
    let (found, server) = self::identity(connection).await?;
    if found.log_id != identity.log_id {
        return Err(Error::Schema(format!(
            "the database for server {name:?} belongs to another log ({})",
            found.log_id
        )));
    }
    if server != name {
        return Err(Error::Schema(format!(
            "the database for server {name:?} is server {server:?} of this log: one database cannot be both"
        )));
    }
    Ok(born)
}

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("../migrations/coordinator/postgres");
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    migrator
}

/// Birth happens once, in one transaction: identity, birth blocks, partitions. If the identity is
/// there, so were they; a birth block that is missing now is a loss and is not written again
/// (protocol H17).
async fn bear(connection: &mut PgConnection, partitions: Option<u16>) -> Result<(LogIdentity, bool), Error> {
    let count = partitions.unwrap_or(PARTITIONS_DEFAULT);
    let log_id = LogId(Uuid::new_v4());
    let mut transaction = connection.begin().await.map_err(|e| error::writing(&e))?;
    let inserted = sqlx::query(BEAR)
        .bind(log_id.0)
        .bind(i32::from(count))
        .execute(&mut *transaction)
        .await
        .map_err(|e| error::writing(&e))?;
    let born = inserted.rows_affected() == 1;
    if born {
        write_births(&mut transaction, log_id, count).await.map_err(|e| error::writing(&e))?;
    }
    transaction.commit().await.map_err(|e| error::writing(&e))?;
    // Read back: a COMMIT that was silently a ROLLBACK would show here.
    let (identity, server) = identity(connection).await?;
    if server != HOME_SERVER {
        return Err(Error::Schema(format!("this database is server {server:?} of a log, not its home")));
    }
    schema::check_partitions(identity, partitions)?;
    Ok((identity, born))
}

async fn write_births(connection: &mut PgConnection, log_id: LogId, count: u16) -> Result<(), sqlx::Error> {
    let now: i64 =
        sqlx::query_scalar("/* now */ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
            .fetch_one(&mut *connection)
            .await?;
    for number in 0..count {
        let block = Block::birth(PartitionId(number), log_id, Timestamp(from_sql(now)));
        sqlx::query(blocks::BIRTH)
            .bind(i32::from(number))
            .bind(i32::from(block.version))
            .bind(to_sql(block.time.0))
            .bind(&blocks::NO_CHECKSUM.0[..])
            .bind(&block.checksum.0[..])
            .bind(&block.body[..])
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query(BEAR_PARTITIONS).bind(i32::from(count)).execute(&mut *connection).await?;
    Ok(())
}

/// The log's identity and which of its servers this is, if its schema is one that this binary knows.
pub(super) async fn check_schema(connection: &mut PgConnection) -> Result<(LogIdentity, String), Error> {
    schema::check_applied(&migrator(), &applied(connection).await?)?;
    identity(connection).await
}

async fn applied(connection: &mut PgConnection) -> Result<Vec<Applied>, Error> {
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

async fn identity(connection: &mut PgConnection) -> Result<(LogIdentity, String), Error> {
    let row: Option<(Uuid, i32, String)> =
        sqlx::query_as(IDENTITY).fetch_optional(connection).await.map_err(|e| error::reading(&e))?;
    let (log_id, partitions, server) = row.ok_or_else(schema::missing)?;
    let partitions = u16::try_from(partitions).map_err(|_| schema::missing())?;
    Ok((LogIdentity { log_id: LogId(log_id), partitions }, server))
}
