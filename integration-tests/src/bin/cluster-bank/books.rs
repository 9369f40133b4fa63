//! Accounts, and everything that can happen to them. Each change of what an account has altogether (`cents` and `held`)
//! is an entry in the same local transaction, and everything that is held has a row that says for what. So in every
//! consistent snapshot of the database, whatever is under way:
//!
//! * of each account: `cents + held = opening +` the sum of its entries, and `held =` the sum of its holds;
//! * nothing is below zero.

use sqlx::PgConnection;
use unanimity_sdk::{HookError, Refused};

use crate::Part;

/// The tables. That entries may repeat is meant: what was done twice shall be seen, not be refused.
pub(crate) const SCHEMA: &str = "
CREATE TABLE accounts (
    name text PRIMARY KEY,
    opening bigint NOT NULL,
    cents bigint NOT NULL CHECK (cents >= 0),
    held bigint NOT NULL DEFAULT 0 CHECK (held >= 0)
);
CREATE TABLE entries (
    n bigserial PRIMARY KEY,
    transfer text NOT NULL,
    what text NOT NULL,
    account text NOT NULL,
    cents bigint NOT NULL
);
CREATE INDEX entries_by_transfer ON entries (transfer);
CREATE TABLE holds (
    transfer text NOT NULL,
    account text NOT NULL,
    cents bigint NOT NULL
);
CREATE INDEX holds_by_transfer ON holds (transfer);";

/// Opens the accounts `account-0` … of a new bank.
pub(crate) async fn open(pool: &sqlx::PgPool, accounts: u32, opening: i64) -> anyhow::Result<()> {
    // Looked at first, and no `IF NOT EXISTS` alone: an index that is there already, and an insert, would wait for what
    // a prepared transfer holds, and what is prepared waits for us.
    let known: bool = sqlx::query_scalar("SELECT to_regclass('holds') IS NOT NULL").fetch_one(pool).await?;
    if known {
        return Ok(());
    }
    let mut tx = pool.begin().await?;
    sqlx::raw_sql(SCHEMA).execute(&mut *tx).await?;
    let sql = "INSERT INTO accounts (name, opening, cents)
               SELECT 'account-' || n, $2, $2 FROM generate_series(0, $1 - 1) AS n";
    sqlx::query(sql).bind(i64::from(accounts)).bind(opening).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// Changes an account; a clear no if there is none, or it has too little.
async fn change(db: &mut PgConnection, part: &Part, cents: i64, held: i64) -> Result<(), HookError> {
    let sql = "UPDATE accounts SET cents = cents + $2, held = held + $3
               WHERE name = $1 AND cents + $2 >= 0 AND held + $3 >= 0";
    let changed = sqlx::query(sql).bind(&part.account).bind(cents).bind(held).execute(db).await?;
    match changed.rows_affected() {
        1 => Ok(()),
        _ => Err(Refused::new(format!("{} is no account, or has too little", part.account)).into()),
    }
}

async fn enter(db: &mut PgConnection, part: &Part, what: &str, cents: i64) -> Result<(), HookError> {
    let sql = "INSERT INTO entries (transfer, what, account, cents) VALUES ($1, $2, $3, $4)";
    sqlx::query(sql).bind(&part.transfer).bind(what).bind(&part.account).bind(cents).execute(db).await?;
    Ok(())
}

async fn hold(db: &mut PgConnection, part: &Part) -> Result<(), HookError> {
    let sql = "INSERT INTO holds (transfer, account, cents) VALUES ($1, $2, $3)";
    sqlx::query(sql).bind(&part.transfer).bind(&part.account).bind(part.cents).execute(db).await?;
    Ok(())
}

/// Takes a hold away; that there is none is an error, never a no: it was made before.
async fn unhold(db: &mut PgConnection, part: &Part) -> Result<(), HookError> {
    let sql = "DELETE FROM holds WHERE transfer = $1 AND account = $2 AND cents = $3";
    let gone = sqlx::query(sql).bind(&part.transfer).bind(&part.account).bind(part.cents).execute(db).await?;
    match gone.rows_affected() {
        1 => Ok(()),
        many => Err(HookError::failed(format!("{many} holds for {part:?}"))),
    }
}

/// A refusal of what must be possible is an error: it is tried again, and seen.
fn must(result: Result<(), HookError>) -> Result<(), HookError> {
    result.map_err(|error| HookError::failed(error.to_string()))
}

/// Money comes (`cents` above zero) or goes.
pub(crate) async fn book(
    db: &mut PgConnection,
    part: &Part,
    what: &str,
    cents: i64,
) -> Result<(), HookError> {
    change(db, part, cents, 0).await?;
    enter(db, part, what, cents).await
}

/// The account's own money is held.
pub(crate) async fn reserve(db: &mut PgConnection, part: &Part) -> Result<(), HookError> {
    change(db, part, -part.cents, part.cents).await?;
    hold(db, part).await
}

/// What was held goes away.
pub(crate) async fn spend(db: &mut PgConnection, part: &Part, what: &str) -> Result<(), HookError> {
    unhold(db, part).await?;
    must(change(db, part, 0, -part.cents).await)?;
    enter(db, part, what, -part.cents).await
}

/// What was held is the account's to use.
pub(crate) async fn release(db: &mut PgConnection, part: &Part) -> Result<(), HookError> {
    unhold(db, part).await?;
    must(change(db, part, part.cents, -part.cents).await)
}

/// Money comes and is held.
pub(crate) async fn deposit(db: &mut PgConnection, part: &Part) -> Result<(), HookError> {
    change(db, part, 0, part.cents).await?;
    enter(db, part, "deposit", part.cents).await?;
    hold(db, part).await
}

/// Whether there is such an account.
pub(crate) async fn knows(db: &mut PgConnection, account: &str) -> Result<(), HookError> {
    let known: Option<i32> =
        sqlx::query_scalar("SELECT 1 FROM accounts WHERE name = $1").bind(account).fetch_optional(db).await?;
    known.map(drop).ok_or_else(|| Refused::new(format!("{account} is no account")).into())
}

/// How many entries a transfer has here.
pub(crate) async fn entries(pool: &sqlx::PgPool, transfer: &str) -> Result<i64, sqlx::Error> {
    let sql = "SELECT count(*) FROM entries WHERE transfer = $1";
    sqlx::query_scalar(sql).bind(transfer).fetch_one(pool).await
}
