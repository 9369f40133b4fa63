//! What history has dropped is forgotten, not aborted (protocol C8).

use std::time::Duration;

use unanimity_coordinator::engine::{Asked, EngineConfig, Wait};
use unanimity_types::{ErrorCode, InquiryAnswer, Status, Xid};

use crate::support::*;

const HOUR: Duration = Duration::from_secs(3_600);
const SOON: Duration = Duration::from_secs(60);

async fn answer(node: &Node, xid: Xid, age: Option<Duration>) -> (InquiryAnswer, bool) {
    let answers = node.coordinator.inquire(None, vec![Asked { xid, age }]).await.unwrap();
    assert_eq!(answers.len(), 1);
    (answers[0].answer, answers[0].settled)
}

async fn committed(node: &Node) -> Xid {
    let xid = new_xid();
    node.coordinator.begin(begin(xid)).await.unwrap();
    node.coordinator.register(branch(xid, "stock")).await.unwrap();
    node.coordinator.commit(commit(xid, Wait::Decided)).await.unwrap();
    xid
}

#[tokio::test(start_paused = true)]
async fn c8_what_history_dropped_is_forgotten_and_never_presumed() {
    let (_memory, log) = memory();
    let config = EngineConfig { history_retention: 24 * HOUR, ..config("a") };
    let node = start_with(log.clone(), config.clone(), std::sync::Arc::default()).await;
    let long_ago = committed(&node).await;
    let view = node.coordinator.get(long_ago, Wait::Finished, SOON).await.unwrap();
    assert_eq!(view.status, Status::Committed);
    node.participants.set(Manner::Dead);
    let stuck = committed(&node).await;

    // As long as history has it, its age is of no interest.
    assert_eq!(answer(&node, long_ago, Some(1_000 * HOUR)).await, (InquiryAnswer::Committed, true));
    tokio::time::sleep(20 * HOUR).await;
    let yesterday = committed(&node).await;
    tokio::time::sleep(6 * HOUR).await;

    assert!(log.find_history(&[long_ago]).await.unwrap().is_empty(), "dropped");
    for _ in 0..2 {
        assert_eq!(answer(&node, long_ago, Some(26 * HOUR)).await, (InquiryAnswer::Forgotten, false));
    }
    // Nothing was decided by asking.
    let gone = node.coordinator.get(long_ago, Wait::Accepted, SOON).await.unwrap_err();
    assert_eq!(gone.code, ErrorCode::TransactionNotFound);
    assert_eq!(answer(&node, yesterday, Some(6 * HOUR)).await.0, InquiryAnswer::Committed);

    // An asker's clock is not the log's: near to the end of history it counts as beyond.
    let never = new_xid();
    assert_eq!(answer(&node, never, Some(23 * HOUR + HOUR / 2)).await.0, InquiryAnswer::Forgotten);
    // What history would still know was never there: presumed, and durably so.
    assert_eq!(answer(&node, never, Some(2 * HOUR)).await.0, InquiryAnswer::Aborted);
    assert_eq!(answer(&node, never, Some(26 * HOUR)).await.0, InquiryAnswer::Aborted, "now it is known");
    // Who does not say how old its record is gets the old answer.
    assert_eq!(answer(&node, new_xid(), None).await.0, InquiryAnswer::Aborted);
    // Also about what was dropped: it has a second life, in the same blocks of the log as the first.
    assert_eq!(answer(&node, long_ago, None).await.0, InquiryAnswer::Aborted);

    // What is open is never dropped, and another owner says the same.
    drop(node);
    let next = EngineConfig { node: "b".to_owned(), ..config };
    let node = start_with(log, next, std::sync::Arc::default()).await;
    assert_eq!(answer(&node, long_ago, Some(26 * HOUR)).await.0, InquiryAnswer::Aborted);
    assert_eq!(answer(&node, stuck, Some(26 * HOUR)).await.0, InquiryAnswer::Committed);
}

#[tokio::test(start_paused = true)]
async fn m1_a_second_life_of_an_xid_that_history_dropped_is_recovered() {
    let (_memory, log) = memory();
    let config = EngineConfig { history_retention: 24 * HOUR, ..config("a") };
    let node = start_with(log.clone(), config.clone(), std::sync::Arc::default()).await;
    let (again, aborted) = (committed(&node).await, committed(&node).await);
    tokio::time::sleep(26 * HOUR).await;
    assert!(log.find_history(&[again, aborted]).await.unwrap().is_empty(), "dropped");
    assert_eq!(node.coordinator.begin(begin(again)).await.unwrap().status, Status::Active);
    assert_eq!(answer(&node, aborted, None).await.0, InquiryAnswer::Aborted);
    drop(node);
    let next = EngineConfig { node: "b".to_owned(), ..config };
    let node = start_with(log, next, std::sync::Arc::default()).await;
    let view = node.coordinator.get(again, Wait::Accepted, SOON).await.unwrap();
    assert_ne!(view.status, Status::Committed, "that was its first life");
    assert_eq!(answer(&node, aborted, None).await.0, InquiryAnswer::Aborted);
}
