//! A service's SQLite database.

use std::str::FromStr as _;
use std::time::Duration;

use anyhow::Context as _;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

/// A pool for what changes the database, a pool for what only looks.
#[derive(Debug, Clone)]
pub struct Pools {
    /// For the fence and the hooks.
    pub write: SqlitePool,
    /// For everything that only reads.
    pub read: SqlitePool,
}

impl Pools {
    /// Opens a database; its file is made if it is missing.
    ///
    /// # Errors
    /// If the URL is none, or the file cannot be had.
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        let options = options(url)?
            .create_if_missing(true)
            // Readers do not wait for the writer.
            .journal_mode(SqliteJournalMode::Wal)
            // An action that was answered must survive a power failure.
            .synchronous(SqliteSynchronous::Full);
        // SQLite has one writer at a time. With one connection the pool's queue is the order in which
        // work is done; several would poll for the lock and starve each other.
        let write = SqlitePoolOptions::new().max_connections(1).connect_with(options);
        let write = write.await.with_context(|| format!("cannot open {url}"))?;
        Ok(Self { write, read: reader(url)? })
    }
}

/// A pool that only reads a database.
///
/// # Errors
/// If the URL is none.
pub fn reader(url: &str) -> anyhow::Result<SqlitePool> {
    Ok(SqlitePoolOptions::new().max_connections(4).connect_lazy_with(options(url)?.read_only(true)))
}

fn options(url: &str) -> anyhow::Result<SqliteConnectOptions> {
    let options = SqliteConnectOptions::from_str(url)
        .with_context(|| format!("{url} is not a SQLite URL such as sqlite://flights.db"))?;
    Ok(options.busy_timeout(Duration::from_secs(5)).foreign_keys(true))
}
