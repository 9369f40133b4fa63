//! PostgreSQL with a standby: what was acknowledged survives failovers to a synchronous one, and what an asynchronous
//! one lost is found (protocol C4, H6; matrix F6, F8).

pub(crate) mod clients;
mod pair;

use std::time::Duration;

use anyhow::ensure;
use integration_tests::coordinator::{CoordinatorProcess, log_verify, migrate, migrate_to, unanimity};
use integration_tests::output::{Scratch, say};
use integration_tests::wait::until;
use serde_json::{Value, json};
use uuid::Uuid;

use self::clients::Clients;
use self::pair::{Pair, Replication};

/// How many failovers; more for a longer run.
const FAILOVERS_VARIABLE: &str = "UNANIMITY_TEST_FAILOVERS";
const FAILOVERS: usize = 2;
/// Outcomes between two of them.
const BETWEEN: usize = 200;
const LIMIT: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f6_f8_acknowledged_decisions_survive_failovers_to_the_synchronous_standby() {
    let scratch = Scratch::new("standby").unwrap();
    let Some(mut pair) = Pair::start(Replication::Synchronous).await.unwrap() else { return };
    let failovers =
        std::env::var(FAILOVERS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(FAILOVERS);
    migrate(pair.url()).await.unwrap();
    let mut coordinator = CoordinatorProcess::new(&scratch, "coordinator", pair.url()).unwrap();
    coordinator.process.start().unwrap();
    coordinator.ready(LIMIT).await.unwrap();
    let checked = unanimity(&["check", "--json"], pair.url()).await.unwrap();
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(!checked.contains("standby"), "a good topology is complained of: {checked}");

    let clients = Clients::start(&coordinator.url()).unwrap();
    for n in 0..failovers {
        clients.more(BETWEEN).await.unwrap();
        if n % 2 == 1 {
            // Appends are committed here and wait for the standby when the server dies: present, and not to be
            // relied on (protocol C4b).
            pair.standby.pause().await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
            pair.primary.kill().await.unwrap();
            pair.standby.unpause().await.unwrap();
        } else {
            pair.primary.kill().await.unwrap();
        }
        pair = pair.fail_over().await.unwrap();
    }
    clients.more(BETWEEN).await.unwrap();
    coordinator.ready(LIMIT).await.unwrap();
    let acknowledged = clients.acknowledged();
    let all = clients.verify().await.unwrap();
    coordinator.process.terminate().unwrap();
    assert!(coordinator.process.exit(LIMIT).await.unwrap().success());
    let (code, verified) = log_verify(pair.url()).await.unwrap();
    assert_eq!((code, verified["ok"].as_bool()), (Some(0), Some(true)), "{verified}");
    say(&format!(
        "standby: {failovers} failovers, {acknowledged} outcomes acknowledged of {all} transactions, none lost"
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h6_a_live_owner_finds_that_an_asynchronous_failover_lost_its_tail() {
    let scratch = Scratch::new("lost-tail-live").unwrap();
    let Some(pair) = Pair::start(Replication::Asynchronous).await.unwrap() else { return };
    migrate_to(pair.url(), 2).await.unwrap();
    let mut coordinator = CoordinatorProcess::new(&scratch, "coordinator", pair.url()).unwrap();
    coordinator.process.start().unwrap();
    coordinator.ready(LIMIT).await.unwrap();
    let checked = unanimity(&["check"], pair.url()).await.unwrap();
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.contains("synchronous_standby_names is empty"), "{checked}");
    until("/readyz warns as well", LIMIT, async || {
        let (status, ready) = coordinator.get("/readyz").await?;
        let warns = ready["warnings"].to_string().contains("synchronous_standby_names is empty");
        ensure!(status == 200 && warns, "{status}: {ready}");
        Ok(())
    })
    .await
    .unwrap();

    let (pair, clients) = lose_tail(pair, &coordinator).await;
    drop(clients);
    // It saw itself what is gone: no participant has to tell it.
    accept_all(&coordinator, pair.url()).await;
    coordinator.process.kill().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h6_a_new_owner_learns_from_witnesses_that_the_log_lost_its_tail() {
    let scratch = Scratch::new("lost-tail-new").unwrap();
    let Some(pair) = Pair::start(Replication::Asynchronous).await.unwrap() else { return };
    migrate_to(pair.url(), 2).await.unwrap();
    let mut coordinator = CoordinatorProcess::new(&scratch, "coordinator", pair.url()).unwrap();
    coordinator.process.start().unwrap();
    coordinator.ready(LIMIT).await.unwrap();
    let clients = Clients::start(&coordinator.url()).unwrap();
    clients.more(BETWEEN).await.unwrap();
    pair.standby.kill().await.unwrap();
    clients.more(BETWEEN).await.unwrap();
    coordinator.process.kill().unwrap();
    pair.primary.kill().await.unwrap();
    let witnesses = clients.witnesses();
    drop(clients);
    pair.standby.restart().await.unwrap();
    let pair = pair.fail_over().await.unwrap();
    // Nobody who lives has seen the tail: without a witness the loss cannot be told from a quiet night.
    coordinator.process.start().unwrap();
    coordinator.ready(LIMIT).await.unwrap();
    let (_, info) = coordinator.get("/v1/info").await.unwrap();
    let body = json!({ "xids": [Uuid::new_v4()], "log_id": info["log_id"], "witnesses": witnesses });
    let (status, answer) = coordinator.post("/v1/inquiries", &body).await.unwrap();
    assert!(status != 200 || answer["answers"].as_array().is_some(), "{status}: {answer}");
    accept_all(&coordinator, pair.url()).await;
    coordinator.process.kill().unwrap();
}

/// The primary dies with a tail that its standby never had, and the standby takes over.
async fn lose_tail(pair: Pair, coordinator: &CoordinatorProcess) -> (Pair, Clients) {
    let clients = Clients::start(&coordinator.url()).unwrap();
    clients.more(BETWEEN).await.unwrap();
    pair.standby.kill().await.unwrap();
    clients.more(BETWEEN).await.unwrap();
    pair.primary.kill().await.unwrap();
    pair.standby.restart().await.unwrap();
    (pair.fail_over().await.unwrap(), clients)
}

/// Every partition has stopped and says why; an operator accepts the loss of each, and all go on.
async fn accept_all(coordinator: &CoordinatorProcess, url: &str) {
    let stopped = until("both partitions stop", LIMIT, async || {
        let (_, info) = coordinator.get("/v1/info").await?;
        let states = info["partition_states"].as_array().cloned().unwrap_or_default();
        let stopped: Vec<Value> = states.into_iter().filter(|one| one["state"] == "stopped").collect();
        ensure!(stopped.len() == 2, "{} stopped: {info}", stopped.len());
        Ok(stopped)
    });
    let stopped = stopped.await.unwrap();
    let (status, refused) = coordinator.post("/v1/transactions", &json!({ "mode": "tcc" })).await.unwrap();
    assert!(status >= 500 && refused["code"] == "log_lost_tail", "{status}: {refused}");
    for partition in stopped {
        let number = partition["partition"].to_string();
        let address = coordinator.url();
        let reason = "the standby was asynchronous";
        let arguments = ["log", "accept-loss", &number, "--addr", &address, "--reason", reason];
        let until_accepted = until("the loss is accepted", LIMIT, async || {
            let output = unanimity(&arguments, url).await?;
            ensure!(output.status.success(), "{output:?}");
            Ok(())
        });
        until_accepted.await.unwrap();
    }
    until("all go on", LIMIT, async || {
        let (status, begun) = coordinator.post("/v1/transactions", &json!({ "mode": "tcc" })).await?;
        ensure!(status == 201, "{status}: {begun}");
        let (status, ready) = coordinator.get("/readyz").await?;
        ensure!(status == 200, "{status}: {ready}");
        Ok(())
    })
    .await
    .unwrap();
}
