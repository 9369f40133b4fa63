//! What votes, prepares, delegations and check-backs are after a crash.

use std::time::Duration;

use unanimity_coordinator::engine::{Begin, Register, TwoPhase, Wait};
use unanimity_core::ResultOutcome;
use unanimity_types::{
    AbortReason, BranchKind, BranchStatus, ErrorCode, Limits, Mode, Operation, Status, Vote, Xid,
};

use crate::support::*;

const SOON: Duration = Duration::from_secs(60);

fn two_phase(xid: Xid) -> Begin {
    Begin { mode: Mode::TwoPhase, ..begin(xid) }
}

fn late(xid: Xid, name: &str) -> Register {
    Register { kind: Some(BranchKind::TwoPhase), ..branch(xid, name) }
}

/// Matrix C4, C5: votes that nobody decided on are collected again.
#[tokio::test(start_paused = true)]
async fn c4_c5_prepares_survive_a_recovery_and_are_asked_again() {
    let (_memory, log) = memory();
    let node = start(log.clone()).await;
    let xid = node.coordinator.begin(two_phase(new_xid())).await.unwrap().xid;
    for name in ["one", "two"] {
        node.coordinator.register(late(xid, name)).await.unwrap();
    }
    node.participants.set(Manner::Holding);
    let committing = tokio::spawn({
        let coordinator = node.coordinator.clone();
        async move { coordinator.commit(commit(xid, Wait::Decided)).await }
    });
    settle_down().await;
    assert_eq!(node.participants.asked(Operation::Prepare), ["one", "two"]);
    let participants = node.kill();
    assert_eq!(committing.await.unwrap().unwrap_err().code, ErrorCode::OutcomeUnknown);
    participants.set(Manner::Willing);
    let node = start_with(log, config("a"), participants).await;
    let view = node.coordinator.get(xid, Wait::Finished, SOON).await.unwrap();
    assert_eq!(view.status, Status::Committed);
    assert_eq!(node.participants.asked(Operation::Prepare), ["one", "two", "one", "two"]);
    assert_eq!(node.participants.asked(Operation::Commit), ["one", "two"]);
}

/// The time for the votes is in the log: a crash does not begin it anew.
#[tokio::test(start_paused = true)]
async fn c4_the_prepare_deadline_survives_a_recovery() {
    let (_memory, log) = memory();
    let node = start(log.clone()).await;
    let xid = node.coordinator.begin(two_phase(new_xid())).await.unwrap().xid;
    for name in ["one", "two"] {
        node.coordinator.register(late(xid, name)).await.unwrap();
    }
    node.participants.set(Manner::Dead);
    let coordinator = node.coordinator.clone();
    let committing = tokio::spawn(async move { coordinator.commit(commit(xid, Wait::Decided)).await });
    tokio::time::sleep(Limits::PREPARE_WAIT / 2).await;
    let participants = node.kill();
    assert!(committing.await.unwrap().is_err());
    let node = start_with(log, config("a"), participants).await;
    tokio::time::sleep(Limits::PREPARE_WAIT / 2 + Duration::from_secs(2)).await;
    let view = node.coordinator.get(xid, Wait::Accepted, Duration::ZERO).await.unwrap();
    assert_eq!((view.status, view.abort_reason), (Status::Aborting, Some(AbortReason::Deadline)));
}

#[tokio::test(start_paused = true)]
async fn an_early_vote_waits_for_its_block_and_survives_with_it() {
    let (memory, log) = memory();
    let node = start(log.clone()).await;
    let xid = node.coordinator.begin(two_phase(new_xid())).await.unwrap().xid;
    let early = TwoPhase { early: true, ..TwoPhase::default() };
    for name in ["one", "two"] {
        let register = Register { two_phase: early.clone(), ..late(xid, name) };
        node.coordinator.register(register).await.unwrap();
    }
    let held = memory.hold_appends();
    let voting = tokio::spawn({
        let coordinator = node.coordinator.clone();
        async move { coordinator.vote(xid, key("one"), Vote::Prepared).await }
    });
    held.until_waiting(1).await;
    settle_down().await;
    assert!(!voting.is_finished());
    drop(held);
    voting.await.unwrap().unwrap();
    let node = start_with(log, config("a"), node.kill()).await;
    let contradicted = node.coordinator.vote(xid, key("one"), Vote::Refused).await.unwrap_err();
    assert_eq!(contradicted.code, ErrorCode::VoteContradicts);
    let standing = node.coordinator.vote(xid, key("two"), Vote::Refused).await;
    let view = node.coordinator.get(xid, Wait::Finished, SOON).await.unwrap();
    assert_eq!((view.status, view.abort_reason), (Status::Aborted, Some(AbortReason::Refused)));
    drop(standing);
    assert_eq!(node.participants.asked(Operation::Rollback), ["one", "two"]);
    let late = node.coordinator.vote(xid, key("two"), Vote::Prepared).await.unwrap_err();
    assert_eq!(late.code, ErrorCode::AlreadyDecided);
}

/// H4: the delegation is durable before the request, and from then on the branch decides.
#[tokio::test(start_paused = true)]
async fn h4_a_delegation_is_durable_first_and_is_asked_again_after_a_crash() {
    for refuses in [false, true] {
        let (memory, log) = memory();
        let node = start(log.clone()).await;
        let xid = node.coordinator.begin(two_phase(new_xid())).await.unwrap().xid;
        let one_phase = TwoPhase { one_phase: true, ..TwoPhase::default() };
        node.coordinator.register(Register { two_phase: one_phase, ..late(xid, "one") }).await.unwrap();
        node.participants.set(Manner::Holding);
        let held = memory.hold_appends();
        let committing = tokio::spawn({
            let coordinator = node.coordinator.clone();
            async move { coordinator.commit(commit(xid, Wait::Decided)).await }
        });
        held.until_waiting(1).await;
        settle_down().await;
        assert!(node.participants.calls().is_empty(), "not before its block");
        drop(held);
        settle_down().await;
        assert_eq!(node.participants.asked(Operation::CommitOnePhase), ["one"]);
        let participants = node.kill();
        assert!(committing.await.unwrap().is_err());
        participants.set(Manner::Dead);
        let node = start_with(log, config("a"), participants).await;
        // Neither an abort nor the deadline has a say.
        let refused = node.coordinator.abort(xid, Wait::Decided).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Delegated);
        tokio::time::sleep(Duration::from_secs(90)).await;
        let view = node.coordinator.get(xid, Wait::Accepted, Duration::ZERO).await.unwrap();
        assert_eq!((view.status, view.branches[0].status), (Status::Preparing, BranchStatus::Delegated));
        if refuses {
            let refused = ResultOutcome::Refused { error: "40001".into() };
            node.participants.say("one", Operation::CommitOnePhase, refused);
        }
        node.participants.set(Manner::Willing);
        let view = node.coordinator.get(xid, Wait::Finished, SOON).await.unwrap();
        assert_eq!(view.status, if refuses { Status::Aborted } else { Status::Committed });
    }
}

/// H5: prepared is durable before it is said, and the check-back's timer survives a crash.
#[tokio::test(start_paused = true)]
async fn h5_a_check_back_survives_a_recovery_and_is_asked_until_there_is_an_answer() {
    for committed in [false, true] {
        let (memory, log) = memory();
        let node = start(log.clone()).await;
        let xid = new_xid();
        let held = memory.hold_appends();
        let preparing = tokio::spawn({
            let coordinator = node.coordinator.clone();
            async move { coordinator.begin(message(xid, &["mail", "audit"])).await }
        });
        held.until_waiting(1).await;
        settle_down().await;
        assert!(!preparing.is_finished(), "a prepare's answer waits");
        drop(held);
        preparing.await.unwrap().unwrap();
        let node = start_with(log.clone(), config("a"), node.kill()).await;
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert!(node.participants.calls().is_empty(), "its time is not over");
        tokio::time::sleep(Duration::from_secs(15)).await;
        let asked = node.participants.asked(Operation::CheckBack).len();
        assert_eq!(asked, 1, "asked once its time is over");
        assert_eq!(node.participants.asked(Operation::Deliver), ["mail", "audit"]);
        drop(node);
        // The same, with a sender that is away at first, and a crash in between.
        let node = start(log.clone()).await;
        node.participants.set(Manner::Dead);
        let xid = node.coordinator.begin(message(new_xid(), &["mail"])).await.unwrap().xid;
        tokio::time::sleep(Duration::from_secs(70)).await;
        assert!(node.participants.asked(Operation::CheckBack).len() > 1, "asked again and again");
        let participants = node.kill();
        if !committed {
            let no = ResultOutcome::Refused { error: "no such order".into() };
            participants.say("sender", Operation::CheckBack, no);
        }
        participants.set(Manner::Willing);
        let node = start_with(log, config("a"), participants).await;
        let view = node.coordinator.get(xid, Wait::Finished, SOON).await.unwrap();
        let delivered = node.participants.asked(Operation::Deliver).len();
        if committed {
            assert_eq!((view.status, delivered), (Status::Committed, 1));
        } else {
            assert_eq!((view.status, delivered), (Status::Aborted, 0), "I10");
        }
    }
}
