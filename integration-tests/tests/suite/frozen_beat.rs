//! A node that is frozen, or cut off, in the middle of saying that it lives must not keep the others from saying it.

use std::time::{Duration, Instant};

use integration_tests::coordinator::migrate_to;
use integration_tests::postgres::{Options, TestPostgres};
use integration_tests::proxy::{Proxy, Side, Weather};
use sqlx::{Connection as _, PgConnection};
use unanimity_coordinator::log::{NodeBeat, PostgresLog, PostgresOptions, TransactionLog as _};
use uuid::Uuid;

/// A node's lease.
const LEASE: Duration = Duration::from_secs(6);

fn beat(node: &str) -> NodeBeat {
    NodeBeat {
        node: node.to_owned(),
        instance: Uuid::new_v4(),
        joins: true,
        address: format!("http://{node}:7460"),
        version: "1".to_owned(),
        formats: 2,
        servers: Vec::new(),
        leaving: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_a_node_that_freezes_in_its_beat_holds_up_nobody() {
    let server = TestPostgres::start(Options::default()).await.unwrap();
    let url = server.create_database("frozen_beat").await.unwrap();
    migrate_to(&url, 1).await.unwrap();
    let at = ([127, 0, 0, 1], server.port()).into();
    let way = Proxy::start(at).await.unwrap();
    let through = url.replace(&format!(":{}/", server.port()), &format!(":{}/", way.address().port()));
    assert_ne!(through, url);
    let frozen = PostgresLog::open(&through, PostgresOptions::default()).await.unwrap();
    let other = PostgresLog::open(&url, PostgresOptions::default()).await.unwrap();
    frozen.heartbeat(&beat("frozen"), LEASE).await.unwrap();

    // It waits for the lock when it freezes, and has it when whoever had it before is done.
    let mut before = PgConnection::connect(&url).await.unwrap();
    let mut tx = before.begin().await.unwrap();
    sqlx::query("SELECT format FROM log_format FOR UPDATE").execute(&mut *tx).await.unwrap();
    let beating = tokio::spawn(async move { frozen.heartbeat(&beat("frozen"), LEASE).await });
    let mut look = PgConnection::connect(&url).await.unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                 AND datname = current_database()";
    while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut look).await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for side in [Side::Caller, Side::Listener] {
        way.set(false, side, Weather::Held);
    }
    tx.commit().await.unwrap();

    let started = Instant::now();
    other.heartbeat(&beat("other"), LEASE).await.unwrap();
    assert!(started.elapsed() < LEASE, "the other node's beat took {:?}", started.elapsed());
    beating.abort();
}
