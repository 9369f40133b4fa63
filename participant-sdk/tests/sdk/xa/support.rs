//! Fresh databases with a ledger and two accounts, and what the tests do with them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, MySql, Pool, Postgres, raw_sql};
use unanimity_sdk::xa::{Resource, WorkError, Worked, XaBranch, XaDatabase, XaError};
use unanimity_sdk::{BranchKey, LogId, Xid};
use uuid::Uuid;

use super::servers::Server;

/// A database under test.
pub(super) trait Xa: XaDatabase {
    const PREPARE: &'static str;
    const COMMIT: &'static str;
    fn server() -> Option<Server>;
    /// A server that all tests share; nobody may kill it.
    fn shared() -> Option<&'static Server>;
    async fn pool(port: u16, database: &str, size: u32) -> Result<Pool<Self>, sqlx::Error>;
    fn sql(
        connection: &mut Self::Connection,
        sql: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    async fn execute(pool: &Pool<Self>, sql: &str);
    async fn number(pool: &Pool<Self>, sql: &str) -> i64;
}

macro_rules! xa {
    ($db:ty, $pool:ty, $options:expr, $start:expr, $prepare:literal, $commit:literal) => {
        impl Xa for $db {
            const PREPARE: &'static str = $prepare;
            const COMMIT: &'static str = $commit;

            fn server() -> Option<Server> {
                $start
            }

            fn shared() -> Option<&'static Server> {
                static SERVER: OnceLock<Option<Server>> = OnceLock::new();
                SERVER.get_or_init(Self::server).as_ref()
            }

            async fn pool(port: u16, database: &str, size: u32) -> Result<Pool<Self>, sqlx::Error> {
                let options = $options.host("127.0.0.1").port(port).username("test").database(database);
                let pool = <$pool>::new().max_connections(size).acquire_timeout(Duration::from_secs(10));
                pool.connect_with(options).await
            }

            async fn sql(connection: &mut Self::Connection, sql: &str) -> Result<(), sqlx::Error> {
                raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.map(drop)
            }

            async fn execute(pool: &Pool<Self>, sql: &str) {
                raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await.unwrap();
            }

            async fn number(pool: &Pool<Self>, sql: &str) -> i64 {
                sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(pool).await.unwrap()
            }
        }
    };
}

xa!(
    Postgres,
    PgPoolOptions,
    PgConnectOptions::new_without_pgpass(),
    Server::postgres("-c max_prepared_transactions=100"),
    "PREPARE TRANSACTION",
    "COMMIT PREPARED"
);
xa!(MySql, MySqlPoolOptions, MySqlConnectOptions::new(), Server::mariadb(), "XA PREPARE", "XA COMMIT");

/// The maintenance database of the server, once it answers.
pub(super) async fn admin<DB: Xa>(port: u16) -> Pool<DB> {
    let name = if DB::PREPARE == Postgres::PREPARE { "postgres" } else { "mysql" };
    let end = tokio::time::Instant::now() + Duration::from_secs(90);
    loop {
        match DB::pool(port, name, 2).await {
            Ok(pool) => return pool,
            Err(error) => assert!(tokio::time::Instant::now() < end, "the server does not answer: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A database of its own with accounts `a` and `b`, 1,000 each.
pub(super) struct Bank<DB: Xa> {
    /// Of its own, since MariaDB lists the prepared transactions of all databases.
    pub(super) log: LogId,
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) resource: Resource<DB>,
}

impl<DB: Xa> Bank<DB> {
    pub(super) async fn fresh() -> Option<Self> {
        let Some(server) = tokio::task::spawn_blocking(DB::shared).await.unwrap() else {
            eprintln!("SKIPPED: no server for this database on this machine");
            return None;
        };
        Some(Self::on(server.port).await)
    }

    pub(super) async fn on(port: u16) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bank_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let admin = admin::<DB>(port).await;
        DB::execute(&admin, &format!("CREATE DATABASE {name}")).await;
        admin.close().await;
        let pool = DB::pool(port, &name, 6).await.unwrap();
        let resource = Resource::new(pool.clone()).lock_timeout(Duration::from_secs(1));
        resource.migrate().await.unwrap();
        resource.migrate().await.unwrap();
        DB::execute(&pool, "CREATE TABLE accounts (name varchar(20) PRIMARY KEY, cents bigint NOT NULL)")
            .await;
        DB::execute(&pool, "INSERT INTO accounts VALUES ('a', 1000), ('b', 1000)").await;
        Self { log: LogId(Uuid::new_v4()), name, port, resource }
    }

    /// Another instance of the service.
    pub(super) async fn instance(&self) -> Resource<DB> {
        self.instance_by(self.port).await
    }

    /// Another instance, which reaches the server by another port.
    pub(super) async fn instance_by(&self, port: u16) -> Resource<DB> {
        Resource::new(DB::pool(port, &self.name, 6).await.unwrap()).lock_timeout(Duration::from_secs(1))
    }

    pub(super) fn branch(&self, key: &str) -> XaBranch {
        self.branch_of(Xid::new(Uuid::new_v4()), key)
    }

    pub(super) fn branch_of(&self, xid: Xid, key: &str) -> XaBranch {
        XaBranch {
            log_id: self.log,
            xid,
            key: BranchKey::new(key).unwrap(),
            participant: "bank".to_owned(),
            operation: "pay".to_owned(),
        }
    }

    /// What an account holds.
    pub(super) async fn cents(&self, account: &str) -> i64 {
        let sql = format!("SELECT cents FROM accounts WHERE name = '{account}'");
        DB::number(self.resource.pool(), &sql).await
    }

    /// How many branches of our log are prepared.
    pub(super) async fn prepared(&self) -> usize {
        self.resource.in_doubt(self.log).await.unwrap().ours.len()
    }

    pub(super) async fn pay(&self, branch: &XaBranch, account: &str) -> Result<Worked<()>, XaError> {
        pay(&self.resource, branch, account).await
    }
}

/// The work of most tests: one cent for an account.
pub(super) async fn pay<DB: Xa>(
    resource: &Resource<DB>,
    branch: &XaBranch,
    account: &str,
) -> Result<Worked<()>, XaError> {
    let sql = statement(account);
    resource.work(branch, move |tx| Box::pin(async move { one::<DB>(tx, &sql).await })).await
}

/// The same, held until its prepare.
pub(super) async fn pay_later<DB: Xa>(
    resource: &Resource<DB>,
    branch: &XaBranch,
    account: &str,
) -> Result<Worked<()>, XaError> {
    let sql = statement(account);
    resource.work_and_hold(branch, move |tx| Box::pin(async move { one::<DB>(tx, &sql).await })).await
}

fn statement(account: &str) -> String {
    format!("UPDATE accounts SET cents = cents + 1 WHERE name = '{account}'")
}

async fn one<DB: Xa>(connection: &mut DB::Connection, sql: &str) -> Result<(), WorkError> {
    Ok(DB::sql(connection, sql).await?)
}
