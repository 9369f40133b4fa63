//! A transfer: two entries at two banks, both or none.

use serde::{Deserialize, Serialize};
use unanimity_sdk::{
    ClientError, Decision, ErrorCode, SendInTransaction as _, Status, TransactionError, Xid,
};

use super::{Teller, Transfer};
use crate::bank::Entry;

/// What is known of a transfer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// The transfer's id.
    pub id: Xid,
    /// What became of it.
    pub outcome: Outcome,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How a transfer ended, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The money moves: nothing can stop it any more.
    Committed,
    /// It does not, and never will.
    Aborted,
    /// Nobody knows yet: ask again. Never "probably not".
    Unknown,
}

/// Why the transaction's closure gave up: a bank said no, or something did not work.
#[derive(Debug)]
struct GaveUp(String);

/// Runs the transaction. It aborts on every way out but the last line of the closure, and by its deadline if this
/// process dies.
pub(super) async fn transfer(teller: &Teller, transfer: &Transfer) -> Answer {
    let xid = Teller::xid(transfer);
    let minus = (&transfer.from, -transfer.cents);
    let plus = (&transfer.to, transfer.cents);
    // Always in the order of the banks' names: what is prepared holds its account until the end, and two transfers
    // that visit two banks in opposite order would wait for each other, where no database can see it.
    let entries = if transfer.from.bank < transfer.to.bank { [minus, plus] } else { [plus, minus] };
    let result = teller
        .client
        .two_phase("transfer")
        .xid(xid)
        .timeout(teller.timeout)
        .run(async |tx| {
            for (place, cents) in entries {
                let url =
                    teller.banks.get(&place.bank).ok_or_else(|| GaveUp(format!("no bank {}", place.bank)))?;
                let entry = Entry { account: place.account.clone(), cents };
                // The context goes along in a header, the branch's vote comes back in one.
                let answer = teller.http.post(format!("{url}/entries")).json(&entry).send_in(&tx).await;
                said_yes(&place.bank, answer).await?;
            }
            Ok(())
        })
        .await;
    let (outcome, reason) = match result {
        // The decision is durable: every bank will commit what it prepared.
        Ok(()) => (Outcome::Committed, None),
        // Perhaps because somebody else made a transfer of this id: what became of it counts.
        Err(TransactionError::User { error: GaveUp(why), .. }) => {
            (settle(teller, xid).await.outcome, Some(why))
        }
        Err(TransactionError::Aborted { reason, .. }) => (Outcome::Aborted, Some(reason.to_string())),
        // Sent and not answered, it may have begun.
        Err(TransactionError::Begin(error)) => {
            let answer = settle(teller, xid).await;
            (answer.outcome, Some(format!("could not begin: {error}")))
        }
        Err(TransactionError::OutcomeUnknown { error, .. }) => (Outcome::Unknown, Some(error.to_string())),
    };
    Answer { id: xid, outcome, reason: reason.filter(|_| outcome != Outcome::Committed) }
}

/// Whether a bank did its part.
async fn said_yes(bank: &str, answer: reqwest::Result<reqwest::Response>) -> Result<(), GaveUp> {
    let answer = answer.map_err(|_| GaveUp(format!("{bank}: no answer")))?;
    if answer.status().is_success() {
        return Ok(());
    }
    let text = answer.text().await.unwrap_or_default();
    Err(GaveUp(format!("{bank}: {text}")))
}

/// What the coordinator knows of a transfer; `None` if it never heard of it.
pub(super) async fn ask(teller: &Teller, xid: Xid) -> Option<Answer> {
    let (outcome, reason) = match teller.client.status(xid).await {
        Ok(info) => (outcome_of(info.status), None),
        Err(error) if error.code() == Some(ErrorCode::TransactionNotFound) => return None,
        Err(error) => (Outcome::Unknown, Some(error.to_string())),
    };
    Some(Answer { id: xid, outcome, reason })
}

/// Settles a transfer of which nobody knows what became: aborts it, unless it is decided already. Either way the
/// answer is final.
pub(super) async fn settle(teller: &Teller, xid: Xid) -> Answer {
    let (outcome, reason) = match teller.client.abort(xid).await {
        Ok(()) => (Outcome::Aborted, Some("given up".to_owned())),
        Err(ClientError::Refused { code: ErrorCode::AlreadyDecided, status: Some(status), .. }) => {
            (outcome_of(status), None)
        }
        Err(error) => (Outcome::Unknown, Some(error.to_string())),
    };
    Answer { id: xid, outcome, reason }
}

fn outcome_of(status: Status) -> Outcome {
    match status.decision() {
        Some(Decision::Commit) => Outcome::Committed,
        Some(Decision::Abort) => Outcome::Aborted,
        None => Outcome::Unknown,
    }
}
