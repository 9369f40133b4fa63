//! Fresh databases with a fence in them.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool, Pool, Postgres, Sqlite};
use unanimity_sdk::{Fence, FenceDatabase, sqlite_pool};

/// Removes a database when it is dropped.
pub(crate) type Guard = Box<dyn std::any::Any + Send + Sync>;

/// A database that a test can have for itself.
pub(crate) trait TestDatabase: FenceDatabase {
    /// A fresh one; `None` if there is no server for it. Dropping the guard removes it.
    async fn fresh() -> Option<(Pool<Self>, Guard)>;
    async fn execute(pool: &Pool<Self>, sql: &str);
    async fn number(pool: &Pool<Self>, sql: &str) -> i64;
}

/// A fresh database with a migrated fence and the stock of the tests.
pub(crate) async fn fence<DB: TestDatabase>() -> Option<(Fence<DB>, Guard)> {
    let (pool, guard) = DB::fresh().await?;
    let fence = Fence::new(pool.clone()).lock_timeout(Duration::from_millis(500));
    fence.migrate().await.unwrap();
    fence.migrate().await.unwrap();
    DB::execute(&pool, "CREATE TABLE stock (sku TEXT PRIMARY KEY, free BIGINT NOT NULL, held BIGINT NOT NULL, sold BIGINT NOT NULL)").await;
    DB::execute(&pool, "INSERT INTO stock VALUES ('a', 100, 0, 0)").await;
    Some((fence, guard))
}

impl TestDatabase for Sqlite {
    async fn fresh() -> Option<(Pool<Self>, Guard)> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let pool = sqlite_pool(&path).await.unwrap();
        Some((pool, Box::new(directory)))
    }

    async fn execute(pool: &Pool<Self>, sql: &str) {
        sqlx::query(AssertSqlSafe(sql.to_owned())).execute(pool).await.unwrap();
    }

    async fn number(pool: &Pool<Self>, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(pool).await.unwrap()
    }
}

impl TestDatabase for Postgres {
    async fn fresh() -> Option<(Pool<Self>, Guard)> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let url = server_url().await?;
        let name = format!("sdk_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let admin = PgPool::connect(&url).await.unwrap();
        Self::execute(&admin, &format!("CREATE DATABASE {name}")).await;
        admin.close().await;
        let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
        let pool =
            PgPoolOptions::new().max_connections(8).connect_with(options.database(&name)).await.unwrap();
        Some((pool, Box::new(())))
    }

    async fn execute(pool: &Pool<Self>, sql: &str) {
        sqlx::query(AssertSqlSafe(sql.to_owned())).execute(pool).await.unwrap();
    }

    async fn number(pool: &Pool<Self>, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(pool).await.unwrap()
    }
}

/// The server named by the environment, or a throw-away one of this process.
async fn server_url() -> Option<String> {
    static SERVER: tokio::sync::OnceCell<Option<String>> = tokio::sync::OnceCell::const_new();
    SERVER
        .get_or_init(|| async {
            if let Ok(url) = std::env::var("UNANIMITY_TEST_DATABASE_URL") {
                return Some(url);
            }
            tokio::task::spawn_blocking(throw_away_server).await.unwrap()
        })
        .await
        .clone()
}

/// Starts PostgreSQL in a temporary directory. It ends itself when this process does: its guard, a
/// shell that reads our pipe, stops it when the pipe closes.
#[allow(clippy::zombie_processes, reason = "it ends after us")]
fn throw_away_server() -> Option<String> {
    let programs = programs()?;
    let directory = tempfile::tempdir().unwrap().keep();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (home, data) = (directory.display().to_string(), format!("{}/data", directory.display()));
    let script = format!(
        "set -e; cd '{home}'
         '{programs}/initdb' -D '{data}' -U test -A trust --no-sync >'{home}/initdb.log' 2>&1
         '{programs}/pg_ctl' -D '{data}' -l '{home}/server.log' -w start \
             -o '-p {port} -k {home} -c listen_addresses=127.0.0.1 -c max_connections=300 -c fsync=on' >/dev/null
         echo ready
         cat >/dev/null || true
         '{programs}/pg_ctl' -D '{data}' -m immediate stop >/dev/null 2>&1 || true
         rm -rf '{home}'"
    );
    let mut command = Command::new("sh");
    // PostgreSQL refuses to run as root.
    if Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout.starts_with(b"0\n")) {
        Command::new("chown").args(["-R", "nobody", &home]).status().unwrap();
        command = Command::new("runuser");
        command.args(["-u", "nobody", "--", "sh"]);
    }
    let mut child =
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line)
        .unwrap();
    assert_eq!(line, "ready\n", "PostgreSQL did not start: see {home}");
    // Held open until the process ends.
    std::mem::forget(child.stdin.take());
    Some(format!("postgres://test@127.0.0.1:{port}/postgres"))
}

fn programs() -> Option<String> {
    let from_debian = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"));
    let from_path = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    from_path
        .into_iter()
        .flatten()
        .chain(from_debian)
        .find(|dir| ["initdb", "pg_ctl", "postgres"].iter().all(|program| dir.join(program).exists()))
        .map(|dir| dir.display().to_string())
}
