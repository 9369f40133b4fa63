//! The late form: the coordinator asks for the prepare, or leaves the decision to the branch.

use std::time::Duration;

use sqlx::{MySql, PgConnection, Postgres};
use unanimity_sdk::xa::Worked;
use unanimity_sdk::{Context, HookError, NoFence, Participant, TransactionError, TryError};
use unanimity_testing::TestCoordinator;

use super::proxy::Proxy;
use super::service::{Service, attached, call, fast, finished, sql};
use super::support::{Bank, Xa};
use super::transfers::{deferred_constraint, orphan};

async fn add_later<DB: Xa>(
    participant: &Participant<NoFence>,
    transaction: &impl AsRef<Context>,
    cents: i64,
    one_phase: bool,
) -> Result<Worked<()>, TryError> {
    let mut branch = participant.two_phase_branch("transfer").late();
    if one_phase {
        branch = branch.one_phase();
    }
    let sql = sql(cents);
    let work = branch.work(transaction, cents, move |connection: &mut DB::Connection| {
        Box::pin(async move { DB::sql(connection, &sql).await.map_err(HookError::from) })
    });
    work.await
}

async fn the_coordinator_prepares<DB: Xa>() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let Some(bank) = Service::<DB>::open("bank", &client).await else { return };
    let Some(other) = Service::<DB>::open("other", &client).await else { return };
    // Known by its xid alone: the calls here carry no birth.
    let tx = client.two_phase("transfer").durable().wait_finished().begin().await.unwrap();
    // The call of the first comes twice.
    for expected in ["Held(())", "Before"] {
        let context = call(tx.xid());
        let worked = add_later::<DB>(&bank.participant, &context, 7, true).await.unwrap();
        assert_eq!(format!("{worked:?}"), expected);
    }
    // Begun anew, so that the votes of the calls are the commit's.
    tx.abort().await.unwrap();
    finished(&client, tx.xid()).await;
    assert_eq!(bank.cents().await, 1_000);

    let tx = client.two_phase("transfer").wait_finished().begin().await.unwrap();
    add_later::<DB>(&bank.participant, &tx, 7, true).await.unwrap();
    other.add(&tx, -7).await.unwrap();
    assert_eq!((bank.prepared(&client).await, other.prepared(&client).await), (0, 1));
    let health = bank.participant.health().await.unwrap();
    assert_eq!(health.two_phase[0].open, 1);
    tx.commit().await.unwrap();
    assert_eq!((bank.cents().await, other.cents().await), (1_007, 993));
    assert_eq!((bank.prepared(&client).await, other.prepared(&client).await), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coordinator_prepares_on_postgres() {
    the_coordinator_prepares::<Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coordinator_prepares_on_mariadb() {
    the_coordinator_prepares::<MySql>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_late_prepare_aborts() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let Some(one) = Service::<Postgres>::open("one", &client).await else { return };
    let Some(two) = Service::<Postgres>::open("two", &client).await else { return };
    deferred_constraint(&one).await;
    let tx = client.two_phase("transfer").begin().await.unwrap();
    let branch = one.participant.two_phase_branch("transfer").late();
    branch.work(&tx, (), |connection: &mut PgConnection| Box::pin(orphan(connection))).await.unwrap();
    two.add(&tx, 1).await.unwrap();
    let commit = tx.commit().await;
    assert!(matches!(commit, Err(TransactionError::Aborted { .. })), "{commit:?}");
    finished(&client, tx.xid()).await;
    assert_eq!((two.cents().await, two.prepared(&client).await), (1_000, 0));
}

async fn one_phase<DB: Xa>() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let Some(bank) = Service::<DB>::open("bank", &client).await else { return };
    let tx = client.two_phase("transfer").wait_finished().begin().await.unwrap();
    add_later::<DB>(&bank.participant, &tx, 1, true).await.unwrap();
    tx.commit().await.unwrap();
    let info = finished(&client, tx.xid()).await;
    assert_eq!(bank.cents().await, 1_001);
    assert_eq!(info.details[0].status.map(|status| status.to_string()).as_deref(), Some("committed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h4_one_phase_on_postgres() {
    one_phase::<Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h4_one_phase_on_mariadb() {
    one_phase::<MySql>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h4_one_phase_is_refused_by_a_deferred_constraint() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let Some(one) = Service::<Postgres>::open("one", &client).await else { return };
    deferred_constraint(&one).await;
    let tx = client.two_phase("transfer").begin().await.unwrap();
    let branch = one.participant.two_phase_branch("transfer").one_phase();
    branch.work(&tx, (), |connection: &mut PgConnection| Box::pin(orphan(connection))).await.unwrap();
    let commit = tx.commit().await;
    assert!(matches!(commit, Err(TransactionError::Aborted { .. })), "{commit:?}");
    finished(&client, tx.xid()).await;
    let health = one.participant.health().await.unwrap();
    assert!(health.is_well() || health.attention.is_empty(), "{health:?}");
}

/// The database commits and its answer is lost: the ledger knows, and the branch says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h4_the_lost_answer_of_a_one_phase_commit_is_found() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let Some(bank) = Bank::<Postgres>::fresh().await else { return };
    let proxy = Proxy::start(bank.port, "COMMIT\0").await;
    let resource = bank.instance_by(proxy.port).await;
    let participant = fast("bank", &resource).attach(&client).await.unwrap();
    attached(&participant).await;
    let tx = client.two_phase("transfer").wait_finished().begin().await.unwrap();
    add_later::<Postgres>(&participant, &tx, 1, true).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!((proxy.losses(), bank.cents("a").await), (1, 1_001));
}

/// The instance that did the work goes before it is asked to prepare.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h11_a_late_branch_whose_instance_is_gone_is_refused() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let Some(bank) = Bank::<Postgres>::fresh().await else { return };
    // Its process would take the open transaction with it; here its time does.
    let first = bank.instance().await.hold(Duration::from_secs(1), 4);
    let gone = fast("bank", &first).instance("first").attach(&client).await.unwrap();
    let stays = fast("bank", &bank.resource).instance("second").attach(&client).await.unwrap();
    attached(&gone).await;
    attached(&stays).await;
    let tx = client.two_phase("transfer").begin().await.unwrap();
    add_later::<Postgres>(&gone, &tx, 1, false).await.unwrap();
    gone.shutdown().await;
    let commit = tx.commit().await;
    assert!(matches!(commit, Err(TransactionError::Aborted { .. })), "{commit:?}");
    let info = finished(&client, tx.xid()).await;
    assert_eq!(info.abort_reason.map(|reason| reason.to_string()).as_deref(), Some("refused"));
    assert_eq!(bank.cents("a").await, 1_000);
    stays.shutdown().await;
}
