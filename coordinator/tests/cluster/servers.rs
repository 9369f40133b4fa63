//! Nodes that do not reach the same servers of one log (protocol H10), over two PostgreSQL databases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::engine::{OperatorAction, PartitionState};
use unanimity_coordinator::log::{
    PlacedLog, PostgresOptions, TransactionLog, migrate_postgres, migrate_postgres_server,
};
use unanimity_types::PartitionId;

use crate::nodes::*;
use crate::postgres::Database;
use crate::served::{http_client, start};

const MOVED: PartitionId = PartitionId(3);

/// A log with its home and the server `b`.
struct Two {
    home: Database,
    b: Database,
}

impl Two {
    async fn create() -> Self {
        let (home, b) = (Database::create().await, Database::create().await);
        migrate_postgres(&home.url, Some(PARTITIONS)).await.unwrap();
        migrate_postgres_server(&home.url, "b", &b.url).await.unwrap();
        Self { home, b }
    }

    async fn open(&self, b: Option<&str>) -> Arc<dyn TransactionLog> {
        let servers = b.map(|url| BTreeMap::from([("b".to_owned(), url.to_owned())])).unwrap_or_default();
        Arc::new(PlacedLog::open(&self.home.url, servers, PostgresOptions::default()).await.unwrap())
    }
}

fn action() -> OperatorAction {
    OperatorAction { operator: "test".to_owned(), reason: "h10".to_owned() }
}

async fn reaches_b(node: &Node) {
    let says = || node.cluster.view().row("sees").is_some_and(|row| row.reaches("b"));
    until("it says that it reaches b", says).await;
}

/// H10: who does not know a server, or cannot open it, is not given what lies there; the rest is shared evenly.
#[tokio::test(flavor = "multi_thread")]
async fn h10_a_partition_goes_to_a_node_that_reaches_its_server() {
    let two = Two::create().await;
    let world = World::new();
    let sees = world.node_over("sees", two.open(Some(&two.b.url)).await).await;
    balanced(&[&sees]).await;
    reaches_b(&sees).await;
    for partition in [MOVED, PartitionId(0)] {
        sees.coordinator.move_partition(partition, "b", action()).await.unwrap();
    }
    // One that was never told where it is, and one that knows an address where nobody listens.
    let nowhere = "postgres://nobody@127.0.0.1:1/nothing";
    let blind = world.node_over("blind", two.open(None).await).await;
    let cut = world.node_over("cut", two.open(Some(nowhere)).await).await;
    balanced(&[&sees, &blind, &cut]).await;
    for partition in [MOVED, PartitionId(0)] {
        assert!(sees.running().contains(&partition), "{:?}", sees.running());
    }
    assert!(blind.coordinator.is_ready() && cut.coordinator.is_ready());
    // A move to a server that nobody knows is refused before anything is sealed.
    let refused = sees.coordinator.move_partition(sees.running()[0], "c", action()).await.unwrap_err();
    assert!(refused.message.contains("database.servers"), "{refused:?}");
    // Nobody is left for it: it waits, and is told to be in nobody's reach.
    sees.stop().await;
    let left = usize::from(PARTITIONS) - 2;
    until("the others' share", || blind.running().len() + cut.running().len() == left).await;
    until("it is told", || blind.cluster.view().unserved(MOVED).is_some()).await;
    let shown = blind.coordinator.info().states[usize::from(MOVED.0)].state.clone();
    assert!(matches!(&shown, PartitionState::Waiting(why) if why.contains("\"b\"")), "{shown:?}");
    assert!(blind.coordinator.is_ready(), "it could do nothing for it");
    let again = world.node_over("sees", two.open(Some(&two.b.url)).await).await;
    balanced(&[&again, &blind, &cut]).await;
    assert!(again.running().contains(&MOVED));
    for node in [again, blind, cut] {
        node.stop().await;
    }
    two.home.remove().await;
    two.b.remove().await;
}

/// H10: `/readyz` and the cluster's own page say which partition nobody can serve, and why.
#[tokio::test(flavor = "multi_thread")]
async fn h10_a_partition_that_nobody_can_serve_is_told() {
    let two = Two::create().await;
    let log = two.open(Some(&two.b.url)).await;
    let world = World::new();
    let sees = world.node_over("sees", Arc::clone(&log)).await;
    balanced(&[&sees]).await;
    reaches_b(&sees).await;
    sees.coordinator.move_partition(MOVED, "b", action()).await.unwrap();
    sees.stop().await;
    let blind = start(&two.open(None).await, "blind").await;
    let (http, url) = (http_client(), blind.url().unwrap());
    let get = async |path: &str| {
        let answer = http.get(format!("{url}{path}")).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_str::<serde_json::Value>(&answer.text().await.unwrap()).unwrap())
    };
    let told = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let (status, body) = get("/readyz").await;
            let warnings = body["warnings"].to_string();
            if status == 200 && warnings.contains("partition 3") && warnings.contains("server \\\"b\\\"") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(told.await.is_ok(), "{:?}", get("/readyz").await);
    let (_, cluster) = get("/v1/cluster").await;
    let place = &cluster["partitions"][3];
    assert!(place["unserved"].as_str().unwrap().contains("database.servers"), "{place}");
    assert!(cluster["partitions"][2].get("unserved").is_none(), "{cluster}");
    blind.shutdown().await;
    log.close().await;
    two.home.remove().await;
    two.b.remove().await;
}
