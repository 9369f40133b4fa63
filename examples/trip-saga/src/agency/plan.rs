//! The saga.

use std::time::Duration;

use unanimity_sdk::{ClientError, Retry, Saga, Xid};

use super::charge::Bill;
use crate::cars::Rental;
use crate::flights::Flight;
use crate::hotels::Stay;

/// The first waits between two attempts of a step are about so long …
const RETRY_FROM: Duration = Duration::from_millis(100);
/// … and the later ones at most so long: a service that was restarted shall not wait long for its turn.
const RETRY_TO: Duration = Duration::from_secs(1);
/// How long one attempt of a step may take. It does a few rows' work; more means that something hangs.
const STEP_TIMEOUT: Duration = Duration::from_secs(3);

/// A trip with its price: all that its plan is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PricedTrip {
    /// Who travels and pays.
    pub customer: String,
    /// Which flight.
    pub flight: String,
    /// Which hotel.
    pub hotel: String,
    /// Which class of cars.
    pub car: String,
    /// What it costs altogether.
    pub cents: i64,
}

/// The plan of a trip. The same trip under the same xid is the same plan, and runs once.
///
/// # Errors
/// If a payload is too large.
pub fn saga(xid: Xid, trip: &PricedTrip, timeout: Duration) -> Result<Saga, ClientError> {
    let PricedTrip { customer, flight, hotel, car, cents } = trip.clone();
    let flight = Flight { flight, passenger: customer.clone() };
    let stay = Stay { hotel, guest: customer.clone() };
    let rental = Rental { class: car, driver: customer.clone() };
    let retry = Retry { initial: RETRY_FROM, cap: RETRY_TO };
    let saga = Saga::new("trip")
        .xid(xid)
        // Not charged by then, it turns back.
        .timeout(timeout)
        .step("flight")
        .action(("flights", "book"))
        .compensate(("flights", "book"))
        .payload(&flight)?
        .retry(retry)
        .step_timeout(STEP_TIMEOUT)
        // Both wait for the flight, whose seat the hotel gets; neither waits for the other.
        .step("hotel")
        .action(("hotels", "book"))
        .compensate(("hotels", "book"))
        .after(["flight"])
        .payload(&stay)?
        .retry(retry)
        .step_timeout(STEP_TIMEOUT)
        .step("car")
        .action(("cars", "rent"))
        .compensate(("cars", "rent"))
        .after(["flight"])
        .payload(&rental)?
        .retry(retry)
        .step_timeout(STEP_TIMEOUT)
        // The pivot: a clean no turns the trip back. An unknown outcome does not: it is asked again.
        .step("charge")
        .action(("agency", "charge"))
        .after(["hotel", "car"])
        .pivot()
        .payload(&Bill { customer, cents })?
        .retry(retry)
        .step_timeout(STEP_TIMEOUT)
        .step("tickets")
        .action(("flights", "print"))
        .after(["charge"])
        .forward_only()
        .payload(&flight)?
        .retry(retry)
        .step_timeout(STEP_TIMEOUT);
    Ok(saga)
}
