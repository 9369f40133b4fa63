//! What must be true of the four databases together.
//!
//! Every trip is **complete** (booked three times, paid, ticket printed) or **undone** (nothing of it is left, nothing
//! was paid). What is neither is **under way**; when the dust has settled there must be none. **Violations** can never
//! be, at no time.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteRow;

use crate::database::reader;

/// Violations that are spelled out; more are only counted.
const VIOLATIONS_MAX: usize = 50;

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Trips that have everything.
    pub complete: usize,
    /// Trips of which something was booked and given back.
    pub compensated: usize,
    /// Trips that never had anything.
    pub nothing: usize,
    /// Trips that are neither complete nor undone, by their ids.
    pub under_way: Vec<String>,
    /// What the customers paid, in cents.
    pub paid: i64,
    /// What must not be: the first 50.
    pub violations: Vec<String>,
    /// How many there are.
    pub violations_total: usize,
}

impl Report {
    /// Whether everything adds up.
    #[must_use]
    pub const fn held(&self) -> bool {
        self.violations_total == 0
    }

    fn violation(&mut self, text: String) {
        self.violations_total += 1;
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(text);
        }
    }
}

/// What one trip looks like in the four databases.
#[derive(Debug, Default)]
struct Traces {
    /// Customer, flight, hotel, class of cars, cents.
    ordered: Option<(String, String, String, String, i64)>,
    /// Status, flight, seat, passenger.
    booking: Option<(String, String, i64, String)>,
    /// Status, hotel, room, guest; flight and seat that the guest comes with.
    stay: Option<(String, String, i64, String, String, i64)>,
    /// Status, class, car, driver.
    rental: Option<(String, String, i64, String)>,
    /// Customer, cents.
    charge: Option<(String, i64)>,
    /// Flight, seat, room, car, passenger.
    ticket: Option<(String, i64, i64, i64, String)>,
}

enum Verdict {
    Complete,
    Compensated,
    Nothing,
    UnderWay,
    Wrong(&'static str),
}

/// Looks at the databases of agency, flights, hotels and cars.
///
/// # Errors
/// If one cannot be read.
pub async fn check_invariants(urls: [&str; 4]) -> anyhow::Result<Report> {
    let [agency, flights, hotels, cars] = urls;
    let mut report = Report::default();
    let mut trips: BTreeMap<String, Traces> = BTreeMap::new();
    {
        let pool = reader(agency)?;
        for (xid, a, b, c, d, e) in
            rows(&pool, "SELECT xid, customer, flight, hotel, car, cents FROM trips").await?
        {
            trip(&mut trips, xid).ordered = Some((a, b, c, d, e));
        }
        for (xid, customer, cents) in rows(&pool, "SELECT xid, customer, cents FROM charges").await? {
            report.paid += cents;
            trip(&mut trips, xid).charge = Some((customer, cents));
        }
        let sql = "SELECT customer FROM accounts a WHERE opening - balance <>
                   (SELECT coalesce(sum(cents), 0) FROM charges c WHERE c.customer = a.customer)";
        for (customer,) in rows::<(String,)>(&pool, sql).await? {
            report.violation(format!("the account of {customer} does not add up"));
        }
        pool.close().await;
    }
    {
        let pool = reader(flights)?;
        for (xid, a, b, c, d) in
            rows(&pool, "SELECT xid, status, flight, seat, passenger FROM bookings").await?
        {
            trip(&mut trips, xid).booking = Some((a, b, c, d));
        }
        for (xid, a, b, c, d, e) in
            rows(&pool, "SELECT xid, flight, seat, room, car, passenger FROM tickets").await?
        {
            trip(&mut trips, xid).ticket = Some((a, b, c, d, e));
        }
        let sql = "SELECT coalesce(t.xid, b.xid) FROM seats t FULL JOIN (SELECT * FROM bookings WHERE status = 'booked') b
                   ON b.xid = t.xid AND b.flight = t.flight AND b.seat = t.seat
                   WHERE (t.xid IS NULL) <> (b.xid IS NULL)";
        taken(&mut report, &pool, "seat", sql).await?;
        pool.close().await;
    }
    {
        let pool = reader(hotels)?;
        for (xid, a, b, c, d, e, f) in
            rows(&pool, "SELECT xid, status, hotel, room, guest, flight, seat FROM stays").await?
        {
            trip(&mut trips, xid).stay = Some((a, b, c, d, e, f));
        }
        let sql = "SELECT coalesce(t.xid, b.xid) FROM rooms t FULL JOIN (SELECT * FROM stays WHERE status = 'booked') b
                   ON b.xid = t.xid AND b.hotel = t.hotel AND b.room = t.room
                   WHERE (t.xid IS NULL) <> (b.xid IS NULL)";
        taken(&mut report, &pool, "room", sql).await?;
        pool.close().await;
    }
    {
        let pool = reader(cars)?;
        for (xid, a, b, c, d) in rows(&pool, "SELECT xid, status, class, car, driver FROM rentals").await? {
            trip(&mut trips, xid).rental = Some((a, b, c, d));
        }
        let sql = "SELECT coalesce(t.xid, b.xid) FROM cars t FULL JOIN (SELECT * FROM rentals WHERE status = 'booked') b
                   ON b.xid = t.xid AND b.class = t.class AND b.car = t.car
                   WHERE (t.xid IS NULL) <> (b.xid IS NULL)";
        taken(&mut report, &pool, "car", sql).await?;
        pool.close().await;
    }
    for (xid, traces) in trips {
        match judge(&traces) {
            Verdict::Complete => report.complete += 1,
            Verdict::Compensated => report.compensated += 1,
            Verdict::Nothing => report.nothing += 1,
            Verdict::UnderWay => report.under_way.push(xid),
            Verdict::Wrong(why) => report.violation(format!("trip {xid}: {why}: {traces:?}")),
        }
    }
    Ok(report)
}

fn trip(trips: &mut BTreeMap<String, Traces>, xid: String) -> &mut Traces {
    trips.entry(xid).or_default()
}

/// Whether the parts of one trip go together.
fn judge(traces: &Traces) -> Verdict {
    let Traces { ordered, booking, stay, rental, charge, ticket } = traces;
    // What was passed on is what was booked, whatever became of it.
    if let Some(stay) = stay
        && booking.as_ref().is_none_or(|booking| (&booking.1, booking.2) != (&stay.4, stay.5))
    {
        return Verdict::Wrong("the hotel waits for a guest from another seat");
    }
    let statuses = [
        booking.as_ref().map(|booking| booking.0.as_str()),
        stay.as_ref().map(|stay| stay.0.as_str()),
        rental.as_ref().map(|rental| rental.0.as_str()),
    ];
    if let (Some(charge), Some(ticket)) = (charge, ticket) {
        let (Some(ordered), Some(booking), Some(stay), Some(rental)) = (ordered, booking, stay, rental)
        else {
            return Verdict::Wrong("a ticket without a part of the trip");
        };
        if statuses.iter().any(|status| *status != Some("booked")) {
            return Verdict::Wrong("a part of a paid trip is cancelled");
        }
        let (customer, flight, hotel, class, cents) = ordered;
        let is_as_ordered = (&booking.1, &stay.1, &rental.1) == (flight, hotel, class)
            && (&charge.0, charge.1) == (customer, *cents)
            && [&booking.3, &stay.3, &rental.3, &ticket.4].iter().all(|name| *name == customer);
        if !is_as_ordered {
            return Verdict::Wrong("the parts are not of the same trip");
        }
        let has_what_was_booked =
            (&ticket.0, ticket.1, ticket.2, ticket.3) == (&booking.1, booking.2, stay.2, rental.2);
        return if has_what_was_booked {
            Verdict::Complete
        } else {
            Verdict::Wrong("the ticket says something else than what is booked")
        };
    }
    if charge.is_some() || ticket.is_some() || statuses.contains(&Some("booked")) {
        return Verdict::UnderWay;
    }
    if statuses.contains(&Some("cancelled")) { Verdict::Compensated } else { Verdict::Nothing }
}

/// Seats, rooms and cars are taken exactly where a booking says so.
async fn taken(report: &mut Report, pool: &SqlitePool, what: &str, sql: &'static str) -> anyhow::Result<()> {
    for (xid,) in rows::<(String,)>(pool, sql).await? {
        report.violation(format!("trip {xid}: the {what} is not what the booking says"));
    }
    Ok(())
}

async fn rows<T>(pool: &SqlitePool, sql: &'static str) -> sqlx::Result<Vec<T>>
where
    T: for<'r> sqlx::FromRow<'r, SqliteRow> + Send + Unpin,
{
    sqlx::query_as(sql).fetch_all(pool).await
}
