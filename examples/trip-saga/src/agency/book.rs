//! Booking a trip: submit the saga, and tell honestly what is known of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use unanimity_sdk::{
    BranchStatus, ClientError, Decision, ErrorCode, Status, TransactionError, TransactionInfo, Xid,
};

use super::plan::{PricedTrip, saga};
use super::routes::Agency;
use crate::cars::Car;
use crate::flights::Seat;
use crate::hotels::Room;

/// How long a request waits for the end of a trip. Then the answer is "unknown": the trip goes on.
const WAIT_MAX: Duration = Duration::from_secs(4);

/// What became of a trip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The trip's id, which is the saga's.
    pub id: Xid,
    /// How it ended, as far as is known.
    pub outcome: Outcome,
    /// Why it turned back, or is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was booked: the steps' results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booked: Option<Booked>,
}

/// What a trip has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booked {
    /// The seat on the flight.
    pub seat: i64,
    /// The room in the hotel.
    pub room: i64,
    /// The car.
    pub car: i64,
}

/// How a trip ended, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All steps are done.
    Booked,
    /// It turned back: what was booked is given back, and nothing was paid.
    TurnedBack,
    /// Nobody knows yet: ask again (`POST /trips` with the same id, or `GET /trips/{id}`).
    Unknown,
}

/// Submits the trip, and waits for its end. Sent again under the same xid it is the same trip.
pub(super) async fn book(agency: &Agency, xid: Xid, trip: &PricedTrip) -> Answer {
    let submitted = match saga(xid, trip, agency.trip_timeout) {
        Ok(saga) => saga.submit(&agency.client).await,
        Err(error) => Err(TransactionError::Begin(error)),
    };
    match submitted {
        Ok(_) => wait(agency, xid).await,
        // Not accepted now; but under this xid it may have run, or been cancelled, before.
        Err(TransactionError::Begin(error)) => match ask(agency, xid).await {
            Some(answer) => answer,
            None => Answer { reason: Some(error.to_string()), ..answer(xid, Outcome::TurnedBack) },
        },
        Err(error) => Answer { reason: Some(error.to_string()), ..answer(xid, Outcome::Unknown) },
    }
}

async fn wait(agency: &Agency, xid: Xid) -> Answer {
    match agency.client.wait_decided(xid, WAIT_MAX).await {
        Ok(info) => told(&info),
        Err(error) => Answer { reason: Some(error.to_string()), ..answer(xid, Outcome::Unknown) },
    }
}

/// What the coordinator says of a trip now; `None` if it knows nothing about it.
pub(super) async fn ask(agency: &Agency, xid: Xid) -> Option<Answer> {
    match agency.client.status(xid).await {
        Ok(info) => Some(told(&info)),
        Err(error) if error.code() == Some(ErrorCode::TransactionNotFound) => None,
        Err(error) => Some(Answer { reason: Some(error.to_string()), ..answer(xid, Outcome::Unknown) }),
    }
}

/// Turns a trip back, unless it is too late. A trip that nobody has heard of can never be booked then.
pub(super) async fn cancel(agency: &Agency, xid: Xid) -> Answer {
    match agency.client.abort(xid).await {
        Ok(()) => Answer { reason: Some("cancelled".to_owned()), ..answer(xid, Outcome::TurnedBack) },
        Err(ClientError::Refused { code: ErrorCode::AlreadyDecided, status: Some(status), .. }) => {
            answer(xid, outcome(status))
        }
        // Charged, perhaps: the trip goes on, and ends by itself.
        Err(error) => Answer { reason: Some(error.to_string()), ..answer(xid, Outcome::Unknown) },
    }
}

const fn answer(id: Xid, outcome: Outcome) -> Answer {
    Answer { id, outcome, reason: None, booked: None }
}

fn told(info: &TransactionInfo) -> Answer {
    let outcome = outcome(info.status);
    let (mut reason, mut booked) = (None, None);
    match outcome {
        Outcome::Booked => booked = results(info),
        Outcome::TurnedBack => {
            // The step that said no, or why the coordinator turned the saga.
            let refused = info.details.iter().find(|step| step.status == Some(BranchStatus::Refused));
            let refused = refused.map(|step| step.last_error.clone()).filter(|why| !why.is_empty());
            reason = refused.or_else(|| info.abort_reason.map(|why| why.to_string()));
        }
        Outcome::Unknown => reason = Some(format!("it is {}", info.status)),
    }
    Answer { id: info.xid, outcome, reason, booked }
}

fn outcome(status: Status) -> Outcome {
    match status.decision() {
        Some(Decision::Commit) => Outcome::Booked,
        Some(Decision::Abort) => Outcome::TurnedBack,
        None => Outcome::Unknown,
    }
}

/// `None` if the results are not kept any more.
fn results(info: &TransactionInfo) -> Option<Booked> {
    let seat = info.result_of::<Seat>("flight").ok()??.seat;
    let room = info.result_of::<Room>("hotel").ok()??.room;
    let car = info.result_of::<Car>("car").ok()??.car;
    Some(Booked { seat, room, car })
}
