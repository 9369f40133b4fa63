//! Nothing is said or done before its block is durable.

use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::engine::{PartitionState, Wait};
use unanimity_coordinator::log::{Fault, FaultRates, FaultyLog, TransactionLog};
use unanimity_core::ResultOutcome;
use unanimity_types::{ErrorCode, InquiryAnswer, Name, Operation, PartitionId, Status};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn c1_a_cancel_waits_for_the_aborts_block() {
    let (memory, log) = memory();
    let node = start(log).await;
    let xid = begun_with(&node.coordinator, &["stock"]).await;
    let held = memory.hold_appends();
    let abort = tokio::spawn({
        let coordinator = node.coordinator.clone();
        async move { coordinator.abort(xid, Wait::Finished).await }
    });
    held.until_waiting(1).await;
    settle_down().await;
    assert!(node.participants.calls().is_empty(), "no cancel before its block");
    assert!(!abort.is_finished());
    drop(held);
    assert_eq!(abort.await.unwrap().unwrap().status, Status::Aborted);
    assert_eq!(node.participants.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn c5_every_answer_waits_for_what_it_looked_at() {
    let (memory, log) = memory();
    let node = start(log).await;
    let xid = begun_with(&node.coordinator, &["stock"]).await;
    let held = memory.hold_appends();
    let first = tokio::spawn({
        let coordinator = node.coordinator.clone();
        async move { coordinator.commit(commit(xid, Wait::Decided)).await.map(|_| ()) }
    });
    held.until_waiting(1).await;
    // A duplicate commit, a refused abort, a registration, a look, an inquiry and a list: all meet a
    // decision that is not durable.
    let c = &node.coordinator;
    let mut later = vec![first];
    later.push(tokio::spawn({
        let c = c.clone();
        async move { c.commit(commit(xid, Wait::Decided)).await.map(|_| ()) }
    }));
    later.push(tokio::spawn({
        let c = c.clone();
        async move { c.abort(xid, Wait::Decided).await.map(|_| ()) }
    }));
    later.push(tokio::spawn({
        let c = c.clone();
        async move { c.register(branch(xid, "late")).await.map(|_| ()) }
    }));
    later.push(tokio::spawn({
        let c = c.clone();
        async move { c.get(xid, Wait::Accepted, Duration::ZERO).await.map(|_| ()) }
    }));
    later.push(tokio::spawn({
        let c = c.clone();
        async move { c.inquire(None, vec![xid]).await.map(|_| ()) }
    }));
    later.push(tokio::spawn({
        let c = c.clone();
        async move { c.list(unanimity_coordinator::engine::ListFilter::default()).await.map(|_| ()) }
    }));
    settle_down().await;
    for (place, task) in later.iter().enumerate() {
        assert!(!task.is_finished(), "answer {place} came before the decision was durable");
    }
    assert!(node.participants.calls().is_empty());
    drop(held);
    let mut codes = Vec::new();
    for task in later {
        codes.push(task.await.unwrap().err().map(|error| error.code));
    }
    let refused = Some(ErrorCode::AlreadyDecided);
    assert_eq!(codes, [None, None, refused, refused, None, None, None]);
}

#[tokio::test(start_paused = true)]
async fn c4_an_append_of_unknown_outcome_is_offered_again_until_it_is_settled() {
    for fault in [Fault::AppendDoneUnknown, Fault::AppendLostUnknown, Fault::AppendLate, Fault::AppendFailed]
    {
        let (memory, _) = memory();
        let faulty = FaultyLog::over_memory(memory, 1);
        let node = start(Arc::new(faulty.clone())).await;
        let xid = begun_with(&node.coordinator, &["stock"]).await;
        let before = faulty.tip(PartitionId(0)).await.unwrap().seq;
        faulty.script(fault);
        let standing = node.coordinator.commit(commit(xid, Wait::Decided)).await.unwrap();
        assert_eq!(standing.status.decision(), Some(unanimity_types::Decision::Commit), "{fault:?}");
        assert_eq!(faulty.fired(fault), 1, "{fault:?} was really hit");
        if fault == Fault::AppendDoneUnknown {
            // It was there since the first offer: released only after one more acknowledged append.
            let after = faulty.tip(PartitionId(0)).await.unwrap().seq;
            assert!(after.0 >= before.0 + 2, "{before} {after}");
        }
        for end in faulty.land_late().await {
            assert_ne!(
                end.unwrap(),
                unanimity_coordinator::log::Appended::Written,
                "the late one must not land twice"
            );
        }
        let view = node.coordinator.get(xid, Wait::Finished, Duration::from_secs(30)).await.unwrap();
        assert_eq!(view.status, Status::Committed);
    }
}

#[tokio::test(start_paused = true)]
async fn h16_a_refused_block_throws_the_memory_away_and_nothing_else() {
    let (memory, _) = memory();
    let faulty = FaultyLog::over_memory(memory, 1);
    let node = start(Arc::new(faulty.clone())).await;
    let xid = begun_with(&node.coordinator, &["stock"]).await;
    faulty.script(Fault::AppendRefused);
    let refused = node.coordinator.commit(commit(xid, Wait::Decided)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unavailable);
    assert!(node.participants.calls().is_empty());
    node.coordinator.ready(Duration::from_secs(60)).await.unwrap();
    let view = node.coordinator.get(xid, Wait::Accepted, Duration::ZERO).await.unwrap();
    assert_eq!(view.status, Status::Active, "the decision was not written and does not count");
    let standing = node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
    assert_eq!(standing.status, Status::Committed);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_away_refuses_new_calls_and_loses_nothing() {
    let (memory, _) = memory();
    let faulty = FaultyLog::over_memory(memory, 1);
    let node = start(Arc::new(faulty.clone())).await;
    let xid = begun_with(&node.coordinator, &["stock"]).await;
    faulty.set_unavailable(true);
    let committing = tokio::spawn({
        let coordinator = node.coordinator.clone();
        async move { coordinator.commit(commit(xid, Wait::Decided)).await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(matches!(node.coordinator.info().states[0].state, PartitionState::Unavailable(_)));
    let refused = node.coordinator.begin(begin(new_xid())).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unavailable);
    assert!(!committing.is_finished() && node.participants.calls().is_empty());
    faulty.set_unavailable(false);
    assert_eq!(committing.await.unwrap().unwrap().status.decision(), Some(unanimity_types::Decision::Commit));
    node.coordinator.ready(Duration::from_secs(10)).await.unwrap();
    let view = node.coordinator.get(xid, Wait::Finished, Duration::from_secs(30)).await.unwrap();
    assert_eq!(view.status, Status::Committed);
}

/// Nobody has to run into it: the lease that cannot be renewed tells first.
#[tokio::test(start_paused = true)]
async fn a_log_that_is_away_is_noticed_without_a_call() {
    let (memory, _) = memory();
    let faulty = FaultyLog::over_memory(memory, 1);
    let node = start(Arc::new(faulty.clone())).await;
    faulty.set_unavailable(true);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!node.coordinator.is_ready());
    faulty.set_unavailable(false);
    node.coordinator.ready(Duration::from_secs(2)).await.unwrap();
    let xid = begun_with(&node.coordinator, &["stock"]).await;
    node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
}

/// M9: what waits for a participant waits long; that one attached is heard while the log is away, too.
#[tokio::test(start_paused = true)]
async fn m9_a_participant_that_attaches_while_the_log_is_away_is_heard() {
    let (memory, _) = memory();
    let faulty = FaultyLog::over_memory(memory, 1);
    let node = start(Arc::new(faulty.clone())).await;
    let c = &node.coordinator;
    let xid = begun_with(c, &["stock"]).await;
    let absent =
        ResultOutcome::Unknown { error: "absent".into(), retry_after: Some(Duration::from_secs(600)) };
    node.participants.say("stock", Operation::Confirm, absent);
    c.commit(commit(xid, Wait::Decided)).await.unwrap();
    settle_down().await;
    assert_eq!(node.participants.asked(Operation::Confirm), ["stock"]);
    faulty.set_unavailable(true);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(matches!(c.info().states[0].state, PartitionState::Unavailable(_)));
    c.participant_available(&Name::new("stock").unwrap()).await;
    faulty.set_unavailable(false);
    c.ready(Duration::from_secs(10)).await.unwrap();
    let view = c.get(xid, Wait::Finished, Duration::from_secs(10)).await.unwrap();
    assert_eq!(view.status, Status::Committed);
}

#[tokio::test(start_paused = true)]
async fn a_full_mailbox_says_too_busy() {
    let (memory, log) = memory();
    let mut small = config("a");
    small.mailbox_max = 16;
    small.building_bytes_max = 64;
    let node = start_with(log, small, Arc::default()).await;
    let held = memory.hold_appends();
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let coordinator = node.coordinator.clone();
            tokio::spawn(async move { coordinator.begin(begin(new_xid())).await })
        })
        .collect();
    settle_down().await;
    drop(held);
    let mut busy = 0;
    for task in tasks {
        if let Err(error) = task.await.unwrap() {
            assert_eq!(error.code, ErrorCode::TooBusy);
            assert!(error.retry_after.is_some());
            busy += 1;
        }
    }
    assert!((1..=90).contains(&busy), "{busy} of 100 were told to come again");
}

#[tokio::test(start_paused = true)]
async fn m7_recovery_lets_out_what_is_owed_and_nothing_else() {
    let (_, log) = memory();
    let node = start(log.clone()).await;
    node.participants.set(Manner::Holding);
    let committing = begun_with(&node.coordinator, &["stock", "payment"]).await;
    let aborting = begun_with(&node.coordinator, &["stock"]).await;
    let open = begun_with(&node.coordinator, &["stock"]).await;
    node.coordinator.commit(commit(committing, Wait::Decided)).await.unwrap();
    node.coordinator.abort(aborting, Wait::Decided).await.unwrap();
    let participants = node.kill();
    assert_eq!(participants.calls().len(), 3);
    participants.set(Manner::Willing);
    let node = start_with(log, config("a"), participants).await;
    for (xid, status) in [(committing, Status::Committed), (aborting, Status::Aborted)] {
        let view = node.coordinator.get(xid, Wait::Finished, Duration::from_secs(30)).await.unwrap();
        assert_eq!(view.status, status);
    }
    assert_eq!(node.participants.calls().len(), 6, "each once more");
    // What was durable from birth is kept by a takeover.
    let view = node.coordinator.get(open, Wait::Accepted, Duration::ZERO).await.unwrap();
    assert_eq!(view.status, Status::Active);
    node.coordinator.commit(commit(open, Wait::Finished)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_keeps_what_was_taken_and_closes_the_log() {
    let (memory, log) = memory();
    let node = start(log.clone()).await;
    let xid = begun_with(&node.coordinator, &["stock"]).await;
    node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
    let participants = Arc::clone(&node.participants);
    node.engine.shutdown(Duration::from_secs(10)).await;
    let last = memory.raw_blocks(PartitionId(0)).pop().unwrap();
    assert_eq!(last.kind, unanimity_coordinator::log::BlockKind::Closing);
    let refused = node.coordinator.begin(begin(new_xid())).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unavailable);
    let node = start_with(log, config("b"), participants).await;
    let view = node.coordinator.get(xid, Wait::Accepted, Duration::ZERO).await.unwrap();
    assert_eq!(view.status, Status::Committed);
}

#[tokio::test(start_paused = true)]
async fn payloads_are_bounded_in_the_mailbox_and_in_memory() {
    let (memory, log) = memory();
    let mut small = config("a");
    small.mailbox_bytes_max = 3 * 1024 * 1024;
    small.building_bytes_max = 1024;
    small.live_bytes_max = 4 * 1024 * 1024;
    let node = start_with(log, small, Arc::default()).await;
    let xid = begun_with(&node.coordinator, &[]).await;
    let large = |n: usize| {
        let mut register = branch(xid, &format!("b{n}"));
        register.payload = vec![7; 1024 * 1024].into();
        register
    };
    let held = memory.hold_appends();
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let coordinator = node.coordinator.clone();
            let register = large(n);
            tokio::spawn(async move { coordinator.register(register).await })
        })
        .collect();
    settle_down().await;
    drop(held);
    let mut busy = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.code, ErrorCode::TooBusy);
                busy += 1;
            }
        }
    }
    assert!(busy >= 12, "{busy} of 20 were told to come again");
    let mut full = 0;
    for n in 20..26 {
        full += usize::from(node.coordinator.register(large(n)).await.is_err());
    }
    assert!(full >= 2, "memory has its limit too: {full}");
    // What is there can still be decided.
    let standing = node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
    assert_eq!(standing.status, Status::Committed);
}

/// A block that is there waits for the one after it. If the database refuses that one, "nothing was
/// changed" would be a lie about the first.
#[tokio::test(start_paused = true)]
async fn c4_h16_a_refused_block_after_one_that_is_there_leaves_the_outcome_unknown() {
    let (memory, _) = memory();
    let faulty = FaultyLog::over_memory(memory, 3);
    let log: Arc<dyn TransactionLog> = Arc::new(faulty.clone());
    let node = start(log).await;
    let xid = begun_with(&node.coordinator, &["stock"]).await;
    let slow = FaultRates { slow: 1.0, slow_max: Duration::from_millis(200), ..FaultRates::default() };
    faulty.set_rates(slow);
    faulty.script(Fault::AppendDoneUnknown);
    let committing = tokio::spawn({
        let coordinator = node.coordinator.clone();
        async move { coordinator.commit(commit(xid, Wait::Decided)).await }
    });
    // Offered, offered again and found there, and the next one on its way.
    while faulty.fired(Fault::Slow) < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    faulty.script(Fault::AppendRefused);
    let told = committing.await.unwrap().unwrap_err();
    assert_eq!(faulty.fired(Fault::AppendRefused), 1);
    assert_eq!(told.code, ErrorCode::OutcomeUnknown, "{told}");
    faulty.set_rates(FaultRates::default());
    node.coordinator.ready(Duration::from_secs(30)).await.unwrap();
    let view = node.coordinator.get(xid, Wait::Finished, Duration::from_secs(30)).await.unwrap();
    assert_eq!(view.status, Status::Committed);
}

/// Shutdown is bounded and calm also when history cannot be written.
#[tokio::test(start_paused = true)]
async fn a_shutdown_without_history_ends_within_its_limit() {
    let (memory, _) = memory();
    let faulty = FaultyLog::over_memory(memory, 4);
    let log: Arc<dyn TransactionLog> = Arc::new(faulty.clone());
    let node = start(log).await;
    faulty.set_rates(FaultRates { history_failed: 1.0, ..FaultRates::default() });
    let xid = begun_with(&node.coordinator, &["stock"]).await;
    node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
    node.engine.shutdown(Duration::from_secs(20)).await;
    let tries = faulty.fired(Fault::HistoryFailed);
    assert!(tries < 20, "{tries} tries to write history");
}

/// What ended leaves memory only when its row in history is written: until then memory answers.
#[tokio::test(start_paused = true)]
async fn c8d_what_ended_stays_in_memory_until_its_row_is_written() {
    let (memory, _) = memory();
    let faulty = FaultyLog::over_memory(memory, 4);
    let log: Arc<dyn TransactionLog> = Arc::new(faulty.clone());
    let node = start(log).await;
    faulty.set_rates(FaultRates { history_failed: 1.0, ..FaultRates::default() });
    let xid = begun_with(&node.coordinator, &["stock"]).await;
    node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
    while faulty.fired(Fault::HistoryFailed) < 3 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let view = node.coordinator.get(xid, Wait::Accepted, Duration::from_secs(5)).await.unwrap();
    assert_eq!(view.status, Status::Committed);
    let answers = node.coordinator.inquire(None, vec![xid]).await.unwrap();
    assert_eq!(answers[0].answer, InquiryAnswer::Committed);
}

/// A flood of inquiries about what nobody knows takes no more memory than anything else.
#[tokio::test(start_paused = true)]
async fn m21_inquiries_are_bounded_by_what_memory_may_hold() {
    let (_memory, log) = memory();
    let mut small = config("a");
    small.open_max = 10;
    let node = start_with(log, small, Arc::default()).await;
    let many = (0..20).map(|_| new_xid()).collect();
    assert_eq!(node.coordinator.inquire(None, many).await.unwrap_err().code, ErrorCode::TooBusy);
    let few = (0..8).map(|_| new_xid()).collect();
    assert_eq!(node.coordinator.inquire(None, few).await.unwrap().len(), 8);
}

/// Dropped while its partition has something to do, the engine ends as if it had been killed.
#[tokio::test(start_paused = true)]
async fn an_engine_dropped_in_the_middle_of_a_turn_ends() {
    let (_memory, log) = memory();
    let node = start(Arc::clone(&log)).await;
    let coordinator = node.coordinator.clone();
    let begun = tokio::spawn(async move { coordinator.begin(begin(new_xid())).await });
    // The mail is there, and its partition about to run.
    tokio::task::yield_now().await;
    drop(node);
    let _ = begun.await.unwrap();
    let node = start(log).await;
    begun_with(&node.coordinator, &["stock"]).await;
}

/// Trouble while a partition drains, and its end, do not open it again.
#[tokio::test(start_paused = true)]
async fn a_partition_that_shuts_down_stays_closed() {
    let (memory, _) = memory();
    let faulty = FaultyLog::over_memory(memory, 1);
    let node = start(Arc::new(faulty.clone())).await;
    let xid = begun_with(&node.coordinator, &["stock"]).await;
    faulty.set_unavailable(true);
    let coordinator = node.coordinator.clone();
    let committing = tokio::spawn(async move { coordinator.commit(commit(xid, Wait::Decided)).await });
    tokio::task::yield_now().await;
    let coordinator = node.coordinator.clone();
    let stopping = tokio::spawn(node.engine.shutdown(Duration::from_secs(10)));
    for tenth in 0..30 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(coordinator.info().states[0].state, PartitionState::Closed);
        // Away long enough to be called trouble, then back.
        faulty.set_unavailable(tenth < 20);
    }
    stopping.await.unwrap();
    assert_eq!(committing.await.unwrap().unwrap().status.decision(), Some(unanimity_types::Decision::Commit));
}
