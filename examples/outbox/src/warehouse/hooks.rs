//! What the warehouse does with messages. Each hook runs in one local transaction with its row of the
//! fence: however often a message is delivered, it is picked once.

use serde::{Deserialize, Serialize};
use unanimity_sdk::{FenceDatabase, HookError, LocalTransaction, MessageHooks, ReceivedMessage, Refused};
use uuid::Uuid;

use crate::database::{Database, values};

/// One line of an order: the payload of the message `pick`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pick {
    /// Which order.
    pub order: Uuid,
    /// Which of its lines, from 1.
    pub line: i64,
    /// Whose.
    pub customer: String,
    /// The customer's how manieth line.
    pub seq: i64,
    /// Which product.
    pub sku: String,
    /// How many of it.
    pub quantity: i64,
}

/// A voucher to be mailed: the payload of the message `voucher`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Voucher {
    /// To whom.
    pub customer: String,
    /// How much.
    pub cents: i64,
}

/// Picks lines.
#[derive(Debug, Clone, Copy)]
pub struct Picking;

impl<DB: Database + FenceDatabase> MessageHooks<DB> for Picking {
    type Payload = Pick;

    async fn deliver(
        &self,
        tx: &mut LocalTransaction<'_, DB>,
        message: &ReceivedMessage<Pick>,
    ) -> Result<(), HookError> {
        let Pick { order, line, customer, seq, sku, quantity } = &message.payload;
        let sql = "INSERT INTO heard (customer, picks) VALUES ($1, 1)
                   ON CONFLICT (customer) DO UPDATE SET picks = heard.picks + 1";
        DB::execute(tx, sql, values![customer]).await?;
        let heard: Vec<(i64,)> =
            DB::fetch(tx, "SELECT picks FROM heard WHERE customer = $1", values![customer]).await?;
        let arrived = heard.first().map_or(0, |(picks,)| *picks);
        let sql = "INSERT INTO picks (customer, arrived, seq, message, order_id, line, sku, quantity)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
        let values = values![customer, arrived, *seq, message.xid, *order, *line, sku, *quantity];
        DB::execute(tx, sql, values).await?;
        // Last: the row that all customers' picks share is locked for as short as can be.
        let sql = "UPDATE shelves SET taken = taken + $1 WHERE sku = $2";
        if DB::execute(tx, sql, values![*quantity, sku]).await? == 0 {
            // Trying again would not help: the message becomes a dead letter, for somebody to mend.
            return Err(Refused::new(format!("no shelf for it: {sku}")).into());
        }
        Ok(())
    }
}

/// Mails vouchers.
#[derive(Debug, Clone, Copy)]
pub struct Mailing;

impl<DB: Database + FenceDatabase> MessageHooks<DB> for Mailing {
    type Payload = Voucher;

    async fn deliver(
        &self,
        tx: &mut LocalTransaction<'_, DB>,
        message: &ReceivedMessage<Voucher>,
    ) -> Result<(), HookError> {
        let Voucher { customer, cents } = &message.payload;
        let sql = "INSERT INTO letters (xid, customer, cents) VALUES ($1, $2, $3)";
        DB::execute(tx, sql, values![message.xid, customer, *cents]).await?;
        Ok(())
    }
}
