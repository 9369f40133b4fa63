//! The same over PostgreSQL: its clock, its rows, real time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use unanimity_coordinator::engine::Wait;
use unanimity_coordinator::log::{PostgresLog, PostgresOptions, TransactionLog, migrate_postgres};
use unanimity_types::Status;

use crate::nodes::*;
use crate::postgres::Database;
use crate::support::*;

async fn open(database: &Database) -> Arc<dyn TransactionLog> {
    Arc::new(PostgresLog::open(&database.url, PostgresOptions::default()).await.unwrap())
}

/// F1, F4: join, leave, crash and drain of three nodes; what was decided stays so.
#[tokio::test(flavor = "multi_thread")]
async fn f1_f4_nodes_over_postgresql_join_stop_die_and_drain() {
    let database = Database::create().await;
    migrate_postgres(&database.url, Some(PARTITIONS)).await.unwrap();
    let world = World::new();
    let (a, b) = (
        world.node_over("a", open(&database).await).await,
        world.node_over("b", open(&database).await).await,
    );
    balanced(&[&a, &b]).await;
    let c = world.node_over("c", open(&database).await).await;
    balanced(&[&a, &b, &c]).await;
    let mut decided = Vec::new();
    for _ in 0..30 {
        let xid = new_xid();
        at_owner(&[&a, &b, &c], xid, async |c| {
            c.begin(begin(xid)).await?;
            c.register(branch(xid, "stock")).await?;
            c.commit(commit(xid, Wait::Decided)).await
        })
        .await
        .unwrap();
        decided.push(xid);
    }
    b.stop().await;
    balanced(&[&a, &c]).await;
    let log = open(&database).await;
    assert!(log.set_draining("c", true).await.unwrap());
    until("c is drained", || c.running().is_empty() && a.running().len() == usize::from(PARTITIONS)).await;
    assert!(log.set_draining("c", false).await.unwrap());
    balanced(&[&a, &c]).await;
    let killed = Instant::now();
    a.kill();
    until("c has all", || c.running().len() == usize::from(PARTITIONS)).await;
    let took = killed.elapsed();
    eprintln!("cluster tests: PostgreSQL, all partitions of a dead node work again after {took:?}");
    // Lease and 2 s, and what a machine that is busy with other tests adds.
    assert!(took < Duration::from_secs(6 + 2 + 2), "{took:?}");
    for xid in decided {
        let view = at_owner(&[&c], xid, async |c| c.get(xid, Wait::Finished, Duration::from_secs(30)).await)
            .await
            .unwrap();
        assert_eq!(view.status, Status::Committed);
    }
    c.stop().await;
    log.close().await;
    database.remove().await;
}
