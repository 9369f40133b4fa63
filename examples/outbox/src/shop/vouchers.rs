//! A voucher: the same promise with a prepared message, and the coordinator asks if we die in between.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use unanimity_sdk::{Client, Fence, FenceDatabase, Participant, TransactionError, Xid};
use uuid::Uuid;

use crate::database::{Database, values};
use crate::warehouse::{PARTICIPANT, VOUCHER, Voucher};

/// What check-backs ask for.
pub(crate) const NAME: &str = "voucher";

/// How long the coordinator waits for the submit before it asks.
const SUBMIT_MAX: Duration = Duration::from_secs(4);

/// What the handlers share.
#[derive(Debug)]
pub struct Vouchers<DB: FenceDatabase> {
    /// Prepares messages.
    pub client: Client,
    /// Has a row for each of them.
    pub fence: Fence<DB>,
    /// Answers the check-backs.
    pub participant: Participant<DB>,
    /// Whether [`NewVoucher::crash`] is obeyed.
    pub allow_crashes: bool,
}

impl<DB: FenceDatabase> Clone for Vouchers<DB> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            fence: self.fence.clone(),
            participant: self.participant.clone(),
            allow_crashes: self.allow_crashes,
        }
    }
}

/// The body of `POST /vouchers`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewVoucher {
    /// The voucher's id, which is its message's too.
    pub id: Uuid,
    /// Who gets it, out of the own credit.
    pub customer: String,
    /// How much.
    pub cents: i64,
    /// Where the shop is to die, if it was started with `--allow-crashes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash: Option<Crash>,
}

/// Where to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crash {
    /// In the local transaction.
    BeforeCommit,
    /// Between its commit and the submit.
    AfterCommit,
}

/// Why there is no voucher.
#[derive(Debug)]
pub enum VoucherError {
    /// The customer would owe too much.
    NoCredit,
    /// Something failed; whether there is a voucher is for the table to say.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for VoucherError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Issues a voucher: prepare, local transaction, submit.
///
/// # Errors
/// [`VoucherError`].
pub async fn issue<DB: Database + FenceDatabase>(
    vouchers: &Vouchers<DB>,
    voucher: &NewVoucher,
) -> Result<(), VoucherError> {
    let crash = voucher.crash.filter(|_| vouchers.allow_crashes);
    let xid = Xid::new(voucher.id);
    let told = Voucher { customer: voucher.customer.clone(), cents: voucher.cents };
    let message = vouchers.client.message("voucher").xid(xid).timeout(SUBMIT_MAX);
    let message = message.deliver((PARTICIPANT, VOUCHER), &told)?.check_back("shop", NAME).prepare().await?;

    let mut tx = DB::begin_writing(vouchers.fence.pool()).await?;
    // The row by which a check-back finds out whether this transaction committed.
    vouchers.fence.mark_sent(&mut tx, &message).await?;
    if !write::<DB>(&mut tx, xid, voucher).await? {
        tx.rollback().await?;
        // Not needed: the check-back would say no. It only saves the time.
        message.abort().await?;
        return Err(VoucherError::NoCredit);
    }
    die_if(crash == Some(Crash::BeforeCommit));
    tx.commit().await?;
    die_if(crash == Some(Crash::AfterCommit));
    match message.submit().await {
        Ok(()) => Ok(()),
        // Committed: the check-back finds its row.
        Err(TransactionError::OutcomeUnknown { error, .. }) => {
            tracing::warn!(%xid, %error, "the submit was not answered");
            Ok(())
        }
        // An operator aborted the message in between.
        Err(error) => Err(error.into()),
    }
}

/// The business part of the local transaction. `false`: there is not so much credit.
async fn write<DB: Database + FenceDatabase>(
    tx: &mut DB::Connection,
    xid: Xid,
    voucher: &NewVoucher,
) -> sqlx::Result<bool> {
    let NewVoucher { customer, cents, .. } = voucher;
    let sql = "UPDATE customers SET credit = credit - $1 WHERE name = $2 AND credit >= $3";
    if DB::execute(tx, sql, values![*cents, customer, *cents]).await? == 0 {
        return Ok(false);
    }
    let sql = "INSERT INTO vouchers (xid, customer, cents) VALUES ($1, $2, $3)";
    DB::execute(tx, sql, values![xid, customer, *cents]).await?;
    Ok(true)
}

/// Ends this process as `kill -9` does: nothing is tidied up.
fn die_if(asked: bool) {
    if asked {
        std::process::abort();
    }
}
