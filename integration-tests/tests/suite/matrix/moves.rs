//! A partition's log goes to another server and back, under load, and the coordinator dies on the way (protocol H10):
//! nothing that was answered is lost, whichever step was the last.

use anyhow::ensure;
use integration_tests::coordinator::{CoordinatorProcess, log_verify_with, migrate_with};
use integration_tests::output::{Scratch, say};
use integration_tests::postgres::{Options, TestPostgres};
use integration_tests::wait::until;
use serde_json::json;
use std::time::Duration;

use super::world::{READY, arm, died};
use crate::standby::clients::Clients;

/// Points at which these tests die: after the seal, after the copy, after the placement's flip.
pub(super) const POINTS: &[&str] = &["seal.after", "move.after_import", "move.after_flip"];

/// Outcomes between two moves.
const BETWEEN: usize = 60;
const SERVERS: &str = "UNANIMITY_DATABASE_SERVERS";
const SOON: Duration = Duration::from_secs(60);

/// Two servers, of which the second has the name b, and a log of two partitions born on the first.
struct Two {
    home: TestPostgres,
    other: TestPostgres,
    url: String,
    servers: String,
}

impl Two {
    async fn start() -> anyhow::Result<Self> {
        let (home, other) =
            (TestPostgres::start(Options::default()).await?, TestPostgres::start(Options::default()).await?);
        let url = home.create_database("log_home").await?;
        let servers = format!("b={}", other.create_database("log_b").await?);
        let set = [("UNANIMITY_PARTITIONS", "2".to_owned()), (SERVERS, servers.clone())];
        migrate_with(&url, &set).await?;
        Ok(Self { home, other, url, servers })
    }

    fn node(&self, scratch: &Scratch, name: &str) -> anyhow::Result<CoordinatorProcess> {
        Ok(CoordinatorProcess::new(scratch, name, &self.url)?.set(SERVERS, &self.servers))
    }

    /// Every block is as it was written, and every partition is where it should be.
    async fn verify(&self) -> anyhow::Result<()> {
        let (code, verified) = log_verify_with(&self.url, &[(SERVERS, self.servers.clone())]).await?;
        ensure!((code, verified["ok"].as_bool()) == (Some(0), Some(true)), "{verified}");
        Ok(())
    }
}

/// Asks until it is there: what dies, or is being recovered, answers with an error.
async fn move_to(coordinator: &CoordinatorProcess, partition: u16, server: &str) -> anyhow::Result<()> {
    let body = json!({ "server": server, "operator": "test", "reason": "h10" });
    until(&format!("partition {partition} is on {server}"), SOON, async || {
        let (status, answer) = coordinator.post(&format!("/v1/partitions/{partition}/move"), &body).await?;
        let there = answer["detail"].as_str().is_some_and(|detail| detail.contains("already"));
        ensure!(status == 200 || there, "{status}: {answer}");
        Ok(())
    })
    .await
}

async fn dies_at(two: &Two, scratch: &Scratch, point: &str) -> anyhow::Result<usize> {
    let mut coordinator = two.node(scratch, &format!("coordinator-{}", point.replace('.', "-")))?;
    arm(&mut coordinator.process, point, 1)?;
    coordinator.process.start()?;
    coordinator.ready(READY).await?;
    let clients = Clients::start(&coordinator.url())?;
    clients.more(BETWEEN).await?;
    let body = json!({ "server": "b", "operator": "test", "reason": "h10" });
    // It dies before it answers.
    let _ = coordinator.post("/v1/partitions/0/move", &body).await;
    died(&mut coordinator.process, point, 1).await?;
    coordinator.process.unset(unanimity_failpoints::VARIABLE);
    coordinator.process.start()?;
    coordinator.ready(READY).await?;
    // Whoever takes over goes on with it, unasked; asked again, it is there.
    move_to(&coordinator, 0, "b").await?;
    clients.more(BETWEEN).await?;
    // To and fro, both partitions.
    for (partition, server) in [(1, "b"), (0, "home"), (0, "b"), (1, "home"), (0, "home")] {
        move_to(&coordinator, partition, server).await?;
        clients.more(BETWEEN / 2).await?;
    }
    let all = clients.verify().await?;
    coordinator.process.terminate()?;
    ensure!(coordinator.process.exit(READY).await?.success(), "it did not stop in good order");
    two.verify().await?;
    Ok(all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h10_a_move_that_is_cut_off_at_any_step_loses_nothing() {
    let scratch = Scratch::new("moves").unwrap();
    let two = Two::start().await.unwrap();
    let mut all = 0;
    for point in POINTS {
        all += dies_at(&two, &scratch, point).await.map_err(|error| format!("{point}: {error:#}")).unwrap();
    }
    say(&format!("moves: {} deaths, {all} transactions, none lost", POINTS.len()));
}

/// The server that a partition went to is away: the other one goes on, and so does the first when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h10_a_server_that_is_away_holds_up_its_own_partitions_only() {
    let scratch = Scratch::new("moves-away").unwrap();
    let two = Two::start().await.unwrap();
    let mut coordinator = two.node(&scratch, "coordinator").unwrap();
    coordinator.process.start().unwrap();
    coordinator.ready(READY).await.unwrap();
    move_to(&coordinator, 0, "b").await.unwrap();
    two.other.kill().await.unwrap();
    let clients = Clients::start(&coordinator.url()).unwrap();
    clients.more(BETWEEN / 4).await.unwrap();
    two.other.restart().await.unwrap();
    coordinator.ready(READY).await.unwrap();
    clients.more(BETWEEN).await.unwrap();
    clients.verify().await.unwrap();
    coordinator.process.terminate().unwrap();
    coordinator.process.exit(READY).await.unwrap();
    two.verify().await.unwrap();
    drop(two.home);
}

/// An owner sleeps beyond its lease; its partition is taken over, and moved. What it believes is old in two ways.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h10_a_stale_owner_of_the_old_server_writes_nothing() {
    let scratch = Scratch::new("moves-stale").unwrap();
    let two = Two::start().await.unwrap();
    let mut sleeper = two.node(&scratch, "sleeper").unwrap();
    sleeper.process.start().unwrap();
    sleeper.ready(READY).await.unwrap();
    let mut heir = two.node(&scratch, "heir").unwrap();
    heir.process.start().unwrap();
    heir.ready(READY).await.unwrap();
    sleeper.process.pause().unwrap();
    for partition in [0, 1] {
        move_to(&heir, partition, "b").await.unwrap();
    }
    let clients = Clients::start(&heir.url()).unwrap();
    clients.more(BETWEEN).await.unwrap();
    sleeper.process.unpause().unwrap();
    clients.more(BETWEEN).await.unwrap();
    sleeper.ready(READY).await.unwrap();
    move_to(&sleeper, 0, "home").await.unwrap();
    clients.more(BETWEEN).await.unwrap();
    clients.verify().await.unwrap();
    for mut node in [sleeper, heir] {
        node.process.terminate().unwrap();
        node.process.exit(READY).await.unwrap();
    }
    two.verify().await.unwrap();
}
