//! A TCC transaction that carries two-phase branches.

use sqlx::{PgConnection, Postgres, Sqlite, Transaction};
use unanimity_sdk::{
    Branch, Fence, HookError, Participant, TccHooks, TransactionError, TryError, sqlite_pool,
};
use unanimity_testing::TestCoordinator;

use super::service::{eventually, finished};
use super::support::Bank;

struct Reserve;

impl TccHooks<Sqlite> for Reserve {
    type Payload = i64;
    type Output = ();

    async fn try_(&self, tx: &mut Transaction<'_, Sqlite>, branch: &Branch<i64>) -> Result<(), HookError> {
        let sql = "UPDATE stock SET free = free - $1, held = held + $1";
        sqlx::query(sql).bind(branch.payload).execute(&mut **tx).await?;
        Ok(())
    }

    async fn confirm(&self, tx: &mut Transaction<'_, Sqlite>, branch: &Branch<i64>) -> Result<(), HookError> {
        sqlx::query("UPDATE stock SET held = held - $1").bind(branch.payload).execute(&mut **tx).await?;
        Ok(())
    }

    async fn cancel(&self, tx: &mut Transaction<'_, Sqlite>, branch: &Branch<i64>) -> Result<(), HookError> {
        let sql = "UPDATE stock SET free = free + $1, held = held - $1";
        sqlx::query(sql).bind(branch.payload).execute(&mut **tx).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tcc_transaction_carries_both_kinds() {
    let mut coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let Some(bank) = Bank::<Postgres>::fresh().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let pool = sqlite_pool(directory.path().join("stock.db")).await.unwrap();
    sqlx::raw_sql("CREATE TABLE stock (free BIGINT, held BIGINT); INSERT INTO stock VALUES (10, 0)")
        .execute(&pool)
        .await
        .unwrap();
    let fence = Fence::new(pool.clone());
    fence.migrate().await.unwrap();
    // One participant with both.
    let shop = Participant::builder("shop", fence)
        .tcc("reserve", Reserve)
        .two_phase("pay", bank.resource.clone())
        .attach(&client)
        .await
        .unwrap();
    eventually("it is attached", async || shop.health().await.unwrap().attached).await;
    let order = async |outcome: Result<(), TryError>| {
        let transaction = client.transaction("order").wait_finished();
        transaction
            .run(async |tx| {
                shop.try_in::<Reserve>(&tx, 1).await?;
                let branch = shop.two_phase_branch("pay");
                let pay = branch.work(&tx, 7, |connection: &mut PgConnection| {
                    Box::pin(async move {
                        sqlx::query("UPDATE accounts SET cents = cents - 7 WHERE name = 'a'")
                            .execute(connection)
                            .await?;
                        Ok(())
                    })
                });
                pay.await?;
                outcome
            })
            .await
    };
    let stock = async || -> (i64, i64) {
        sqlx::query_as("SELECT free, held FROM stock").fetch_one(&pool).await.unwrap()
    };
    order(Ok(())).await.unwrap();
    assert_eq!((stock().await, bank.cents("a").await), ((9, 0), 993));
    let aborted = order(Err(TryError::TooLate)).await;
    let Err(TransactionError::User { xid, .. }) = aborted else { panic!("{aborted:?}") };
    finished(&client, xid).await;
    assert_eq!((stock().await, bank.cents("a").await), ((9, 0), 993));

    // A TCC branch in a two_phase transaction is refused.
    let tx = client.two_phase("order").begin().await.unwrap();
    let refused = shop.try_in::<Reserve>(&tx, 1).await;
    assert!(matches!(refused, Err(TryError::Registration(_))), "{refused:?}");
    coordinator.crash().await;
    shop.shutdown().await;
}
