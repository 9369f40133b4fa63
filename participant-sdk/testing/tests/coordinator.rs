//! The coordinator for tests, used as an SDK user would: a participant, crashes, restarts.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::time::Duration;

use sqlx::{Sqlite, SqlitePool, Transaction};
use unanimity_sdk::{
    Branch, Fence, HookError, Participant, Refused, Status, TccHooks, TransactionError, TryError, sqlite_pool,
};
use unanimity_testing::TestCoordinator;

const LIMIT: Duration = Duration::from_secs(20);

struct Reserve;

impl TccHooks<Sqlite> for Reserve {
    type Payload = i64;
    type Output = ();

    async fn try_(&self, tx: &mut Transaction<'_, Sqlite>, branch: &Branch<i64>) -> Result<(), HookError> {
        let done = sqlx::query("UPDATE stock SET free = free - $1, held = held + $1 WHERE free >= $1")
            .bind(branch.payload)
            .execute(&mut **tx)
            .await?;
        if done.rows_affected() == 0 { Err(Refused::new("out of stock").into()) } else { Ok(()) }
    }

    async fn confirm(&self, tx: &mut Transaction<'_, Sqlite>, branch: &Branch<i64>) -> Result<(), HookError> {
        let sql = "UPDATE stock SET held = held - $1";
        sqlx::query(sql).bind(branch.payload).execute(&mut **tx).await?;
        Ok(())
    }

    async fn cancel(&self, tx: &mut Transaction<'_, Sqlite>, branch: &Branch<i64>) -> Result<(), HookError> {
        let sql = "UPDATE stock SET held = held - $1, free = free + $1";
        sqlx::query(sql).bind(branch.payload).execute(&mut **tx).await?;
        Ok(())
    }
}

struct Shop {
    _directory: tempfile::TempDir,
    pool: SqlitePool,
    inventory: Participant<Sqlite>,
}

impl Shop {
    async fn open(coordinator: &TestCoordinator) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pool = sqlite_pool(directory.path().join("inventory.db")).await.unwrap();
        sqlx::raw_sql("CREATE TABLE stock (free BIGINT NOT NULL, held BIGINT NOT NULL); INSERT INTO stock VALUES (10, 0)")
            .execute(&pool)
            .await
            .unwrap();
        let fence = Fence::new(pool.clone());
        fence.migrate().await.unwrap();
        let builder = Participant::builder("inventory", fence).tcc("reserve", Reserve);
        let inventory = builder.attach(&coordinator.client()).await.unwrap();
        Self { _directory: directory, pool, inventory }
    }

    async fn stock(&self) -> (i64, i64) {
        sqlx::query_as("SELECT free, held FROM stock").fetch_one(&self.pool).await.unwrap()
    }
}

#[tokio::test]
async fn a_transaction_commits_and_one_that_is_refused_aborts() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let (client, shop) = (coordinator.client(), Shop::open(&coordinator).await);

    let order = client.transaction("order").wait_finished();
    order.run(async |tx| shop.inventory.try_in::<Reserve>(&tx, 4).await).await.unwrap();
    assert_eq!(shop.stock().await, (6, 0));

    let order = client.transaction("order");
    let refused = order.run(async |tx| shop.inventory.try_in::<Reserve>(&tx, 7).await).await;
    assert!(
        matches!(&refused, Err(TransactionError::User { error: TryError::Refused(why), .. }) if why == "out of stock"),
        "{refused:?}"
    );
    assert_eq!(shop.stock().await, (6, 0));
    shop.inventory.shutdown().await;
    coordinator.shutdown().await;
}

#[tokio::test]
async fn a_crash_forgets_nothing_that_was_durable() {
    let mut coordinator = TestCoordinator::start().await.unwrap();
    let (client, shop, url) = (coordinator.client(), Shop::open(&coordinator).await, coordinator.url());

    // Begun and tried before the crash, committed after it.
    let tx = client.begin("order").await.unwrap();
    shop.inventory.try_in::<Reserve>(&tx, 3).await.unwrap();
    assert_eq!(shop.stock().await, (7, 3));
    coordinator.crash().await;
    assert!(!coordinator.is_running());
    coordinator.restart().await.unwrap();
    assert_eq!(coordinator.url(), url);
    tx.commit().await.unwrap();

    let info = client.wait_finished(tx.xid(), LIMIT).await.unwrap();
    assert_eq!(info.status, Status::Committed);
    assert_eq!(shop.stock().await, (7, 0));
    shop.inventory.shutdown().await;
    coordinator.shutdown().await;
}

#[tokio::test]
async fn a_commit_that_meets_a_dead_coordinator_is_settled_by_the_next_one() {
    let mut coordinator = TestCoordinator::start().await.unwrap();
    let (client, shop) = (coordinator.client(), Shop::open(&coordinator).await);
    let tx = client.begin("order").await.unwrap();
    shop.inventory.try_in::<Reserve>(&tx, 2).await.unwrap();
    coordinator.crash().await;
    let commit = tokio::spawn({
        let tx = tx.clone();
        async move { tx.commit().await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    coordinator.restart().await.unwrap();
    commit.await.unwrap().unwrap();
    assert_eq!(client.wait_finished(tx.xid(), LIMIT).await.unwrap().status, Status::Committed);
    assert_eq!(shop.stock().await, (8, 0));
    coordinator.shutdown().await;
}

#[tokio::test]
async fn h1_a_branch_that_the_manager_registered_is_committed_with_its_vote_only() {
    use unanimity_sdk::{AbortCause, AbortReason, BranchKind, NewBranch, TransactionError};
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let tcc = || NewBranch::tcc(("stock", "confirm"), ("stock", "cancel")).payload_bytes("7");
    for (transaction, branches) in [
        (client.transaction("order"), [tcc(), tcc()]),
        (client.two_phase("order"), [(); 2].map(|()| NewBranch::two_phase(("bank", "xa"), ("bank", "xa")))),
    ] {
        let (kept, dropped) =
            (transaction.clone().begin().await.unwrap(), transaction.begin().await.unwrap());
        for branch in branches {
            kept.vote(kept.register(branch.clone()).await.unwrap());
            dropped.register(branch).await.unwrap();
        }
        kept.commit().await.unwrap();
        let info = client.status(kept.xid()).await.unwrap();
        assert!(info.status.decision().is_some(), "{info:?}");
        assert_eq!(info.details.len(), 2, "each is a branch of its own: {info:?}");
        assert!(info.details.iter().all(|branch| branch.kind != Some(BranchKind::Step)), "{info:?}");
        let aborted = dropped.commit().await.unwrap_err();
        let reason = AbortCause::Coordinator(AbortReason::BranchNotVoted);
        assert!(
            matches!(&aborted, TransactionError::Aborted { reason: why, .. } if *why == reason),
            "{aborted:?}"
        );
    }
    // What cannot be registered is refused before it is sent.
    let tx = client.begin("order").await.unwrap();
    let large = vec![b'x'; 1_048_577];
    assert!(tx.register(tcc().payload_bytes(large)).await.is_err());
    assert!(tx.register(NewBranch::tcc(("", "x"), ("stock", "cancel"))).await.is_err());
}
