//! Reads the banks all the time, each in one consistent snapshot of its database, and knows what must hold in every one,
//! whatever is under way.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinHandle;

use super::stack::Stack;

/// How often each bank is read.
const EVERY: Duration = Duration::from_millis(500);
/// Reading takes no more than so much of the time: the longer a run, the larger the books.
const SHARE: u32 = 20;
/// How long a read may take: a database that was killed says nothing.
const LIMIT: Duration = Duration::from_secs(10);
/// Problems that are kept.
const PROBLEMS_MAX: usize = 20;

/// Accounts that do not add up: what they have is what they began with and the sum of their entries, what is held is the
/// sum of their holds, nothing is below zero.
const WRONG: &str = "
SELECT a.name || ': opening ' || a.opening || ', cents ' || a.cents || ', held ' || a.held || ', entries '
    || coalesce(e.cents, 0) || ', holds ' || coalesce(h.cents, 0)
FROM accounts a
LEFT JOIN (SELECT account, sum(cents) AS cents FROM entries GROUP BY account) e ON e.account = a.name
LEFT JOIN (SELECT account, sum(cents) AS cents FROM holds GROUP BY account) h ON h.account = a.name
WHERE a.cents < 0 OR a.held < 0 OR a.cents + a.held <> a.opening + coalesce(e.cents, 0)
    OR a.held <> coalesce(h.cents, 0)
LIMIT 5";

/// The bank altogether: what its accounts have, and what entries and opening say they must have.
const TOTAL: &str = "
SELECT (SELECT sum(cents + held)::bigint FROM accounts),
    (SELECT sum(opening)::bigint FROM accounts) + (SELECT coalesce(sum(cents), 0)::bigint FROM entries)";

/// What one snapshot says.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// What all accounts have.
    pub(super) total: i64,
    pub(super) wrong: Vec<String>,
}

/// Reads a bank in one snapshot.
pub(super) async fn read(db: &mut PgConnection) -> Result<Snapshot, sqlx::Error> {
    let mut tx = db.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let mut wrong: Vec<String> = sqlx::query_scalar(WRONG).fetch_all(&mut *tx).await?;
    let (total, due): (i64, i64) = sqlx::query_as(TOTAL).fetch_one(&mut *tx).await?;
    if total != due {
        wrong.push(format!("all accounts have {total}, and must have {due}"));
    }
    tx.rollback().await?;
    Ok(Snapshot { total, wrong })
}

#[derive(Debug, Default)]
struct Record {
    taken: AtomicU64,
    missed: AtomicU64,
    problems: Mutex<Vec<String>>,
}

/// Readers that run.
pub(super) struct Readers {
    record: Arc<Record>,
    tasks: Vec<JoinHandle<()>>,
}

impl Readers {
    pub(super) fn start(stack: &Stack) -> Self {
        let record = Arc::<Record>::default();
        let reader = |(name, url): (&'static str, String)| {
            let record = Arc::clone(&record);
            tokio::spawn(async move {
                let (mut connection, mut pause) = (None, EVERY);
                loop {
                    tokio::time::sleep(pause).await;
                    let begun = Instant::now();
                    let looked = tokio::time::timeout(LIMIT, async {
                        let db = match &mut connection {
                            Some(db) => db,
                            none => none.insert(PgConnection::connect(&url).await?),
                        };
                        read(db).await
                    });
                    let looked = looked.await;
                    pause = EVERY.max(begun.elapsed() * SHARE);
                    let Ok(Ok(snapshot)) = looked else {
                        (connection, pause) = (None, EVERY);
                        record.missed.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    record.taken.fetch_add(1, Ordering::Relaxed);
                    let mut problems = record.problems.lock().expect("no holder panics");
                    let room = PROBLEMS_MAX.saturating_sub(problems.len());
                    problems.extend(snapshot.wrong.iter().take(room).map(|wrong| format!("{name}: {wrong}")));
                }
            })
        };
        let tasks =
            stack.stores.banks.iter().map(|bank| reader((bank.name, bank.database_url.clone()))).collect();
        Self { record, tasks }
    }

    /// How many snapshots were read so far.
    pub(super) fn taken(&self) -> u64 {
        self.record.taken.load(Ordering::Relaxed)
    }

    /// Stops them; how many snapshots were read, how often a database did not answer, and what did not hold.
    pub(super) fn stop(self) -> (u64, u64, Vec<String>) {
        for task in &self.tasks {
            task.abort();
        }
        let problems = std::mem::take(&mut *self.record.problems.lock().expect("no holder panics"));
        (self.taken(), self.record.missed.load(Ordering::Relaxed), problems)
    }
}
