//! History beside a log that lost its end (protocol C8, H6): who is left on the lost line writes nothing, and a row that
//! stayed open is a witness, settled when its loss is accepted. And the locks of what was lost.

use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::engine::{Coordinator, Inquiry, OperatorAction, PartitionState, StopReason, Wait};
use unanimity_coordinator::log::{MemoryLog, TransactionLog};
use unanimity_types::{
    AbortReason, ErrorCode, InquiryAnswer, LogPosition, PartitionId, Seq, Status, Xid, partition_of,
};

use crate::support::*;

const P0: PartitionId = PartitionId(0);
const NOW: Duration = Duration::ZERO;

fn action() -> OperatorAction {
    OperatorAction { operator: "ann".to_owned(), reason: "the old primary is gone".to_owned() }
}

async fn inquire(coordinator: &Coordinator, xids: &[Xid]) -> Vec<Inquiry> {
    coordinator.inquire(None, xids.to_vec()).await.unwrap()
}

fn has_stopped(node: &Node) -> bool {
    matches!(&node.coordinator.info().states[0].state, PartitionState::Stopped(StopReason::LostTail(_)))
}

/// A node over a log that lost a transaction whose open row history has.
async fn with_an_open_row() -> (Arc<dyn TransactionLog>, Node, Xid, Xid) {
    let (memory, log) = memory();
    let node = start(log.clone()).await;
    let kept = begun_with(&node.coordinator, &["stock"]).await;
    let cut = node.coordinator.positions()[0].seq;
    let lost = begun_with(&node.coordinator, &["stock", "payment"]).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let row = log.find_history(&[lost]).await.unwrap().pop().expect("written while it is open");
    assert_eq!(row.status, Status::Active);
    let participants = node.kill();
    memory.lose_tail(P0, cut);
    let node = start_with(log.clone(), config("a"), participants).await;
    (log, node, kept, lost)
}

#[tokio::test(start_paused = true)]
async fn h6_an_owner_of_the_lost_line_writes_no_history() {
    let (memory, log) = memory();
    let node = start(log.clone()).await;
    begun_with(&node.coordinator, &["stock"]).await;
    let cut = node.coordinator.positions()[0].seq;
    let lost = begun_with(&node.coordinator, &["stock"]).await;
    let before = log.history_watermark(P0).await.unwrap();
    memory.lose_tail(P0, cut);
    // It has nothing to append, and does not know.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(log.find_history(&[lost]).await.unwrap().is_empty());
    assert_eq!(log.history_watermark(P0).await.unwrap(), before);
}

#[tokio::test(start_paused = true)]
async fn c8_h6_a_row_left_open_stops_the_partition_and_is_settled_when_the_loss_is_accepted() {
    let (log, node, kept, lost) = with_an_open_row().await;
    let error = node.coordinator.commit(commit(lost, Wait::Decided)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::LogLostTail, "{error:?}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(has_stopped(&node), "what history has is a witness: {:?}", node.coordinator.info());
    node.coordinator.accept_loss(P0, action()).await.unwrap();
    node.coordinator.ready(Duration::from_secs(10)).await.unwrap();
    let c = &node.coordinator;
    // Others in the batch are answered as well, and it ends.
    let answers = inquire(c, &[lost, kept]).await;
    assert_eq!(answers[0].answer, InquiryAnswer::Aborted);
    assert!(answers[0].settled);
    assert_eq!(answers[1].answer, InquiryAnswer::Active);
    let refused = c.commit(commit(lost, Wait::Decided)).await.unwrap_err();
    assert_eq!(
        (refused.code, refused.abort_reason),
        (ErrorCode::AlreadyDecided, Some(AbortReason::Presumed))
    );
    let late = c.register(branch(lost, "third")).await.unwrap_err();
    assert_eq!(late.code, ErrorCode::AlreadyDecided);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let row = log.find_history(&[lost]).await.unwrap().pop().unwrap();
    assert_eq!((row.status, row.abort_reason), (Status::Aborted, Some(AbortReason::Presumed)));
    assert_eq!(row.attention.as_deref(), Some("log_lost_tail"), "it says that it was lost");
    assert!(row.detail.contains("payment") && row.participants.contains(&"payment".to_owned()), "{row:?}");
    let view = c.get(lost, Wait::Finished, Duration::from_secs(5)).await.unwrap();
    assert_eq!((view.status, view.branches.len()), (Status::Aborted, 2));
    // A repeated begin does not begin it again, here or after a restart.
    let participants = node.kill();
    let node = start_with(log, config("a"), participants).await;
    let begun = node.coordinator.begin(begin(lost)).await.unwrap();
    assert_eq!(begun.status, Status::Aborted);
    assert_eq!(inquire(&node.coordinator, &[lost]).await[0].answer, InquiryAnswer::Aborted);
    let standing = node.coordinator.commit(commit(kept, Wait::Finished)).await.unwrap();
    assert_eq!(standing.status, Status::Committed);
}

#[tokio::test(start_paused = true)]
async fn c8_after_a_restore_a_row_left_open_is_forgotten_and_not_presumed() {
    let (log, node, kept, lost) = with_an_open_row().await;
    assert_eq!(inquire_fails(&node.coordinator, lost).await, ErrorCode::LogLostTail);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(has_stopped(&node));
    node.coordinator.record_restored(P0, action()).await.unwrap();
    node.coordinator.ready(Duration::from_secs(10)).await.unwrap();
    let c = &node.coordinator;
    let answers = inquire(c, &[lost, kept]).await;
    assert_eq!((answers[0].answer, answers[0].settled), (InquiryAnswer::Forgotten, false));
    assert_eq!(answers[1].answer, InquiryAnswer::Active);
    let refused = c.abort(lost, Wait::Decided).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Forgotten);
    let row = log.find_history(&[lost]).await.unwrap().pop().unwrap();
    assert_eq!(row.status, Status::Active, "nothing was written");
}

async fn inquire_fails(coordinator: &Coordinator, xid: Xid) -> ErrorCode {
    coordinator.inquire(None, vec![xid]).await.unwrap_err().code
}

/// Two partitions, and a lock whose home is not its holder's: the holder is lost, the lock is there.
async fn with_a_lock_of_what_is_lost() -> (Node, Vec<LogPosition>) {
    let memory = MemoryLog::new(2);
    let log: Arc<dyn TransactionLog> = Arc::new(memory.clone());
    let node = start(log.clone()).await;
    let c = &node.coordinator;
    let cut = c.positions()[0].seq;
    let xid = in_partition(c, 0).await;
    // The key's home is partition 1 (`m17_homes_are_fixed_for_ever`).
    c.register(locking(xid, "stock", &["a"], NOW)).await.unwrap();
    let seen = c.positions();
    assert!(seen[0].seq > cut && cut > Seq(0));
    let participants = node.kill();
    memory.lose_tail(P0, cut);
    let node = start_with(log, config("a"), participants).await;
    (node, seen)
}

async fn in_partition(coordinator: &Coordinator, partition: u16) -> Xid {
    loop {
        let xid = new_xid();
        if partition_of(xid, 2).0 == partition {
            coordinator.begin(begin(xid)).await.unwrap();
            return xid;
        }
    }
}

async fn gets_the_lock(coordinator: &Coordinator) {
    let next = in_partition(coordinator, 1).await;
    coordinator.register(locking(next, "stock", &["a"], Duration::from_secs(30))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn h7_c8_a_lock_of_what_was_lost_is_free_when_the_loss_is_accepted() {
    let (node, seen) = with_a_lock_of_what_is_lost().await;
    let c = &node.coordinator;
    assert_eq!(c.witness(&seen).await.unwrap_err().code, ErrorCode::LogLostTail);
    let next = in_partition(c, 1).await;
    let refused = c.register(locking(next, "stock", &["a"], Duration::from_secs(20))).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::LockConflict, "nobody knows yet what became of its holder");
    c.accept_loss(P0, action()).await.unwrap();
    c.ready(Duration::from_secs(10)).await.unwrap();
    gets_the_lock(c).await;
}

#[tokio::test(start_paused = true)]
async fn h7_c8_a_lock_of_what_a_restored_log_forgot_is_free() {
    let (node, _) = with_a_lock_of_what_is_lost().await;
    node.coordinator.record_restored(P0, action()).await.unwrap();
    node.coordinator.ready(Duration::from_secs(10)).await.unwrap();
    gets_the_lock(&node.coordinator).await;
}
