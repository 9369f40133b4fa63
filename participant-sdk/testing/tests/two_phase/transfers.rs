//! Transfers in good weather, refusals, and repeated calls.

use std::time::Duration;

use sqlx::{MySql, PgConnection, Postgres};
use unanimity_sdk::xa::{Worked, XaError};
use unanimity_sdk::{BranchOptions, HookError, Refused, TransactionError, TryError};
use unanimity_testing::TestCoordinator;

use super::service::{Service, call, eventually, fast, finished};
use super::support::Xa;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_databases_commit_or_roll_back_together() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let Some(one) = Service::<Postgres>::open("one", &client).await else { return };
    let Some(two) = Service::<Postgres>::open("two", &client).await else { return };
    let Some(three) = Service::<MySql>::open("three", &client).await else { return };
    let transfer = async |last: Result<(), &'static str>| {
        let transaction = client.two_phase("transfer").wait_finished();
        transaction
            .run(async |tx| {
                assert_eq!(one.add(&tx, -30).await.unwrap().value(), Some(-30));
                two.add(&tx, 10).await.unwrap();
                three.add(&tx, 20).await.unwrap();
                let prepared =
                    [one.prepared(&client).await, two.prepared(&client).await, three.prepared(&client).await];
                assert_eq!(prepared, [1, 1, 1]);
                last
            })
            .await
    };
    transfer(Ok(())).await.unwrap();
    assert_eq!((one.cents().await, two.cents().await, three.cents().await), (970, 1_010, 1_020));
    let aborted = transfer(Err("no")).await;
    let Err(TransactionError::User { xid, .. }) = aborted else { panic!("{aborted:?}") };
    finished(&client, xid).await;
    assert_eq!((one.cents().await, two.cents().await, three.cents().await), (970, 1_010, 1_020));
    for prepared in [one.prepared(&client).await, two.prepared(&client).await, three.prepared(&client).await]
    {
        assert_eq!(prepared, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_work_that_fails_is_rolled_back_and_has_no_vote() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let Some(one) = Service::<Postgres>::open("one", &client).await else { return };
    let tx = client.two_phase("transfer").begin().await.unwrap();
    let branch = one.participant.two_phase_branch("transfer");
    let refused = branch.work(&tx, (), |connection: &mut PgConnection| {
        Box::pin(async move {
            sqlx::query("UPDATE accounts SET cents = 0").execute(connection).await?;
            Err::<(), HookError>(Refused::new("not enough money").into())
        })
    });
    let refused = refused.await;
    assert!(matches!(&refused, Err(TryError::Refused(why)) if why == "not enough money"), "{refused:?}");
    // The error swallowed: the branch is registered, and did not vote (H1).
    let commit = tx.commit().await;
    assert!(matches!(commit, Err(TransactionError::Aborted { .. })), "{commit:?}");
    finished(&client, tx.xid()).await;
    assert_eq!((one.cents().await, one.prepared(&client).await), (1_000, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_a_refused_prepare_reaches_the_caller() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let Some(one) = Service::<Postgres>::open("one", &client).await else { return };
    deferred_constraint(&one).await;
    let tx = client.two_phase("transfer").begin().await.unwrap();
    let branch = one.participant.two_phase_branch("transfer");
    let refused = branch.work(&tx, (), |connection: &mut PgConnection| Box::pin(orphan(connection))).await;
    assert!(matches!(refused, Err(TryError::TwoPhase(XaError::PrepareRefused(_)))), "{refused:?}");
    assert!(!refused.unwrap_err().is_retryable());
    let commit = tx.commit().await;
    assert!(matches!(commit, Err(TransactionError::Aborted { .. })), "{commit:?}");
    finished(&client, tx.xid()).await;
    assert_eq!(one.prepared(&client).await, 0);
}

/// A row that refers to nobody is found when the transaction ends.
pub(crate) async fn deferred_constraint(service: &Service<Postgres>) {
    let sql = "CREATE TABLE entries (account varchar(20) REFERENCES accounts DEFERRABLE INITIALLY DEFERRED)";
    Postgres::execute(service.bank.resource.pool(), sql).await;
}

pub(crate) async fn orphan(connection: &mut PgConnection) -> Result<(), HookError> {
    sqlx::query("INSERT INTO entries VALUES ('nobody')").execute(connection).await?;
    Ok(())
}

async fn a_repeated_call_finds_its_branch<DB: Xa>() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let Some(bank) = Service::<DB>::open("bank", &client).await else { return };
    // Known by its xid alone: the calls here carry no birth.
    let tx = client.two_phase("transfer").durable().begin().await.unwrap();
    // The first answer is lost; the same call comes again.
    assert!(matches!(bank.add(&call(tx.xid()), 5).await, Ok(Worked::Prepared(5))));
    let again = call(tx.xid());
    assert!(matches!(bank.add(&again, 5).await, Ok(Worked::Before)));
    assert!(!again.votes_header().is_empty(), "it has its vote");
    // The same call with another body is none.
    let other = bank.add(&call(tx.xid()), 6).await;
    assert!(matches!(other, Err(TryError::Registration(_))), "{other:?}");
    tx.abort().await.unwrap();
    finished(&client, tx.xid()).await;
    // And a late one is too late (I8).
    assert!(bank.add(&call(tx.xid()), 5).await.is_err());
    assert_eq!((bank.cents().await, bank.prepared(&client).await), (1_000, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h8_a_repeated_call_finds_its_branch_on_postgres() {
    a_repeated_call_finds_its_branch::<Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h8_a_repeated_call_finds_its_branch_on_mariadb() {
    a_repeated_call_finds_its_branch::<MySql>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h11_a_second_branch_that_waits_for_the_first_is_told_so() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let Some(one) = Service::<Postgres>::open("one", &client).await else { return };
    let tx = client.two_phase("transfer").begin().await.unwrap();
    one.add(&tx, 1).await.unwrap();
    let second = one.add(&tx, 1).await;
    let Err(TryError::TwoPhase(XaError::SiblingHoldsLock { .. })) = second else { panic!("{second:?}") };
    // Another row is no matter.
    let branch = one.participant.two_phase_branch("transfer").options(BranchOptions::new().label("b"));
    let work = branch.work(&tx, (), |connection: &mut PgConnection| {
        Box::pin(async move {
            sqlx::query("UPDATE accounts SET cents = 0 WHERE name = 'b'").execute(connection).await?;
            Ok(())
        })
    });
    work.await.unwrap();
    tx.abort().await.unwrap();
    finished(&client, tx.xid()).await;
    assert_eq!((one.cents().await, one.bank.cents("b").await), (1_000, 1_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h9_ledger_rows_go_only_when_their_transaction_is_settled() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let Some(one) = Service::<Postgres>::open("one", &client).await else { return };
    let Some(two) = Service::<MySql>::open("two", &client).await else { return };
    // This one stays open: its other branch cannot be told.
    let open = client.two_phase("transfer").begin().await.unwrap();
    one.add(&open, 1).await.unwrap();
    two.add(&open, 1).await.unwrap();
    two.participant.shutdown().await;
    open.commit().await.unwrap();
    eventually("one side is committed", async || one.cents().await == 1_001).await;
    one.participant.shutdown().await;
    let collecting = |name: &str| {
        fast(name, &one.bank.resource).collect_after(Duration::ZERO).collect_every(Duration::from_millis(20))
    };
    let participant = collecting("one").attach(&client).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(one.ledger().await, 1, "not settled");
    let other = fast("two", &two.bank.resource).attach(&client).await.unwrap();
    finished(&client, open.xid()).await;
    eventually("the row is collected", async || one.ledger().await == 0).await;
    assert_eq!(two.cents().await, 1_001);
    participant.shutdown().await;
    other.shutdown().await;
}
