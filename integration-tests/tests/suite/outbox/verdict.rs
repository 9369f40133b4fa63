//! What must be true when the dust has settled, judged from what the senders heard, from plain SQL on the databases and
//! from the coordinator's own answers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration_tests::coordinator::log_verify;
use integration_tests::wait::{http_client, until};
use serde_json::{Value, json};
use sqlx::mysql::MySqlRow;
use sqlx::postgres::PgRow;
use sqlx::{Connection as _, FromRow, MySqlConnection, PgConnection};
use uuid::Uuid;

use super::senders::{NO_SHELF, Order, Senders, Told};
use super::stack::{Stack, Victim};

/// How long the rest may take once everything works again.
const SETTLE_LIMIT: Duration = Duration::from_secs(90);
/// How long a coordinator may take to stop in good order.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Problems that are spelled out.
const PROBLEMS_MAX: usize = 20;

pub(super) struct Verdict {
    pub(super) counts: String,
    pub(super) settled_in: Duration,
    pub(super) rolled_back: usize,
    /// Messages that were dead letters, and replayed.
    pub(super) dead: usize,
    pub(super) problems: Vec<String>,
}

/// A line of an order and its message, as the shop or as the warehouse has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    message: String,
    customer: String,
    seq: i64,
    sku: String,
    quantity: i64,
}

type Place = (String, i64);

/// Everything that is judged.
#[derive(Debug, Default)]
struct Books {
    orders: BTreeSet<String>,
    lines: BTreeMap<Place, Line>,
    /// With each customer's how manieth it was, in that order.
    picks: Vec<(Place, i64, Line)>,
    shelves: BTreeMap<String, i64>,
    /// Messages that were dead letters.
    dead: BTreeSet<String>,
    /// The coordinator's history: xid, status, whether an operator had a hand in it.
    history: BTreeMap<String, (String, bool)>,
}

pub(super) async fn reach(stack: &mut Stack, senders: &Senders) -> anyhow::Result<Verdict> {
    let started = Instant::now();
    until("all messages are delivered or dead", SETTLE_LIMIT, async || {
        settled(stack, "('pending', 'handed')").await
    })
    .await?;
    let settled_in = started.elapsed();
    let dead = replay_dead_letters(stack).await?;
    until("all dead letters are delivered", SETTLE_LIMIT, async || {
        settled(stack, "('pending', 'handed', 'dead')").await
    })
    .await?;
    until("the coordinator has nothing to do", SETTLE_LIMIT, async || finished(stack).await).await?;
    stack.coordinator.process.terminate()?;
    let exit = stack.coordinator.process.exit(STOP_LIMIT).await?;
    ensure!(exit.success(), "the coordinator ended with {exit}");

    let heard = senders.all();
    let mut books = read(stack).await?;
    books.dead = dead;
    let mut problems = judge(&books);
    problems.extend(truth(&heard, &books));
    problems.truncate(PROBLEMS_MAX);
    let (code, verified) = log_verify(&stack.coordinator_db).await?;
    if code != Some(0) || verified["ok"] != true {
        problems.push(format!("log verify: {verified}"));
    }
    let told = |what| heard.values().filter(|order| order.told == what).count();
    let rolled_back = told(Told::RolledBack);
    let counts = format!(
        "orders taken {}, rolled back {rolled_back}, without an answer {}; messages committed {}, picked {}, of them \
         dead letters replayed {}",
        told(Told::Taken),
        told(Told::Unknown),
        books.lines.len(),
        books.picks.len(),
        books.dead.len()
    );
    Ok(Verdict { counts, settled_in, rolled_back, dead: books.dead.len(), problems })
}

/// No message of the outbox is in one of these states.
async fn settled(stack: &Stack, states: &'static str) -> anyhow::Result<()> {
    let sql = match states {
        "('pending', 'handed')" => {
            "SELECT count(*) FROM unanimity_outbox WHERE state IN ('pending', 'handed')"
        }
        _ => "SELECT count(*) FROM unanimity_outbox WHERE state <> 'delivered'",
    };
    let open: Vec<(i64,)> = rows(&stack.shop_db, sql).await?;
    ensure!(open == [(0,)], "{open:?} messages are {states}");
    Ok(())
}

/// The coordinator has no open transaction, and its history knows them all.
async fn finished(stack: &Stack) -> anyhow::Result<()> {
    for status in ["active", "preparing", "committing", "aborting"] {
        let open = stack.coordinator.list(status).await?;
        ensure!(open.is_empty(), "{} transactions are {status}, {:?} for one", open.len(), open.first());
    }
    let sql = "SELECT count(*) FROM transactions WHERE status NOT IN ('committed', 'aborted')";
    let open: Vec<(i64,)> = rows(&stack.coordinator_db, sql).await?;
    ensure!(open == [(0,)], "{open:?} transactions of history are open");
    Ok(())
}

/// Makes the missing shelf and replays every dead letter; answers their ids.
async fn replay_dead_letters(stack: &Stack) -> anyhow::Result<BTreeSet<String>> {
    let http = http_client(Duration::from_secs(15))?;
    let shelves = format!("{}/shelves", stack.url(Victim::Warehouse));
    let made = http.post(shelves).json(&json!({ "sku": NO_SHELF })).send().await?;
    ensure!(made.status().is_success(), "{}", made.status());
    let relay = stack.url(Victim::SecondRelay);
    let (mut dead, mut after) = (BTreeSet::new(), 0);
    loop {
        let page: Vec<Value> =
            http.get(format!("{relay}/dead-letters?after={after}")).send().await?.json().await?;
        let Some(last) = page.last() else { return Ok(dead) };
        after = last["place"].as_i64().context("a place")?;
        for letter in &page {
            let id = letter["id"].as_str().context("an id")?.to_owned();
            let url = format!("{relay}/dead-letters/{id}/replay");
            until("a replay is taken", SETTLE_LIMIT, async || {
                let answer = http.post(&url).send().await?;
                ensure!(answer.status().is_success(), "{}", answer.status());
                Ok(())
            })
            .await?;
            dead.insert(id);
        }
    }
}

/// A row of the warehouse's picks, in the order of the columns that are asked for.
type PickRow = (String, i64, i64, String, String, i64, String, i64);

async fn read(stack: &Stack) -> anyhow::Result<Books> {
    let orders: Vec<(String,)> = rows(&stack.shop_db, "SELECT id FROM orders").await?;
    let sql = "SELECT order_id, line, message, customer, seq, sku, quantity FROM order_lines";
    let lines: Vec<(String, i64, String, String, i64, String, i64)> = rows(&stack.shop_db, sql).await?;
    let sql = "SELECT order_id, line, arrived, message, customer, seq, sku, quantity FROM picks
               ORDER BY customer, arrived";
    let picks: Vec<PickRow> = rows(&stack.warehouse_db, sql).await?;
    let shelves: Vec<(String, i64)> = rows(&stack.warehouse_db, "SELECT sku, taken FROM shelves").await?;
    let mut coordinator = PgConnection::connect(&stack.coordinator_db).await?;
    let history: Vec<(String, String, bool)> =
        sqlx::query_as("SELECT xid::text, status, heuristic FROM transactions")
            .fetch_all(&mut coordinator)
            .await?;
    Ok(Books {
        orders: orders.into_iter().map(|(id,)| id).collect(),
        lines: lines
            .into_iter()
            .map(|(order, number, message, customer, seq, sku, quantity)| {
                ((order, number), Line { message, customer, seq, sku, quantity })
            })
            .collect(),
        picks: picks
            .into_iter()
            .map(|(order, number, arrived, message, customer, seq, sku, quantity)| {
                ((order, number), arrived, Line { message, customer, seq, sku, quantity })
            })
            .collect(),
        shelves: shelves.into_iter().collect(),
        dead: BTreeSet::new(),
        history: history.into_iter().map(|(xid, status, heuristic)| (xid, (status, heuristic))).collect(),
    })
}

/// Each message of what committed took effect once, in its turn, and nothing else did.
fn judge(books: &Books) -> Vec<String> {
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    let mut last: HashMap<&str, (i64, i64)> = HashMap::new();
    let mut taken: BTreeMap<&str, i64> = BTreeMap::new();
    for (place, arrived, pick) in &books.picks {
        if !seen.insert(place) {
            problems.push(format!("{place:?} took effect twice: {pick:?}"));
        }
        match books.lines.get(place) {
            None => problems.push(format!("{place:?} took effect and was never committed: {pick:?}")),
            Some(line) if line != pick => {
                problems.push(format!("{place:?} arrived as {pick:?}, was {line:?}"));
            }
            Some(_) => {}
        }
        let (heard, seq) = last.entry(&pick.customer).or_default();
        if *arrived != *heard + 1 {
            problems.push(format!("{}: {arrived} after {heard}", pick.customer));
        }
        *heard = *arrived;
        // A replayed dead letter comes out of its turn, which is allowed.
        if !books.dead.contains(&pick.message) {
            if pick.seq <= *seq {
                problems.push(format!("{}: number {} came after {seq}: {pick:?}", pick.customer, pick.seq));
            }
            *seq = pick.seq;
        }
        *taken.entry(&pick.sku).or_default() += pick.quantity;
    }
    for (place, line) in &books.lines {
        if !seen.contains(place) {
            problems.push(format!("{place:?} committed and never took effect: {line:?}"));
        }
        if books.dead.contains(&line.message) != (line.sku == NO_SHELF) {
            problems.push(format!("{place:?} was a dead letter, or should have been one: {line:?}"));
        }
        match books.history.get(&line.message) {
            Some((status, false)) if status == "committed" => {}
            recorded => problems.push(format!("{place:?}: history says {recorded:?}")),
        }
    }
    if books.history.len() != books.lines.len() {
        problems.push(format!("{} transactions for {} messages", books.history.len(), books.lines.len()));
    }
    for (sku, count) in &books.shelves {
        let picked = taken.get(sku.as_str()).copied().unwrap_or_default();
        if *count != picked {
            problems.push(format!("{count} {sku} were taken from the shelf, {picked} were picked"));
        }
    }
    problems
}

/// What the senders heard is what is.
fn truth(heard: &HashMap<Uuid, Order>, books: &Books) -> Vec<String> {
    let mut problems = Vec::new();
    let mut lines: BTreeMap<&str, u64> = BTreeMap::new();
    for (order, _) in books.lines.keys() {
        *lines.entry(order).or_default() += 1;
    }
    for (id, order) in heard {
        let id = id.to_string();
        let there = (books.orders.contains(&id), lines.get(id.as_str()).copied().unwrap_or(0));
        let fits = match order.told {
            Told::Taken => there == (true, order.lines),
            Told::RolledBack => there == (false, 0),
            Told::Unknown => there == (true, order.lines) || there == (false, 0),
        };
        if !fits {
            problems.push(format!("order {id}: {order:?}, and in the database {there:?}"));
        }
    }
    let known: BTreeSet<String> = heard.keys().map(Uuid::to_string).collect();
    problems.extend(books.orders.difference(&known).map(|id| format!("nobody placed {id}")));
    problems
}

/// Rows of a PostgreSQL or a MariaDB database.
async fn rows<T>(url: &str, sql: &'static str) -> anyhow::Result<Vec<T>>
where
    T: for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, MySqlRow> + Send + Unpin,
{
    let read = async {
        if url.starts_with("mysql") || url.starts_with("mariadb") {
            let mut connection = MySqlConnection::connect(url).await?;
            let rows = sqlx::query_as(sql).fetch_all(&mut connection).await?;
            connection.close().await?;
            return Ok(rows);
        }
        let mut connection = PgConnection::connect(url).await?;
        let rows = sqlx::query_as(sql).fetch_all(&mut connection).await?;
        connection.close().await?;
        Ok::<_, sqlx::Error>(rows)
    };
    read.await.with_context(|| sql.to_owned())
}

/// The judge must be able to find what it looks for.
#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: i64) -> Line {
        Line { message: format!("m{seq}"), customer: "ada".into(), seq, sku: "map".into(), quantity: 2 }
    }

    /// An order with three lines, of which these were picked, in this order.
    fn books(order: Uuid, picked: &[i64]) -> Books {
        let place = |seq: i64| (order.to_string(), seq);
        let history = (1..=3).map(|seq| (format!("m{seq}"), ("committed".to_owned(), false)));
        Books {
            orders: [order.to_string()].into(),
            lines: (1..=3).map(|seq| (place(seq), line(seq))).collect(),
            picks: picked.iter().zip(1..).map(|(seq, n)| (place(*seq), n, line(*seq))).collect(),
            shelves: [("map".to_owned(), 2 * i64::try_from(picked.len()).unwrap())].into(),
            dead: BTreeSet::new(),
            history: history.collect(),
        }
    }

    #[test]
    fn all_once_and_in_order_is_fine() {
        assert_eq!(judge(&books(Uuid::nil(), &[1, 2, 3])), Vec::<String>::new());
        let mut late = books(Uuid::nil(), &[1, 3, 2]);
        late.dead.insert("m2".into());
        late.lines.get_mut(&(Uuid::nil().to_string(), 2)).unwrap().sku = NO_SHELF.into();
        late.picks[2].2.sku = NO_SHELF.into();
        late.shelves = [("map".to_owned(), 4), (NO_SHELF.to_owned(), 2)].into();
        assert_eq!(judge(&late), Vec::<String>::new());
    }

    #[test]
    fn what_must_not_be_is_found() {
        let found = |change: fn(&mut Books), picked: &[i64], what: &str| {
            let mut books = books(Uuid::nil(), picked);
            change(&mut books);
            let problems = judge(&books);
            assert!(problems.iter().any(|problem| problem.contains(what)), "{what}: {problems:?}");
        };
        found(|_| (), &[1, 2], "never took effect");
        found(|_| (), &[1, 2, 2, 3], "took effect twice");
        found(|_| (), &[1, 2, 3, 4], "never committed");
        found(|_| (), &[1, 3, 2], "number 2 came after 3");
        found(|books| books.picks[1].2.quantity = 9, &[1, 2, 3], "arrived as");
        found(|books| drop(books.picks.remove(0)), &[1, 2, 3], "2 after 0");
        found(|books| drop(books.history.remove("m1")), &[1, 2, 3], "history says");
        found(|books| *books.shelves.entry("map".into()).or_default() += 1, &[1, 2, 3], "from the shelf");
        found(|books| books.dead.extend(["m1".into()]), &[1, 2, 3], "dead letter");
    }

    #[test]
    fn what_a_sender_heard_must_be_true() {
        let id = Uuid::new_v4();
        let problems = |lines, told| truth(&HashMap::from([(id, Order { lines, told })]), &books(id, &[]));
        assert!(problems(3, Told::Taken).is_empty() && problems(3, Told::Unknown).is_empty());
        assert_eq!(problems(3, Told::RolledBack).len(), 1);
        assert_eq!(problems(2, Told::Taken).len(), 1, "a part of an order");
        assert_eq!(truth(&HashMap::new(), &books(id, &[])).len(), 1, "nobody placed it");
    }
}
