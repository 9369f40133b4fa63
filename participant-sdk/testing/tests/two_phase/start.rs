//! What is said when a participant starts, and what its health shows.

use sqlx::{Connection as _, PgConnection, Postgres};
use unanimity_sdk::xa::{Owner, Resource, XaError};
use unanimity_sdk::{BuildError, Participant};
use unanimity_testing::TestCoordinator;

use super::servers::Server;
use super::service::{Service, eventually, fast};
use super::support::{Bank, admin};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_prepare_is_said_at_the_start() {
    let server = tokio::task::spawn_blocking(|| Server::postgres("-c max_prepared_transactions=0"));
    let Some(server) = server.await.unwrap() else { return };
    let coordinator = TestCoordinator::start().await.unwrap();
    let resource = Resource::new(admin::<Postgres>(server.port).await);
    let unmigrated = fast("bank", &resource).attach(&coordinator.client()).await;
    let Err(BuildError::ResourceManager { error: XaError::Database(_), .. }) = unmigrated else {
        panic!("{unmigrated:?}")
    };
    resource.migrate().await.unwrap();
    let off = fast("bank", &resource).attach(&coordinator.client()).await;
    let Err(BuildError::ResourceManager { operation, error }) = off else { panic!("{off:?}") };
    assert_eq!(operation, "transfer");
    assert!(
        matches!(error, XaError::PreparedTransactionsOff) && error.to_string().contains("restart the server")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m13_settings_that_lose_votes_and_prepared_work_of_others_are_shown() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let client = coordinator.client();
    let Some(service) = Service::<Postgres>::open("bank", &client).await else { return };
    // The servers of the tests run without fsync.
    let health = service.participant.health().await.unwrap();
    assert!(health.durability.iter().any(|found| found.setting == "fsync" && found.loses_data));
    // C8: of another coordinator, and of another program.
    service.bank.pay(&service.bank.branch("pay#1"), "b").await.unwrap();
    let url = format!("postgres://test@127.0.0.1:{}/{}", service.bank.port, service.bank.name);
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("BEGIN; CREATE TABLE theirs (); PREPARE TRANSACTION 'theirs'")
        .execute(&mut connection)
        .await
        .unwrap();
    let mut shown = Vec::new();
    eventually("both are shown", async || {
        let health = service.participant.health().await.unwrap();
        shown = health.two_phase[0]
            .others
            .iter()
            .filter(|other| is_here(other.owner, &service.bank))
            .cloned()
            .collect();
        assert_eq!(health.two_phase[0].prepared, 0);
        shown.len() == 2
    })
    .await;
    // The loops have seen them as well, and left them alone.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(service.bank.prepared().await, 1);
    sqlx::raw_sql("ROLLBACK PREPARED 'theirs'").execute(&mut connection).await.unwrap();
    service.participant.shutdown().await;
}

fn is_here(owner: Owner, bank: &Bank<Postgres>) -> bool {
    match owner {
        Owner::OtherLog(gid) => gid.log_id() == bank.log,
        Owner::Foreign => true,
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_need_a_fence() {
    let coordinator = TestCoordinator::start().await.unwrap();
    let built = Participant::without_fence("bank").sender("mail").attach(&coordinator.client()).await;
    assert!(matches!(built, Err(BuildError::NeedsFence(name)) if name == "mail"));
    let none = Participant::without_fence("bank").attach(&coordinator.client()).await;
    assert!(matches!(none, Err(BuildError::NoOperations)));
}
