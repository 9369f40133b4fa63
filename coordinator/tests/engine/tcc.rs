//! TCC through the engine: what callers see.

use std::time::Duration;

use unanimity_coordinator::engine::{Commit, ListFilter, OperatorAction, Resolve, Wait};
use unanimity_coordinator::log::{FaultRates, FaultyLog, TransactionLog as _};
use unanimity_types::{
    AbortReason, BranchId, BranchStatus, ErrorCode, InquiryAnswer, LogId, ResolveAs, Status,
};
use uuid::Uuid;

use crate::support::*;

fn by_operator() -> OperatorAction {
    OperatorAction { operator: "op".into(), reason: "test".into() }
}

#[tokio::test(start_paused = true)]
async fn a_commit_confirms_every_branch_and_ends_in_history() {
    let (_, log) = memory();
    let node = start(log).await;
    let xid = begun_with(&node.coordinator, &["stock", "payment"]).await;
    let standing = node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
    assert_eq!(standing.status, Status::Committed);
    assert!(node.participants.done(xid).iter().all(|done| done.confirmed));
    assert_eq!(node.participants.done(xid).len(), 2);
    // Out of memory, in history.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(node.coordinator.info().states[0].open, 0);
    let view = node.coordinator.get(xid, Wait::Accepted, Duration::ZERO).await.unwrap();
    assert_eq!((view.status, view.branches.len()), (Status::Committed, 2));
    assert!(view.timeline.iter().any(|entry| entry.kind.as_str() == "finished"));
    let again = node.coordinator.commit(commit(xid, Wait::Decided)).await.unwrap();
    assert_eq!(again.status, Status::Committed);
    let refused = node.coordinator.abort(xid, Wait::Decided).await.unwrap_err();
    assert_eq!((refused.code, refused.status), (ErrorCode::AlreadyDecided, Some(Status::Committed)));
}

#[tokio::test(start_paused = true)]
async fn an_abort_cancels_every_branch() {
    let (_, log) = memory();
    let node = start(log).await;
    let xid = begun_with(&node.coordinator, &["stock", "payment"]).await;
    let standing = node.coordinator.abort(xid, Wait::Finished).await.unwrap();
    assert_eq!((standing.status, standing.abort_reason), (Status::Aborted, Some(AbortReason::Requested)));
    assert!(node.participants.done(xid).iter().all(|done| done.cancelled));
    let refused = node.coordinator.commit(commit(xid, Wait::Decided)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::AlreadyDecided);
    let refused = node.coordinator.register(branch(xid, "late")).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::AlreadyDecided);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_aborts_what_is_undecided() {
    let (_, log) = memory();
    let node = start(log).await;
    let xid = begun_with(&node.coordinator, &["stock"]).await;
    let view = node.coordinator.get(xid, Wait::Finished, Duration::from_secs(70)).await.unwrap();
    // The default of 60 s is over: a look may wait for at most as long.
    let view = if view.status.is_terminal() {
        view
    } else {
        node.coordinator.get(xid, Wait::Finished, Duration::from_secs(70)).await.unwrap()
    };
    assert_eq!((view.status, view.abort_reason), (Status::Aborted, Some(AbortReason::Deadline)));
    assert!(node.participants.done(xid)[0].cancelled);
}

#[tokio::test(start_paused = true)]
async fn m1_a_repeated_begin_is_answered_as_the_first_and_another_body_refused() {
    let (_, log) = memory();
    let node = start(log).await;
    let xid = new_xid();
    let first = node.coordinator.begin(begin(xid)).await.unwrap();
    assert_eq!(node.coordinator.begin(begin(xid)).await.unwrap(), first);
    let mut other = begin(xid);
    other.timeout = Some(Duration::from_secs(1));
    assert_eq!(node.coordinator.begin(other.clone()).await.unwrap_err().code, ErrorCode::XidReused);
    node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    // The same from history.
    assert_eq!(node.coordinator.begin(begin(xid)).await.unwrap().status, Status::Committed);
    assert_eq!(node.coordinator.begin(other).await.unwrap_err().code, ErrorCode::XidReused);
}

#[tokio::test(start_paused = true)]
async fn h8_the_same_key_is_the_same_branch_and_another_body_is_refused() {
    let (_, log) = memory();
    let node = start(log).await;
    let xid = begun_with(&node.coordinator, &["stock"]).await;
    let again = node.coordinator.register(branch(xid, "stock")).await.unwrap();
    assert_eq!(again.branch_id, BranchId(1));
    let mut other = branch(xid, "stock");
    other.payload = vec![1].into();
    assert_eq!(node.coordinator.register(other).await.unwrap_err().code, ErrorCode::BranchKeyReused);
}

#[tokio::test(start_paused = true)]
async fn h1_a_commit_names_its_votes() {
    let (_, log) = memory();
    let node = start(log).await;
    // A registered branch without a vote.
    let xid = begun_with(&node.coordinator, &["stock", "payment"]).await;
    let named = Commit { xid, votes: keys(&["stock"]), wait: Wait::Decided };
    let refused = node.coordinator.commit(named).await.unwrap_err();
    assert_eq!(refused.abort_reason, Some(AbortReason::BranchNotVoted));
    // A vote without a registered branch: waited for, then aborted.
    let xid = begun_with(&node.coordinator, &["stock"]).await;
    let named = Commit { xid, votes: keys(&["stock", "payment"]), wait: Wait::Decided };
    let refused = node.coordinator.commit(named).await.unwrap_err();
    assert_eq!(refused.abort_reason, Some(AbortReason::BranchMissing));
    // One that comes in time.
    let xid = begun_with(&node.coordinator, &["stock"]).await;
    let named = Commit { xid, votes: keys(&["stock", "payment"]), wait: Wait::Finished };
    let committing = tokio::spawn({
        let coordinator = node.coordinator.clone();
        async move { coordinator.commit(named).await }
    });
    settle_down().await;
    let other = node.coordinator.register(branch(xid, "other")).await.unwrap_err();
    assert_eq!(other.code, ErrorCode::CommitInProgress);
    node.coordinator.register(branch(xid, "payment")).await.unwrap();
    assert_eq!(committing.await.unwrap().unwrap().status, Status::Committed);
    assert!(node.participants.done(xid).iter().all(|done| done.confirmed));
}

#[tokio::test(start_paused = true)]
async fn c2_an_inquiry_for_an_unknown_xid_aborts_it_for_good() {
    let (_, log) = memory();
    let node = start(log.clone()).await;
    let (unknown, open) = (new_xid(), begun_with(&node.coordinator, &["stock"]).await);
    let answers = node.coordinator.inquire(None, vec![open, unknown]).await.unwrap();
    assert_eq!((answers[0].answer, answers[1].answer), (InquiryAnswer::Active, InquiryAnswer::Aborted));
    assert!(answers[1].settled && !answers[0].settled);
    let participants = node.kill();
    let node = start_with(log, config("a"), participants).await;
    let refused = node.coordinator.begin(begin(unknown)).await.unwrap_err();
    assert_eq!(
        (refused.code, refused.abort_reason),
        (ErrorCode::AlreadyDecided, Some(AbortReason::Presumed))
    );
    let refused = node.coordinator.register(branch(unknown, "stock")).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::AlreadyDecided);
    // Another log's transactions are nobody's here (C8).
    let foreign = Some(LogId(Uuid::new_v4()));
    let answers = node.coordinator.inquire(foreign, vec![unknown]).await.unwrap();
    assert_eq!(answers[0].answer, InquiryAnswer::NotMine);
}

#[tokio::test(start_paused = true)]
async fn c2_a_commit_or_registration_of_an_unknown_xid_is_refused_and_remembered() {
    let (_, log) = memory();
    let node = start(log).await;
    let xid = new_xid();
    let refused = node.coordinator.commit(commit(xid, Wait::Decided)).await.unwrap_err();
    assert_eq!(refused.abort_reason, Some(AbortReason::Presumed));
    assert_eq!(node.coordinator.begin(begin(xid)).await.unwrap_err().code, ErrorCode::AlreadyDecided);
    let xid = new_xid();
    assert_eq!(
        node.coordinator.register(branch(xid, "x")).await.unwrap_err().code,
        ErrorCode::AlreadyDecided
    );
    let xid = new_xid();
    let standing = node.coordinator.abort(xid, Wait::Decided).await.unwrap();
    assert_eq!((standing.status, standing.abort_reason), (Status::Aborted, Some(AbortReason::Presumed)));
    // A look is no command, and its 404 no outcome (M4).
    let xid = new_xid();
    let missing = node.coordinator.get(xid, Wait::Accepted, Duration::ZERO).await.unwrap_err();
    assert_eq!(missing.code, ErrorCode::TransactionNotFound);
    node.coordinator.begin(begin(xid)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dead_participant_is_asked_for_ever_and_people_are_told() {
    let (_, log) = memory();
    let node = start(log).await;
    let xid = begun_with(&node.coordinator, &["stock", "payment"]).await;
    node.participants.set(Manner::Dead);
    let standing = node.coordinator.commit(commit(xid, Wait::Decided)).await.unwrap();
    assert_eq!(standing.status, Status::Committing);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let view = node.coordinator.get(xid, Wait::Accepted, Duration::ZERO).await.unwrap();
    assert_eq!(view.attention.unwrap().code.as_str(), "participant_failing");
    assert!(view.branches[0].attempts > 20, "{:?}", view.branches);
    assert!(view.branches[0].next_attempt_at.is_some());
    let filter = ListFilter { attention: true, ..ListFilter::default() };
    assert_eq!(node.coordinator.list(filter).await.unwrap().transactions.len(), 1);
    node.participants.set(Manner::Willing);
    let view = node.coordinator.get(xid, Wait::Finished, Duration::from_secs(60)).await.unwrap();
    assert_eq!(view.status, Status::Committed);
    assert_eq!(view.attention, None);
}

#[tokio::test(start_paused = true)]
async fn m14_a_heuristic_outcome_is_recorded_and_its_contradiction_too() {
    let (_, log) = memory();
    let node = start(log).await;
    let xid = begun_with(&node.coordinator, &["stock", "payment"]).await;
    let resolve =
        |branch, resolve_as| Resolve { xid, branch_id: BranchId(branch), resolve_as, action: by_operator() };
    let early = node.coordinator.resolve(resolve(1, ResolveAs::Cancelled)).await.unwrap_err();
    assert_eq!(early.code, ErrorCode::IllegalTransition);
    node.participants.set(Manner::Holding);
    node.coordinator.commit(commit(xid, Wait::Decided)).await.unwrap();
    node.coordinator.resolve(resolve(1, ResolveAs::Cancelled)).await.unwrap();
    // The participant did it all the same.
    node.participants.let_go();
    settle_down().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let view = node.coordinator.get(xid, Wait::Accepted, Duration::ZERO).await.unwrap();
    assert_eq!(view.status, Status::Committed);
    assert_eq!(view.branches[0].status, BranchStatus::HeuristicCancelled);
    assert_eq!(view.branches[0].resolved, Some(("op".into(), "test".into())));
    assert!(view.attention.unwrap().code.as_str().starts_with("heuristic_"));
    let late = node.coordinator.resolve(resolve(2, ResolveAs::Cancelled)).await.unwrap_err();
    assert_eq!(late.code, ErrorCode::IllegalTransition);
}

#[tokio::test(start_paused = true)]
async fn the_10001st_branch_is_refused() {
    let (_, log) = memory();
    let node = start(log).await;
    let xid = begun_with(&node.coordinator, &[]).await;
    for batch in 0..100 {
        let registrations = (0..100).map(|n| {
            let coordinator = node.coordinator.clone();
            async move { coordinator.register(branch(xid, &format!("b{batch}-{n}"))).await }
        });
        for registered in futures::future::join_all(registrations).await {
            registered.unwrap();
        }
    }
    let refused = node.coordinator.register(branch(xid, "one too many")).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::TooManyBranches);
    let standing = node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
    assert_eq!(standing.status, Status::Committed);
    assert_eq!(node.participants.done(xid).len(), 10_000);
}

#[tokio::test(start_paused = true)]
async fn lists_page_through_memory_and_history_without_gaps() {
    let (_, log) = memory();
    let node = start(log).await;
    let mut all = Vec::new();
    for n in 0..60 {
        let xid = begun_with(&node.coordinator, &["stock"]).await;
        if n % 2 == 0 {
            node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
        }
        all.push(xid);
        tokio::time::sleep(Duration::from_millis(if n % 7 == 0 { 1 } else { 0 })).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let filter = ListFilter { limit: 7, after, ..ListFilter::default() };
        let page = node.coordinator.list(filter).await.unwrap();
        assert!(page.transactions.len() <= 7);
        seen.extend(page.transactions.iter().map(|view| view.xid));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 60, "each once");
    all.sort_unstable();
    seen.sort_unstable();
    assert_eq!(seen, all);
    let filter = ListFilter { status: Some(Status::Active), limit: 500, ..ListFilter::default() };
    assert_eq!(node.coordinator.list(filter).await.unwrap().transactions.len(), 30);
}

#[tokio::test(start_paused = true)]
async fn m21_a_batch_of_unknown_xids_is_aborted_with_one_append() {
    let (_, log) = memory();
    let node = start(log).await;
    let before = node.coordinator.positions()[0].seq;
    let xids: Vec<_> = (0..1_000).map(|_| new_xid()).collect();
    let answers = node.coordinator.inquire(None, xids.clone()).await.unwrap();
    assert!(answers.iter().all(|inquiry| inquiry.answer == InquiryAnswer::Aborted && inquiry.settled));
    assert_eq!(answers.iter().map(|inquiry| inquiry.xid).collect::<Vec<_>>(), xids, "in the order asked");
    assert_eq!(node.coordinator.positions()[0].seq, before.next());
    let too_many = (0..1_001).map(|_| new_xid()).collect();
    assert_eq!(node.coordinator.inquire(None, too_many).await.unwrap_err().code, ErrorCode::InvalidRequest);
}

/// The node's clock runs an hour ahead of the database's, then another owner takes over.
#[tokio::test(start_paused = true)]
async fn m2_partition_time_never_goes_backwards() {
    let (memory, log) = memory();
    let node = start(log.clone()).await;
    let mut long = begin(new_xid());
    long.timeout = Some(Duration::from_secs(7_200));
    let xid = long.xid.unwrap();
    node.coordinator.begin(long).await.unwrap();
    tokio::time::advance(Duration::from_secs(3_600)).await;
    node.coordinator.register(branch(xid, "stock")).await.unwrap();
    let participants = node.kill();
    let node = start_with(log, config("a"), participants).await;
    node.coordinator.register(branch(xid, "payment")).await.unwrap();
    let times: Vec<_> =
        memory.raw_blocks(unanimity_types::PartitionId(0)).iter().map(|block| block.time).collect();
    assert!(times.is_sorted(), "{times:?}");
    // The deadline is where it was: half of it is over.
    tokio::time::sleep(Duration::from_secs(3_500)).await;
    let view = node.coordinator.get(xid, Wait::Accepted, Duration::ZERO).await.unwrap();
    assert_eq!(view.status, Status::Active);
    tokio::time::sleep(Duration::from_secs(200)).await;
    let view = node.coordinator.get(xid, Wait::Finished, Duration::from_secs(30)).await.unwrap();
    assert_eq!(view.abort_reason, Some(AbortReason::Deadline));
}

/// The alarm that comes after the end is in history at once: a crash does not lose it.
#[tokio::test(start_paused = true)]
async fn m14_a_contradiction_after_the_end_outlives_a_crash() {
    let (_, log) = memory();
    let node = start(log.clone()).await;
    let xid = begun_with(&node.coordinator, &["stock"]).await;
    node.participants.set(Manner::Holding);
    node.coordinator.commit(commit(xid, Wait::Decided)).await.unwrap();
    let by_hand =
        Resolve { xid, branch_id: BranchId(1), resolve_as: ResolveAs::Cancelled, action: by_operator() };
    node.coordinator.resolve(by_hand).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    node.participants.let_go();
    settle_down().await;
    // Others end after it.
    node.participants.set(Manner::Willing);
    for _ in 0..3 {
        let other = begun_with(&node.coordinator, &["stock"]).await;
        node.coordinator.commit(commit(other, Wait::Finished)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let participants = node.kill();
    let node = start_with(log, config("a"), participants).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let view = node.coordinator.get(xid, Wait::Accepted, Duration::ZERO).await.unwrap();
    assert_eq!(view.attention.unwrap().code.as_str(), "heuristic_contradicted");
}

/// It comes while the end still waits for its row: one row, with both.
#[tokio::test(start_paused = true)]
async fn m14_a_contradiction_before_the_row_does_not_stop_history() {
    let (memory, _) = memory();
    let faulty = FaultyLog::over_memory(memory.clone(), 5);
    let node = start(std::sync::Arc::new(faulty.clone())).await;
    let xid = begun_with(&node.coordinator, &["stock"]).await;
    faulty.set_rates(FaultRates { history_failed: 1.0, ..FaultRates::default() });
    node.participants.set(Manner::Holding);
    node.coordinator.commit(commit(xid, Wait::Decided)).await.unwrap();
    let by_hand =
        Resolve { xid, branch_id: BranchId(1), resolve_as: ResolveAs::Cancelled, action: by_operator() };
    node.coordinator.resolve(by_hand).await.unwrap();
    settle_down().await;
    node.participants.let_go();
    settle_down().await;
    faulty.set_rates(FaultRates::default());
    tokio::time::sleep(Duration::from_secs(30)).await;
    let rows = memory.find_history(&[xid]).await.unwrap();
    assert_eq!(rows[0].attention.as_deref(), Some("heuristic_contradicted"));
}

/// What one partition cannot answer keeps nobody else's branches in doubt.
#[tokio::test(start_paused = true)]
async fn m21_a_partition_that_stopped_does_not_silence_the_others() {
    let memory = unanimity_coordinator::log::MemoryLog::new(2);
    let log: std::sync::Arc<dyn unanimity_coordinator::log::TransactionLog> =
        std::sync::Arc::new(memory.clone());
    let node = start(log.clone()).await;
    let mut of = [None, None];
    while of.iter().any(Option::is_none) {
        let xid = begun_with(&node.coordinator, &["stock"]).await;
        of[usize::from(unanimity_types::partition_of(xid, 2).0)] = Some(xid);
    }
    let [first, second] = of.map(Option::unwrap);
    let participants = node.kill();
    let last = memory.raw_blocks(unanimity_types::PartitionId(0)).pop().unwrap().seq;
    assert!(memory.damage(unanimity_types::PartitionId(0), last, |block| block.body = vec![1].into()));
    let node = start_unready(log, config("a"), participants);
    node.coordinator.ready(Duration::from_secs(10)).await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let answers = node.coordinator.inquire(None, vec![first, second]).await.unwrap();
    assert_eq!(answers.iter().map(|inquiry| inquiry.xid).collect::<Vec<_>>(), [second]);
    assert_eq!(node.coordinator.inquire(None, vec![first]).await.unwrap_err().code, ErrorCode::LogDamaged);
}
