//! Two hundred transfers of goods for money, with a coordinator that crashes in the middle of them.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::{Sqlite, SqlitePool, Transaction};
use tokio::sync::watch;
use tokio::task::JoinSet;
use unanimity_sdk::{
    Branch, Client, Decision, Fence, HookError, Participant, Refused, TccHooks, TransactionError, Xid,
    sqlite_pool,
};
use unanimity_testing::TestCoordinator;

const TRANSACTIONS: u32 = 200;
const AT_ONCE: usize = 8;
/// Crashes are spread evenly over the transactions.
const CRASHES: u32 = 8;
/// At the beginning, in each database. Not enough for all.
const AMOUNT: i64 = 300;
const LIMIT: Duration = Duration::from_secs(15);

/// Every hook writes a line of its own, so that what happens twice, or both ways, is seen.
struct Move;

impl TccHooks<Sqlite> for Move {
    type Payload = i64;
    type Output = ();

    async fn try_(&self, tx: &mut Transaction<'_, Sqlite>, branch: &Branch<i64>) -> Result<(), HookError> {
        let done = sqlx::query("UPDATE amounts SET free = free - $1, held = held + $1 WHERE free >= $1")
            .bind(branch.payload)
            .execute(&mut **tx)
            .await?;
        if done.rows_affected() == 0 {
            return Err(Refused::new("not enough").into());
        }
        line(tx, branch, "tried").await
    }

    async fn confirm(&self, tx: &mut Transaction<'_, Sqlite>, branch: &Branch<i64>) -> Result<(), HookError> {
        let sql = "UPDATE amounts SET held = held - $1, moved = moved + $1";
        sqlx::query(sql).bind(branch.payload).execute(&mut **tx).await?;
        line(tx, branch, "confirmed").await
    }

    async fn cancel(&self, tx: &mut Transaction<'_, Sqlite>, branch: &Branch<i64>) -> Result<(), HookError> {
        let sql = "UPDATE amounts SET held = held - $1, free = free + $1";
        sqlx::query(sql).bind(branch.payload).execute(&mut **tx).await?;
        line(tx, branch, "cancelled").await
    }
}

async fn line(tx: &mut Transaction<'_, Sqlite>, branch: &Branch<i64>, what: &str) -> Result<(), HookError> {
    sqlx::query("INSERT INTO lines (xid, amount, what) VALUES ($1, $2, $3)")
        .bind(branch.xid.to_string())
        .bind(branch.payload)
        .bind(what)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

struct Side {
    _directory: tempfile::TempDir,
    pool: SqlitePool,
    participant: Participant<Sqlite>,
}

impl Side {
    async fn open(name: &str, client: &Client) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pool = sqlite_pool(directory.path().join("side.db")).await.unwrap();
        sqlx::raw_sql(
            "CREATE TABLE amounts (free BIGINT NOT NULL CHECK (free >= 0), held BIGINT NOT NULL CHECK (held >= 0),
                                   moved BIGINT NOT NULL);
             CREATE TABLE lines (xid TEXT NOT NULL, amount BIGINT NOT NULL, what TEXT NOT NULL, PRIMARY KEY (xid, what))",
        )
        .execute(&pool)
        .await
        .unwrap();
        let sql = "INSERT INTO amounts VALUES ($1, 0, 0)";
        sqlx::query(sql).bind(AMOUNT).execute(&pool).await.unwrap();
        let fence = Fence::new(pool.clone());
        fence.migrate().await.unwrap();
        let participant = Participant::builder(name, fence)
            .tcc("move", Move)
            .in_doubt_after(Duration::from_millis(200))
            .in_doubt_every(Duration::from_millis(100))
            .attach(client)
            .await
            .unwrap();
        Self { _directory: directory, pool, participant }
    }

    /// (free, held, moved)
    async fn amounts(&self) -> (i64, i64, i64) {
        sqlx::query_as("SELECT free, held, moved FROM amounts").fetch_one(&self.pool).await.unwrap()
    }

    async fn open_rows(&self) -> i64 {
        let sql = "SELECT count(*) FROM unanimity_fence WHERE state IN ('trying', 'tried')";
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// What ended in which way, by xid.
    async fn ends(&self) -> BTreeMap<String, (String, i64)> {
        let sql = "SELECT xid, what, amount FROM lines WHERE what <> 'tried'";
        let rows: Vec<(String, String, i64)> = sqlx::query_as(sql).fetch_all(&self.pool).await.unwrap();
        let count = rows.len();
        let ends: BTreeMap<_, _> =
            rows.into_iter().map(|(xid, what, amount)| (xid, (what, amount))).collect();
        assert_eq!(ends.len(), count, "a branch was confirmed and cancelled");
        ends
    }
}

/// Everything that the client was told of a transaction, in order.
async fn transfer(client: &Client, goods: &Side, money: &Side, number: u32) -> (Xid, Vec<Decision>) {
    let xid: Xid = format!("00000000-0000-4000-8000-{:012}", number + 1).parse().unwrap();
    let amount = i64::from(1 + number % 4);
    let transaction = client.transaction("transfer").xid(xid).timeout(Duration::from_secs(10));
    let result = transaction
        .run(async |tx| {
            goods.participant.try_in::<Move>(&tx, amount).await?;
            money.participant.try_in::<Move>(&tx, amount).await
        })
        .await;
    let mut told = Vec::new();
    match result {
        Ok(()) => told.push(Decision::Commit),
        Err(TransactionError::User { .. } | TransactionError::Aborted { .. }) => told.push(Decision::Abort),
        // Nothing was told. Some settle it, others wait until it is settled.
        Err(TransactionError::Begin(_) | TransactionError::OutcomeUnknown { .. }) => {}
    }
    if told.is_empty() || number.is_multiple_of(5) {
        told.push(settled(client, xid).await);
    }
    (xid, told)
}

/// Aborts it, or learns that it is committed.
async fn settled(client: &Client, xid: Xid) -> Decision {
    let end = tokio::time::Instant::now() + LIMIT;
    loop {
        match client.abort(xid).await {
            Ok(()) => return Decision::Abort,
            Err(unanimity_sdk::ClientError::Refused { status: Some(status), .. })
                if status.decision().is_some() =>
            {
                return status.decision().unwrap();
            }
            Err(error) => assert!(tokio::time::Instant::now() < end, "{xid} is not settled: {error}"),
        }
    }
}

async fn crash_and_restart(
    mut coordinator: TestCoordinator,
    mut done: watch::Receiver<u32>,
) -> TestCoordinator {
    for crash in 1..=CRASHES {
        done.wait_for(|done| *done >= crash * TRANSACTIONS / (CRASHES + 1)).await.unwrap();
        coordinator.crash().await;
        // At times longer than a client repeats its commit.
        tokio::time::sleep(Duration::from_millis(if crash % 3 == 0 { 600 } else { 30 })).await;
        coordinator.restart().await.unwrap();
    }
    coordinator
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_in_the_middle_change_no_sum_and_no_word() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = Client::builder(coordinator.url())
        .call_timeout(Duration::from_secs(2))
        .commit_retry_for(Duration::from_millis(200))
        .connect()
        .unwrap();
    let (goods, money) = (Side::open("goods", &client).await, Side::open("money", &client).await);
    let (goods, money) = (Arc::new(goods), Arc::new(money));
    let (finished, next) = (Arc::new(watch::Sender::new(0)), Arc::new(AtomicU32::new(0)));
    let crashes = tokio::spawn(crash_and_restart(coordinator, finished.subscribe()));
    let mut customers = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (client, goods, money) = (client.clone(), Arc::clone(&goods), Arc::clone(&money));
        let (finished, next) = (Arc::clone(&finished), Arc::clone(&next));
        customers.spawn(async move {
            let mut told = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= TRANSACTIONS {
                    return told;
                }
                told.push(transfer(&client, &goods, &money, number).await);
                finished.send_modify(|count| *count += 1);
            }
        });
    }
    let told: BTreeMap<Xid, Vec<Decision>> = customers.join_all().await.into_iter().flatten().collect();
    let coordinator = crashes.await.unwrap();
    assert_eq!(told.len(), TRANSACTIONS as usize);

    // Everything comes to its end, by itself.
    let end = tokio::time::Instant::now() + LIMIT;
    while goods.open_rows().await + money.open_rows().await > 0 {
        assert!(
            tokio::time::Instant::now() < end,
            "open: {} {}",
            goods.open_rows().await,
            money.open_rows().await
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (in_goods, in_money) = (goods.ends().await, money.ends().await);
    let (mut committed, mut moved) = (0, 0);
    for (xid, told) in &told {
        let info = client.wait_finished(*xid, LIMIT).await;
        let truth = match &info {
            Ok(info) => {
                assert!(info.status.is_terminal(), "{xid} is {}", info.status);
                info.decision().unwrap()
            }
            // It never began.
            Err(error) => panic!("{xid}, of which {told:?} was told: {error}"),
        };
        assert!(told.iter().all(|word| *word == truth), "{xid} is {truth}, and {told:?} was told");
        let key = xid.to_string();
        let ends = [in_goods.get(&key), in_money.get(&key)];
        if truth == Decision::Commit {
            committed += 1;
            assert!(
                ends.iter().all(|end| end.is_some_and(|(what, _)| what == "confirmed")),
                "{xid}: {ends:?}"
            );
            moved += ends[0].unwrap().1;
        } else {
            assert!(ends.iter().flatten().all(|(what, _)| what == "cancelled"), "{xid}: {ends:?}");
        }
    }
    assert!(committed > 50, "{committed} of {TRANSACTIONS} committed: too few to say something");
    assert_eq!(goods.amounts().await, (AMOUNT - moved, 0, moved));
    assert_eq!(money.amounts().await, (AMOUNT - moved, 0, moved));
    for side in [goods, money] {
        let health = side.participant.health().await.unwrap();
        assert!(health.attention.iter().all(|a| a.code == "hook_failed"), "{:?}", health.attention);
        side.participant.shutdown().await;
    }
    coordinator.shutdown().await;
}
