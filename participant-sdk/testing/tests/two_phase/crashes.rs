//! Participants that die with prepared work, databases and coordinators that are started again, and a
//! database that lost what it had promised.

use std::time::Duration;

use sqlx::{MySql, Postgres};
use unanimity_sdk::{Client, NoFence, Participant, Status};
use unanimity_testing::TestCoordinator;

use super::service::{Service, eventually, fast, finished};
use super::support::{Bank, Xa, admin};

/// A participant that the coordinator does not know how to call: what it settles is its loop's work.
async fn unattached<DB: Xa>(coordinator: &TestCoordinator, bank: &Bank<DB>) -> Participant<NoFence> {
    let resource = bank.instance().await;
    // A new process has met no log.
    let client = Client::connect(coordinator.url()).unwrap();
    fast("bank", &resource).called_at(&client, "http://127.0.0.1:9").await.unwrap()
}

async fn a_prepared_branch_whose_participant_died_is_asked_about<DB: Xa>() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let Some(service) = Service::<DB>::open("bank", &client).await else { return };
    let [committed, active] = [client.two_phase("t"), client.two_phase("t")];
    let (committed, active) = (committed.begin().await.unwrap(), active.begin().await.unwrap());
    service.add(&committed, 10).await.unwrap();
    service.participant.shutdown().await;
    committed.commit().await.unwrap();
    assert_eq!((service.cents().await, service.prepared(&client).await), (1_000, 1));
    let second = unattached(&coordinator, &service.bank).await;
    eventually("the decision is found out", async || service.cents().await == 1_010).await;
    second.shutdown().await;

    // P3: prepared, and its vote lost with the process.
    let third = Service::of("bank", Bank { ..service.bank }, &client).await;
    third.add(&active, 1).await.unwrap();
    third.participant.shutdown().await;
    let fourth = unattached(&coordinator, &third.bank).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(third.prepared(&client).await, 1, "P4: nobody decides alone");
    let health = fourth.health().await.unwrap();
    assert_eq!(health.two_phase[0].prepared, 1);
    assert!(health.two_phase[0].oldest_prepared.is_some());
    active.abort().await.unwrap();
    eventually("it is rolled back", async || third.prepared(&client).await == 0).await;
    assert_eq!(third.cents().await, 1_010);
    assert!(fourth.health().await.unwrap().attention.is_empty());
    fourth.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_p4_a_participant_died_with_prepared_work_on_postgres() {
    a_prepared_branch_whose_participant_died_is_asked_about::<Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_p4_a_participant_died_with_prepared_work_on_mariadb() {
    a_prepared_branch_whose_participant_died_is_asked_about::<MySql>().await;
}

/// P6: the decision cannot be applied while the database is away; it is when it is back.
async fn the_database_and_the_coordinator_restart<DB: Xa>() {
    let server = tokio::task::spawn_blocking(DB::server).await.unwrap();
    let Some(server) = server else {
        eprintln!("SKIPPED: no server for this database on this machine");
        return;
    };
    let mut coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let service = Service::<DB>::of("bank", Bank::on(server.port).await, &client).await;
    let tx = client.two_phase("transfer").begin().await.unwrap();
    service.add(&tx, 10).await.unwrap();
    let lost = client.two_phase("transfer").begin().await.unwrap();
    let other = service.participant.two_phase_branch("transfer");
    let sql = "UPDATE accounts SET cents = 0 WHERE name = 'b'";
    let work = other.work(&lost, (), move |connection: &mut DB::Connection| {
        Box::pin(async move { Ok(DB::sql(connection, sql).await?) })
    });
    work.await.unwrap();
    server.kill();
    tx.commit().await.unwrap();
    coordinator.restart().await.unwrap();
    lost.abort().await.unwrap();
    server.restart();
    admin::<DB>(server.port).await.close().await;
    finished(&client, tx.xid()).await;
    finished(&client, lost.xid()).await;
    assert_eq!((service.cents().await, service.bank.cents("b").await), (1_010, 1_000));
    assert_eq!(service.prepared(&client).await, 0);
    assert!(service.participant.health().await.unwrap().attention.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p6_postgres_and_the_coordinator_restart_before_the_commit() {
    the_database_and_the_coordinator_restart::<Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p6_mariadb_and_the_coordinator_restart_before_the_commit() {
    the_database_and_the_coordinator_restart::<MySql>().await;
}

/// As after a restore from an old backup: nothing is prepared, and the ledger has no row.
async fn a_lost_branch_is_an_alarm<DB: Xa>() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let Some(service) = Service::<DB>::open("bank", &client).await else { return };
    let tx = client.two_phase("transfer").begin().await.unwrap();
    service.add(&tx, 10).await.unwrap();
    let gid = service.bank.resource.in_doubt(client.log_id().unwrap()).await.unwrap().ours[0].gid;
    service.bank.resource.rollback(&gid).await;
    DB::execute(service.bank.resource.pool(), "DELETE FROM unanimity_ledger").await;
    tx.commit().await.unwrap();
    eventually("somebody is told", async || {
        let attention = service.participant.health().await.unwrap().attention;
        attention.iter().any(|one| one.code == "xa_alarm" && one.xid == Some(tx.xid()) && one.count > 1)
    })
    .await;
    assert!(!service.participant.health().await.unwrap().is_well());
    let info = client.status(tx.xid()).await.unwrap();
    assert_eq!(info.status, Status::Committing, "never a success: {info:?}");
    assert!(info.details[0].last_error.contains("restored from a backup"), "{info:?}");
    assert_eq!(service.cents().await, 1_000);
    service.participant.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p5_a_branch_that_postgres_lost_is_an_alarm() {
    a_lost_branch_is_an_alarm::<Postgres>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p5_a_branch_that_mariadb_lost_is_an_alarm() {
    a_lost_branch_is_an_alarm::<MySql>().await;
}
