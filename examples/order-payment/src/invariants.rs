//! What must be true of the three databases together.
//!
//! Two kinds of findings: **violations** can never be, at no time. **Unfinished** is what a
//! transaction under way looks like; when the dust has settled it must be zero.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::database::{Database, Pools, values, with_database};
use crate::inventory::Stock;
use crate::order::OrderCounts;
use crate::payment::Money;

/// Violations that are spelled out; more are only counted.
const VIOLATIONS_MAX: usize = 50;

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Sums over the inventory.
    pub stock: Stock,
    /// Sums over the accounts.
    pub money: Money,
    /// Counts of the orders.
    pub orders: OrderCounts,
    /// Orders whose transaction has not reached all three databases yet.
    pub unfinished: usize,
    /// What must not be: the first 50.
    pub violations: Vec<String>,
    /// How many there are.
    pub violations_total: usize,
}

impl Report {
    /// Whether everything adds up and no order took effect in one database and not in another.
    #[must_use]
    pub const fn held(&self) -> bool {
        self.violations_total == 0
    }

    /// Whether nothing is under way any more.
    #[must_use]
    pub const fn settled(&self) -> bool {
        self.unfinished == 0
            && self.orders.pending == 0
            && self.stock.reserved == 0
            && self.money.held == 0
            && self.open_fence_rows() == 0
    }

    /// Branches that are neither confirmed nor cancelled.
    #[must_use]
    pub const fn open_fence_rows(&self) -> i64 {
        self.orders.open_fence_rows + self.stock.open_fence_rows + self.money.open_fence_rows
    }

    fn violation(&mut self, text: impl FnOnce() -> String) {
        self.violations_total += 1;
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(text());
        }
    }
}

/// What one order looks like in the three databases.
#[derive(Debug, Default)]
struct Traces {
    /// Status, and what was ordered: product, quantity, customer, cents.
    order: Option<(String, String, i64, String, i64)>,
    /// Status, product, quantity.
    reservation: Option<(String, String, i64)>,
    /// Status, customer, cents.
    hold: Option<(String, String, i64)>,
}

/// Looks at the three databases, each of which may be SQLite or PostgreSQL.
///
/// # Errors
/// If one cannot be read.
pub async fn check_invariants(
    order_db: &str,
    payment_db: &str,
    inventory_db: &str,
) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let mut traces = BTreeMap::new();
    with_database!(order_db, read_orders(order_db, &mut report, &mut traces))?;
    with_database!(payment_db, read_payment(payment_db, &mut report, &mut traces))?;
    with_database!(inventory_db, read_inventory(inventory_db, &mut report, &mut traces))?;
    for (xid, traces) in &traces {
        match judge(traces) {
            Verdict::Fine => {}
            Verdict::UnderWay => report.unfinished += 1,
            Verdict::Wrong(why) => report.violation(|| format!("order {xid}: {why}: {traces:?}")),
        }
    }
    let (stock, money, orders) = (report.stock.clone(), report.money.clone(), report.orders.clone());
    if stock.wrong_products != 0 || stock.initial != stock.available + stock.reserved + stock.sold {
        report.violation(|| format!("the stock does not add up: {stock:?}"));
    }
    if money.opening != money.customers + money.held + money.revenue
        || money.revenue != money.paid
        || money.held != money.on_hold
    {
        report.violation(|| format!("the money does not add up: {money:?}"));
    }
    if report.settled() && orders.confirmed_cents != money.revenue {
        report.violation(|| "the revenue is not what the confirmed orders cost".to_owned());
    }
    Ok(report)
}

enum Verdict {
    Fine,
    UnderWay,
    Wrong(&'static str),
}

/// Whether the three parts of one order go together.
fn judge(traces: &Traces) -> Verdict {
    let order = traces.order.as_ref().map(|order| order.0.as_str());
    let stock = traces.reservation.as_ref().map(|reservation| reservation.0.as_str());
    let money = traces.hold.as_ref().map(|hold| hold.0.as_str());
    let parts = [order, stock, money];
    let committed = parts.iter().any(|part| matches!(part, Some("confirmed" | "sold" | "paid")));
    let aborted = parts.iter().any(|part| matches!(part, Some("cancelled" | "released")));
    let open = parts.iter().any(|part| matches!(part, Some("pending" | "reserved" | "held")));
    if committed && aborted {
        return Verdict::Wrong("takes effect in one service and not in another");
    }
    if committed {
        let (Some(order), Some(reservation), Some(hold)) = (&traces.order, &traces.reservation, &traces.hold)
        else {
            return Verdict::Wrong("takes effect without a part of it");
        };
        if (&reservation.1, reservation.2) != (&order.1, order.2) || (&hold.1, hold.2) != (&order.3, order.4)
        {
            return Verdict::Wrong("the parts are not of the same order");
        }
    }
    if open { Verdict::UnderWay } else { Verdict::Fine }
}

type AllTraces = BTreeMap<String, Traces>;

async fn read_orders<DB: Database>(
    url: &str,
    report: &mut Report,
    traces: &mut AllTraces,
) -> anyhow::Result<()> {
    let pools: Pools<DB> = DB::open(url).await?;
    report.orders = OrderCounts::read(&pools).await?;
    let sql = "SELECT xid, status, sku, quantity, customer, cents FROM orders";
    let rows: Vec<(String, String, String, i64, String, i64)> = rows(&pools, sql).await?;
    for (xid, status, sku, quantity, customer, cents) in rows {
        traces.entry(xid).or_default().order = Some((status, sku, quantity, customer, cents));
    }
    close(pools).await;
    Ok(())
}

async fn read_payment<DB: Database>(
    url: &str,
    report: &mut Report,
    traces: &mut AllTraces,
) -> anyhow::Result<()> {
    let pools: Pools<DB> = DB::open(url).await?;
    report.money = Money::read(&pools).await?;
    let rows: Vec<(String, String, String, i64)> =
        rows(&pools, "SELECT xid, status, customer, cents FROM holds").await?;
    for (xid, status, customer, cents) in rows {
        traces.entry(xid).or_default().hold = Some((status, customer, cents));
    }
    close(pools).await;
    Ok(())
}

async fn read_inventory<DB: Database>(
    url: &str,
    report: &mut Report,
    traces: &mut AllTraces,
) -> anyhow::Result<()> {
    let pools: Pools<DB> = DB::open(url).await?;
    report.stock = Stock::read(&pools).await?;
    let rows: Vec<(String, String, String, i64)> =
        rows(&pools, "SELECT xid, status, sku, quantity FROM reservations").await?;
    for (xid, status, sku, quantity) in rows {
        traces.entry(xid).or_default().reservation = Some((status, sku, quantity));
    }
    close(pools).await;
    Ok(())
}

async fn rows<DB: Database, T: crate::database::Row>(
    pools: &Pools<DB>,
    sql: &'static str,
) -> sqlx::Result<Vec<T>> {
    let mut connection = pools.read.acquire().await?;
    DB::fetch(&mut connection, sql, values![]).await
}

async fn close<DB: Database>(pools: Pools<DB>) {
    pools.read.close().await;
    pools.write.close().await;
}

/// Branches in a service's fence that are neither confirmed nor cancelled.
pub(crate) async fn open_fence_rows<DB: Database>(connection: &mut DB::Connection) -> sqlx::Result<i64> {
    let sql = "SELECT CAST(count(*) AS BIGINT) FROM unanimity_fence WHERE state IN ('trying', 'tried')";
    let rows: Vec<(i64,)> = DB::fetch(connection, sql, values![]).await?;
    Ok(rows.first().map_or(0, |(count,)| *count))
}
