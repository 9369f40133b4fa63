//! pgbouncer before the log's database (protocol M15): session pooling is as good as none; transaction pooling, where
//! another client's prepared statement could be run in place of ours, is refused at start.

use std::time::Duration;

use anyhow::ensure;
use integration_tests::coordinator::{CoordinatorProcess, log_verify, migrate_to, unanimity};
use integration_tests::output::{Scratch, say};
use integration_tests::pgbouncer::{Pgbouncer, Pooling, is_available};
use integration_tests::postgres::{Options, REQUIRE_CONTAINERS_VARIABLE, TestPostgres};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);
/// Connections of pgbouncer to the server: fewer than the node's own, so that they are shared if they can be.
const SHARED: u32 = 3;
/// A node's own, and those of the commands beside it.
const SESSIONS: u32 = 40;

/// None, with a word about it, where there is no pgbouncer.
async fn start(database: &str, pooling: Pooling, servers: u32) -> Option<(TestPostgres, Pgbouncer, String)> {
    if !is_available() {
        // CI has it: there it must not be left out unnoticed.
        assert_ne!(
            std::env::var(REQUIRE_CONTAINERS_VARIABLE).as_deref(),
            Ok("1"),
            "no pgbouncer: `cargo xtask test` installs it as root"
        );
        say("pooler: LEFT OUT, no pgbouncer on this machine");
        return None;
    }
    let postgres = TestPostgres::start(Options::default()).await.unwrap();
    let direct = postgres.create_database(database).await.unwrap();
    let pgbouncer = Pgbouncer::start(&direct, pooling, servers).await.unwrap();
    Some((postgres, pgbouncer, direct))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m15_a_coordinator_works_through_session_pooling() {
    let scratch = Scratch::new("pooler-session").unwrap();
    let Some((_postgres, pgbouncer, direct)) = start("session_pooling", Pooling::Session, SESSIONS).await
    else {
        return;
    };
    let url = pgbouncer.url(&direct).unwrap();
    migrate_to(&url, 4).await.unwrap();
    let mut coordinator = CoordinatorProcess::new(&scratch, "coordinator", &url).unwrap();
    coordinator.process.start().unwrap();
    coordinator.ready(LIMIT).await.unwrap();
    let calls = (0..100).map(async |_| {
        let (status, begun) = coordinator.post("/v1/transactions", &json!({ "mode": "tcc" })).await?;
        ensure!(status == 201, "{status}: {begun}");
        let xid = begun["xid"].as_str().unwrap_or_default();
        let (status, done) = coordinator.post(&format!("/v1/transactions/{xid}/commit"), &json!({})).await?;
        ensure!(status == 200 && done["status"] == "committed", "{status}: {done}");
        Ok(())
    });
    for done in futures::future::join_all(calls).await {
        done.unwrap();
    }
    coordinator.process.terminate().unwrap();
    assert!(coordinator.process.exit(LIMIT).await.unwrap().success());
    let (code, verified) = log_verify(&url).await.unwrap();
    assert_eq!((code, verified["ok"].as_bool()), (Some(0), Some(true)), "{verified}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m15_transaction_pooling_is_refused_with_what_to_do() {
    let scratch = Scratch::new("pooler-transaction").unwrap();
    let pooling = Pooling::Transaction;
    let Some((_postgres, pgbouncer, direct)) = start("transaction_pooling", pooling, SHARED).await else {
        return;
    };
    migrate_to(&direct, 4).await.unwrap();
    let url = pgbouncer.url(&direct).unwrap();
    let mut coordinator = CoordinatorProcess::new(&scratch, "coordinator", &url).unwrap();
    coordinator.process.start().unwrap();
    let exit = coordinator.process.exit(LIMIT).await.unwrap();
    let said = coordinator.process.output().unwrap();
    assert!(!exit.success() && said.contains("pooler in transaction or statement mode"), "{exit}: {said}");
    let checked = unanimity(&["check"], &url).await.unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(!checked.status.success() && said.contains("pooler in transaction"), "{checked:?}");
    // The same database without it between.
    let checked = unanimity(&["check"], &direct).await.unwrap();
    assert!(checked.status.success(), "{checked:?}");
}
