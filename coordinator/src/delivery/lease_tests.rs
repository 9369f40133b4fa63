//! What waits in the queue of a callback longer than its owner's lease (protocol H3). Sessions:
//! `attached/instance_tests.rs`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use unanimity_core::ResultOutcome;
use unanimity_types::{
    BranchId, BranchKey, BranchKind, Epoch, LogPosition, Operation, PartitionId, Seq, Target, Xid,
};

use super::{AllowList, Delivery, DeliveryConfig};
use crate::engine::{BranchCall, BranchReply, Dispatcher as _, ResultSink};

const PATIENCE: Duration = Duration::from_secs(20);

/// What goes forward, and what has a decision behind it.
pub(super) const OPERATIONS: [(Operation, bool); 9] = [
    (Operation::Action, true),
    (Operation::Compensate, false),
    (Operation::Prepare, true),
    (Operation::Confirm, false),
    (Operation::CheckBack, true),
    (Operation::Cancel, false),
    (Operation::Commit, false),
    (Operation::Rollback, false),
    (Operation::Deliver, false),
];

pub(super) fn call(target: Target, branch: u32, operation: Operation) -> BranchCall {
    BranchCall {
        xid: Xid::from_slice(&[1; 16]).expect("not nil"),
        transaction_name: None,
        branch_id: BranchId(branch),
        key: BranchKey::new(format!("key-{branch}")).expect("a key"),
        operation,
        target,
        payload: Bytes::new(),
        attempt: 1,
        position: LogPosition { partition: PartitionId(0), epoch: Epoch(1), epoch_tag: 1, seq: Seq(1) },
        kind: BranchKind::Step,
        role: None,
        inputs: Vec::new(),
        result: None,
        timeout: None,
        own_pace: false,
        instance: None,
    }
}

/// So many answers, by branch.
pub(super) async fn answers(
    replies: &mut mpsc::UnboundedReceiver<BranchReply>,
    count: usize,
) -> BTreeMap<u32, ResultOutcome> {
    let mut answers = BTreeMap::new();
    while answers.len() < count {
        let reply = tokio::time::timeout(PATIENCE, replies.recv()).await.expect("in time").expect("a reply");
        let second = answers.insert(reply.branch_id.0, reply.outcome);
        assert!(second.is_none(), "branch {} was answered twice", reply.branch_id);
    }
    answers
}

pub(super) fn outlived(outcome: &ResultOutcome) -> bool {
    matches!(outcome, ResultOutcome::NotSent { error, .. } if error.contains("lease"))
}

#[tokio::test]
async fn h3_what_goes_forward_does_not_leave_a_callbacks_queue_after_the_lease() {
    let (arrived, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
    let take = {
        let (arrived, go_on, seen) = (Arc::clone(&arrived), Arc::clone(&go_on), Arc::clone(&seen));
        async move |axum::Json(body): axum::Json<Value>| {
            let branch = body["branch_id"].as_u64().expect("a number");
            seen.lock().expect("seen").push(branch);
            if branch == 100 {
                arrived.notify_one();
                go_on.notified().await;
            }
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let target = Target::Http(format!("http://{}/", listener.local_addr().expect("an address")).into());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", post(take))).await });
    let config = DeliveryConfig {
        allow: AllowList::loopback(),
        callback_concurrency: 1,
        request_timeout: PATIENCE,
        ..DeliveryConfig::default()
    };
    let delivery = Delivery::new(config);
    let (sink, mut replies, end_lease) = ResultSink::with_lease();
    // It left while the lease held: its answer counts.
    delivery.dispatch(call(target.clone(), 100, Operation::Action), &sink);
    tokio::time::timeout(PATIENCE, arrived.notified()).await.expect("the first one is out");
    for (branch, (operation, _)) in (1..).zip(OPERATIONS) {
        delivery.dispatch(call(target.clone(), branch, operation), &sink);
    }
    end_lease();
    go_on.notify_one();
    let answers = answers(&mut replies, 1 + OPERATIONS.len()).await;
    assert_eq!(answers[&100], ResultOutcome::Done);
    let mut left = vec![100];
    for (branch, (operation, is_forward)) in (1..).zip(OPERATIONS) {
        assert_eq!(outlived(&answers[&branch]), is_forward, "{operation}: {:?}", answers[&branch]);
        assert_eq!(operation.is_forward(), is_forward);
        if !is_forward {
            assert_eq!(answers[&branch], ResultOutcome::Done, "{operation}");
            left.push(u64::from(branch));
        }
    }
    assert_eq!(*seen.lock().expect("seen"), left, "nothing else left");
    let stats = delivery.stats().remove(0);
    assert_eq!((stats.queued, stats.in_flight, stats.failed), (0, 0, 0), "{stats:?}");
}
