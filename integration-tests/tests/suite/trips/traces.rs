//! What one trip looks like in the four databases, by plain SQL.

use std::collections::BTreeMap;

use anyhow::Context as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{ConnectOptions as _, Connection as _, FromRow};

use super::Stack;
use super::customers::Booked;
use super::services::Service;

/// One trip as the four databases have it.
#[derive(Debug, Default, Clone)]
pub(super) struct Traces {
    /// Customer, flight, hotel, class of cars, cents.
    pub(super) ordered: Option<(String, String, String, String, i64)>,
    /// Status, flight, seat, passenger.
    pub(super) booking: Option<(String, String, i64, String)>,
    /// Status, hotel, room, guest; flight and seat of the guest.
    pub(super) stay: Option<(String, String, i64, String, String, i64)>,
    /// Status, class, car, driver.
    pub(super) rental: Option<(String, String, i64, String)>,
    /// Customer, cents.
    pub(super) charge: Option<(String, i64)>,
    /// Flight, seat, room, car, passenger.
    pub(super) ticket: Option<(String, i64, i64, i64, String)>,
}

impl Traces {
    /// What a step has left: `booked`, `cancelled` or nothing.
    pub(super) fn of_step(&self, step: &str) -> Option<&str> {
        match step {
            "flight" => self.booking.as_ref().map(|booking| booking.0.as_str()),
            "hotel" => self.stay.as_ref().map(|stay| stay.0.as_str()),
            "car" => self.rental.as_ref().map(|rental| rental.0.as_str()),
            "charge" => self.charge.as_ref().map(|_| "booked"),
            "tickets" => self.ticket.as_ref().map(|_| "booked"),
            _ => None,
        }
    }

    /// Whether all of it took effect (what it has), or nothing that stayed (`None`).
    pub(super) fn outcome(&self) -> Result<Option<Booked>, &'static str> {
        if let Some(stay) = &self.stay
            && self.booking.as_ref().is_none_or(|booking| (&booking.1, booking.2) != (&stay.4, stay.5))
        {
            return Err("the hotel was given another seat than was booked");
        }
        let left: Vec<_> = STEPS.iter().map(|step| self.of_step(step)).collect();
        if left.iter().all(|left| *left == Some("booked")) {
            return self.is_consistent();
        }
        let undone = left.iter().all(|left| matches!(left, None | Some("cancelled")));
        if undone { Ok(None) } else { Err("it is neither complete nor fully compensated") }
    }

    /// The parts of a complete trip go together.
    fn is_consistent(&self) -> Result<Option<Booked>, &'static str> {
        let Self {
            ordered: Some((customer, flight, hotel, class, cents)),
            booking: Some(booking),
            stay: Some(stay),
            rental: Some(rental),
            charge: Some(charge),
            ticket: Some(ticket),
        } = self
        else {
            return Err("nobody asked the agency for it");
        };
        let as_ordered = (&booking.1, &stay.1, &rental.1) == (flight, hotel, class)
            && (&charge.0, charge.1) == (customer, *cents)
            && [&booking.3, &stay.3, &rental.3, &ticket.4].iter().all(|name| *name == customer);
        if !as_ordered {
            return Err("its parts are not of the same trip");
        }
        if (&ticket.0, ticket.1, ticket.2, ticket.3) != (&booking.1, booking.2, stay.2, rental.2) {
            return Err("its ticket says something else than what is booked");
        }
        Ok(Some((booking.2, stay.2, rental.2)))
    }
}

/// The steps of a trip.
pub(super) const STEPS: [&str; 5] = ["flight", "hotel", "car", "charge", "tickets"];

pub(super) async fn read(stack: &Stack) -> anyhow::Result<BTreeMap<String, Traces>> {
    let mut all: BTreeMap<String, Traces> = BTreeMap::new();
    let sql = "SELECT xid, customer, flight, hotel, car, cents FROM trips";
    for (xid, a, b, c, d, e) in rows(stack, Service::Agency, sql).await? {
        trip(&mut all, xid).ordered = Some((a, b, c, d, e));
    }
    let sql = "SELECT xid, status, flight, seat, passenger FROM bookings";
    for (xid, a, b, c, d) in rows(stack, Service::Flights, sql).await? {
        trip(&mut all, xid).booking = Some((a, b, c, d));
    }
    let sql = "SELECT xid, status, hotel, room, guest, flight, seat FROM stays";
    for (xid, a, b, c, d, e, f) in rows(stack, Service::Hotels, sql).await? {
        trip(&mut all, xid).stay = Some((a, b, c, d, e, f));
    }
    let sql = "SELECT xid, status, class, car, driver FROM rentals";
    for (xid, a, b, c, d) in rows(stack, Service::Cars, sql).await? {
        trip(&mut all, xid).rental = Some((a, b, c, d));
    }
    for (xid, a, b) in rows(stack, Service::Agency, "SELECT xid, customer, cents FROM charges").await? {
        trip(&mut all, xid).charge = Some((a, b));
    }
    let sql = "SELECT xid, flight, seat, room, car, passenger FROM tickets";
    for (xid, a, b, c, d, e) in rows(stack, Service::Flights, sql).await? {
        trip(&mut all, xid).ticket = Some((a, b, c, d, e));
    }
    Ok(all)
}

fn trip(all: &mut BTreeMap<String, Traces>, xid: String) -> &mut Traces {
    all.entry(xid).or_default()
}

/// What does not add up inside of each database.
pub(super) async fn sums(stack: &Stack) -> anyhow::Result<Vec<String>> {
    let checks = [
        (
            Service::Agency,
            "SELECT customer FROM accounts a WHERE balance < 0 OR opening - balance <>
             (SELECT coalesce(sum(cents), 0) FROM charges c WHERE c.customer = a.customer)",
        ),
        (
            Service::Flights,
            "SELECT coalesce(t.xid, b.xid) FROM seats t
             FULL JOIN (SELECT * FROM bookings WHERE status = 'booked') b
             ON b.xid = t.xid AND b.flight = t.flight AND b.seat = t.seat WHERE (t.xid IS NULL) <> (b.xid IS NULL)",
        ),
        (
            Service::Hotels,
            "SELECT coalesce(t.xid, b.xid) FROM rooms t
             FULL JOIN (SELECT * FROM stays WHERE status = 'booked') b
             ON b.xid = t.xid AND b.hotel = t.hotel AND b.room = t.room WHERE (t.xid IS NULL) <> (b.xid IS NULL)",
        ),
        (
            Service::Cars,
            "SELECT coalesce(t.xid, b.xid) FROM cars t
             FULL JOIN (SELECT * FROM rentals WHERE status = 'booked') b
             ON b.xid = t.xid AND b.class = t.class AND b.car = t.car WHERE (t.xid IS NULL) <> (b.xid IS NULL)",
        ),
    ];
    let mut problems = Vec::new();
    for (service, sql) in checks {
        let wrong: Vec<(String,)> = rows(stack, service, sql).await?;
        problems.extend(wrong.into_iter().map(|(of,)| format!("{} does not add up: {of}", service.name())));
    }
    Ok(problems)
}

async fn rows<T>(stack: &Stack, service: Service, sql: &'static str) -> anyhow::Result<Vec<T>>
where
    T: for<'r> FromRow<'r, SqliteRow> + Send + Unpin,
{
    let options: SqliteConnectOptions = stack.services.database_url(service).parse()?;
    let mut connection = options.read_only(true).connect().await?;
    let rows = sqlx::query_as(sql).fetch_all(&mut connection).await.with_context(|| sql.to_owned())?;
    connection.close().await?;
    Ok(rows)
}
