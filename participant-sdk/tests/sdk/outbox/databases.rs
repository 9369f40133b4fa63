//! Fresh databases with an outbox in them: SQLite, PostgreSQL, MariaDB.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, MySql, Pool, Postgres, Sqlite};
use unanimity_sdk::{Outbox, OutboxDatabase, sqlite_pool};

use crate::support::databases::{Guard, TestDatabase};

/// A database that a test can have for itself, and that a second process can come to.
pub(crate) trait OutboxTest: OutboxDatabase {
    /// Whether a transaction can write while another one that wrote is open.
    const WRITERS_SIDE_BY_SIDE: bool;
    fn fresh() -> impl Future<Output = Option<(Pool<Self>, Guard)>> + Send;
    /// A pool of its own on the same database, as another process has.
    fn again(pool: &Pool<Self>) -> impl Future<Output = Pool<Self>> + Send;
    fn execute(connection: &mut Self::Connection, sql: &str) -> impl Future<Output = ()> + Send;
    fn number_in(connection: &mut Self::Connection, sql: &str) -> impl Future<Output = i64> + Send;
    fn number(pool: &Pool<Self>, sql: &str) -> impl Future<Output = i64> + Send {
        async move { Self::number_in(&mut *pool.acquire().await.unwrap(), sql).await }
    }
    /// Begins a transaction that can write.
    fn writing(pool: &Pool<Self>) -> impl Future<Output = sqlx::Transaction<'static, Self>> + Send;
}

/// A fresh database with an outbox and a table of the sender's own.
pub(crate) async fn outbox<DB: OutboxTest>() -> Option<(Outbox<DB>, Guard)> {
    let Some((pool, guard)) = DB::fresh().await else {
        eprintln!("SKIPPED: no server for this database on this machine");
        return None;
    };
    let outbox = Outbox::new(pool.clone());
    outbox.migrate().await.unwrap();
    outbox.migrate().await.unwrap();
    let mut connection = pool.acquire().await.unwrap();
    DB::execute(&mut connection, "CREATE TABLE business (k VARCHAR(64) PRIMARY KEY, sent BIGINT NOT NULL)")
        .await;
    drop(connection);
    Some((outbox, guard))
}

macro_rules! statements {
    ($connection:ty) => {
        async fn execute(connection: &mut $connection, sql: &str) {
            sqlx::query(AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap();
        }

        async fn number_in(connection: &mut $connection, sql: &str) -> i64 {
            sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(connection).await.unwrap()
        }
    };
}

impl OutboxTest for Sqlite {
    const WRITERS_SIDE_BY_SIDE: bool = false;

    async fn fresh() -> Option<(Pool<Self>, Guard)> {
        <Self as TestDatabase>::fresh().await
    }

    async fn again(pool: &Pool<Self>) -> Pool<Self> {
        sqlite_pool(pool.connect_options().get_filename()).await.unwrap()
    }

    async fn writing(pool: &Pool<Self>) -> sqlx::Transaction<'static, Self> {
        pool.begin_with("BEGIN IMMEDIATE").await.unwrap()
    }

    statements!(sqlx::SqliteConnection);
}

impl OutboxTest for Postgres {
    const WRITERS_SIDE_BY_SIDE: bool = true;

    async fn fresh() -> Option<(Pool<Self>, Guard)> {
        <Self as TestDatabase>::fresh().await
    }

    async fn again(pool: &Pool<Self>) -> Pool<Self> {
        let options = (*pool.connect_options()).clone();
        PgPoolOptions::new().max_connections(6).connect_with(options).await.unwrap()
    }

    async fn writing(pool: &Pool<Self>) -> sqlx::Transaction<'static, Self> {
        pool.begin().await.unwrap()
    }

    statements!(sqlx::PgConnection);
}

impl OutboxTest for MySql {
    const WRITERS_SIDE_BY_SIDE: bool = true;

    async fn fresh() -> Option<(Pool<Self>, Guard)> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let url = mariadb_url().await?;
        let options: MySqlConnectOptions = url.parse().unwrap();
        let name = format!("outbox_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let admin = Pool::<Self>::connect_with(options.clone()).await.unwrap();
        // A collation that calls `a` and `A` the same: the keys must not follow it.
        let sql = format!("CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci");
        Self::execute(&mut *admin.acquire().await.unwrap(), &sql).await;
        admin.close().await;
        let pool = MySqlPoolOptions::new().max_connections(8).connect_with(options.database(&name));
        Some((pool.await.unwrap(), Box::new(())))
    }

    async fn again(pool: &Pool<Self>) -> Pool<Self> {
        let options = (*pool.connect_options()).clone();
        MySqlPoolOptions::new().max_connections(6).connect_with(options).await.unwrap()
    }

    async fn writing(pool: &Pool<Self>) -> sqlx::Transaction<'static, Self> {
        pool.begin().await.unwrap()
    }

    statements!(sqlx::MySqlConnection);
}

/// The server named by the environment, or a throw-away one of this process.
async fn mariadb_url() -> Option<String> {
    static SERVER: tokio::sync::OnceCell<Option<String>> = tokio::sync::OnceCell::const_new();
    SERVER
        .get_or_init(|| async {
            if let Ok(url) = std::env::var("UNANIMITY_TEST_MARIADB_URL") {
                return Some(url);
            }
            tokio::task::spawn_blocking(throw_away_mariadb).await.unwrap()
        })
        .await
        .clone()
}

/// Starts MariaDB in a temporary directory. A shell that reads our pipe stops it when the pipe
/// closes, which is when this process ends.
#[allow(clippy::zombie_processes, reason = "it ends after us")]
fn throw_away_mariadb() -> Option<String> {
    let find = |program: &str| {
        let paths = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
        let more = ["/usr/sbin", "/usr/local/sbin"].map(std::path::PathBuf::from);
        paths.into_iter().flatten().chain(more).map(|dir| dir.join(program)).find(|path| path.exists())
    };
    let (server, install) = (find("mariadbd")?, find("mariadb-install-db")?);
    let home = tempfile::tempdir().unwrap().keep();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout.starts_with(b"0\n"));
    let user = if is_root { "--user=nobody" } else { "" };
    let (server, install, home) = (server.display(), install.display(), home.display());
    let script = format!(
        "set -e; cd '{home}'; if [ -n '{user}' ]; then chown nobody '{home}'; fi
         '{install}' --no-defaults --datadir='{home}/data' --auth-root-authentication-method=normal \
             --skip-test-db --skip-name-resolve {user} >install.log 2>&1
         '{server}' --no-defaults --datadir='{home}/data' --port={port} --bind-address=127.0.0.1 \
             --socket='{home}/socket' --pid-file='{home}/pid' --innodb-buffer-pool-size=32M \
             --innodb-use-native-aio=0 --skip-name-resolve {user} >server.log 2>&1 &
         server=$!
         echo ready
         cat >/dev/null || true
         kill -9 $server 2>/dev/null || true
         rm -rf '{home}'"
    );
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line)
        .unwrap();
    assert_eq!(line, "ready\n", "MariaDB could not be set up: see {home}");
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(std::time::Instant::now() < end, "MariaDB did not start: see {home}");
        std::thread::sleep(Duration::from_millis(50));
    }
    // Held open until the process ends.
    std::mem::forget(child.stdin.take());
    Some(format!("mysql://root@127.0.0.1:{port}/"))
}
