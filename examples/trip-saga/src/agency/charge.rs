//! The agency's own step: the customer pays.

use serde::{Deserialize, Serialize};
use sqlx::{Sqlite, Transaction};
use unanimity_sdk::{HookError, Refused, StepCall, StepHooks};

/// What the step `charge` is given.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bill {
    /// Who pays.
    pub customer: String,
    /// How much.
    pub cents: i64,
}

/// The hooks of the step `charge`. It is the pivot, and its plan names no compensation.
#[derive(Debug, Clone, Copy)]
pub struct Charge;

impl StepHooks<Sqlite> for Charge {
    type Payload = Bill;
    type Output = ();

    async fn action(&self, tx: &mut Transaction<'_, Sqlite>, call: &StepCall<Bill>) -> Result<(), HookError> {
        let Bill { customer, cents } = &call.payload;
        let sql = "UPDATE accounts SET balance = balance - ?2 WHERE customer = ?1 AND balance >= ?2";
        let changed = sqlx::query(sql).bind(customer).bind(cents).execute(&mut **tx).await?.rows_affected();
        if changed == 0 {
            return Err(Refused::new(format!("not enough money: {customer}")).into());
        }
        sqlx::query("INSERT INTO charges (xid, customer, cents) VALUES (?1, ?2, ?3)")
            .bind(call.xid.to_string())
            .bind(customer)
            .bind(cents)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }

    async fn compensate(
        &self,
        _: &mut Transaction<'_, Sqlite>,
        _: &StepCall<Bill>,
        _: Option<()>,
    ) -> Result<(), HookError> {
        Err(Refused::new("a charge is the point of no return").into())
    }
}
