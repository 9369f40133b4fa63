//! Money that is held, paid or released.

use serde::{Deserialize, Serialize};
use sqlx::Transaction;
use unanimity_sdk::{Branch, HookError, Refused, TccHooks};

use crate::database::{Database, values};
use crate::demo::MERCHANT;

/// So many cents of a customer for an order: the body of `POST /hold`, and the branch's payload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Debit {
    /// Whose money.
    pub customer: String,
    /// How much of it.
    pub cents: i64,
}

/// The hooks of the operation `hold`.
#[derive(Debug, Clone, Copy)]
pub struct Hold;

impl<DB: Database> TccHooks<DB> for Hold {
    type Payload = Debit;
    type Output = ();

    async fn try_(&self, tx: &mut Transaction<'_, DB>, branch: &Branch<Debit>) -> Result<(), HookError> {
        let Debit { customer, cents } = &branch.payload;
        let sql = "UPDATE accounts SET balance = balance - $2, held = held + $2
                   WHERE name = $1 AND balance >= $2";
        if DB::execute(tx, sql, values![customer, cents]).await? == 0 {
            return Err(Refused::new(format!("not enough money: {customer}")).into());
        }
        let sql = "INSERT INTO holds (xid, customer, cents, status) VALUES ($1, $2, $3, 'held')";
        DB::execute(tx, sql, values![branch.xid, customer, cents]).await?;
        Ok(())
    }

    async fn confirm(&self, tx: &mut Transaction<'_, DB>, branch: &Branch<Debit>) -> Result<(), HookError> {
        let Debit { customer, cents } = &branch.payload;
        let sql = "UPDATE accounts SET held = held - $2 WHERE name = $1";
        DB::execute(tx, sql, values![customer, cents]).await?;
        let sql = "UPDATE accounts SET balance = balance + $2 WHERE name = $1";
        DB::execute(tx, sql, values![MERCHANT, cents]).await?;
        let sql = "UPDATE holds SET status = 'paid' WHERE xid = $1";
        DB::execute(tx, sql, values![branch.xid]).await?;
        Ok(())
    }

    async fn cancel(&self, tx: &mut Transaction<'_, DB>, branch: &Branch<Debit>) -> Result<(), HookError> {
        let Debit { customer, cents } = &branch.payload;
        let sql = "UPDATE accounts SET held = held - $2, balance = balance + $2 WHERE name = $1";
        DB::execute(tx, sql, values![customer, cents]).await?;
        let sql = "UPDATE holds SET status = 'released' WHERE xid = $1";
        DB::execute(tx, sql, values![branch.xid]).await?;
        Ok(())
    }
}
