//! The outbox in SQLite.

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Pool, QueryBuilder, Row as _, SqlSafeStr as _, Sqlite, Transaction};
use unanimity_types::Xid;
use uuid::fmt::Hyphenated;

use super::OutboxError;
use super::migrate::run_migrations;
use super::row::{Change, DeadLetter, DeathCause, Found, FullRow, Header, NewRow, RelayStats, RowState};
use super::statements::sealed::Statements;
use super::statements::{OutboxDatabase, read_header, shared_statements};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/participant/sqlite");

impl OutboxDatabase for Sqlite {}

read_header!(SqliteRow, Hyphenated);

impl Statements for Sqlite {
    async fn migrate(pool: &Pool<Self>) -> Result<(), OutboxError> {
        run_migrations(pool, &MIGRATIONS).await
    }

    async fn begin(pool: &Pool<Self>) -> Result<Transaction<'static, Self>, OutboxError> {
        // IMMEDIATE: takes the write lock now, where waiting for it is possible. It is also what
        // locks the lease row: there is one writer at a time.
        let statement = Some("BEGIN IMMEDIATE".into_sql_str());
        loop {
            let connection = pool.acquire().await?;
            if !connection.is_in_transaction() {
                return Ok(Transaction::begin(connection, statement).await?);
            }
            // SQLite ended a transaction by itself and sqlx counts it as open for ever.
            let _ = connection.close().await;
        }
    }

    shared_statements!(
        Sqlite, SqliteConnection, Hyphenated,
        now: "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
        key: "message_key",
        for_update: "",
        skip_locked: "",
        by_number: ""
    );
}
