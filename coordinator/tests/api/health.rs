//! Health tells the truth.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use unanimity_coordinator::Node;
use unanimity_coordinator::log::MemoryLog;
use unanimity_types::{PartitionId, Seq};

use crate::support::{ANY_PORT, Fixture, READY_MAX, http_client, stop};

#[tokio::test]
async fn a_stopped_partition_makes_the_node_unready_and_says_why() {
    let log = MemoryLog::new(2);
    let node = Node::builder().log(Arc::new(log.clone())).listen(ANY_PORT).start().await.expect("started");
    node.ready(READY_MAX).await.expect("ready");
    stop(node).await;
    // Somebody damages a row by hand.
    assert!(log.damage(PartitionId(1), Seq(1), |block| block.epoch = block.epoch.next()));

    let node = Node::builder().log(Arc::new(log)).listen(ANY_PORT).start().await.expect("started");
    let error = node.ready(READY_MAX).await.expect_err("damaged");
    assert_eq!(error.code.as_str(), "log_damaged");
    let fixture = Fixture { node, http: http_client() };
    let answer = fixture.get("/readyz").await;
    assert_eq!((answer.status, &answer.body["ready"]), (503, &json!(false)));
    let partitions = answer.body["partitions"].as_array().expect("partitions");
    assert_eq!(partitions.len(), 1, "{answer:?}");
    assert_eq!(
        (partitions[0]["partition"].as_u64(), partitions[0]["state"].as_str()),
        (Some(1), Some("stopped"))
    );
    assert!(!partitions[0]["detail"].as_str().unwrap_or_default().is_empty());
    assert_eq!(fixture.get("/healthz").await.status, 200);
    assert!(
        fixture
            .get("/metrics")
            .await
            .raw
            .contains("unanimity_partition_state{partition=\"1\",state=\"stopped\"} 1")
    );

    // Of two partitions one still works.
    let mut codes = std::collections::BTreeSet::new();
    for _ in 0..32 {
        // The node does not mint xids of the other one's.
        let minted = fixture.post("/v1/transactions", &json!({ "mode": "tcc" })).await;
        assert_eq!(minted.status, 201, "{minted:?}");
        let body = json!({ "mode": "tcc", "xid": uuid::Uuid::now_v7() });
        let answer = fixture.post("/v1/transactions", &body).await;
        codes.insert(if answer.status == 201 { "begun".to_owned() } else { answer.code() });
    }
    assert_eq!(codes.into_iter().collect::<Vec<_>>(), ["begun", "log_damaged"]);

    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut health = HealthClient::new(fixture.channel().await);
    let answer = health.check(HealthCheckRequest::default()).await.expect("an answer").into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);
}
