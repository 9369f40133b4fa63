//! Two coordinators over one log: they share the partitions, one takes over when the other is gone, and a node that was
//! frozen meanwhile writes nothing when it wakes.

use std::time::{Duration, Instant};

use anyhow::ensure;
use integration_tests::coordinator::{CoordinatorProcess, log_verify, migrate, unanimity};
use integration_tests::output::{Scratch, say};
use integration_tests::postgres::{Options, TestPostgres};
use integration_tests::wait::until;
use serde_json::{Value, json};
use uuid::Uuid;

const PARTITIONS: usize = 16;
const READY_LIMIT: Duration = Duration::from_secs(60);
/// The node's lease, as `EngineConfig` has it.
const LEASE: Duration = Duration::from_secs(6);
/// The second node looks every 2 s at most, and reads the log of all partitions on a machine that is busy with other
/// tests.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(6 + 2 + 2);

struct Two {
    first: CoordinatorProcess,
    second: CoordinatorProcess,
    url: String,
    _postgres: TestPostgres,
    _scratch: Scratch,
}

/// Both work, each on its half.
async fn two(test: &str) -> Two {
    let scratch = Scratch::new(test).unwrap();
    let postgres = TestPostgres::start(Options::default()).await.unwrap();
    let url = postgres.create_database("unanimity").await.unwrap();
    migrate(&url).await.unwrap();
    let mut first = CoordinatorProcess::new(&scratch, "first", &url).unwrap();
    let mut second = CoordinatorProcess::new(&scratch, "second", &url).unwrap();
    first.process.start().unwrap();
    first.ready(READY_LIMIT).await.unwrap();
    has(&first, PARTITIONS).await;
    second.process.start().unwrap();
    has(&second, PARTITIONS / 2).await;
    has(&first, PARTITIONS / 2).await;
    second.ready(READY_LIMIT).await.unwrap();
    Two { first, second, url, _postgres: postgres, _scratch: scratch }
}

/// Until so many partitions work at a node.
async fn has(node: &CoordinatorProcess, count: usize) {
    until("its share works", Duration::from_secs(30), async || {
        let (status, info) = node.get("/v1/info").await?;
        ensure!(status == 200, "{status}: {info}");
        let partitions = info["partition_states"].as_array().map(Vec::as_slice).unwrap_or_default();
        ensure!(partitions.len() == PARTITIONS, "{info}");
        let running = partitions.iter().filter(|partition| partition["state"] == "running").count();
        ensure!(running == count, "{running} of {count}: {info}");
        Ok(())
    })
    .await
    .unwrap();
}

/// A durable transaction with a branch that nobody serves: it stays open after its decision.
async fn begin(at: &CoordinatorProcess) -> String {
    let xid = Uuid::new_v4().to_string();
    let begin = json!({ "mode": "tcc", "name": "owned", "xid": xid, "timeout_ms": 120_000 });
    let (status, begun) = at.post("/v1/transactions", &begin).await.unwrap();
    assert_eq!(status, 201, "{begun}");
    xid
}

async fn decide(at: &CoordinatorProcess, xid: &str, what: &str) -> anyhow::Result<(u16, Value)> {
    at.post(&format!("/v1/transactions/{xid}/{what}"), &json!({})).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_coordinators_share_and_one_takes_over() {
    let Two { mut first, mut second, url, _postgres, _scratch } = two("take-over").await;
    // People see who owns what, at any node.
    let cluster = unanimity(&["cluster", "--addr", &second.url()], &url).await.unwrap();
    let cluster = String::from_utf8(cluster.stdout).unwrap();
    assert!(cluster.contains(&first.url()) && cluster.contains(&second.url()), "{cluster}");
    assert_eq!(cluster.matches("running").count(), PARTITIONS, "{cluster}");

    let mut xids = Vec::new();
    for _ in 0..8 {
        xids.push(begin(&first).await);
    }
    assert_eq!(decide(&first, &xids[0], "commit").await.unwrap().0, 200);

    // SIGKILL: its lease has to end.
    let killed = Instant::now();
    first.process.kill().unwrap();
    has(&second, PARTITIONS).await;
    let took = killed.elapsed();
    say(&format!("take-over after SIGKILL: {:.1} s (lease {LEASE:?})", took.as_secs_f32()));
    assert!(took < TAKEOVER_LIMIT, "{took:?}");
    for xid in &xids {
        let (status, committed) = decide(&second, xid, "commit").await.unwrap();
        assert_eq!((status, committed["status"].as_str()), (200, Some("committed")), "{committed}");
    }

    // The first comes back and gets its share. SIGTERM hands over at once, without waiting for a lease.
    first.process.start().unwrap();
    has(&first, PARTITIONS / 2).await;
    let stopped = Instant::now();
    second.process.terminate().unwrap();
    assert!(second.process.exit(Duration::from_secs(30)).await.unwrap().success());
    has(&first, PARTITIONS).await;
    let took = stopped.elapsed();
    say(&format!("hand-over after SIGTERM: {:.1} s", took.as_secs_f32()));
    assert!(took < LEASE, "{took:?}");
    let (status, shown) = first.get(&format!("/v1/transactions/{}", xids[1])).await.unwrap();
    assert_eq!((status, shown["status"].as_str()), (200, Some("committed")), "{shown}");
    first.process.terminate().unwrap();
    assert!(first.process.exit(Duration::from_secs(30)).await.unwrap().success());
    let (code, verified) = log_verify(&url).await.unwrap();
    assert_eq!((code, verified["ok"].as_bool()), (Some(0), Some(true)), "{verified}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_a_frozen_owner_writes_nothing_when_it_wakes() {
    let Two { first, second, url, _postgres, _scratch } = two("frozen-owner").await;
    let mut xids = Vec::new();
    for _ in 0..16 {
        xids.push(begin(&first).await);
    }
    first.process.pause().unwrap();
    // Commits that reach the frozen node: they lie in its sockets when it wakes.
    let late = xids.iter().map(|xid| {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(40)).build().unwrap();
        let commit = format!("{}/v1/transactions/{xid}/commit", first.url());
        tokio::spawn(async move { http.post(commit).json(&json!({})).send().await?.json::<Value>().await })
    });
    let late: Vec<_> = late.collect();
    has(&second, PARTITIONS).await;
    for xid in &xids {
        let (status, aborted) = decide(&second, xid, "abort").await.unwrap();
        assert_eq!((status, aborted["status"].as_str()), (200, Some("aborted")), "{aborted}");
    }
    first.process.unpause().unwrap();
    for (xid, answer) in xids.iter().zip(late) {
        // An error or "unknown" is fine; a commit is not.
        if let Ok(answer) = answer.await.unwrap() {
            assert!(answer["code"].is_string(), "the frozen node committed {xid}: {answer}");
        }
    }
    // It sees that it lost all, and gets its share again.
    has(&first, PARTITIONS / 2).await;
    for xid in &xids {
        let (status, shown) = second.get(&format!("/v1/transactions/{xid}")).await.unwrap();
        assert_eq!((status, shown["decision"].as_str()), (200, Some("abort")), "{shown}");
    }
    let (code, verified) = log_verify(&url).await.unwrap();
    assert_eq!((code, verified["ok"].as_bool()), (Some(0), Some(true)), "{verified}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_coordinator_on_a_sqlite_file_is_refused() {
    let scratch = Scratch::new("sqlite-in-use").unwrap();
    let url = format!("sqlite:{}", scratch.path().join("unanimity.db").display());
    migrate(&url).await.unwrap();
    let mut first = CoordinatorProcess::new(&scratch, "first", &url).unwrap();
    first.process.start().unwrap();
    first.ready(READY_LIMIT).await.unwrap();
    let mut second = CoordinatorProcess::new(&scratch, "second", &url).unwrap();
    second.process.start().unwrap();
    let exit = second.process.exit(Duration::from_secs(30)).await.unwrap();
    let said = second.process.output().unwrap();
    assert_eq!(exit.code(), Some(1), "{said}");
    assert!(said.contains("is in use by the process") && said.contains("--data-dir"), "{said}");
    // The first does not mind; when it is killed, the kernel gives its lock back.
    let xid = begin(&first).await;
    first.process.kill().unwrap();
    second.process.start().unwrap();
    second.ready(READY_LIMIT).await.unwrap();
    assert_eq!(decide(&second, &xid, "commit").await.unwrap().0, 200);
}
