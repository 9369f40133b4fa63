//! The order itself is a branch too: pending, then confirmed or cancelled together with the others.

use serde::{Deserialize, Serialize};
use sqlx::Transaction;
use unanimity_sdk::{Branch, HookError, TccHooks};

use crate::database::{Database, values};

/// An order with its price.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PricedOrder {
    /// Who buys.
    pub customer: String,
    /// Which product.
    pub sku: String,
    /// How many of it.
    pub quantity: i64,
    /// What it costs altogether.
    pub cents: i64,
}

/// The hooks of the operation `place`.
#[derive(Debug, Clone, Copy)]
pub struct Place;

impl<DB: Database> TccHooks<DB> for Place {
    type Payload = PricedOrder;
    type Output = ();

    async fn try_(
        &self,
        tx: &mut Transaction<'_, DB>,
        branch: &Branch<PricedOrder>,
    ) -> Result<(), HookError> {
        let order = &branch.payload;
        // The primary key refuses a second order of the same id.
        let sql = "INSERT INTO orders (xid, customer, sku, quantity, cents, status)
                   VALUES ($1, $2, $3, $4, $5, 'pending')";
        let values = values![branch.xid, &order.customer, &order.sku, order.quantity, order.cents];
        DB::execute(tx, sql, values).await?;
        Ok(())
    }

    async fn confirm(
        &self,
        tx: &mut Transaction<'_, DB>,
        branch: &Branch<PricedOrder>,
    ) -> Result<(), HookError> {
        let sql = "UPDATE orders SET status = 'confirmed' WHERE xid = $1";
        DB::execute(tx, sql, values![branch.xid]).await?;
        Ok(())
    }

    async fn cancel(
        &self,
        tx: &mut Transaction<'_, DB>,
        branch: &Branch<PricedOrder>,
    ) -> Result<(), HookError> {
        let sql = "UPDATE orders SET status = 'cancelled' WHERE xid = $1";
        DB::execute(tx, sql, values![branch.xid]).await?;
        Ok(())
    }
}
