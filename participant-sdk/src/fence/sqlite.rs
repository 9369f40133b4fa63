//! The fence in SQLite.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Connection as _, Pool, Row as _, SqlSafeStr as _, Sqlite, SqlitePool, Transaction};
use unanimity_types::{BranchKey, Epoch, LogId, LogPosition, PartitionId, Seq, Xid};
use uuid::fmt::Hyphenated;

use crate::durability::Durability;
use crate::fence::FenceError;
use crate::fence::row::{Claim, Closing, Cursor, FenceRow, FenceState, NewRow, Place, Tally};
use crate::fence::statements::sealed::Statements;
use crate::fence::statements::{FenceDatabase, read_row, run_migrations, shared_statements};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/participant/sqlite");

impl FenceDatabase for Sqlite {}

read_row!(SqliteRow, Hyphenated);

/// A pool of connections to a SQLite file with the settings that a fence needs: WAL,
/// `synchronous=FULL`, a `busy_timeout` of 5 s, foreign keys on. The file is made if it is missing.
///
/// # Errors
/// [`FenceError::Database`] if the file cannot be opened.
pub async fn sqlite_pool(path: impl AsRef<Path>) -> Result<SqlitePool, FenceError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(5))
        .foreign_keys(true);
    // One writes at a time; the others read. A file does not hang up: nothing to test before use.
    Ok(SqlitePoolOptions::new().max_connections(8).test_before_acquire(false).connect_with(options).await?)
}

impl Statements for Sqlite {
    /// It keeps every other writer out.
    const SHARED: bool = false;

    async fn begin(
        pool: &Pool<Self>,
        _lock_timeout: Duration,
    ) -> Result<Transaction<'static, Self>, FenceError> {
        // IMMEDIATE: takes the write lock now, where waiting for it is possible. A transaction that
        // reads first and writes later fails with "busy" at once when another wrote meanwhile.
        let statement = Some("BEGIN IMMEDIATE".into_sql_str());
        loop {
            let connection = pool.acquire().await?;
            if !connection.is_in_transaction() {
                return Ok(Transaction::begin(connection, statement).await?);
            }
            // SQLite rolled a transaction back by itself (a full disk). sqlx cannot: its ROLLBACK
            // fails, and it counts the transaction as open for ever. Another connection instead.
            tracing::debug!("a connection whose transaction SQLite has ended is replaced");
            let _ = connection.close().await;
        }
    }

    async fn migrate(pool: &Pool<Self>) -> Result<(), FenceError> {
        run_migrations(pool, &MIGRATIONS).await
    }

    async fn check_durability(connection: &mut SqliteConnection) -> Result<Vec<Durability>, FenceError> {
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *connection).await?;
        let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *connection).await?;
        let busy: i64 = sqlx::query_scalar("PRAGMA busy_timeout").fetch_one(&mut *connection).await?;
        let mut found = Vec::new();
        if synchronous < 2 {
            found.push(Durability::loses(
                "synchronous",
                if synchronous == 1 { "NORMAL" } else { "OFF" },
                "a power failure loses acknowledged tries; set it to FULL",
            ));
        }
        match journal.as_str() {
            "wal" => {}
            "memory" | "off" => found.push(Durability::loses(
                "journal_mode",
                journal,
                "a crash loses or corrupts the database; set it to WAL",
            )),
            _ => found.push(Durability::hurts(
                "journal_mode",
                journal,
                "readers and the writer block each other; set it to WAL",
            )),
        }
        if busy < 1_000 {
            found.push(Durability::hurts(
                "busy_timeout",
                format!("{busy} ms"),
                "operations fail instead of waiting for each other; set it to 5 s",
            ));
        }
        Ok(found)
    }

    fn mark(_now_ms: i64) -> i64 {
        // No time is below zero, so that no other transaction's value is like it.
        -fastrand::i64(1..)
    }

    /// SQLite rolls a transaction back by itself where the disk is full or a trigger says so, and what
    /// follows takes effect at once. Then the mark is gone.
    async fn finish(
        mut tx: Transaction<'static, Self>,
        claim: &Claim,
        closing: Closing<'_>,
    ) -> Result<(), FenceError> {
        let Claim { xid, key, from, to, mark } = claim;
        match Self::set_state(&mut tx, *xid, key, *from, *to, Some(*mark), closing.answer).await? {
            1 => Ok(tx.commit().await?),
            _ => Err(FenceError::TransactionLost),
        }
    }

    shared_statements!(SqliteConnection, Hyphenated, "", "x'' AS payload, NULL AS answer");
}
