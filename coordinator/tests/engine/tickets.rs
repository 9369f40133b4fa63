//! Transactions begun without a call (protocol 1.1 to 1.3, C3, H15): what waits for what, what an unclean
//! end leaves of them, and who decides.

use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::engine::{
    Begin, Claim, Commit, Coordinator, ListFilter, OperatorAction, PartitionCounters, PartitionState, Wait,
};
use unanimity_coordinator::log::{BlockKind, FaultRates, FaultyLog, TransactionLog};
use unanimity_types::{
    AbortReason, Birth, DecideHash, Epoch, ErrorCode, GENERATION, LogId, Mode, Name, PartitionId, Status,
    TICKETED_TIMEOUT_MAX, Ticket, Xid,
};

use uuid::Uuid;

use crate::support::*;

const SECRET: &[u8] = b"known to its TM alone";

/// A ticket and whose it is.
#[derive(Debug, Clone, Copy)]
struct Stamp {
    log_id: LogId,
    ticket: Ticket,
}

fn birth_with(stamp: Stamp) -> Birth {
    let Claim { shown, .. } = Claim::showing(None, SECRET);
    let Stamp { log_id, ticket } = stamp;
    Birth {
        log_id,
        ticket,
        decide_hash: shown.unwrap_or(DecideHash([0; 32])),
        timeout: None,
        name: Some(Name::new("test").unwrap()),
        mode: Mode::Tcc,
    }
}

fn ticket(coordinator: &Coordinator) -> Stamp {
    Stamp { log_id: coordinator.log_id(), ticket: coordinator.tickets()[0].1 }
}

/// What a participant shows.
fn seen(ticket: Stamp) -> Claim {
    Claim { birth: Some(Box::new(birth_with(ticket))), shown: None }
}

/// What the TM shows.
fn own(ticket: Stamp) -> Claim {
    Claim::showing(Some(birth_with(ticket)), SECRET)
}

fn naming(xid: Xid, votes: &[&str]) -> Commit {
    Commit { xid, votes: keys(votes), wait: Wait::Decided }
}

fn counters(coordinator: &Coordinator) -> PartitionCounters {
    coordinator.info().states[0].counters
}

async fn register(c: &Coordinator, xid: Xid, names: &[&str], ticket: Stamp) {
    for name in names {
        c.register_as(branch(xid, name), seen(ticket)).await.unwrap();
    }
}

/// Nothing is known of the transaction anywhere.
async fn is_unknown(c: &Coordinator, xid: Xid) -> bool {
    let page = c.list(ListFilter { limit: 100, ..ListFilter::default() }).await.unwrap();
    page.transactions.iter().all(|view| view.xid != xid)
}

#[tokio::test(start_paused = true)]
async fn t1_1_a_committed_transaction_waits_for_one_write_and_an_aborted_one_for_none() {
    let (memory, log) = memory();
    let node = start(log).await;
    let c = &node.coordinator;
    let ticket = ticket(c);
    let before = counters(c);

    let xid = new_xid();
    let held = memory.hold_appends();
    register(c, xid, &["stock", "payment"], ticket).await;
    let commit = tokio::spawn({
        let c = c.clone();
        async move { c.commit_as(naming(xid, &["stock", "payment"]), own(ticket)).await }
    });
    settle_down().await;
    assert!(!commit.is_finished(), "a decision waits");
    assert!(node.participants.calls().is_empty(), "so does what it causes");
    drop(held);
    assert_eq!(commit.await.unwrap().unwrap().status, Status::Committing);
    settle_down().await;
    let committed = counters(c);
    assert_eq!((committed.held_answers - before.held_answers, committed.committed), (1, 1));

    let xid = new_xid();
    let held = memory.hold_appends();
    register(c, xid, &["stock", "payment"], ticket).await;
    let standing = c.abort_as(xid, own(ticket), Wait::Accepted).await.unwrap();
    assert_eq!(standing.status, Status::Aborting);
    settle_down().await;
    let cancels = || node.participants.calls().iter().filter(|call| call.xid == xid).count();
    assert_eq!(cancels(), 0, "c1: a cancel waits for the abort's block");
    drop(held);
    settle_down().await;
    assert_eq!(cancels(), 2);
    let aborted = counters(c);
    assert_eq!((aborted.held_answers, aborted.aborted), (committed.held_answers, 1));
}

#[tokio::test(start_paused = true)]
async fn c3_a_lost_registration_cannot_be_left_out_of_a_commit() {
    for votes in [&["stock", "payment"][..], &["payment"][..]] {
        let (memory, log) = memory();
        let node = start(log.clone()).await;
        let xid = new_xid();
        let old = ticket(&node.coordinator);
        register(&node.coordinator, xid, &["payment"], old).await;
        settle_down().await;
        // The second one is answered, tried, and lost with the node.
        let held = memory.hold_appends();
        register(&node.coordinator, xid, &["stock"], old).await;
        let participants = node.kill();
        drop(held);
        let node = start_with(log, config("b"), participants).await;
        let c = &node.coordinator;
        let refused = c.commit_as(naming(xid, votes), own(old)).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::AlreadyDecided);
        assert_eq!(refused.abort_reason, Some(AbortReason::OwnerChanged));
        // And nobody joins it any more.
        let late = c.register_as(branch(xid, "stock"), seen(old)).await.unwrap_err();
        assert_eq!(late.code, ErrorCode::AlreadyDecided);
        settle_down().await;
        assert!(node.participants.of(xid, "payment").cancelled);
        assert!(!node.participants.of(xid, "stock").confirmed);
    }
}

#[tokio::test(start_paused = true)]
async fn t1_2_what_an_unclean_end_lost_cannot_be_brought_back_and_needs_no_tombstone() {
    let (memory, log) = memory();
    let node = start(log.clone()).await;
    let xid = new_xid();
    let old = ticket(&node.coordinator);
    let held = memory.hold_appends();
    register(&node.coordinator, xid, &["stock"], old).await;
    let participants = node.kill();
    drop(held);
    let node = start_with(log, config("b"), participants).await;
    let c = &node.coordinator;
    let late = c.register_as(branch(xid, "stock"), seen(old)).await.unwrap_err();
    assert_eq!((late.code, late.abort_reason), (ErrorCode::AlreadyDecided, Some(AbortReason::OwnerChanged)));
    let refused = c.commit_as(naming(xid, &["stock"]), own(old)).await.unwrap_err();
    assert_eq!((refused.code, refused.status), (ErrorCode::AlreadyDecided, Some(Status::Aborted)));
    let standing = c.abort_as(xid, own(old), Wait::Decided).await.unwrap();
    assert_eq!(standing.status, Status::Aborted);
    assert!(is_unknown(c, xid).await, "nothing was created");
}

#[tokio::test(start_paused = true)]
async fn t1_2_a_clean_end_loses_nothing() {
    let (_, log) = memory();
    let node = start(log.clone()).await;
    let (known, late) = (new_xid(), new_xid());
    let old = ticket(&node.coordinator);
    register(&node.coordinator, known, &["stock"], old).await;
    node.engine.shutdown(Duration::from_secs(10)).await;
    let node = start_with(log.clone(), config("b"), node.participants).await;
    let c = &node.coordinator;
    assert_ne!(ticket(c).ticket.epoch, old.ticket.epoch);
    // What was open goes on, and what was minted before begins now.
    register(c, known, &["payment"], old).await;
    assert_eq!(
        c.commit_as(naming(known, &["stock", "payment"]), own(old)).await.unwrap().status,
        Status::Committing
    );
    register(c, late, &["stock"], old).await;
    c.commit_as(naming(late, &["stock"]), own(old)).await.unwrap();
    settle_down().await;
    // What is over stays over, also where only history knows it.
    let again = c.register_as(branch(late, "stock"), seen(old)).await.unwrap_err();
    assert_eq!((again.code, again.status), (ErrorCode::AlreadyDecided, Some(Status::Committed)));
    // After an unclean end the tickets of both are worth nothing.
    let participants = node.kill();
    let node = start_with(log, config("c"), participants).await;
    let refused = node.coordinator.register_as(branch(new_xid(), "stock"), seen(old)).await.unwrap_err();
    assert_eq!(refused.abort_reason, Some(AbortReason::OwnerChanged));
}

/// A take-over that stumbles between its epoch block and its life has answered nobody: a clean end stays one, and an
/// unclean one does not become clean by that.
#[tokio::test(start_paused = true)]
async fn t1_2_a_take_over_that_stumbles_neither_spoils_a_clean_end_nor_cleans_an_unclean_one() {
    let seed = fastrand::u64(..);
    let mut stumbled = [0, 0];
    for round in 0..40 {
        let what = format!("seed {seed} round {round}");
        let (memory, log) = memory();
        let node = start(log.clone()).await;
        let (known, late) = (new_xid(), new_xid());
        let old = ticket(&node.coordinator);
        register(&node.coordinator, known, &["stock"], old).await;
        settle_down().await;
        let clean = round % 2 == 0;
        let participants = if clean {
            node.engine.shutdown(Duration::from_secs(10)).await;
            node.participants
        } else {
            node.kill()
        };
        let faulty = FaultyLog::over_memory(memory.clone(), seed.wrapping_add(round));
        faulty.set_rates(FaultRates {
            read_failed: 0.3,
            append_failed: 0.2,
            append_done_unknown: 0.2,
            ..FaultRates::default()
        });
        let epochs =
            || memory.raw_blocks(PartitionId(0)).iter().filter(|b| b.kind == BlockKind::Epoch).count();
        let before = epochs();
        let node = start_unready(Arc::new(faulty.clone()), config("b"), participants);
        node.coordinator.ready(Duration::from_secs(3_600)).await.unwrap();
        faulty.set_rates(FaultRates::default());
        stumbled[usize::from(clean)] += usize::from(epochs() > before + 1);
        let c = &node.coordinator;
        let commit = c.commit_as(naming(known, &["stock"]), own(old)).await;
        let joined = c.register_as(branch(late, "stock"), seen(old)).await;
        if clean {
            assert!(commit.is_ok() && joined.is_ok(), "{what}: {commit:?} {joined:?}");
        } else {
            for error in [commit.unwrap_err(), joined.unwrap_err()] {
                assert_eq!(error.abort_reason, Some(AbortReason::OwnerChanged), "{what}: {error:?}");
            }
        }
    }
    assert!(stumbled.iter().all(|count| *count > 3), "seed {seed}: {stumbled:?}");
}

#[tokio::test(start_paused = true)]
async fn t1_2_a_late_duplicate_does_not_bring_back_what_is_over() {
    let (_, log) = memory();
    let node = start(log).await;
    let c = &node.coordinator;
    let ticket = ticket(c);
    let xid = new_xid();
    register(c, xid, &["stock"], ticket).await;
    c.commit_as(naming(xid, &["stock"]), own(ticket)).await.unwrap();
    c.get(xid, Wait::Finished, Duration::from_secs(5)).await.unwrap();
    // Out of memory by now, and in history.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(c.info().states[0].open, 0);
    let late = c.register_as(branch(xid, "stock"), seen(ticket)).await.unwrap_err();
    assert_eq!((late.code, late.status), (ErrorCode::AlreadyDecided, Some(Status::Committed)));
    let again = c.commit_as(naming(xid, &["stock"]), own(ticket)).await.unwrap();
    assert_eq!(again.status, Status::Committed);
    assert_eq!(node.participants.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn t1_2_a_ticket_expires_with_what_it_may_begin() {
    let (_, log) = memory();
    let node = start(log).await;
    let c = &node.coordinator;
    let ticket = ticket(c);
    tokio::time::sleep(TICKETED_TIMEOUT_MAX).await;
    register(c, new_xid(), &["stock"], ticket).await;
    tokio::time::sleep(3 * GENERATION).await;
    let xid = new_xid();
    let late = c.register_as(branch(xid, "stock"), seen(ticket)).await.unwrap_err();
    assert_eq!((late.code, late.abort_reason), (ErrorCode::AlreadyDecided, Some(AbortReason::TicketExpired)));
    assert!(is_unknown(c, xid).await);
    let fresh = crate::tickets::ticket(c);
    assert!(fresh.ticket.generation > ticket.ticket.generation, "an idle partition's tickets grow older too");
    register(c, xid, &["stock"], fresh).await;
}

#[tokio::test(start_paused = true)]
async fn c8_a_ticket_of_an_epoch_that_never_was_stops_the_partition() {
    let (_, log) = memory();
    let node = start(log).await;
    let c = &node.coordinator;
    let known = ticket(c);
    let foreign = Stamp { ticket: Ticket { epoch: Epoch(9), ..known.ticket }, ..known };
    // Of another log it says nothing about this one.
    let elsewhere = Stamp { log_id: LogId(Uuid::from_u128(7)), ..foreign };
    for claim in [seen(elsewhere), own(elsewhere)] {
        let refused = c.commit_as(naming(new_xid(), &[]), claim).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::NotMine);
    }
    assert_eq!(c.info().states[0].state, PartitionState::Running);
    let refused = c.register_as(branch(new_xid(), "stock"), seen(foreign)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::LogLostTail);
    settle_down().await;
    assert!(matches!(c.info().states[0].state, PartitionState::Stopped(_)));
}

#[tokio::test(start_paused = true)]
async fn h15_only_who_holds_the_secret_decides() {
    let (_, log) = memory();
    let node = start(log.clone()).await;
    let c = &node.coordinator;
    let ticket = ticket(c);
    let xid = new_xid();
    register(c, xid, &["stock"], ticket).await;
    let wrong = Claim::showing(Some(birth_with(ticket)), b"a participant's guess");
    for claim in [seen(ticket), wrong, Claim::default()] {
        let refused = c.commit_as(naming(xid, &["stock"]), claim.clone()).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::WrongSecret);
        let refused = c.abort_as(xid, claim, Wait::Decided).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::WrongSecret);
    }
    c.commit_as(naming(xid, &["stock"]), own(ticket)).await.unwrap();
    // An operator and the deadline need none.
    let xid = new_xid();
    register(c, xid, &["stock"], ticket).await;
    let action = OperatorAction { operator: "ops".into(), reason: "test".into() };
    let standing = c.abort_by_operator(xid, action, Wait::Decided).await.unwrap();
    assert_eq!(standing.abort_reason, Some(AbortReason::Operator));
    let xid = new_xid();
    register(c, xid, &["stock"], ticket).await;
    let view = c.get(xid, Wait::Finished, Duration::from_secs(60)).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    drop(view);
    let view = c.get(xid, Wait::Finished, Duration::from_secs(60)).await.unwrap();
    assert_eq!(view.abort_reason, Some(AbortReason::Deadline));
}

#[tokio::test(start_paused = true)]
async fn h15_the_secret_is_asked_for_after_a_clean_change_of_owner_too() {
    let (_, log) = memory();
    let node = start(log.clone()).await;
    let ticket = ticket(&node.coordinator);
    let xid = new_xid();
    register(&node.coordinator, xid, &["stock"], ticket).await;
    node.engine.shutdown(Duration::from_secs(10)).await;
    let node = start_with(log, config("b"), node.participants).await;
    let refused = node.coordinator.commit_as(naming(xid, &["stock"]), seen(ticket)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::WrongSecret);
    node.coordinator.commit_as(naming(xid, &["stock"]), own(ticket)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn t1_3_a_first_contact_by_commit_or_abort_is_one_too() {
    let (_, log) = memory();
    let node = start(log).await;
    let c = &node.coordinator;
    let ticket = ticket(c);
    // Nobody was called: nothing to do is done.
    let standing = c.commit_as(naming(new_xid(), &[]), own(ticket)).await.unwrap();
    assert_eq!(standing.status, Status::Committed);
    // A vote whose registration never comes: waited for, then aborted.
    let refused = c.commit_as(naming(new_xid(), &["stock"]), own(ticket)).await.unwrap_err();
    assert_eq!(refused.abort_reason, Some(AbortReason::BranchMissing));
    // An abort that overtakes the first registration.
    let xid = new_xid();
    c.abort_as(xid, own(ticket), Wait::Accepted).await.unwrap();
    let late = c.register_as(branch(xid, "stock"), seen(ticket)).await.unwrap_err();
    assert_eq!((late.code, late.abort_reason), (ErrorCode::AlreadyDecided, Some(AbortReason::Requested)));
}

#[tokio::test(start_paused = true)]
async fn h7_a_registration_with_locks_waits_in_a_ticketed_transaction_too() {
    let (memory, log) = memory();
    let node = start(log).await;
    let c = node.coordinator.clone();
    let ticket = ticket(&c);
    let xid = new_xid();
    let held = memory.hold_appends();
    let registering = tokio::spawn(async move {
        c.register_as(locking(xid, "stock", &["sku-7"], Duration::ZERO), seen(ticket)).await
    });
    settle_down().await;
    assert!(!registering.is_finished());
    drop(held);
    registering.await.unwrap().unwrap();
    // Another branch may count on the lock: from now on they all wait.
    let held = memory.hold_appends();
    let c = node.coordinator.clone();
    let second = tokio::spawn(async move { c.register_as(branch(xid, "payment"), seen(ticket)).await });
    settle_down().await;
    assert!(!second.is_finished());
    drop(held);
    second.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn c2_what_was_aborted_before_it_began_does_not_begin_later() {
    let (_, log) = memory();
    let node = start(log).await;
    let c = &node.coordinator;
    let ticket = ticket(c);
    let xid = new_xid();
    // By somebody who does not know its birth, before anybody registered.
    assert_eq!(c.abort(xid, Wait::Decided).await.unwrap().status, Status::Aborted);
    // Out of memory by now, and in history.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(c.info().states[0].open, 0);
    let late = c.register_as(branch(xid, "stock"), seen(ticket)).await.unwrap_err();
    assert_eq!((late.code, late.abort_reason), (ErrorCode::AlreadyDecided, Some(AbortReason::Presumed)));
    let refused = c.commit_as(naming(xid, &[]), own(ticket)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::AlreadyDecided);
}

#[tokio::test(start_paused = true)]
async fn c5_a_refused_registration_of_a_ticketed_transaction_waits_for_the_decision_it_met() {
    let (memory, log) = memory();
    let node = start(log).await;
    let c = node.coordinator.clone();
    let ticket = ticket(&c);
    let xid = new_xid();
    register(&c, xid, &["stock"], ticket).await;
    settle_down().await;
    let held = memory.hold_appends();
    let first = tokio::spawn({
        let c = c.clone();
        async move { c.commit_as(naming(xid, &["stock"]), own(ticket)).await }
    });
    held.until_waiting(1).await;
    let late = tokio::spawn({
        let c = c.clone();
        async move { c.register_as(branch(xid, "late"), seen(ticket)).await }
    });
    // An abort that asks for no more than to be heard tells of a commit only when that is durable.
    let abort = tokio::spawn(async move { c.abort_as(xid, own(ticket), Wait::Accepted).await });
    settle_down().await;
    assert!(!late.is_finished() && !abort.is_finished());
    drop(held);
    first.await.unwrap().unwrap();
    assert_eq!(late.await.unwrap().unwrap_err().code, ErrorCode::AlreadyDecided);
    assert_eq!(abort.await.unwrap().unwrap_err().code, ErrorCode::AlreadyDecided);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_begun_by_call_survives_an_unclean_end_beside_ticketed_ones() {
    let (_, log) = memory();
    let shared: Arc<dyn TransactionLog> = log;
    let node = start(shared.clone()).await;
    let durable = begun_with(&node.coordinator, &["stock"]).await;
    let ticketed = new_xid();
    let old = ticket(&node.coordinator);
    register(&node.coordinator, ticketed, &["stock"], old).await;
    settle_down().await;
    let participants = node.kill();
    let node = start_with(shared, config("b"), participants).await;
    let c = &node.coordinator;
    c.commit(commit(durable, Wait::Finished)).await.unwrap();
    let refused = c.commit_as(naming(ticketed, &["stock"]), own(old)).await.unwrap_err();
    assert_eq!(refused.abort_reason, Some(AbortReason::OwnerChanged));
    settle_down().await;
    assert!(node.participants.of(durable, "stock").confirmed);
    assert!(node.participants.of(ticketed, "stock").cancelled);
}

#[tokio::test(start_paused = true)]
async fn t1_2_a_begin_by_call_that_shows_its_ticket_is_the_same_when_it_is_repeated() {
    let (_, log) = memory();
    let node = start(log.clone()).await;
    let c = &node.coordinator;
    let ticket = ticket(c).ticket;
    let xid = Xid::new(Uuid::now_v7());
    let begin = Begin { ticket: Some(ticket), ..saga(xid, vec![step("hotel", &[])]) };
    c.begin(begin.clone()).await.unwrap();
    c.begin(begin.clone()).await.unwrap();
    c.get(xid, Wait::Finished, Duration::from_secs(5)).await.unwrap();
    // Out of memory by now, and in history.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(c.info().states[0].open, 0);
    assert_eq!(c.begin(begin.clone()).await.unwrap().status, Status::Committed);
    let other = Begin { name: None, ..begin.clone() };
    assert_eq!(c.begin(other).await.unwrap_err().code, ErrorCode::XidReused);
    // Another life does not remember what left, and knows that.
    let participants = node.kill();
    let node = start(log).await;
    let c = &node.coordinator;
    assert_eq!(c.begin(begin.clone()).await.unwrap().status, Status::Committed);
    // Nor are a ticket that is too old and one of another log any proof.
    tokio::time::sleep(TICKETED_TIMEOUT_MAX + 3 * GENERATION).await;
    let foreign = Ticket { epoch_tag: ticket.epoch_tag ^ 1, ..crate::tickets::ticket(c).ticket };
    for ticket in [ticket, foreign] {
        let repeated = Begin { ticket: Some(ticket), ..begin.clone() };
        assert_eq!(c.begin(repeated).await.unwrap().status, Status::Committed);
    }
    assert_eq!(participants.calls().len() + node.participants.calls().len(), 1);
}

/// A client's mistake: an xid that it had long before, and a ticket that is fresh.
#[tokio::test(start_paused = true)]
async fn t1_2_a_ticket_that_is_younger_than_its_xid_proves_nothing() {
    let (_, log) = memory();
    let node = start(log.clone()).await;
    let long_ago = Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, 1_000_000, 0));
    for xid in [Xid::new(long_ago), Xid::new(Uuid::new_v4())] {
        let begin = saga(xid, vec![step("hotel", &[])]);
        node.coordinator.begin(begin).await.unwrap();
        node.coordinator.get(xid, Wait::Finished, Duration::from_secs(5)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let page = node.coordinator.list(ListFilter { limit: 100, ..ListFilter::default() }).await.unwrap();
    let xids: Vec<_> = page.transactions.iter().map(|view| view.xid).collect();
    let participants = node.kill();
    let node = start(log).await;
    let c = &node.coordinator;
    assert_eq!(xids.len(), 2);
    for xid in xids {
        let begin = Begin { ticket: Some(ticket(c).ticket), ..saga(xid, vec![step("hotel", &[])]) };
        assert_eq!(c.begin(begin).await.unwrap().status, Status::Committed);
    }
    assert_eq!(participants.calls().len(), 2);
    assert!(node.participants.calls().is_empty());
}
