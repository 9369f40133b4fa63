//! An order: its rows and its messages in one local transaction. The coordinator is not asked.

use serde::{Deserialize, Serialize};
use unanimity_sdk::{Message, MessageTarget, Outbox, OutboxError};
use uuid::Uuid;

use crate::database::{Database, values};
use crate::demo;
use crate::warehouse::Pick;

/// Lines of one order, at most.
const LINES_MAX: usize = 20;
/// More of one product than anybody needs; also keeps prices far from overflowing.
const QUANTITY_MAX: i64 = 1_000_000;

/// The body of `POST /orders`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewOrder {
    /// The order's id, minted by the customer: the same id again is the same order.
    pub id: Uuid,
    /// Who buys.
    pub customer: String,
    /// What: 1 to 20 lines.
    pub lines: Vec<Line>,
}

/// So many of a product.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Which product.
    pub sku: String,
    /// How many of it.
    pub quantity: i64,
}

/// Why an order was not taken. Nothing of it is there then, except after [`OrderError::Database`],
/// where nobody knows: send it again.
#[derive(Debug)]
pub enum OrderError {
    /// The customer's mistake.
    Invalid(String),
    /// The customer would owe too much.
    NoCredit,
    /// The database failed.
    Database(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for OrderError {
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}

/// Takes an order: one transaction, at whose end order, lines and messages are all there, or none of them.
///
/// # Errors
/// [`OrderError`].
pub async fn place<DB: Database>(outbox: &Outbox<DB>, order: &NewOrder) -> Result<(), OrderError> {
    let cents = cost(order)?;
    let mut tx = DB::begin_writing(outbox.pool()).await?;
    // First the customer's row: it is locked until the end, so that this customer's orders go one after
    // another. The order of messages with one key is that of such transactions.
    let lines = i64::try_from(order.lines.len()).unwrap_or(i64::MAX);
    let sql = "UPDATE customers SET ordered = ordered + $1, credit = credit - $2 WHERE name = $3";
    if DB::execute(&mut tx, sql, values![lines, cents, &order.customer]).await? == 0 {
        return Err(OrderError::Invalid(format!("no such customer: {}", order.customer)));
    }
    let known: Vec<(i64,)> =
        DB::fetch(&mut tx, "SELECT cents FROM orders WHERE id = $1", values![order.id]).await?;
    if !known.is_empty() {
        // Sent again: it is there, and its messages are. What was changed above is rolled back.
        return Ok(());
    }
    let sql = "SELECT ordered, credit FROM customers WHERE name = $1";
    let customer: Vec<(i64, i64)> = DB::fetch(&mut tx, sql, values![&order.customer]).await?;
    let (ordered, credit) = customer.first().copied().unwrap_or_default();
    let sql = "INSERT INTO orders (id, customer, cents) VALUES ($1, $2, $3)";
    DB::execute(&mut tx, sql, values![order.id, &order.customer, cents]).await?;
    for (line, seq) in order.lines.iter().zip(ordered - lines + 1..) {
        let number = seq - (ordered - lines);
        let pick = Pick {
            order: order.id,
            line: number,
            customer: order.customer.clone(),
            seq,
            sku: line.sku.clone(),
            quantity: line.quantity,
        };
        let id = outbox.send(&mut tx, &message(&pick)?).await?;
        let sql = "INSERT INTO order_lines (order_id, line, customer, seq, sku, quantity, message)
                   VALUES ($1, $2, $3, $4, $5, $6, $7)";
        let values = values![order.id, number, &order.customer, seq, &line.sku, line.quantity, id];
        DB::execute(&mut tx, sql, values).await?;
    }
    // A rule that is checked last, after the messages are written: the rollback takes them along.
    if credit < 0 {
        tx.rollback().await?;
        return Err(OrderError::NoCredit);
    }
    tx.commit().await?;
    // A relay in this process need not look by itself.
    outbox.wake();
    Ok(())
}

/// What the warehouse is told. The customer is the key: it hears of each customer's lines in their order.
fn message(pick: &Pick) -> Result<Message, OutboxError> {
    Ok(Message::new("pick")
        .key(&pick.customer)?
        .payload(pick)?
        .to(MessageTarget::participant(crate::warehouse::PARTICIPANT, crate::warehouse::PICK)?))
}

fn cost(order: &NewOrder) -> Result<i64, OrderError> {
    if !(1..=LINES_MAX).contains(&order.lines.len()) {
        return Err(OrderError::Invalid(format!("an order has 1 to {LINES_MAX} lines")));
    }
    let mut cents = 0_i64;
    for line in &order.lines {
        let Some(price) = demo::price(&line.sku) else {
            return Err(OrderError::Invalid(format!("no such product: {}", line.sku)));
        };
        if !(1..=QUANTITY_MAX).contains(&line.quantity) {
            return Err(OrderError::Invalid(format!("a quantity is between 1 and {QUANTITY_MAX}")));
        }
        cents += price * line.quantity;
    }
    Ok(cents)
}
