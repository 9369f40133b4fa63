//! A bank in MariaDB (or MySQL).

use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use sqlx::mysql::MySqlPoolOptions;
use sqlx::{MySql, MySqlConnection, MySqlPool};
use unanimity_sdk::{HookError, Xid};

use super::{Bank, CONNECTIONS, Entry, SCHEMA, refusal, unknown_account};

impl Bank for MySql {
    async fn open(url: &str) -> anyhow::Result<MySqlPool> {
        let pool =
            MySqlPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(Duration::from_secs(5));
        pool.connect(url).await.context("cannot open the bank's MariaDB database")
    }

    async fn open_accounts(pool: &MySqlPool, accounts: &[String], cents: i64) -> anyhow::Result<()> {
        for statement in SCHEMA {
            sqlx::query(statement).execute(pool).await?;
        }
        // Looked at, not inserted where it is missing: an insert would wait for accounts that a prepared transfer holds,
        // and what is prepared waits for us.
        let known: i64 = sqlx::query_scalar("SELECT count(*) FROM accounts").fetch_one(pool).await?;
        if known > 0 {
            return Ok(());
        }
        let mut tx = pool.begin().await?;
        for name in accounts {
            let sql = "INSERT INTO accounts (name, opening, cents) VALUES (?, ?, ?)";
            sqlx::query(sql).bind(name).bind(cents).bind(cents).execute(&mut *tx).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Runs inside of the branch's transaction, which is prepared after it.
    fn book(tx: &mut MySqlConnection, xid: Xid, entry: Entry) -> BoxFuture<'_, Result<(), HookError>> {
        async move {
            let Entry { account, cents } = entry;
            let sql = "INSERT INTO entries (xid, account, cents) VALUES (?, ?, ?)";
            sqlx::query(sql).bind(xid.to_string()).bind(&account).bind(cents).execute(&mut *tx).await?;
            let sql = "UPDATE accounts SET cents = cents + ? WHERE name = ?";
            let booked = sqlx::query(sql).bind(cents).bind(&account).execute(&mut *tx).await;
            match booked.map_err(refusal)?.rows_affected() {
                1 => Ok(()),
                _ => Err(unknown_account(&account)),
            }
        }
        .boxed()
    }

    async fn balance(pool: &MySqlPool, account: &str) -> anyhow::Result<Option<i64>> {
        let sql = "SELECT cents FROM accounts WHERE name = ?";
        Ok(sqlx::query_scalar(sql).bind(account).fetch_optional(pool).await?)
    }
}
