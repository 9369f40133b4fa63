//! The outbox in PostgreSQL.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Pool, Postgres, QueryBuilder, Row as _, Transaction};
use unanimity_types::Xid;

use super::OutboxError;
use super::migrate::run_migrations;
use super::row::{Change, DeadLetter, DeathCause, Found, FullRow, Header, NewRow, RelayStats, RowState};
use super::statements::sealed::Statements;
use super::statements::{OutboxDatabase, read_header, shared_statements};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/participant/postgres");

impl OutboxDatabase for Postgres {}

read_header!(PgRow, uuid::Uuid);

impl Statements for Postgres {
    async fn migrate(pool: &Pool<Self>) -> Result<(), OutboxError> {
        run_migrations(pool, &MIGRATIONS).await
    }

    async fn begin(pool: &Pool<Self>) -> Result<Transaction<'static, Self>, OutboxError> {
        // READ COMMITTED, whatever the session's default: the statement after a wait for the lease
        // row must see what its last owner wrote. 5 s: nobody holds that row for long. A relay that is
        // frozen in the middle is thrown out, so that its successor need not wait for its machine.
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = 5000;
                     SET LOCAL idle_in_transaction_session_timeout = 10000";
        Ok(pool.begin_with(begin).await?)
    }

    shared_statements!(
        Postgres, PgConnection, uuid::Uuid,
        now: "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
        key: "message_key",
        for_update: " FOR UPDATE",
        skip_locked: " FOR UPDATE SKIP LOCKED",
        by_number: ""
    );
}
