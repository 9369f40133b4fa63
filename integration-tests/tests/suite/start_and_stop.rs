//! How `unanimity serve` starts, refuses to start, and stops, with PostgreSQL.

use std::time::{Duration, Instant};

use integration_tests::coordinator::{CoordinatorProcess, migrate};
use integration_tests::output::{Scratch, say};
use integration_tests::postgres::{Kind, Options, TestPostgres};
use integration_tests::wait::until;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Longer than the limit of a connection (5 s) and of the first statements (30 s).
const REFUSAL_LIMIT: Duration = Duration::from_secs(45);

/// Starts `serve`, which must end by itself with this status; answers what it said.
async fn refuses(scratch: &Scratch, name: &str, url: &str, code: i32, set: &[(&str, &str)]) -> String {
    let mut coordinator = CoordinatorProcess::new(scratch, name, url).unwrap();
    for (variable, value) in set {
        coordinator = coordinator.set(variable, value);
    }
    coordinator.process.start().unwrap();
    let exit = coordinator.process.exit(REFUSAL_LIMIT).await.unwrap();
    let said = coordinator.process.output().unwrap();
    assert_eq!(exit.code(), Some(code), "{said}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_work_is_refused_with_what_to_do() {
    let scratch = Scratch::new("refusals").unwrap();
    let postgres = TestPostgres::start(Options::default()).await.unwrap();
    let empty = postgres.create_database("empty").await.unwrap();
    let said = refuses(&scratch, "unmigrated", &empty, 1, &[]).await;
    assert!(said.contains("unanimity migrate"), "{said}");
    let mut connection = PgConnection::connect(&empty).await.unwrap();
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'";
    let tables: i64 = sqlx::query_scalar(tables).fetch_one(&mut connection).await.unwrap();
    assert_eq!(tables, 0, "it made something");

    migrate(&empty).await.unwrap();
    let said = refuses(&scratch, "wrong-variable", &empty, 2, &[("UNANIMITY_RETRY_CAP", "5")]).await;
    assert!(said.contains("UNANIMITY_RETRY_CAP") && said.contains("docs/configuration.md"), "{said}");
    let said = refuses(&scratch, "wrong-value", &empty, 2, &[("UNANIMITY_RETRY_CAP_MS", "0")]).await;
    assert!(said.contains("retry"), "{said}");
    let file = scratch.path().join("unanimity.toml");
    std::fs::write(&file, "[retry]\ncap = 5\n").unwrap();
    let file = file.to_str().unwrap();
    let said = refuses(&scratch, "wrong-key", &empty, 2, &[("UNANIMITY_CONFIG", file)]).await;
    assert!(said.contains("unanimity.toml:2") && said.contains("cap"), "{said}");

    // A wrong password, and a database that does not exist: the password is not shown.
    let missing = empty.replace("/empty", "/nowhere");
    let at_once = [("UNANIMITY_TIMEOUTS_START_MS", "0")];
    let said = refuses(&scratch, "no-database", &missing, 1, &at_once).await;
    assert!(said.contains("nowhere"), "{said}");

    if postgres.kind() != Kind::External {
        // Frozen: it accepts connections and says nothing.
        let started = Instant::now();
        postgres.pause().await.unwrap();
        let said = refuses(&scratch, "frozen", &empty, 1, &at_once).await;
        postgres.unpause().await.unwrap();
        assert!(said.contains("cannot open the log"), "{said}");
        assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
        postgres.kill().await.unwrap();
        let said = refuses(&scratch, "unreachable", &empty, 1, &at_once).await;
        assert!(said.contains("cannot open the log") && said.contains("unavailable"), "{said}");
    }
    let credentials = empty.split("://").nth(1).and_then(|rest| rest.split('@').next()).unwrap_or_default();
    if let Some((_, password)) = credentials.split_once(':') {
        for log in std::fs::read_dir(scratch.path()).unwrap() {
            let text = std::fs::read_to_string(log.unwrap().path()).unwrap();
            assert!(!text.contains(password), "the password is shown: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_waits_for_a_database_that_is_away_and_ends_when_told_to() {
    let scratch = Scratch::new("patience").unwrap();
    let postgres = TestPostgres::start(Options::default()).await.unwrap();
    if postgres.kind() == Kind::External {
        say("a start that waits: not shown, the server is not ours to stop");
        return;
    }
    let url = postgres.create_database("unanimity").await.unwrap();
    migrate(&url).await.unwrap();
    postgres.kill().await.unwrap();
    let mut coordinator = CoordinatorProcess::new(&scratch, "coordinator", &url).unwrap();
    let waits = |coordinator: &CoordinatorProcess| {
        let said = coordinator.process.tail();
        anyhow::ensure!(said.contains("the start waits for the log's database"), "{said}");
        Ok(())
    };
    coordinator.process.start().unwrap();
    until("it says that it waits", Duration::from_secs(20), async || waits(&coordinator)).await.unwrap();
    coordinator.process.terminate().unwrap();
    assert!(coordinator.process.exit(Duration::from_secs(10)).await.unwrap().success());

    let mut coordinator = CoordinatorProcess::new(&scratch, "patient", &url).unwrap();
    coordinator.process.start().unwrap();
    until("it says that it waits", Duration::from_secs(20), async || waits(&coordinator)).await.unwrap();
    postgres.restart().await.unwrap();
    coordinator.ready(Duration::from_secs(60)).await.unwrap();
}

/// A participant by HTTP that takes its time for each operation.
async fn slow_participant(takes: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 16 * 1024];
                while matches!(stream.read(&mut buffer).await, Ok(1..)) {
                    tokio::time::sleep(takes).await;
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_finishes_what_is_in_flight() {
    let scratch = Scratch::new("sigterm").unwrap();
    let postgres = TestPostgres::start(Options::default()).await.unwrap();
    let url = postgres.create_database("unanimity").await.unwrap();
    migrate(&url).await.unwrap();
    let participant = slow_participant(Duration::from_secs(2)).await;
    let mut coordinator = CoordinatorProcess::new(&scratch, "coordinator", &url)
        .unwrap()
        .set("UNANIMITY_CALLBACKS_ALLOW", "loopback");
    coordinator.process.start().unwrap();
    coordinator.ready(Duration::from_secs(60)).await.unwrap();

    let mut commits = Vec::new();
    for _ in 0..5 {
        let (status, begun) = coordinator.post("/v1/transactions", &json!({ "mode": "tcc" })).await.unwrap();
        assert_eq!(status, 201, "{begun}");
        let at = format!("/v1/transactions/{}", begun["xid"].as_str().unwrap());
        let target = json!({ "url": participant });
        let branch = json!({ "key": "one", "confirm": target, "cancel": target });
        let (status, registered) = coordinator.post(&format!("{at}/branches"), &branch).await.unwrap();
        assert_eq!(status, 201, "{registered}");
        commits.push(format!("{}{at}/commit", coordinator.url()));
    }
    let http = reqwest::Client::new();
    let answers: Vec<_> = commits
        .iter()
        .map(|commit| {
            let request = http.post(commit).json(&json!({ "wait": "finished" }));
            tokio::spawn(async move {
                let answer = request.send().await?;
                Ok::<_, reqwest::Error>((answer.status().as_u16(), answer.json::<Value>().await?))
            })
        })
        .collect();
    // In flight: decided, and the participant is at it.
    until("the commits are under way", Duration::from_secs(10), async || {
        let committing = coordinator.list("committing").await?;
        anyhow::ensure!(committing.len() == commits.len(), "{committing:?}");
        Ok(())
    })
    .await
    .unwrap();
    coordinator.process.terminate().unwrap();
    for answer in answers {
        let (status, answer) = answer.await.unwrap().unwrap();
        // The decision, if a wait for more than that was cut short.
        let told = answer["status"].as_str().unwrap_or_default();
        assert!(status == 200 && ["committing", "committed"].contains(&told), "{status}: {answer}");
    }
    assert!(coordinator.process.exit(Duration::from_secs(30)).await.unwrap().success());

    // What the participant was at is on record, leases are given back, and every partition ends with a closing block.
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let held = "SELECT count(*) FROM partitions WHERE owner IS NOT NULL";
    let held: i64 = sqlx::query_scalar(held).fetch_one(&mut connection).await.unwrap();
    let closed = "SELECT count(*) FROM log_blocks b WHERE kind = 3
                  AND NOT EXISTS (SELECT FROM log_blocks l WHERE l.partition = b.partition AND l.seq > b.seq)";
    let closed: i64 = sqlx::query_scalar(closed).fetch_one(&mut connection).await.unwrap();
    let finished = "SELECT count(*) FROM transactions WHERE status = 'committed'";
    let finished: i64 = sqlx::query_scalar(finished).fetch_one(&mut connection).await.unwrap();
    assert_eq!((held, closed, finished), (0, 16, 5));
}
