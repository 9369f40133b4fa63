//! The fence in PostgreSQL.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Pool, Postgres, Row as _, Transaction};
use unanimity_types::{BranchKey, Epoch, LogId, LogPosition, PartitionId, Seq, Xid};

use crate::durability::Durability;
use crate::fence::FenceError;
use crate::fence::postgres_finish::closing_sql;
use crate::fence::row::{Claim, Closing, Cursor, FenceRow, FenceState, NewRow, Place, Tally};
use crate::fence::statements::sealed::Statements;
use crate::fence::statements::{FenceDatabase, read_row, run_migrations, shared_statements};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/participant/postgres");

impl FenceDatabase for Postgres {}

read_row!(PgRow, uuid::Uuid);

impl Statements for Postgres {
    const SHARED: bool = true;

    async fn begin(
        pool: &Pool<Self>,
        lock_timeout: Duration,
    ) -> Result<Transaction<'static, Self>, FenceError> {
        let millis = lock_timeout.as_millis();
        // READ COMMITTED, whatever the session's default: after a conflict the next statement must
        // see the row that won. The last setting is how the end knows its own transaction again. One
        // round trip for all.
        let sql = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {millis}; \
             SET LOCAL unanimity.fence = 'open'"
        );
        // A pool that does not test its connections hands out some that the server has closed.
        let mut tries = if pool.options().get_test_before_acquire() { 0 } else { pool.size() };
        loop {
            match pool.begin_with(AssertSqlSafe(sql.clone())).await {
                Err(error) if tries > 0 && is_closed(&error) => tries -= 1,
                begun => return Ok(begun?),
            }
        }
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

    fn mark(now_ms: i64) -> i64 {
        now_ms
    }

    /// One round trip. PostgreSQL answers `COMMIT` in a failed transaction with a rollback and no
    /// error, and sqlx does not look; but the statement before it in the same message fails there,
    /// and then the server does not come to the `COMMIT`.
    async fn finish(
        mut tx: Transaction<'static, Self>,
        claim: &Claim,
        closing: Closing<'_>,
    ) -> Result<(), FenceError> {
        let done = sqlx::raw_sql(AssertSqlSafe(closing_sql(claim, closing))).execute(&mut *tx).await;
        // Also after success: sqlx does not know of our COMMIT. Its ROLLBACK ends the empty transaction
        // that AND CHAIN has begun for it, together with the pool's look at the connection.
        drop(tx);
        match done {
            Err(sqlx::Error::Database(error))
                if error.code().is_some_and(|code| matches!(&*code, "25P02" | "22012")) =>
            {
                Err(FenceError::TransactionLost)
            }
            done => Ok(done.map(|_| ())?),
        }
    }

    shared_statements!(
        PgConnection,
        uuid::Uuid,
        "FOR UPDATE",
        "CAST('' AS bytea) AS payload, CAST(NULL AS bytea) AS answer"
    );
}

/// Whether the server had closed the connection before our statement reached it. Nothing was begun, or
/// at least nothing was committed.
fn is_closed(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        // admin_shutdown
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code == "57P01"),
        _ => false,
    }
}
