//! A bank: accounts in a database of its own, and entries in them that are XA branches.

pub mod mariadb;
pub mod postgres;
mod routes;

use std::future::Future;
use std::time::Duration;

use anyhow::bail;
use axum::Router;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Pool, Postgres};
use unanimity_sdk::xa::{Resource, XaDatabase};
use unanimity_sdk::{Client, HookError, NoFence, Participant, Refused, Xid};

/// The name under which entries are prepared, committed and rolled back. Part of what is stored.
pub(crate) const OPERATION: &str = "entry";

/// Connections of a bank: some work, some settle what was decided.
pub(crate) const CONNECTIONS: u32 = 16;

/// How long an entry waits for an account that another transfer holds. Its holder is prepared and waits for a
/// decision, so this ends waits that would take as long as an outage.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an entry may take.
const WORK_TIMEOUT: Duration = Duration::from_secs(5);

/// The tables, in SQL that both kinds of database understand. The constraint is what keeps a balance from going below
/// zero, whoever writes.
pub(crate) const SCHEMA: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS accounts (
         name VARCHAR(64) PRIMARY KEY,
         opening BIGINT NOT NULL,
         cents BIGINT NOT NULL,
         CONSTRAINT no_overdraft CHECK (cents >= 0)
     )",
    "CREATE TABLE IF NOT EXISTS entries (
         xid VARCHAR(36) NOT NULL,
         account VARCHAR(64) NOT NULL,
         cents BIGINT NOT NULL,
         PRIMARY KEY (xid, account)
     )",
];

/// One half of a transfer, as one bank sees it: the body of `POST /entries`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Whose account.
    pub account: String,
    /// What it gets; negative: what it gives.
    pub cents: i64,
}

/// A database that a bank can live in.
pub(crate) trait Bank: XaDatabase {
    /// Opens it.
    fn open(url: &str) -> impl Future<Output = anyhow::Result<Pool<Self>>> + Send;
    /// Makes the tables, and these accounts if there are none yet.
    fn open_accounts(
        pool: &Pool<Self>,
        accounts: &[String],
        cents: i64,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;
    /// The entry and what it does to the account.
    fn book(tx: &mut Self::Connection, xid: Xid, entry: Entry) -> BoxFuture<'_, Result<(), HookError>>;
    /// What an account holds; `None` if there is none of this name.
    fn balance(pool: &Pool<Self>, account: &str) -> impl Future<Output = anyhow::Result<Option<i64>>> + Send;
}

/// What a bank is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The bank's name, which is also its participant's
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// The bank's own database: postgres://… or mariadb://…
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database: String,
    /// Make so many accounts (account-0 …) if there are none yet
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub accounts: u32,
    /// With so many cents in each
    #[arg(long, value_name = "CENTS", default_value_t = 100_000)]
    pub opening: i64,
}

/// The names of the accounts of a bank with so many.
pub fn account_names(accounts: u32) -> impl Iterator<Item = String> {
    (0..accounts).map(|number| format!("account-{number}"))
}

/// Whether a URL is one of MariaDB or MySQL; an error if it is not one of PostgreSQL either.
pub(crate) fn is_mariadb(url: &str) -> anyhow::Result<bool> {
    match url.split_once("://").map(|(scheme, _)| scheme) {
        Some("postgres" | "postgresql") => Ok(false),
        Some("mariadb" | "mysql") => Ok(true),
        _ => bail!("a bank's database is postgres://… or mariadb://…"),
    }
}

/// Opens the bank, and attaches its participant to the coordinator. Its routes come back with it.
pub(crate) async fn start(
    client: &Client,
    options: &Options,
) -> anyhow::Result<(Participant<NoFence>, Router)> {
    if is_mariadb(&options.database)? {
        start_in::<MySql>(client, options).await
    } else {
        start_in::<Postgres>(client, options).await
    }
}

async fn start_in<DB: Bank>(
    client: &Client,
    options: &Options,
) -> anyhow::Result<(Participant<NoFence>, Router)> {
    let pool = DB::open(&options.database).await?;
    let accounts: Vec<String> = account_names(options.accounts).collect();
    DB::open_accounts(&pool, &accounts, options.opening).await?;
    let resource = Resource::new(pool.clone()).lock_timeout(LOCK_TIMEOUT).work_timeout(WORK_TIMEOUT);
    // The table in which the resource manager notes what became of each branch.
    resource.migrate().await?;
    let participant = Participant::without_fence(&options.name).two_phase(OPERATION, resource);
    let participant = participant.attach(client).await?;
    Ok((participant.clone(), routes::routes(participant, pool)))
}

/// The constraint's word is the bank's no; any other error is none.
fn refusal(error: sqlx::Error) -> HookError {
    let is_overdraft = error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_check_violation);
    if is_overdraft { Refused::new("not enough money").into() } else { error.into() }
}

fn unknown_account(name: &str) -> HookError {
    Refused::new(format!("no account {name}")).into()
}
