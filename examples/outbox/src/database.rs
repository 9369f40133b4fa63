//! One set of SQL statements for SQLite, PostgreSQL and MariaDB.
//!
//! Your own service has one database and writes `sqlx::query(…).bind(…).execute(&mut *tx)`. These
//! services run on any of them, so the few lines that differ are here.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use sqlx::mysql::{MySqlConnection, MySqlPoolOptions, MySqlRow};
use sqlx::postgres::{PgConnection, PgPoolOptions, PgRow};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, FromRow, MySql, Pool, Postgres, Sqlite, Transaction};
use unanimity_sdk::{OutboxDatabase, Xid};

/// How long a statement waits for one of the pool's connections.
const ACQUIRE_MAX: Duration = Duration::from_secs(10);
/// Connections of a service: its work at once, and the relay's.
const CONNECTIONS_MAX: u32 = 12;

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

impl From<uuid::Uuid> for Value {
    fn from(id: uuid::Uuid) -> Self {
        Self::Text(id.to_string())
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
pub trait Row:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, MySqlRow> + Send + Unpin
{
}

impl<T> Row for T where
    T: for<'r> FromRow<'r, SqliteRow>
        + for<'r> FromRow<'r, PgRow>
        + for<'r> FromRow<'r, MySqlRow>
        + Send
        + Unpin
{
}

/// A database that these services can live in. In statements the values are `$1`, `$2` … in the order
/// in which they stand there, each once.
pub trait Database: OutboxDatabase {
    /// Opens it; a SQLite file is made if it is missing.
    fn open(url: &str) -> impl Future<Output = anyhow::Result<Pool<Self>>> + Send;

    /// Creates tables, if they are not there.
    fn create(pool: &Pool<Self>, schema: &'static str) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Begins a transaction that writes.
    fn begin_writing(
        pool: &Pool<Self>,
    ) -> impl Future<Output = sqlx::Result<Transaction<'static, Self>>> + Send;

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
    ($connection:ty, begin: $begin:ident ( $($statement:expr)? ), sql: $sql:path) => {
        async fn create(pool: &Pool<Self>, schema: &'static str) -> sqlx::Result<()> {
            sqlx::raw_sql(schema).execute(pool).await?;
            Ok(())
        }

        async fn begin_writing(pool: &Pool<Self>) -> sqlx::Result<Transaction<'static, Self>> {
            pool.$begin($($statement)?).await
        }

        async fn execute(
            connection: &mut $connection,
            sql: &'static str,
            values: &[Value],
        ) -> sqlx::Result<u64> {
            let mut query = sqlx::query($sql(sql));
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
            let mut query = sqlx::query_as($sql(sql));
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
    async fn open(url: &str) -> anyhow::Result<Pool<Self>> {
        let path = url.strip_prefix("sqlite://").context("a SQLite URL is like sqlite://shop.db")?;
        unanimity_sdk::sqlite_pool(path).await.with_context(|| format!("cannot open {url}"))
    }

    // Takes the write lock at once, where waiting for it is possible: a transaction that reads first
    // and writes later fails when another wrote meanwhile.
    statements!(SqliteConnection, begin: begin_with("BEGIN IMMEDIATE"), sql: as_it_is);
}

impl Database for Postgres {
    async fn open(url: &str) -> anyhow::Result<Pool<Self>> {
        // The URL has a password in it: errors do not repeat it.
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(ACQUIRE_MAX);
        pool.connect(url).await.context("cannot open the PostgreSQL database")
    }

    statements!(PgConnection, begin: begin(), sql: as_it_is);
}

impl Database for MySql {
    async fn open(url: &str) -> anyhow::Result<Pool<Self>> {
        let pool = MySqlPoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(ACQUIRE_MAX);
        pool.connect(url).await.context("cannot open the MariaDB database")
    }

    statements!(MySqlConnection, begin: begin(), sql: question_marks);
}

const fn as_it_is(sql: &'static str) -> &'static str {
    sql
}

/// MariaDB's way to say where values go.
fn question_marks(sql: &'static str) -> AssertSqlSafe<String> {
    let mut parts = sql.split('$');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push('?');
        text.push_str(part.trim_start_matches(|digit: char| digit.is_ascii_digit()));
    }
    // Safe: made of a literal.
    AssertSqlSafe(text)
}

/// Runs an async function with the database type of a URL.
macro_rules! with_database {
    ($url:expr, $function:ident ( $($argument:expr),* $(,)? )) => {{
        let url: &str = $url;
        if url.starts_with("mysql://") || url.starts_with("mariadb://") {
            $function::<sqlx::MySql>($($argument),*).await
        } else {
            $crate::database::with_fence!(url, $function($($argument),*))
        }
    }};
}

/// The same, of the databases that can hold a fence.
macro_rules! with_fence {
    ($url:expr, $function:ident ( $($argument:expr),* $(,)? )) => {{
        let url: &str = $url;
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            $function::<sqlx::Postgres>($($argument),*).await
        } else if url.starts_with("sqlite://") {
            $function::<sqlx::Sqlite>($($argument),*).await
        } else {
            anyhow::bail!("this database is none that the service can live in (see --help)")
        }
    }};
}
pub(crate) use {with_database, with_fence};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_question_marks() {
        let sql = question_marks("INSERT INTO t VALUES ($1, $22); SELECT 1");
        assert_eq!(sql.0, "INSERT INTO t VALUES (?, ?); SELECT 1");
    }
}
