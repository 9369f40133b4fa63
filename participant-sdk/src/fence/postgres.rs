//! The fence in PostgreSQL.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Pool, Postgres, Row as _, Transaction};
use unanimity_types::{BranchKey, Epoch, LogId, LogPosition, PartitionId, Seq, Xid};

use crate::durability::Durability;
use crate::fence::FenceError;
use crate::fence::row::{Cursor, FenceRow, FenceState, NewRow, Tally};
use crate::fence::statements::sealed::Statements;
use crate::fence::statements::{FenceDatabase, read_row, run_migrations, shared_statements};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/participant/postgres");

impl FenceDatabase for Postgres {}

read_row!(PgRow, uuid::Uuid);

impl Statements for Postgres {
    async fn begin(
        pool: &Pool<Self>,
        lock_timeout: Duration,
    ) -> Result<Transaction<'static, Self>, FenceError> {
        let millis = lock_timeout.as_millis();
        // READ COMMITTED, whatever the session's default: after a conflict the next statement must
        // see the row that won. One round trip for both statements.
        let sql = format!("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {millis}");
        Ok(pool.begin_with(AssertSqlSafe(sql)).await?)
    }

    async fn migrate(pool: &Pool<Self>) -> Result<(), FenceError> {
        run_migrations(pool, &MIGRATIONS).await
    }

    async fn check_durability(connection: &mut PgConnection) -> Result<Vec<Durability>, FenceError> {
        let (commit, fsync, full_page_writes): (String, String, String) = sqlx::query_as(
            "-- unanimity fence: check_durability
             SELECT current_setting('synchronous_commit'), current_setting('fsync'),
                    current_setting('full_page_writes')",
        )
        .fetch_one(connection)
        .await?;
        let mut found = Vec::new();
        if commit == "off" {
            found.push(Durability::loses(
                "synchronous_commit",
                commit,
                "a crash of the server loses acknowledged tries; set it to on for this role or database",
            ));
        }
        if fsync == "off" {
            found.push(Durability::loses(
                "fsync",
                fsync,
                "a crash of the machine loses or corrupts the database; set it to on",
            ));
        }
        if full_page_writes == "off" {
            found.push(Durability::loses(
                "full_page_writes",
                full_page_writes,
                "a crash of the machine can corrupt the database; set it to on",
            ));
        }
        Ok(found)
    }

    shared_statements!(PgConnection, uuid::Uuid, "FOR UPDATE");
}
