//! What must be true when the dust has settled, judged from what the customers heard, from plain SQL on the four
//! databases and from the coordinator's own answers.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration_tests::coordinator::log_verify;
use integration_tests::shop::Service;
use integration_tests::wait::until;
use sqlx::{Connection as _, FromRow, PgConnection, Row as _};
use uuid::Uuid;

use super::Stack;
use super::customers::{Customers, Heard, Told};
use crate::one_story::{of_hearsay, of_history};

/// How long the rest may take once everything works again.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// How long a coordinator may take to stop in good order.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Problems that are spelled out.
const PROBLEMS_MAX: usize = 20;

pub(crate) struct Verdict {
    pub(crate) counts: String,
    pub(crate) settled_in: Duration,
    /// Blocks below the floors of all partitions: trimmed, but for epoch blocks.
    pub(crate) trimmed: u64,
    pub(crate) problems: Vec<String>,
}

/// One order as the three databases have it.
#[derive(Debug, Default)]
struct Traces {
    order: Option<String>,
    reservation: Option<String>,
    hold: Option<String>,
}

impl Traces {
    fn all(&self) -> [Option<&str>; 3] {
        [self.order.as_deref(), self.reservation.as_deref(), self.hold.as_deref()]
    }

    /// Committed in all three, or in none and without an effect.
    fn outcome(&self) -> Result<Told, &'static str> {
        match self.all() {
            [Some("confirmed"), Some("sold"), Some("paid")] => Ok(Told::Committed),
            [None | Some("cancelled"), None | Some("released"), None | Some("released")] => Ok(Told::Aborted),
            _ => Err("it took effect in one database and not in another"),
        }
    }
}

pub(crate) async fn reach(stack: &mut Stack, customers: &Customers) -> anyhow::Result<Verdict> {
    let started = Instant::now();
    until("everything is settled", SETTLE_LIMIT, async || settled(stack).await).await?;
    let settled_in = started.elapsed();

    // Who never heard an outcome asks again: now somebody must know.
    let unknown: Vec<Uuid> = customers
        .all()
        .into_iter()
        .filter(|(_, heard)| heard.has(Told::Unknown))
        .map(|(xid, _)| xid)
        .collect();
    for xid in &unknown {
        let told = customers.ask_shop(*xid).await;
        if told == Told::Unknown {
            // Never begun, as far as anybody knows; from now on it never can be.
            let told = customers.settle(*xid).await;
            ensure!(
                told != Told::Unknown,
                "the outcome of {xid} is still unknown: {:?}",
                customers.all().get(xid)
            );
        }
        let told = customers.ask_coordinator(*xid).await;
        ensure!(told != Told::Unknown, "the coordinator does not know the outcome of {xid}");
    }
    // The aborts of the last loop are transactions too.
    until("the last aborts are settled", SETTLE_LIMIT, async || settled(stack).await).await?;
    for coordinator in &mut stack.coordinators {
        coordinator.process.terminate()?;
        let exit = coordinator.process.exit(STOP_LIMIT).await?;
        ensure!(exit.success(), "{} ended with {exit}", coordinator.process.name());
    }

    let heard = customers.all();
    let traces = read_traces(stack).await?;
    let history = read_history(stack).await?;
    let mut problems = stories(&heard, &traces, &history);
    problems.extend(sums(stack).await?);
    problems.truncate(PROBLEMS_MAX);
    let (code, verified) = log_verify(&stack.coordinator_db_url).await?;
    if code != Some(0) || verified["ok"] != true {
        problems.push(format!("log verify: {verified}"));
    }
    let floors = verified["partitions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let trimmed = floors.iter().filter_map(|partition| partition["floor"].as_u64()).sum();
    let outcomes = |told| heard.values().filter(|heard| heard.has(told)).count();
    let counts = format!(
        "orders {}, committed {}, aborted {}, at first unknown {}, transactions in history {}, \
         blocks below the floors of the log {trimmed}",
        heard.len(),
        outcomes(Told::Committed),
        outcomes(Told::Aborted),
        unknown.len(),
        history.len()
    );
    Ok(Verdict { counts, settled_in, trimmed, problems })
}

/// Nothing is open: at the coordinator, in the fences, in the business tables.
async fn settled(stack: &Stack) -> anyhow::Result<()> {
    for status in ["active", "preparing", "committing", "aborting"] {
        let open = stack.coordinators[0].list(status).await?;
        ensure!(open.is_empty(), "{} transactions are {status}, {:?} for one", open.len(), open.first());
    }
    for service in Service::ALL {
        let sql =
            "SELECT xid::text, branch_key, state FROM unanimity_fence WHERE state IN ('trying', 'tried')";
        let open: Vec<(String, String, String)> = rows(stack.shop.database_url(service), sql).await?;
        ensure!(open.is_empty(), "{}: open fence rows {open:?}", service.name());
    }
    let open = [
        (Service::Order, "SELECT count(*) FROM orders WHERE status = 'pending'"),
        (Service::Payment, "SELECT count(*) FROM holds WHERE status = 'held'"),
        (Service::Inventory, "SELECT count(*) FROM reservations WHERE status = 'reserved'"),
    ];
    for (service, sql) in open {
        let count: Vec<(i64,)> = rows(stack.shop.database_url(service), sql).await?;
        ensure!(count == [(0,)], "{}: {count:?} are open", service.name());
    }
    // The projection is asynchronous.
    let sql =
        "SELECT xid::text, status FROM transactions WHERE status NOT IN ('committed', 'aborted') LIMIT 5";
    let open: Vec<(String, String)> = rows(&stack.coordinator_db_url, sql).await?;
    ensure!(open.is_empty(), "history: {open:?}");
    Ok(())
}

/// Every order's story: its customer, the three databases and history agree.
fn stories(
    heard: &HashMap<Uuid, Heard>,
    traces: &BTreeMap<String, Traces>,
    history: &HashMap<String, (String, bool)>,
) -> Vec<String> {
    let mut problems = Vec::new();
    let nothing = Traces::default();
    for (xid, heard) in heard {
        let xid = xid.to_string();
        let traces = traces.get(&xid).unwrap_or(&nothing);
        let recorded = history.get(&xid);
        let mut problem = |what: &str| {
            problems.push(format!(
                "order {xid}: {what}: heard {heard:?}, databases {traces:?}, history {recorded:?}"
            ));
        };
        let committed = match traces.outcome() {
            Ok(outcome) => outcome == Told::Committed,
            Err(why) => {
                problem(why);
                continue;
            }
        };
        of_hearsay(heard, committed).into_iter().chain(of_history(recorded, committed)).for_each(problem);
    }
    let strangers = traces.keys().filter(|xid| !xid.parse().is_ok_and(|xid| heard.contains_key(&xid)));
    problems.extend(strangers.map(|xid| format!("nobody ordered {xid}")));
    problems
}

/// Stock and money add up exactly, row by row.
async fn sums(stack: &Stack) -> anyhow::Result<Vec<String>> {
    let checks = [
        (
            Service::Inventory,
            "SELECT s.sku || ': ' || s::text FROM stock s
             WHERE s.available < 0 OR s.reserved <> 0 OR s.initial <> s.available + coalesce((
                 SELECT sum(quantity) FROM reservations r WHERE r.sku = s.sku AND r.status = 'sold'), 0)",
        ),
        (
            Service::Payment,
            "SELECT a.name || ': ' || a::text FROM accounts a
             WHERE a.balance < 0 OR a.held <> 0 OR a.opening <> a.balance + coalesce((
                 SELECT sum(cents) * CASE WHEN a.name = 'merchant' THEN -1 ELSE 1 END FROM holds h
                 WHERE h.status = 'paid' AND a.name IN (h.customer, 'merchant')), 0)",
        ),
    ];
    let mut problems = Vec::new();
    for (service, sql) in checks {
        let wrong: Vec<(String,)> = rows(stack.shop.database_url(service), sql).await?;
        problems.extend(wrong.into_iter().map(|(row,)| format!("{} does not add up: {row}", service.name())));
    }
    // What the three say of each order that took effect: the same goods, the same customer, the same money.
    let orders =
        "SELECT xid, sku, quantity, customer, cents FROM orders WHERE status = 'confirmed' ORDER BY xid";
    let orders: Vec<(String, String, i64, String, i64)> =
        rows(stack.shop.database_url(Service::Order), orders).await?;
    let sold = "SELECT xid, sku, quantity FROM reservations WHERE status = 'sold' ORDER BY xid";
    let sold: Vec<(String, String, i64)> = rows(stack.shop.database_url(Service::Inventory), sold).await?;
    let paid = "SELECT xid, customer, cents FROM holds WHERE status = 'paid' ORDER BY xid";
    let paid: Vec<(String, String, i64)> = rows(stack.shop.database_url(Service::Payment), paid).await?;
    if !orders
        .iter()
        .map(|(xid, sku, quantity, ..)| (xid, sku, quantity))
        .eq(sold.iter().map(|(x, s, q)| (x, s, q)))
    {
        problems.push("what was ordered is not what was sold".to_owned());
    }
    if !orders
        .iter()
        .map(|(xid, _, _, name, cents)| (xid, name, cents))
        .eq(paid.iter().map(|(x, n, c)| (x, n, c)))
    {
        problems.push("what was ordered is not what was paid".to_owned());
    }
    Ok(problems)
}

async fn read_traces(stack: &Stack) -> anyhow::Result<BTreeMap<String, Traces>> {
    let mut traces: BTreeMap<String, Traces> = BTreeMap::new();
    let url = |service| stack.shop.database_url(service);
    for (xid, status) in
        rows::<(String, String)>(url(Service::Order), "SELECT xid, status FROM orders").await?
    {
        traces.entry(xid).or_default().order = Some(status);
    }
    let sql = "SELECT xid, status FROM reservations";
    for (xid, status) in rows::<(String, String)>(url(Service::Inventory), sql).await? {
        traces.entry(xid).or_default().reservation = Some(status);
    }
    for (xid, status) in
        rows::<(String, String)>(url(Service::Payment), "SELECT xid, status FROM holds").await?
    {
        traces.entry(xid).or_default().hold = Some(status);
    }
    Ok(traces)
}

/// Status, and whether an operator had a hand in it.
async fn read_history(stack: &Stack) -> anyhow::Result<HashMap<String, (String, bool)>> {
    let mut connection = PgConnection::connect(&stack.coordinator_db_url).await?;
    let rows = sqlx::query("SELECT xid::text, status, heuristic FROM transactions")
        .fetch_all(&mut connection)
        .await?;
    rows.into_iter().map(|row| Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?)))).collect()
}

async fn rows<T>(url: &str, sql: &'static str) -> anyhow::Result<Vec<T>>
where
    T: for<'r> FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
{
    let mut connection = PgConnection::connect(url).await?;
    let rows = sqlx::query_as(sql).fetch_all(&mut connection).await.with_context(|| sql.to_owned())?;
    connection.close().await?;
    Ok(rows)
}

/// The judge must be able to find what it looks for.
#[cfg(test)]
mod tests {
    use super::*;

    fn judge(heard: &[Told], parts: [Option<&str>; 3], status: Option<&str>) -> Vec<String> {
        let xid = Uuid::new_v4();
        let heard = Heard(heard.iter().map(|told| ("somebody", *told)).collect());
        let [order, reservation, hold] = parts.map(|part| part.map(str::to_owned));
        let traces = Traces { order, reservation, hold };
        let history = status.map(|status| (xid.to_string(), (status.to_owned(), false)));
        stories(
            &HashMap::from([(xid, heard)]),
            &BTreeMap::from([(xid.to_string(), traces)]),
            &history.into_iter().collect(),
        )
    }

    const SOLD: [Option<&str>; 3] = [Some("confirmed"), Some("sold"), Some("paid")];
    const UNDONE: [Option<&str>; 3] = [Some("cancelled"), None, Some("released")];

    #[test]
    fn one_story_is_fine() {
        assert!(judge(&[Told::Unknown, Told::Committed], SOLD, Some("committed")).is_empty());
        assert!(judge(&[Told::Aborted, Told::Aborted], UNDONE, Some("aborted")).is_empty());
        assert!(judge(&[Told::Aborted], [None; 3], Some("aborted")).is_empty());
    }

    #[test]
    fn two_stories_are_not() {
        for (heard, parts, status, what) in [
            (&[Told::Committed, Told::Aborted][..], SOLD, Some("committed"), "two outcomes"),
            (&[Told::Aborted], SOLD, Some("committed"), "something else than what is"),
            (&[Told::Committed], UNDONE, Some("aborted"), "something else than what is"),
            (&[Told::Unknown], SOLD, Some("committed"), "never heard"),
            (&[Told::Committed], SOLD, Some("aborted"), "history"),
            (&[Told::Committed], SOLD, None, "history"),
            (&[Told::Committed], [SOLD[0], None, SOLD[2]], Some("committed"), "in one database"),
            (&[Told::Aborted], [UNDONE[0], SOLD[1], None], Some("aborted"), "in one database"),
            (&[Told::Aborted], [UNDONE[0], None, Some("held")], Some("aborted"), "in one database"),
        ] {
            let problems = judge(heard, parts, status);
            assert!(problems.iter().any(|problem| problem.contains(what)), "{what}: {problems:?}");
        }
    }

    #[test]
    fn an_order_that_nobody_placed_is_found() {
        let traces = BTreeMap::from([(Uuid::new_v4().to_string(), Traces::default())]);
        assert_eq!(stories(&HashMap::new(), &traces, &HashMap::new()).len(), 1);
    }
}
