//! What must be true of all banks together, read from their databases with plain SQL.

use std::collections::BTreeMap;

use anyhow::Context as _;
use sqlx::{Connection as _, MySqlConnection, PgConnection, Row as _};
use unanimity_sdk::LogId;
use uuid::Uuid;

use crate::bank::is_mariadb;

/// What one bank's database says.
#[derive(Debug, Clone, Default)]
pub struct Books {
    /// What all accounts had at the beginning.
    pub opening: i64,
    /// What they have now.
    pub cents: i64,
    /// Entries: transfer, account, cents.
    pub entries: Vec<(String, String, i64)>,
    /// Accounts that do not hold what they began with and the sum of their entries, or less than nothing.
    pub wrong: Vec<String>,
    /// How many transactions are prepared (`pg_prepared_xacts`, `XA RECOVER`).
    pub prepared: usize,
}

/// What all of them say.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Bank by bank.
    pub books: BTreeMap<String, Books>,
    /// Transfers with both halves.
    pub whole: Vec<Uuid>,
    /// What must not be.
    pub violations: Vec<String>,
}

impl Report {
    /// What all accounts of all banks had at the beginning.
    #[must_use]
    pub fn opening(&self) -> i64 {
        self.books.values().map(|books| books.opening).sum()
    }

    /// What they have now: the same, always.
    #[must_use]
    pub fn cents(&self) -> i64 {
        self.books.values().map(|books| books.cents).sum()
    }

    /// How many transactions are prepared in all databases: none, when all is settled.
    #[must_use]
    pub fn prepared(&self) -> usize {
        self.books.values().map(|books| books.prepared).sum()
    }
}

/// Reads the databases (name, URL). `log` is the coordinator's: what other programs have prepared is not counted.
///
/// # Errors
/// If a database does not answer.
pub async fn audit(databases: &[(String, String)], log: LogId) -> anyhow::Result<Report> {
    let mut report = Report::default();
    for (name, url) in databases {
        let books = if is_mariadb(url)? { mariadb(url, log).await } else { postgres(url, log).await };
        report.books.insert(name.clone(), books.with_context(|| format!("reading the books of {name}"))?);
    }
    judge(&mut report);
    Ok(report)
}

fn judge(report: &mut Report) {
    let mut halves: BTreeMap<&str, Vec<(&str, i64)>> = BTreeMap::new();
    for (bank, books) in &report.books {
        report
            .violations
            .extend(books.wrong.iter().map(|account| format!("{bank}: {account} does not add up")));
        for (xid, _, cents) in &books.entries {
            halves.entry(xid).or_default().push((bank, *cents));
        }
    }
    for (xid, halves) in halves {
        match (halves.as_slice(), xid.parse()) {
            ([(one, cents), (other, back)], Ok(id)) if cents + back == 0 && one != other => {
                report.whole.push(id);
            }
            _ => report.violations.push(format!("the transfer {xid} is not whole: {halves:?}")),
        }
    }
    if report.cents() != report.opening() {
        report.violations.push(format!(
            "there were {} cents, and there are {}",
            report.opening(),
            report.cents()
        ));
    }
}

const ENTRIES: &str = "SELECT xid, account, cents FROM entries";
const WRONG: &str = "SELECT a.name FROM accounts a
     LEFT JOIN (SELECT account, sum(cents) AS moved FROM entries GROUP BY account) e ON e.account = a.name
     WHERE a.cents < 0 OR a.cents <> a.opening + coalesce(e.moved, 0)";

async fn postgres(url: &str, log: LogId) -> anyhow::Result<Books> {
    let mut db = PgConnection::connect(url).await?;
    let sql = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database() AND gid LIKE $1";
    // The name of a prepared branch says in which coordinator's log it was registered.
    let ours = format!("una1:{}:%", log.0.simple());
    let prepared: i64 = sqlx::query_scalar(sql).bind(ours).fetch_one(&mut db).await?;
    let sql = "SELECT coalesce(sum(opening), 0)::bigint, coalesce(sum(cents), 0)::bigint FROM accounts";
    let (opening, cents) = sqlx::query_as(sql).fetch_one(&mut db).await?;
    Ok(Books {
        opening,
        cents,
        entries: sqlx::query_as(ENTRIES).fetch_all(&mut db).await?,
        wrong: sqlx::query_scalar(WRONG).fetch_all(&mut db).await?,
        prepared: usize::try_from(prepared)?,
    })
}

async fn mariadb(url: &str, log: LogId) -> anyhow::Result<Books> {
    let mut db = MySqlConnection::connect(url).await?;
    // Of the whole server, in no form that a prepared statement takes.
    let listed = sqlx::raw_sql("XA RECOVER").fetch_all(&mut db).await?;
    let ours = log.0.simple().to_string().into_bytes();
    let mut prepared = 0;
    for row in listed {
        prepared += usize::from(row.try_get_unchecked::<Vec<u8>, _>("data")?.starts_with(&ours));
    }
    let sql = "SELECT CAST(coalesce(sum(opening), 0) AS SIGNED), CAST(coalesce(sum(cents), 0) AS SIGNED) FROM accounts";
    let (opening, cents) = sqlx::query_as(sql).fetch_one(&mut db).await?;
    Ok(Books {
        opening,
        cents,
        entries: sqlx::query_as(ENTRIES).fetch_all(&mut db).await?,
        wrong: sqlx::query_scalar(WRONG).fetch_all(&mut db).await?,
        prepared,
    })
}

/// The judge must be able to find what it looks for.
#[cfg(test)]
mod tests {
    use super::*;

    fn judged(entries: [&[(&str, i64)]; 2], cents: [i64; 2]) -> Report {
        let xid = Uuid::new_v4().to_string();
        let books = entries.into_iter().zip(cents).zip(["a", "b"]).map(|((entries, cents), bank)| {
            let entries = entries.iter().map(|(account, cents)| (xid.clone(), (*account).to_owned(), *cents));
            (bank.to_owned(), Books { opening: 100, cents, entries: entries.collect(), ..Books::default() })
        });
        let mut report = Report { books: books.collect(), ..Report::default() };
        judge(&mut report);
        report
    }

    #[test]
    fn both_halves_or_none() {
        let whole = judged([&[("x", -30)], &[("y", 30)]], [70, 130]);
        assert!(whole.violations.is_empty() && whole.whole.len() == 1, "{whole:?}");
        assert!(judged([&[], &[]], [100, 100]).violations.is_empty());
    }

    #[test]
    fn anything_else_is_found() {
        for (entries, cents) in [
            ([&[("x", -30)][..], &[]], [70, 100]),
            ([&[("x", -30)], &[("y", 29)]], [70, 129]),
            ([&[("x", -30), ("y", 30)], &[]], [100, 100]),
            ([&[], &[]], [100, 101]),
        ] {
            assert!(!judged(entries, cents).violations.is_empty(), "{entries:?}");
        }
    }
}
