//! The end: bounded in time, in good order, and also at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use unanimity_coordinator::Node;
use unanimity_coordinator::log::MemoryLog;
use unanimity_proto::v1;
use unanimity_proto::v1::participants_client::ParticipantsClient;

use crate::support::{ANY_PORT, Fixture, READY_MAX, http_client, stop};

#[tokio::test]
async fn streams_without_an_end_do_not_hold_up_the_end() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    let fixture = Fixture::start().await;
    let xid = fixture.begin().await;
    let mut health = HealthClient::new(fixture.channel().await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.expect("a stream").into_inner();
    let mut participants = ParticipantsClient::connect(fixture.url("")).await.expect("connected");
    let hello = v1::Hello {
        participant: "stock".to_owned(),
        instance: "one".to_owned(),
        operations: vec!["reserve".to_owned()],
        protocol_version: 1,
        ..Default::default()
    };
    let hello = v1::ParticipantMessage { kind: Some(v1::participant_message::Kind::Hello(hello)) };
    // It says hello and then nothing, and never hangs up.
    let outbound = futures::StreamExt::chain(tokio_stream::iter([hello]), tokio_stream::pending());
    let mut session = participants.attach(outbound).await.expect("a session").into_inner();
    let welcome = session.message().await.expect("a message").expect("welcome");
    assert!(matches!(welcome.kind, Some(v1::coordinator_message::Kind::Welcome(_))), "{welcome:?}");

    // A long poll is answered early, with the truth.
    let poll = tokio::spawn({
        let request =
            fixture.http.get(fixture.url(&format!("/v1/transactions/{xid}?wait=finished&wait_ms=30000")));
        async move { request.send().await.expect("an answer").status().as_u16() }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let started = Instant::now();
    stop(fixture.node).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(poll.await.expect("no panic"), 200);
    // Both streams ended.
    while let Ok(Some(_)) = watch.message().await {}
    while let Ok(Some(_)) = session.message().await {}
}

#[tokio::test]
async fn a_killed_node_comes_back_with_what_was_durable() {
    let log = MemoryLog::new(1);
    let mut address = ANY_PORT;
    let mut xids = Vec::new();
    for round in 0..3 {
        let node = Node::builder().log(Arc::new(log.clone())).listen(address).start().await.expect("started");
        node.ready(READY_MAX).await.expect("ready");
        // The port of the one before is free at once.
        address = node.local_addr().expect("it listens");
        let fixture = Fixture { node, http: http_client() };
        for xid in &xids {
            assert_eq!(
                fixture.get(&format!("/v1/transactions/{xid}")).await.text("status"),
                "committed",
                "round {round}"
            );
        }
        let xid = fixture.begin().await;
        let answer = fixture.post(&format!("/v1/transactions/{xid}/commit"), &json!({})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        xids.push(xid);
        fixture.node.kill().await;
    }
}
