//! One set of SQL statements for SQLite and PostgreSQL.
//!
//! Your own service has one database and writes `sqlx::query(…).bind(…).execute(&mut **tx)` in its
//! hooks. These services run on either, so the few lines that differ are here.

use std::future::Future;
use std::str::FromStr as _;
use std::time::Duration;

use anyhow::Context as _;
use sqlx::postgres::{PgConnection, PgPoolOptions, PgRow, Postgres};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{FromRow, Pool, Sqlite};
use unanimity_sdk::{FenceDatabase, Xid};

/// A service's database: a pool for what changes it, a pool for what only looks.
#[derive(Debug)]
pub struct Pools<DB: Database> {
    /// For the fence and the hooks.
    pub write: Pool<DB>,
    /// For everything that only reads.
    pub read: Pool<DB>,
}

impl<DB: Database> Clone for Pools<DB> {
    fn clone(&self) -> Self {
        Self { write: self.write.clone(), read: self.read.clone() }
    }
}

/// A value in a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Int(i64),
    /// A text.
    Text(String),
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<&i64> for Value {
    fn from(number: &i64) -> Self {
        Self::Int(*number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<Xid> for Value {
    fn from(xid: Xid) -> Self {
        Self::Text(xid.to_string())
    }
}

/// The values of a statement: `values![sku, quantity]`.
macro_rules! values {
    ($($value:expr),* $(,)?) => { &[$($crate::database::Value::from($value)),*] };
}
pub(crate) use values;

/// What a row can be read as: tuples of numbers and texts.
pub trait Row: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}

impl<T> Row for T where T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}

/// A database that these services can live in.
pub trait Database: FenceDatabase {
    /// Opens it; a SQLite file is made if it is missing.
    fn open(url: &str) -> impl Future<Output = anyhow::Result<Pools<Self>>> + Send;

    /// Creates tables, if they are not there.
    fn create(pools: &Pools<Self>, schema: &'static str) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Runs a statement; answers how many rows it changed.
    fn execute(
        connection: &mut Self::Connection,
        sql: &'static str,
        values: &[Value],
    ) -> impl Future<Output = sqlx::Result<u64>> + Send;

    /// Reads rows.
    fn fetch<T: Row>(
        connection: &mut Self::Connection,
        sql: &'static str,
        values: &[Value],
    ) -> impl Future<Output = sqlx::Result<Vec<T>>> + Send;
}

macro_rules! statements {
    ($connection:ty) => {
        async fn create(pools: &Pools<Self>, schema: &'static str) -> sqlx::Result<()> {
            sqlx::raw_sql(schema).execute(&pools.write).await?;
            Ok(())
        }

        async fn execute(
            connection: &mut $connection,
            sql: &'static str,
            values: &[Value],
        ) -> sqlx::Result<u64> {
            let mut query = sqlx::query(sql);
            for value in values {
                query = match value {
                    Value::Int(number) => query.bind(*number),
                    Value::Text(text) => query.bind(text.clone()),
                };
            }
            Ok(query.execute(connection).await?.rows_affected())
        }

        async fn fetch<T: Row>(
            connection: &mut $connection,
            sql: &'static str,
            values: &[Value],
        ) -> sqlx::Result<Vec<T>> {
            let mut query = sqlx::query_as(sql);
            for value in values {
                query = match value {
                    Value::Int(number) => query.bind(*number),
                    Value::Text(text) => query.bind(text.clone()),
                };
            }
            query.fetch_all(connection).await
        }
    };
}

impl Database for Sqlite {
    async fn open(url: &str) -> anyhow::Result<Pools<Self>> {
        let options = SqliteConnectOptions::from_str(url)
            .with_context(|| format!("{url} is not a SQLite URL such as sqlite://orders.db"))?
            .create_if_missing(true)
            // Readers do not wait for the writer.
            .journal_mode(SqliteJournalMode::Wal)
            // A try that was answered must survive a power failure.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5))
            .foreign_keys(true);
        // SQLite has one writer at a time. With one connection the pool's queue is the order in which
        // work is done; several would poll for the lock and starve each other.
        let write = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone());
        let write = write.await.with_context(|| format!("cannot open {url}"))?;
        let read = SqlitePoolOptions::new().max_connections(4).connect_lazy_with(options.read_only(true));
        Ok(Pools { write, read })
    }

    statements!(SqliteConnection);
}

impl Database for Postgres {
    async fn open(url: &str) -> anyhow::Result<Pools<Self>> {
        // The URL has a password in it: errors do not repeat it.
        let pool = PgPoolOptions::new().max_connections(16).acquire_timeout(Duration::from_secs(10));
        let write = pool.connect(url).await.context("cannot open the PostgreSQL database")?;
        Ok(Pools { read: write.clone(), write })
    }

    statements!(PgConnection);
}

/// Runs an async function with the database type of a URL.
macro_rules! with_database {
    ($url:expr, $function:ident ( $($argument:expr),* $(,)? )) => {{
        let url: &str = $url;
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            $function::<sqlx::Postgres>($($argument),*).await
        } else if url.starts_with("sqlite:") {
            $function::<sqlx::Sqlite>($($argument),*).await
        } else {
            anyhow::bail!("a database URL starts with sqlite:// or postgres://")
        }
    }};
}
pub(crate) use with_database;
