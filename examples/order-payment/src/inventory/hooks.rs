//! Stock that is reserved, sold or released.

use serde::{Deserialize, Serialize};
use sqlx::Transaction;
use unanimity_sdk::{Branch, HookError, Refused, TccHooks};

use crate::database::{Database, values};

/// So many of a product for an order: the body of `POST /reserve`, and the branch's payload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reservation {
    /// Which product.
    pub sku: String,
    /// How many.
    pub quantity: i64,
}

/// The hooks of the operation `reserve`.
///
/// None of them asks whether it ran before, or in which order: the fence does, in the same local
/// transaction (`tx`). So each says only what it does.
#[derive(Debug, Clone, Copy)]
pub struct Reserve;

impl<DB: Database> TccHooks<DB> for Reserve {
    type Payload = Reservation;
    type Output = ();

    async fn try_(
        &self,
        tx: &mut Transaction<'_, DB>,
        branch: &Branch<Reservation>,
    ) -> Result<(), HookError> {
        let Reservation { sku, quantity } = &branch.payload;
        // Test and change in one statement: nobody comes in between.
        let sql = "UPDATE stock SET available = available - $2, reserved = reserved + $2
                   WHERE sku = $1 AND available >= $2";
        if DB::execute(tx, sql, values![sku, quantity]).await? == 0 {
            // An explicit no. Any other error would mean "unknown".
            return Err(Refused::new(format!("out of stock: {sku}")).into());
        }
        let sql = "INSERT INTO reservations (xid, sku, quantity, status) VALUES ($1, $2, $3, 'reserved')";
        DB::execute(tx, sql, values![branch.xid, sku, quantity]).await?;
        Ok(())
    }

    async fn confirm(
        &self,
        tx: &mut Transaction<'_, DB>,
        branch: &Branch<Reservation>,
    ) -> Result<(), HookError> {
        let Reservation { sku, quantity } = &branch.payload;
        let sql = "UPDATE stock SET reserved = reserved - $2 WHERE sku = $1";
        DB::execute(tx, sql, values![sku, quantity]).await?;
        let sql = "UPDATE reservations SET status = 'sold' WHERE xid = $1";
        DB::execute(tx, sql, values![branch.xid]).await?;
        Ok(())
    }

    async fn cancel(
        &self,
        tx: &mut Transaction<'_, DB>,
        branch: &Branch<Reservation>,
    ) -> Result<(), HookError> {
        let Reservation { sku, quantity } = &branch.payload;
        let sql = "UPDATE stock SET available = available + $2, reserved = reserved - $2 WHERE sku = $1";
        DB::execute(tx, sql, values![sku, quantity]).await?;
        let sql = "UPDATE reservations SET status = 'released' WHERE xid = $1";
        DB::execute(tx, sql, values![branch.xid]).await?;
        Ok(())
    }
}
