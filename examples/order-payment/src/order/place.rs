//! Placing an order: the global transaction.

use serde::{Deserialize, Serialize};
use unanimity_sdk::{
    ClientError, Decision, ErrorCode, SendInTransaction as _, Status, TransactionError, TryError, Xid,
};

use super::hooks::{Place, PricedOrder};
use super::routes::Orders;
use crate::database::{Database, values};
use crate::inventory::Reservation;
use crate::payment::Debit;

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The order's id, which is the transaction's.
    pub xid: Xid,
    /// How it ended, as far as is known.
    pub outcome: Outcome,
    /// Why, if it was aborted or is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether the business says no, so that trying again makes no sense.
    #[serde(default)]
    pub refused: bool,
}

/// How an order ended, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It takes effect in every service.
    Committed,
    /// It takes effect in none.
    Aborted,
    /// Nobody knows yet: ask again (`GET /orders/{xid}`). Never "probably not".
    Unknown,
}

/// Why the transaction's closure gave up.
#[derive(Debug)]
enum GaveUp {
    /// A service said no.
    Refused(String),
    /// Something did not work.
    Failed(String),
}

impl From<TryError> for GaveUp {
    fn from(error: TryError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Runs the transaction. It aborts on every way out but the last line of the closure; also if this
/// future is dropped because the customer hung up, and by its deadline if this process dies.
pub(super) async fn place<DB: Database>(orders: &Orders<DB>, xid: Xid, order: PricedOrder) -> Answer {
    let result = orders
        .client
        .transaction("place-order")
        .xid(xid)
        .timeout(orders.transaction_timeout)
        .run(async |tx| {
            // Our own branch first: a second order of the same id ends here.
            orders.participant.try_in::<Place>(&tx, order.clone()).await?;
            let Orders { http, inventory_url, payment_url, .. } = orders;
            let reservation = Reservation { sku: order.sku.clone(), quantity: order.quantity };
            // The context goes along in a header, the branch's vote comes back in one.
            let answer = http.post(format!("{inventory_url}/reserve")).json(&reservation).send_in(&tx).await;
            said_yes("inventory", answer).await?;
            let debit = Debit { customer: order.customer.clone(), cents: order.cents };
            let answer = http.post(format!("{payment_url}/hold")).json(&debit).send_in(&tx).await;
            said_yes("payment", answer).await
        })
        .await;
    let (outcome, reason, refused) = match result {
        // The decision is durable: nothing can stop it any more.
        Ok(()) => (Outcome::Committed, None, false),
        Err(TransactionError::User { error: GaveUp::Refused(why), .. }) => {
            (Outcome::Aborted, Some(why), true)
        }
        // Perhaps because somebody else placed an order with this id: what became of it counts.
        Err(TransactionError::User { error: GaveUp::Failed(why), .. }) => {
            let answer = settle(orders, xid).await;
            (answer.outcome, Some(why).filter(|_| answer.outcome != Outcome::Committed), false)
        }
        Err(TransactionError::Aborted { reason, .. }) => (Outcome::Aborted, Some(reason.to_string()), false),
        // Sent and not answered, it may have begun.
        Err(TransactionError::Begin(error)) => {
            let answer = settle(orders, xid).await;
            (answer.outcome, Some(format!("could not begin: {error}")), false)
        }
        Err(TransactionError::OutcomeUnknown { error, .. }) => {
            (Outcome::Unknown, Some(error.to_string()), false)
        }
    };
    if let (Outcome::Aborted, Some(why)) = (outcome, &reason) {
        note(orders, xid, why).await;
    }
    Answer { xid, outcome, reason, refused }
}

/// Whether a service did its part.
async fn said_yes(service: &str, answer: reqwest::Result<reqwest::Response>) -> Result<(), GaveUp> {
    let answer = answer.map_err(|_| GaveUp::Failed(format!("no answer from {service}")))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let text = answer.text().await.unwrap_or_default();
    match status {
        reqwest::StatusCode::CONFLICT => Err(GaveUp::Refused(text)),
        _ => Err(GaveUp::Failed(format!("{service} answered {status}: {text}"))),
    }
}

/// What became of an order, as far as this service and the coordinator know now.
pub(super) async fn ask<DB: Database>(orders: &Orders<DB>, xid: Xid) -> anyhow::Result<Option<Answer>> {
    let mut answer = known(orders, xid).await?;
    if answer.as_ref().is_none_or(|answer| answer.outcome == Outcome::Unknown) {
        // The branch has not heard yet; the coordinator may know more.
        let outcome = match orders.client.status(xid).await {
            Ok(info) => outcome_of(info.status),
            Err(error) if error.code() == Some(ErrorCode::TransactionNotFound) && answer.is_none() => {
                return Ok(None);
            }
            Err(_) => Outcome::Unknown,
        };
        let reason = answer.and_then(|answer| answer.reason);
        answer = Some(Answer { xid, outcome, reason, refused: false });
    }
    Ok(answer)
}

/// What this service's own database says of an order.
pub(super) async fn known<DB: Database>(orders: &Orders<DB>, xid: Xid) -> anyhow::Result<Option<Answer>> {
    let sql = "SELECT status, coalesce(reason, '') FROM orders WHERE xid = $1";
    let mut connection = orders.pools.read.acquire().await?;
    let rows: Vec<(String, String)> = DB::fetch(&mut connection, sql, values![xid]).await?;
    Ok(rows.into_iter().next().map(|(status, reason)| {
        let outcome = match status.as_str() {
            "confirmed" => Outcome::Committed,
            "cancelled" => Outcome::Aborted,
            _ => Outcome::Unknown,
        };
        Answer { xid, outcome, reason: Some(reason).filter(|reason| !reason.is_empty()), refused: false }
    }))
}

/// Settles an order of which nobody knows what became: aborts it, unless it is decided already.
/// Either way the answer is final.
pub(super) async fn settle<DB: Database>(orders: &Orders<DB>, xid: Xid) -> Answer {
    let (outcome, reason) = match orders.client.abort(xid).await {
        Ok(()) => (Outcome::Aborted, Some("given up".to_owned())),
        Err(ClientError::Refused { code: ErrorCode::AlreadyDecided, status: Some(status), .. }) => {
            (outcome_of(status), None)
        }
        Err(error) => (Outcome::Unknown, Some(error.to_string())),
    };
    Answer { xid, outcome, reason, refused: false }
}

fn outcome_of(status: Status) -> Outcome {
    match status.decision() {
        Some(Decision::Commit) => Outcome::Committed,
        Some(Decision::Abort) => Outcome::Aborted,
        None => Outcome::Unknown,
    }
}

/// Notes the reason beside the order, for people. Only a note: the branch decides the status.
async fn note<DB: Database>(orders: &Orders<DB>, xid: Xid, why: &str) {
    let sql = "UPDATE orders SET reason = $2 WHERE xid = $1 AND reason IS NULL AND status <> 'confirmed'";
    let noted = async {
        let mut connection = orders.pools.write.acquire().await?;
        DB::execute(&mut connection, sql, values![xid, why]).await
    };
    if let Err(error) = noted.await {
        tracing::warn!(%xid, %error, "the reason of an aborted order could not be noted");
    }
}
