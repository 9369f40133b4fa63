//! A row of the log that was changed or deleted by hand: its partition stops with a clear error, the others work,
//! `log verify` names the block, and mending the row mends the partition.

use std::time::Duration;

use integration_tests::coordinator::{CoordinatorProcess, log_verify, migrate};
use integration_tests::output::Scratch;
use integration_tests::postgres::{Options, TestPostgres};
use integration_tests::wait::until;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

const READY_LIMIT: Duration = Duration::from_secs(60);

/// `damage` and `mend` get partition and seq of a block that holds an open transaction.
async fn a_partition_stops(test: &str, damage: &'static str, mend: &'static str) {
    let scratch = Scratch::new(test).unwrap();
    let postgres = TestPostgres::start(Options::default()).await.unwrap();
    let url = postgres.create_database("unanimity").await.unwrap();
    migrate(&url).await.unwrap();
    let mut coordinator = CoordinatorProcess::new(&scratch, "coordinator", &url).unwrap();
    coordinator.process.start().unwrap();
    coordinator.ready(READY_LIMIT).await.unwrap();
    let begin = async |coordinator: &CoordinatorProcess, xid: Uuid| {
        let body = json!({ "mode": "tcc", "xid": xid, "timeout_ms": 600_000 });
        coordinator.post("/v1/transactions", &body).await.unwrap()
    };
    let xid = Uuid::new_v4();
    let (status, begun) = begin(&coordinator, xid).await;
    assert_eq!(status, 201, "{begun}");
    let (partition, seq) =
        (begun["position"]["partition"].as_i64().unwrap(), begun["position"]["seq"].as_i64().unwrap());
    coordinator.process.terminate().unwrap();
    assert!(coordinator.process.exit(Duration::from_secs(30)).await.unwrap().success());

    let mut connection = PgConnection::connect(&url).await.unwrap();
    // What a backup would have.
    sqlx::query("CREATE TABLE kept AS SELECT * FROM log_blocks").execute(&mut connection).await.unwrap();
    let changed = sqlx::query(damage).bind(partition).bind(seq).execute(&mut connection).await.unwrap();
    assert_eq!(changed.rows_affected(), 1);

    // Found without a coordinator.
    let (code, verified) = log_verify(&url).await.unwrap();
    assert_eq!((code, verified["ok"].as_bool()), (Some(1), Some(false)), "{verified}");
    for finding in verified["partitions"].as_array().unwrap() {
        let is_ours = finding["partition"] == partition;
        assert_eq!(finding["ok"].as_bool(), Some(!is_ours), "{finding}");
        if is_ours {
            assert!(finding["damage"].as_str().unwrap().contains(&format!("block {seq}:")), "{finding}");
        }
    }

    // Found by the coordinator at its start: it says so, and never guesses.
    coordinator.process.start().unwrap();
    let stopped = until("the partition stops", READY_LIMIT, async || {
        let (_, body) = coordinator.get("/readyz").await?;
        let partitions = body["partitions"].as_array().cloned().unwrap_or_default();
        anyhow::ensure!(partitions.len() == 1, "{body}");
        anyhow::ensure!(partitions[0]["state"] == "stopped", "{body}");
        Ok::<Value, _>(partitions[0].clone())
    })
    .await
    .unwrap();
    assert_eq!(stopped["partition"].as_i64(), Some(partition), "{stopped}");
    assert!(stopped["detail"].as_str().unwrap().contains(&format!("block {seq}")), "{stopped}");
    let commit = format!("/v1/transactions/{xid}/commit");
    let (status, refused) = coordinator.post(&commit, &json!({})).await.unwrap();
    assert_eq!((status, refused["code"].as_str()), (503, Some("log_damaged")), "{refused}");
    assert!(coordinator.process.output().unwrap().contains("partition stopped"));
    // Its siblings work.
    let mut begun_elsewhere = 0;
    for _ in 0..16 {
        let (status, answer) = begin(&coordinator, Uuid::new_v4()).await;
        match status {
            201 => begun_elsewhere += 1,
            _ => assert_eq!((status, answer["code"].as_str()), (503, Some("log_damaged")), "{answer}"),
        }
    }
    assert!(begun_elsewhere > 0);
    coordinator.process.terminate().unwrap();
    assert!(coordinator.process.exit(Duration::from_secs(30)).await.unwrap().success());

    // Mended, it goes on where it was.
    sqlx::query(mend).bind(partition).bind(seq).execute(&mut connection).await.unwrap();
    let (code, verified) = log_verify(&url).await.unwrap();
    assert_eq!((code, verified["ok"].as_bool()), (Some(0), Some(true)), "{verified}");
    coordinator.process.start().unwrap();
    coordinator.ready(READY_LIMIT).await.unwrap();
    let (status, committed) = coordinator.post(&commit, &json!({})).await.unwrap();
    assert_eq!((status, committed["status"].as_str()), (200, Some("committed")), "{committed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_row_stops_its_partition() {
    a_partition_stops(
        "changed-row",
        "UPDATE log_blocks SET body = set_byte(body, length(body) / 2, get_byte(body, length(body) / 2) # 1)
         WHERE partition = $1 AND seq = $2",
        "UPDATE log_blocks b SET body = kept.body FROM kept
         WHERE b.partition = $1 AND b.seq = $2 AND kept.partition = b.partition AND kept.seq = b.seq",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_row_stops_its_partition() {
    a_partition_stops(
        "deleted-row",
        "DELETE FROM log_blocks WHERE partition = $1 AND seq = $2",
        "INSERT INTO log_blocks SELECT * FROM kept WHERE partition = $1 AND seq = $2",
    )
    .await;
}
