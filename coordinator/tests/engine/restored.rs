//! A log that was restored from a backup (protocol C8): what nobody knows from before is not presumed.

use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::engine::{
    Asked, Claim, Coordinator, EngineConfig, OperatorAction, PartitionState, StopReason, Wait,
};
use unanimity_coordinator::log::{AgreedFormat, MemoryLog, TransactionLog};
use unanimity_types::{
    Birth, DecideHash, ErrorCode, InquiryAnswer, LogPosition, Mode, PartitionId, Status, Ticket, Xid,
};
use uuid::{NoContext, Timestamp as UuidTime, Uuid};

use crate::support::*;

const P0: PartitionId = PartitionId(0);
const HOUR: Duration = Duration::from_secs(3_600);

fn action() -> OperatorAction {
    OperatorAction { operator: "ops".to_owned(), reason: "restored from the backup of 02:00".to_owned() }
}

async fn answer(c: &Coordinator, xid: Xid, age: Option<Duration>) -> InquiryAnswer {
    c.inquire(None, vec![Asked { xid, age }]).await.unwrap()[0].answer
}

/// An xid that says when it was minted, by the log's clock.
async fn minted(log: &dyn TransactionLog) -> Xid {
    let now = log.now().await.unwrap().0;
    let time = UuidTime::from_unix(NoContext, now / 1_000, u32::try_from(now % 1_000).unwrap() * 1_000_000);
    Xid::new(Uuid::new_v7(time))
}

fn birth(c: &Coordinator, ticket: Ticket) -> Birth {
    let secret = Claim::showing(None, b"secret").shown.unwrap_or(DecideHash([0; 32]));
    Birth { log_id: c.log_id(), ticket, decide_hash: secret, timeout: None, name: None, mode: Mode::Tcc }
}

/// What the lost part of the log held, and a node over the backup that was told.
struct Restored {
    memory: MemoryLog,
    log: Arc<dyn TransactionLog>,
    node: Node,
    kept: Xid,
    lost: Xid,
    ticket: Ticket,
    witness: Vec<LogPosition>,
}

async fn restored(config: EngineConfig) -> Restored {
    let (memory, log) = memory();
    let node = start_with(log.clone(), config.clone(), Arc::default()).await;
    let kept = begun_with(&node.coordinator, &["stock"]).await;
    let backup = memory.fork();
    // A life later: what is committed now is not in the backup, nor is the epoch.
    let participants = node.kill();
    let node = start_with(log, config.clone(), participants).await;
    let lost = begun_with(&node.coordinator, &["stock"]).await;
    node.coordinator.commit(commit(lost, Wait::Finished)).await.unwrap();
    let (ticket, witness) = (node.coordinator.tickets()[0].1, node.coordinator.positions());
    let participants = node.kill();
    let log: Arc<dyn TransactionLog> = Arc::new(backup.clone());
    let node = start_with(log.clone(), config, participants).await;
    node.coordinator.record_restored(P0, action()).await.unwrap();
    node.coordinator.ready(Duration::from_secs(10)).await.unwrap();
    Restored { memory: backup, log, node, kept, lost, ticket, witness }
}

async fn refused(c: &Coordinator, xid: Xid) {
    let committed = c.commit(commit(xid, Wait::Decided)).await.unwrap_err();
    assert_eq!(committed.code, ErrorCode::Forgotten, "{committed:?}");
    let aborted = c.abort(xid, Wait::Decided).await.unwrap_err();
    assert_eq!(aborted.code, ErrorCode::Forgotten, "{aborted:?}");
    let registered = c.register(branch(xid, "payment")).await.unwrap_err();
    assert_eq!(registered.code, ErrorCode::Forgotten, "{registered:?}");
    let looked = c.get(xid, Wait::Accepted, Duration::ZERO).await.unwrap_err();
    assert_eq!(looked.code, ErrorCode::TransactionNotFound, "nothing was written");
}

#[tokio::test(start_paused = true)]
async fn c8_after_a_restore_nothing_from_before_is_presumed() {
    let Restored { log, node, kept, lost, ticket, witness, .. } = restored(config("a")).await;
    let c = &node.coordinator;
    for age in [None, Some(Duration::from_secs(2)), Some(100 * HOUR)] {
        assert_eq!(answer(c, lost, age).await, InquiryAnswer::Forgotten);
    }
    refused(c, lost).await;
    // Its participants saw what this log never had; that is known.
    c.witness(&witness).await.unwrap();
    // A transaction begun without a call in the lost part.
    let lazily = new_xid();
    let claim = Claim::showing(Some(birth(c, ticket)), b"secret");
    let error = c.register_as(branch(lazily, "stock"), claim.clone()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Forgotten);
    let error = c.commit_as(commit(lazily, Wait::Decided), claim).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Forgotten);
    // What the backup holds goes on.
    let standing = c.commit(commit(kept, Wait::Finished)).await.unwrap();
    assert_eq!(standing.status, Status::Committed);
    // And so does what begins now, with a call or without.
    let later = begun_with(c, &["stock"]).await;
    assert_eq!(answer(c, later, Some(Duration::ZERO)).await, InquiryAnswer::Active);
    let (xid, fresh) = (new_xid(), birth(c, c.tickets()[0].1));
    c.register_as(branch(xid, "stock"), Claim::showing(Some(fresh), b"secret")).await.unwrap();
    // A begin again, of what says itself that it is older.
    tokio::time::sleep(2 * HOUR).await;
    let young = minted(&*log).await;
    assert_eq!(answer(c, young, None).await, InquiryAnswer::Aborted, "it was minted long after");
    assert_eq!(answer(c, new_xid(), Some(HOUR / 2)).await, InquiryAnswer::Aborted);
    assert_eq!(answer(c, new_xid(), None).await, InquiryAnswer::Forgotten, "nobody can tell");
    assert_eq!(answer(c, lost, Some(2 * HOUR)).await, InquiryAnswer::Forgotten, "for ever");
}

#[tokio::test(start_paused = true)]
async fn c8_a_begin_that_says_that_it_is_older_is_refused() {
    let (_memory, log) = memory();
    let node = start(log.clone()).await;
    let old = minted(&*log).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    node.coordinator.record_restored(P0, action()).await.unwrap();
    let error = node.coordinator.begin(begin(old)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Forgotten);
    tokio::time::sleep(Duration::from_secs(5)).await;
    node.coordinator.begin(begin(minted(&*log).await)).await.unwrap();
    // One that says nothing about its age: whoever begins it may.
    node.coordinator.begin(begin(new_xid())).await.unwrap();
}

/// Crashes, clean ends and trims: the word stays.
#[tokio::test(start_paused = true)]
async fn c8_the_word_survives_the_trim_and_every_owner() {
    let small = EngineConfig { clean_bytes: 2_000, trim_blocks: 4, ..config("a") };
    let Restored { memory, log, node, lost, witness, .. } = restored(small.clone()).await;
    let first = memory.raw_blocks(P0).last().unwrap().seq;
    for _ in 0..40 {
        let xid = begun_with(&node.coordinator, &["stock"]).await;
        node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(memory.raw_blocks(P0).last().unwrap().floor > first.next(), "it was trimmed");
    let participants = node.participants.clone();
    node.engine.shutdown(Duration::from_secs(10)).await;
    let node = start_with(log.clone(), small.clone(), participants).await;
    node.coordinator.witness(&witness).await.unwrap();
    assert_eq!(answer(&node.coordinator, lost, None).await, InquiryAnswer::Forgotten);
    let participants = node.kill();
    let node = start_with(log, small, participants).await;
    refused(&node.coordinator, lost).await;
}

#[tokio::test(start_paused = true)]
async fn c8_a_partition_that_stopped_for_its_lost_tail_goes_on_as_restored() {
    let (memory, log) = memory();
    let node = start(log.clone()).await;
    begun_with(&node.coordinator, &["stock"]).await;
    let cut = node.coordinator.positions()[0].seq;
    let lost = begun_with(&node.coordinator, &["stock"]).await;
    node.coordinator.commit(commit(lost, Wait::Decided)).await.unwrap();
    let witness = node.coordinator.positions();
    let participants = node.kill();
    memory.lose_tail(P0, cut);
    let node = start_with(log, config("a"), participants).await;
    assert_eq!(node.coordinator.witness(&witness).await.unwrap_err().code, ErrorCode::LogLostTail);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let state = node.coordinator.info().states[0].state.clone();
    assert!(matches!(state, PartitionState::Stopped(StopReason::LostTail(_))), "{state:?}");
    node.coordinator.record_restored(P0, action()).await.unwrap();
    node.coordinator.ready(Duration::from_secs(10)).await.unwrap();
    node.coordinator.witness(&witness).await.unwrap();
    refused(&node.coordinator, lost).await;
}

#[tokio::test(start_paused = true)]
async fn m18_a_restore_is_not_written_where_a_node_would_not_know_it() {
    let (_memory, log) = memory();
    let format = AgreedFormat::at(1);
    let node = start_with(log, EngineConfig { format: format.clone(), ..config("a") }, Arc::default()).await;
    let error = node.coordinator.record_restored(P0, action()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::IllegalTransition);
    format.raise(2);
    node.coordinator.record_restored(P0, action()).await.unwrap();
}
