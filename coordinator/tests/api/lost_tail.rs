//! A log that lost its tail: found by a witness, told everywhere, and continued by each interface on an
//! operator's word.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use unanimity_coordinator::Node;
use unanimity_coordinator::log::MemoryLog;
use unanimity_proto::v1;
use unanimity_types::{PartitionId, Seq};

use crate::cli::{json_of, run, stderr, stdout};
use crate::support::{ANY_PORT, Fixture, READY_MAX, grpc_code, http_client, stop};

/// A node whose one partition stopped because a witness knows more than its log.
struct Lost {
    fixture: Fixture,
    /// Began before the loss.
    kept: String,
    witness: Value,
}

async fn start(log: &MemoryLog) -> Fixture {
    let node = Node::builder().log(Arc::new(log.clone())).listen(ANY_PORT).start().await.expect("started");
    Fixture { node, http: http_client() }
}

/// Finds the loss, and starts the node again if that is asked for: a restart does not make it good.
async fn lost(is_restarted: bool) -> Lost {
    let log = MemoryLog::new(1);
    let fixture = start(&log).await;
    fixture.node.ready(READY_MAX).await.expect("ready");
    let begun = fixture.post("/v1/transactions", &json!({ "mode": "tcc" })).await;
    let kept = begun.text("xid");
    let cut = Seq(begun.body["position"]["seq"].as_u64().expect("a place"));
    let gone = fixture.begin().await;
    let committed = fixture.post(&format!("/v1/transactions/{gone}/commit"), &json!({})).await;
    let witness = committed.body["position"].clone();
    fixture.node.kill().await;
    log.lose_tail(PartitionId(0), cut);

    let mut fixture = start(&log).await;
    fixture.node.ready(READY_MAX).await.expect("it cannot know");
    let asked = fixture.post("/v1/inquiries", &json!({ "xids": [], "witnesses": [witness.clone()] })).await;
    assert_eq!(asked.code(), "log_lost_tail");
    stopped(&fixture).await;
    if is_restarted {
        stop(fixture.node).await;
        fixture = start(&log).await;
        stopped(&fixture).await;
    }
    let lost = Lost { fixture, kept, witness };
    lost.is_told().await;
    lost
}

/// A plan goes on by itself: whoever began it learns its xid, also if its partition stops while they wait
/// for its end. Without it nobody could ask what became of it.
#[tokio::test]
async fn a_begin_that_waits_tells_its_xid_whatever_happens_to_the_wait() {
    let log = MemoryLog::new(1);
    let fixture = start(&log).await;
    fixture.node.ready(READY_MAX).await.expect("ready");
    let action = json!({ "participant": "nobody", "operation": "book" });
    let saga = json!({ "mode": "saga", "wait": "finished", "steps": [{ "name": "a", "action": action }] });
    let stops = async {
        while fixture.get("/v1/info").await.body["partition_states"][0]["open_transactions"] == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut witness = fixture.get("/v1/info").await.body["partition_states"][0]["position"].clone();
        witness["seq"] = json!(1_000_000);
        let asked = fixture.post("/v1/inquiries", &json!({ "xids": [], "witnesses": [witness] })).await;
        assert_eq!(asked.code(), "log_lost_tail");
    };
    let (begun, ()) = tokio::join!(fixture.post("/v1/transactions", &saga), stops);
    assert_eq!((begun.status, begun.text("status").as_str()), (201, "active"), "{begun:?}");
    assert_eq!(begun.text("xid").len(), 36);
    fixture.node.kill().await;
}

/// The loss is on record, and the partition stands.
async fn stopped(fixture: &Fixture) {
    let error = async {
        loop {
            match fixture.node.ready(READY_MAX).await {
                Ok(()) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(error) => return error,
            }
        }
    };
    let error = tokio::time::timeout(READY_MAX, error).await.expect("it stops");
    assert_eq!(error.code.as_str(), "log_lost_tail");
}

impl Lost {
    /// Nothing goes on before somebody accepts the loss.
    async fn is_told(&self) {
        let commit = self.fixture.post(&format!("/v1/transactions/{}/commit", self.kept), &json!({})).await;
        assert_eq!((commit.code().as_str(), commit.status), ("log_lost_tail", 503));
        assert_eq!(self.fixture.get("/readyz").await.status, 503);
        let url = self.fixture.url("");
        let cluster = run(&["cluster", "--addr", &url]).await;
        assert_eq!(cluster.status.code(), Some(1));
        assert!(stdout(&cluster).contains("stopped"), "{cluster:?}");
        let refused = run(&["tx", "abort", &self.kept, "--addr", &url, "--reason", "r"]).await;
        assert!(stderr(&refused).contains("log_lost_tail"), "{refused:?}");
    }

    /// What was kept is there, what was lost is settled as an abort, and the old witness is forgiven.
    async fn goes_on(self) {
        let Self { fixture, kept, witness } = self;
        fixture.node.ready(READY_MAX).await.expect("ready again");
        let asked = fixture.post("/v1/inquiries", &json!({ "xids": [kept], "witnesses": [witness] })).await;
        assert_eq!((asked.status, &asked.body["answers"][0]["answer"]), (200, &json!("active")), "{asked:?}");
        let committed = fixture.post(&format!("/v1/transactions/{kept}/commit"), &json!({})).await;
        assert_eq!(committed.status, 200, "{committed:?}");
        // Once is enough.
        let by = json!({ "operator": "ada", "reason": "again" });
        assert_eq!(fixture.post("/v1/partitions/0/accept-loss", &by).await.code(), "illegal_transition");
        stop(fixture.node).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h6_a_loss_is_accepted_by_http() {
    let lost = lost(true).await;
    let by = json!({ "operator": "ada", "reason": "the standby was behind" });
    let accepted = lost.fixture.post("/v1/partitions/0/accept-loss", &by).await;
    assert_eq!(accepted.status, 200, "{accepted:?}");
    assert!(accepted.body["position"]["epoch"].as_u64() > lost.witness["epoch"].as_u64(), "{accepted:?}");
    lost.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h6_a_loss_is_accepted_by_grpc() {
    let lost = lost(true).await;
    let mut client = lost.fixture.grpc().await;
    let nobody = v1::AcceptLossRequest { partition: 0, operator: String::new(), reason: "r".to_owned() };
    assert_eq!(grpc_code(&client.accept_loss(nobody).await.expect_err("nobody")), "invalid_request");
    let request =
        v1::AcceptLossRequest { partition: 0, operator: "ada".to_owned(), reason: "restored".to_owned() };
    let accepted = client.accept_loss(request).await.expect("accepted").into_inner();
    assert!(accepted.position.is_some_and(|position| Some(position.epoch) > lost.witness["epoch"].as_u64()));
    lost.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h6_a_loss_is_accepted_by_the_command_line() {
    let lost = lost(true).await;
    let url = lost.fixture.url("");
    let accept = ["log", "accept-loss", "0", "--addr", &url, "--reason", "restored", "--json"];
    let accepted = run(&accept).await;
    assert_eq!(accepted.status.code(), Some(0), "{accepted:?}");
    assert!(json_of(&accepted)["epoch"].as_u64() > lost.witness["epoch"].as_u64(), "{accepted:?}");
    lost.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h6_a_loss_is_accepted_without_a_restart() {
    let lost = lost(false).await;
    let by = json!({ "operator": "ada", "reason": "the standby was behind" });
    let accepted = lost.fixture.post("/v1/partitions/0/accept-loss", &by).await;
    assert_eq!(accepted.status, 200, "{accepted:?}");
    lost.goes_on().await;
}
