//! The outbox in MariaDB and MySQL.

use sqlx::mysql::{MySqlConnection, MySqlRow};
use sqlx::{MySql, Pool, QueryBuilder, Row as _, Transaction};
use unanimity_types::Xid;
use uuid::fmt::Hyphenated;

use super::OutboxError;
use super::migrate::run_migrations;
use super::row::{Change, DeadLetter, DeathCause, Found, FullRow, Header, NewRow, RelayStats, RowState};
use super::statements::sealed::Statements;
use super::statements::{OutboxDatabase, read_header, shared_statements};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/participant/mysql");

impl OutboxDatabase for MySql {}

read_header!(MySqlRow, Hyphenated);

impl Statements for MySql {
    async fn migrate(pool: &Pool<Self>) -> Result<(), OutboxError> {
        run_migrations(pool, &MIGRATIONS).await
    }

    async fn begin(pool: &Pool<Self>) -> Result<Transaction<'static, Self>, OutboxError> {
        // The default, REPEATABLE READ, is no harm: the locking read of the lease row and the
        // changes read what is committed, and nothing else is read in these transactions. A relay
        // that is frozen in the middle keeps its shard until the server ends its session: there is
        // no limit for it that both servers know and that would not stay on the pool's connection.
        Ok(pool.begin().await?)
    }

    // UTC_TIMESTAMP, not NOW: the session's time zone may have hours that come twice. FORCE INDEX: of a
    // small table the whole would be scanned, and the rows that senders have not committed waited for.
    shared_statements!(
        MySql, MySqlConnection, Hyphenated,
        now: "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000)",
        key: "CONVERT(message_key USING utf8mb4)",
        for_update: " FOR UPDATE",
        skip_locked: " FOR UPDATE SKIP LOCKED",
        by_number: " FORCE INDEX (PRIMARY)"
    );
}
