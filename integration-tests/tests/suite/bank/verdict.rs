//! What must be true when the dust has settled, judged from what the clients heard, from plain SQL on the banks'
//! databases and from the coordinator's own answers.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration_tests::banks::{Bank, Server};
use integration_tests::coordinator::log_verify;
use integration_tests::postgres::Kind;
use integration_tests::wait::until;
use sqlx::{Connection as _, MySqlConnection, PgConnection, Row as _};
use uuid::Uuid;

use super::clients::{Clients, Place, Story, Wanted};
use super::{ACCOUNTS, OPENING, Stack};
use crate::one_story::{of_hearsay, of_history};
use crate::orders::Told;

/// How long the rest may take once everything works again.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// How long a coordinator may take to stop in good order.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Problems that are spelled out.
const PROBLEMS_MAX: usize = 20;

pub(super) struct Verdict {
    pub(super) counts: String,
    pub(super) settled_in: Duration,
    pub(super) problems: Vec<String>,
}

/// The entries of one transfer in all banks.
type Entries = Vec<(Place, i64)>;

pub(super) async fn reach(stack: &mut Stack, clients: &Clients) -> anyhow::Result<Verdict> {
    let started = Instant::now();
    until("everything is settled", SETTLE_LIMIT, async || settled(stack, clients).await).await?;
    let settled_in = started.elapsed();

    // Who never heard an outcome asks again: now somebody must know.
    let stories = clients.all();
    let unknown: Vec<Uuid> =
        stories.iter().filter(|(_, story)| story.heard.has(Told::Unknown)).map(|(xid, _)| *xid).collect();
    for xid in &unknown {
        // Never begun, as far as anybody knows, it never can be from now on.
        let told = clients.settle(*xid).await;
        ensure!(told != Told::Unknown, "the outcome of {xid} is still unknown: {:?}", clients.all().get(xid));
        let told = clients.ask_coordinator(*xid).await;
        ensure!(told != Told::Unknown, "the coordinator does not know the outcome of {xid}");
    }
    // The aborts of the last loop are transactions too.
    until("the last aborts are settled", SETTLE_LIMIT, async || settled(stack, clients).await).await?;
    stack.coordinator.process.terminate()?;
    let exit = stack.coordinator.process.exit(STOP_LIMIT).await?;
    ensure!(exit.success(), "the coordinator ended with {exit}");

    let stories = clients.all();
    let mut problems = Vec::new();
    let mut entries: BTreeMap<String, Entries> = BTreeMap::new();
    let mut total = 0;
    for bank in &stack.banks {
        let books = Books::read(bank).await?;
        total += books.total;
        problems.extend(
            books.wrong.into_iter().map(|account| format!("{}: {account} does not add up", bank.name)),
        );
        for (xid, account, cents) in books.entries {
            entries.entry(xid).or_default().push(((bank.name, account), cents));
        }
    }
    let banks = i64::try_from(stack.banks.len())?;
    let opening = banks * i64::from(ACCOUNTS) * OPENING;
    if total != opening {
        problems.push(format!("there were {opening} cents in all accounts, and there are {total}"));
    }
    let history = read_history(stack).await?;
    problems.extend(judge(&stories, &entries, &history));
    problems.truncate(PROBLEMS_MAX);
    let (code, verified) = log_verify(&stack.coordinator_db_url).await?;
    if code != Some(0) || verified["ok"] != true {
        problems.push(format!("log verify: {verified}"));
    }
    let outcomes = |told| stories.values().filter(|story| story.heard.has(told)).count();
    let counts = format!(
        "transfers {}, committed {}, aborted {}, at first unknown {}, all accounts {total} cents as before, prepared at \
         the end 0",
        stories.len(),
        outcomes(Told::Committed),
        outcomes(Told::Aborted),
        unknown.len(),
    );
    Ok(Verdict { counts, settled_in, problems })
}

/// Nothing is open at the coordinator, nothing is prepared in a database.
async fn settled(stack: &Stack, clients: &Clients) -> anyhow::Result<()> {
    for status in ["active", "preparing", "committing", "aborting"] {
        let open = stack.coordinator.list(status).await?;
        ensure!(open.is_empty(), "{} transactions are {status}, {:?} for one", open.len(), open.first());
    }
    for bank in &stack.banks {
        let prepared = prepared(bank, clients).await?;
        ensure!(prepared.is_empty(), "{}: prepared is {prepared:?}", bank.name);
    }
    // The projection is asynchronous.
    let sql =
        "SELECT xid::text, status FROM transactions WHERE status NOT IN ('committed', 'aborted') LIMIT 5";
    let mut db = PgConnection::connect(&stack.coordinator_db_url).await?;
    let open: Vec<(String, String)> = sqlx::query_as(sql).fetch_all(&mut db).await?;
    ensure!(open.is_empty(), "history: {open:?}");
    Ok(())
}

/// All that is prepared in a bank's database; in an external MariaDB, which lists what everybody has prepared, what
/// bears the name of a transfer of ours.
async fn prepared(bank: &Bank, clients: &Clients) -> anyhow::Result<Vec<String>> {
    match &bank.server {
        Server::Postgres(_) => {
            let mut db = PgConnection::connect(&bank.database_url).await?;
            let sql = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()";
            Ok(sqlx::query_scalar(sql).fetch_all(&mut db).await?)
        }
        Server::MariaDb(server) => {
            let mut db = MySqlConnection::connect(&bank.database_url).await?;
            let mut prepared = Vec::new();
            for row in sqlx::raw_sql("XA RECOVER").fetch_all(&mut db).await? {
                let name = row.try_get_unchecked::<Vec<u8>, _>("data")?;
                prepared.push(String::from_utf8_lossy(&name).into_owned());
            }
            if server.kind() == Kind::External {
                let ours: Vec<String> = clients.all().keys().map(|xid| xid.simple().to_string()).collect();
                prepared.retain(|name| ours.iter().any(|xid| name.contains(xid)));
            }
            Ok(prepared)
        }
    }
}

/// What one bank's database says.
struct Books {
    total: i64,
    /// Accounts below zero, or that do not hold what they began with and the sum of their entries.
    wrong: Vec<String>,
    entries: Vec<(String, String, i64)>,
}

impl Books {
    async fn read(bank: &Bank) -> anyhow::Result<Self> {
        const WRONG: &str = "SELECT a.name FROM accounts a
             LEFT JOIN (SELECT account, sum(cents) AS moved FROM entries GROUP BY account) e ON e.account = a.name
             WHERE a.cents < 0 OR a.cents <> a.opening + coalesce(e.moved, 0)";
        const ENTRIES: &str = "SELECT xid, account, cents FROM entries";
        let url = &bank.database_url;
        Ok(match &bank.server {
            Server::Postgres(_) => {
                let mut db = PgConnection::connect(url).await?;
                let total = "SELECT sum(cents)::bigint FROM accounts";
                Self {
                    total: sqlx::query_scalar(total).fetch_one(&mut db).await?,
                    wrong: sqlx::query_scalar(WRONG).fetch_all(&mut db).await?,
                    entries: sqlx::query_as(ENTRIES).fetch_all(&mut db).await?,
                }
            }
            Server::MariaDb(_) => {
                let mut db = MySqlConnection::connect(url).await?;
                let total = "SELECT CAST(sum(cents) AS SIGNED) FROM accounts";
                Self {
                    total: sqlx::query_scalar(total).fetch_one(&mut db).await?,
                    wrong: sqlx::query_scalar(WRONG).fetch_all(&mut db).await?,
                    entries: sqlx::query_as(ENTRIES).fetch_all(&mut db).await?,
                }
            }
        })
    }
}

/// Both halves as they were ordered, or none.
fn outcome(wanted: &Wanted, entries: &[(Place, i64)]) -> Result<Told, &'static str> {
    let minus = (wanted.from.clone(), -wanted.cents);
    let plus = (wanted.to.clone(), wanted.cents);
    match entries {
        [] => Ok(Told::Aborted),
        [one, other] if (one, other) == (&minus, &plus) || (one, other) == (&plus, &minus) => {
            Ok(Told::Committed)
        }
        [_] => Err("one half is there and the other is not"),
        _ => Err("its entries are not what was ordered"),
    }
}

/// Every transfer's story: its client, the databases and history agree.
fn judge(
    stories: &HashMap<Uuid, Story>,
    entries: &BTreeMap<String, Entries>,
    history: &HashMap<String, (String, bool)>,
) -> Vec<String> {
    let mut problems = Vec::new();
    for (xid, Story { wanted, heard }) in stories {
        let xid = xid.to_string();
        let entries = entries.get(&xid).map(Vec::as_slice).unwrap_or_default();
        let recorded = history.get(&xid);
        let mut problem = |what: &str| {
            problems.push(format!(
                "transfer {xid}: {what}: ordered {wanted:?}, heard {heard:?}, entries {entries:?}, history {recorded:?}"
            ));
        };
        let committed = match outcome(wanted, entries) {
            Ok(outcome) => outcome == Told::Committed,
            Err(why) => {
                problem(why);
                continue;
            }
        };
        of_hearsay(heard, committed).into_iter().chain(of_history(recorded, committed)).for_each(problem);
    }
    let strangers = entries.keys().filter(|xid| !xid.parse().is_ok_and(|xid| stories.contains_key(&xid)));
    problems.extend(strangers.map(|xid| format!("nobody ordered {xid}")));
    problems
}

/// Status, and whether an operator had a hand in it.
async fn read_history(stack: &Stack) -> anyhow::Result<HashMap<String, (String, bool)>> {
    let mut db = PgConnection::connect(&stack.coordinator_db_url).await?;
    let rows =
        sqlx::query("SELECT xid::text, status, heuristic FROM transactions").fetch_all(&mut db).await?;
    rows.into_iter()
        .map(|row| Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?))))
        .collect::<Result<_, sqlx::Error>>()
        .context("the coordinator's history")
}

/// The judge must be able to find what it looks for.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::orders::Heard;

    fn wanted() -> Wanted {
        Wanted { from: ("north", "a".to_owned()), to: ("east", "b".to_owned()), cents: 5 }
    }

    fn judged(heard: &[Told], entries: &[(&'static str, &str, i64)], status: Option<&str>) -> Vec<String> {
        let xid = Uuid::new_v4();
        let heard = Heard(heard.iter().map(|told| ("somebody", *told)).collect());
        let entries =
            entries.iter().map(|(bank, name, cents)| ((*bank, (*name).to_owned()), *cents)).collect();
        let history = status.map(|status| (xid.to_string(), (status.to_owned(), false)));
        judge(
            &HashMap::from([(xid, Story { wanted: wanted(), heard })]),
            &BTreeMap::from([(xid.to_string(), entries)]),
            &history.into_iter().collect(),
        )
    }

    const MOVED: &[(&str, &str, i64)] = &[("north", "a", -5), ("east", "b", 5)];

    #[test]
    fn one_story_is_fine() {
        assert!(judged(&[Told::Unknown, Told::Committed], MOVED, Some("committed")).is_empty());
        assert!(judged(&[Told::Aborted, Told::Aborted], &[], Some("aborted")).is_empty());
    }

    #[test]
    fn two_stories_are_not() {
        for (heard, entries, status, what) in [
            (&[Told::Committed, Told::Aborted][..], MOVED, Some("committed"), "two outcomes"),
            (&[Told::Aborted], MOVED, Some("committed"), "something else than what is"),
            (&[Told::Committed], &[], Some("aborted"), "something else than what is"),
            (&[Told::Unknown], MOVED, Some("committed"), "never heard"),
            (&[Told::Committed], MOVED, Some("aborted"), "history"),
            (&[Told::Committed], MOVED, None, "history"),
            (&[Told::Committed], &MOVED[..1], Some("committed"), "one half"),
            (&[Told::Aborted], &MOVED[1..], Some("aborted"), "one half"),
            (&[Told::Committed], &[MOVED[0], ("south", "b", 5)], Some("committed"), "not what was ordered"),
            (&[Told::Committed], &[MOVED[0], MOVED[1], MOVED[1]], Some("committed"), "not what was ordered"),
        ] {
            let problems = judged(heard, entries, status);
            assert!(problems.iter().any(|problem| problem.contains(what)), "{what}: {problems:?}");
        }
    }

    #[test]
    fn a_transfer_that_nobody_ordered_is_found() {
        let entries = BTreeMap::from([(Uuid::new_v4().to_string(), Entries::default())]);
        assert_eq!(judge(&HashMap::new(), &entries, &HashMap::new()).len(), 1);
    }
}
