//! What must be true of the two databases together.
//!
//! **Violations** can never be, at no time. **Missing** is what a message under way looks like; when the
//! dust has settled it must be zero.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::database::{Database, values, with_database, with_fence};

/// Violations that are spelled out; more are only counted.
const VIOLATIONS_MAX: usize = 50;

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Orders in the shop's database.
    pub orders: usize,
    /// Their lines: each is a message.
    pub lines: usize,
    /// Lines that the warehouse has picked.
    pub picks: usize,
    /// Vouchers in the shop's database.
    pub vouchers: usize,
    /// Vouchers in the mail.
    pub letters: usize,
    /// Lines that were not picked and vouchers that were not mailed.
    pub missing: usize,
    /// What must not be: the first 50.
    pub violations: Vec<String>,
    /// How many there are.
    pub violations_total: usize,
}

impl Report {
    /// Whether every message belongs to something that committed, took effect once, and came in its turn.
    #[must_use]
    pub const fn held(&self) -> bool {
        self.violations_total == 0
    }

    fn violation(&mut self, text: impl FnOnce() -> String) {
        self.violations_total += 1;
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(text());
        }
    }
}

/// A line, as the shop or as the warehouse has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    customer: String,
    seq: i64,
    sku: String,
    quantity: i64,
}

/// By order and line.
type Lines = Vec<((String, i64), Line)>;
/// By the message's transaction: whose, and how many cents.
type Mails = Vec<(String, (String, i64))>;

/// Message, order, line, customer, its number, product, quantity; how many were taken from the shelf.
type ShelfRow = (String, String, i64, String, i64, String, i64, i64);

/// Everything that is compared.
#[derive(Debug, Default)]
struct Books {
    orders: BTreeSet<String>,
    lines: Lines,
    vouchers: Mails,
    /// In the order in which each customer's were heard; the message of each.
    picks: Vec<(String, (String, i64), Line)>,
    letters: Mails,
    /// Product, and how many were taken.
    shelves: Vec<(String, i64)>,
}

/// Looks at the shop's and the warehouse's database. `replayed`: messages that were dead letters and came
/// later than their turn.
///
/// # Errors
/// If one cannot be read.
pub async fn check(shop_db: &str, warehouse_db: &str, replayed: &BTreeSet<String>) -> anyhow::Result<Report> {
    // The effects first: what has no cause yet when the causes are read has none.
    let mut books = Books::default();
    with_fence!(warehouse_db, read_warehouse(warehouse_db, &mut books))?;
    with_database!(shop_db, read_shop(shop_db, &mut books))?;
    Ok(judge(&books, replayed))
}

fn judge(books: &Books, replayed: &BTreeSet<String>) -> Report {
    let mut report = Report {
        orders: books.orders.len(),
        lines: books.lines.len(),
        picks: books.picks.len(),
        vouchers: books.vouchers.len(),
        letters: books.letters.len(),
        ..Report::default()
    };
    let picked = books.picks.iter().map(|(_, place, line)| (place.clone(), line.clone())).collect();
    once_each(&mut report, "line", &books.lines, &picked);
    once_each(&mut report, "voucher", &books.vouchers, &books.letters);
    let strangers = books.lines.iter().filter(|((order, _), _)| !books.orders.contains(order));
    for ((order, line), _) in strangers {
        report.violation(|| format!("line {line} of {order} has no order"));
    }
    let mut last: BTreeMap<&str, i64> = BTreeMap::new();
    for (message, _, line) in books.picks.iter().filter(|(message, ..)| !replayed.contains(message)) {
        let before = last.insert(&line.customer, line.seq).unwrap_or(0);
        if line.seq <= before {
            report.violation(|| format!("{}: {} came after {before} ({message})", line.customer, line.seq));
        }
    }
    let mut taken: BTreeMap<&str, i64> = BTreeMap::new();
    for (_, _, line) in &books.picks {
        *taken.entry(&line.sku).or_default() += line.quantity;
    }
    for (sku, count) in &books.shelves {
        let picked = taken.get(sku.as_str()).copied().unwrap_or_default();
        if *count != picked {
            report.violation(|| format!("{count} {sku} were taken from the shelf, {picked} picked"));
        }
    }
    report
}

/// Each cause has its effect once, and no effect is without its cause.
fn once_each<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    report: &mut Report,
    what: &str,
    causes: &[(K, V)],
    effects: &Vec<(K, V)>,
) {
    let causes: BTreeMap<&K, &V> = causes.iter().map(|(key, value)| (key, value)).collect();
    let mut seen = BTreeSet::new();
    for (key, value) in effects {
        match causes.get(key) {
            _ if !seen.insert(key) => report.violation(|| format!("{what} {key:?} took effect twice")),
            None => report.violation(|| format!("{what} {key:?} took effect and was never committed")),
            Some(cause) if *cause != value => {
                report.violation(|| format!("{what} {key:?} arrived as {value:?} and was {cause:?}"));
            }
            Some(_) => {}
        }
    }
    report.missing += causes.keys().filter(|key| !seen.contains(*key)).count();
}

async fn read_shop<DB: Database>(url: &str, books: &mut Books) -> anyhow::Result<()> {
    let pool = DB::open(url).await?;
    let mut connection = pool.acquire().await?;
    let orders: Vec<(String,)> = DB::fetch(&mut connection, "SELECT id FROM orders", values![]).await?;
    books.orders = orders.into_iter().map(|(id,)| id).collect();
    let sql = "SELECT order_id, line, customer, seq, sku, quantity FROM order_lines";
    let lines: Vec<(String, i64, String, i64, String, i64)> =
        DB::fetch(&mut connection, sql, values![]).await?;
    books.lines = lines
        .into_iter()
        .map(|(order, number, customer, seq, sku, quantity)| {
            ((order, number), Line { customer, seq, sku, quantity })
        })
        .collect();
    let vouchers: Vec<(String, String, i64)> =
        DB::fetch(&mut connection, "SELECT xid, customer, cents FROM vouchers", values![]).await?;
    books.vouchers = vouchers.into_iter().map(|(xid, customer, cents)| (xid, (customer, cents))).collect();
    drop(connection);
    pool.close().await;
    Ok(())
}

async fn read_warehouse<DB: Database>(url: &str, books: &mut Books) -> anyhow::Result<()> {
    let pool = DB::open(url).await?;
    let mut connection = pool.acquire().await?;
    // Shelves and picks in one statement: no message ends between the two.
    let sql = "SELECT coalesce(p.message, ''), coalesce(p.order_id, ''), coalesce(p.line, 0),
                      coalesce(p.customer, ''), coalesce(p.seq, 0), s.sku, coalesce(p.quantity, 0), s.taken
               FROM shelves s LEFT JOIN picks p ON p.sku = s.sku ORDER BY p.customer, p.arrived";
    let picks: Vec<ShelfRow> = DB::fetch(&mut connection, sql, values![]).await?;
    for (message, order, number, customer, seq, sku, quantity, taken) in picks {
        if !books.shelves.iter().any(|(known, _)| *known == sku) {
            books.shelves.push((sku.clone(), taken));
        }
        if !message.is_empty() {
            books.picks.push((message, (order, number), Line { customer, seq, sku, quantity }));
        }
    }
    let letters: Vec<(String, String, i64)> =
        DB::fetch(&mut connection, "SELECT xid, customer, cents FROM letters", values![]).await?;
    books.letters = letters.into_iter().map(|(xid, customer, cents)| (xid, (customer, cents))).collect();
    drop(connection);
    pool.close().await;
    Ok(())
}

/// The judge must be able to find what it looks for.
#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: i64) -> Line {
        Line { customer: "ada".into(), seq, sku: "map".into(), quantity: 2 }
    }

    /// One order of ada's with three lines, of which these were heard, in this order.
    fn books(heard: &[i64]) -> Books {
        Books {
            orders: ["o".to_owned()].into(),
            lines: (1..=3).map(|seq| (("o".to_owned(), seq), line(seq))).collect(),
            picks: heard.iter().map(|seq| (format!("m{seq}"), ("o".to_owned(), *seq), line(*seq))).collect(),
            shelves: vec![("map".into(), i64::try_from(heard.len()).unwrap_or(0) * 2)],
            ..Books::default()
        }
    }

    fn problems(books: &Books, replayed: &[&str]) -> String {
        judge(books, &replayed.iter().map(|message| (*message).to_owned()).collect()).violations.join("; ")
    }

    #[test]
    fn all_in_order_is_fine() {
        let report = judge(&books(&[1, 2, 3]), &BTreeSet::new());
        assert!(report.held() && report.missing == 0, "{report:?}");
        assert_eq!(judge(&books(&[1, 2]), &BTreeSet::new()).missing, 1);
    }

    #[test]
    fn a_dead_letter_may_come_late() {
        assert_eq!(problems(&books(&[1, 3, 2]), &["m2"]), "");
        assert!(problems(&books(&[1, 3, 2]), &[]).contains("2 came after 3"));
    }

    #[test]
    fn what_must_not_be_is_found() {
        assert!(problems(&books(&[1, 2, 2, 3]), &[]).contains("took effect twice"));
        assert!(problems(&books(&[1, 2, 3, 4]), &[]).contains("never committed"));
        let mut short = books(&[1, 2]);
        short.shelves[0].1 -= 1;
        assert!(problems(&short, &[]).contains("taken from the shelf"));
        let mut other = books(&[1]);
        other.picks[0].2.quantity += 1;
        assert!(problems(&other, &[]).contains("arrived as"));
        let mut mails = books(&[]);
        mails.letters.push(("x".into(), ("ada".into(), 5)));
        assert!(problems(&mails, &[]).contains("voucher \"x\" took effect and was never committed"));
    }
}
