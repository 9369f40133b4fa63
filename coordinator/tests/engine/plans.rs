//! Plans: stored with the begin or not at all, bounded, and recognised when they come again.

use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::engine::{Begin, ListFilter, Wait};
use unanimity_coordinator::log::{BlockKind, MemoryLog};
use unanimity_types::{ErrorCode, Limits, Operation, PartitionId, Status, Target};

use crate::support::*;

const SOON: Duration = Duration::from_secs(60);

/// M1: by the whole plan, from memory and from history.
#[tokio::test(start_paused = true)]
async fn m1_a_repeated_plan_is_answered_as_the_first_time_and_another_one_is_refused() {
    let (_memory, log) = memory();
    let node = start(log).await;
    let xid = new_xid();
    let plan = || saga(xid, vec![step("a", &[]), step("b", &["a"])]);
    node.participants.set(Manner::Holding);
    node.coordinator.begin(plan()).await.unwrap();
    let others: Vec<Begin> = vec![
        saga(xid, vec![step("a", &[]), step("b", &[])]),
        saga(xid, vec![step("a", &[])]),
        {
            let mut other = vec![step("a", &[]), step("b", &["a"])];
            other[1].payload = "other".into();
            saga(xid, other)
        },
        {
            let mut other = vec![step("a", &[]), step("b", &["a"])];
            other[0].policy.give_up_after = Some(3);
            saga(xid, other)
        },
        begin(xid),
        message(xid, &["mail"]),
    ];
    let check = async || {
        let again = node.coordinator.begin(plan()).await.unwrap();
        for other in &others {
            let refused = node.coordinator.begin(other.clone()).await.unwrap_err();
            assert_eq!(refused.code, ErrorCode::XidReused, "{:?}", other.plan);
        }
        again.status
    };
    assert_eq!(check().await, Status::Active);
    settle_down().await;
    assert_eq!(node.participants.asked(Operation::Action), ["a"], "a repetition starts nothing");
    node.participants.set(Manner::Willing);
    node.participants.let_go();
    node.coordinator.get(xid, Wait::Finished, SOON).await.unwrap();
    // It goes into history and out of memory.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(node.coordinator.info().states[0].open, 0);
    assert_eq!(check().await, Status::Committed);
    assert_eq!(node.participants.asked(Operation::Action), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn h14_a_plan_that_cannot_be_carried_out_leaves_nothing_behind() {
    let (memory, log) = memory();
    let node = start(log).await;
    let xid = new_xid();
    let cycle = saga(xid, vec![step("a", &["b"]), step("b", &["a"])]);
    let refused = node.coordinator.begin(cycle).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidPlan, "{refused}");
    let many = (0..=Limits::STEPS_MAX).map(|n| step(&format!("s{n}"), &[])).collect();
    assert_eq!(node.coordinator.begin(saga(xid, many)).await.unwrap_err().code, ErrorCode::InvalidPlan);
    settle_down().await;
    let data = memory.raw_blocks(PartitionId(0)).into_iter().filter(|block| block.kind == BlockKind::Data);
    assert_eq!(data.count(), 0);
    // The xid is as free as before.
    node.coordinator.begin(saga(xid, vec![step("a", &[])])).await.unwrap();
}

/// H16: what could not be stored is refused at the door.
#[tokio::test(start_paused = true)]
async fn h16_a_plan_that_is_too_large_is_refused_before_anything_is_written() {
    let (memory, log) = memory();
    let node = start(log.clone()).await;
    let url = |n: usize| Target::Http(format!("http://localhost/{n}/{}", "x".repeat(2_000)).into());
    let wide = (0..Limits::STEPS_MAX).map(|n| {
        let mut step = step(&format!("s{n}"), &[]);
        (step.action, step.compensate) = (url(n), Some(url(n)));
        step.payload = vec![7; 1_000].into();
        step
    });
    let refused = node.coordinator.begin(saga(new_xid(), wide.collect())).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::PayloadTooLarge, "targets count too: {refused}");
    let heavy = |bytes: usize| {
        let steps = (0..4).map(|n| {
            let mut step = step(&format!("s{n}"), &[]);
            step.payload = vec![7; bytes / 4].into();
            step
        });
        saga(new_xid(), steps.collect())
    };
    let refused = node.coordinator.begin(heavy(Limits::PLAN_BYTES_MAX)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::PayloadTooLarge);
    settle_down().await;
    assert!(memory.raw_blocks(PartitionId(0)).iter().all(|block| block.kind != BlockKind::Data));
    node.participants.set(Manner::Holding);
    let largest = node.coordinator.begin(heavy(Limits::PLAN_BYTES_MAX - 1_000)).await.unwrap().xid;
    // It can be read again.
    let participants = node.kill();
    participants.set(Manner::Willing);
    let node = start_with(log, config("a"), participants).await;
    let view = node.coordinator.get(largest, Wait::Finished, SOON).await.unwrap();
    assert_eq!((view.status, view.branches.len()), (Status::Committed, 4));
}

#[tokio::test(start_paused = true)]
async fn plans_are_bounded_in_the_mailbox_and_in_memory() {
    let (memory, log) = memory();
    let mut small = config("a");
    small.mailbox_bytes_max = 3 * 1024 * 1024;
    small.building_bytes_max = 1024;
    small.live_bytes_max = 4 * 1024 * 1024;
    let node = start_with(log, small, Arc::default()).await;
    node.participants.set(Manner::Holding);
    let large = || {
        let mut step = step("a", &[]);
        step.payload = vec![7; 1024 * 1024 - 200].into();
        saga(new_xid(), vec![step])
    };
    let held = memory.hold_appends();
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let coordinator = node.coordinator.clone();
            let begin = large();
            tokio::spawn(async move { coordinator.begin(begin).await })
        })
        .collect();
    settle_down().await;
    drop(held);
    let mut busy = 0;
    for task in tasks {
        if let Err(error) = task.await.unwrap() {
            assert_eq!(error.code, ErrorCode::TooBusy);
            busy += 1;
        }
    }
    assert!(busy >= 12, "{busy} of 20 were told to come again");
    let mut full = 0;
    for _ in 0..6 {
        full += usize::from(node.coordinator.begin(large()).await.is_err());
    }
    assert!(full >= 2, "memory has its limit too: {full}");
}

/// Lists and history know a saga's steps by their participants, and what a branch is besides.
#[tokio::test(start_paused = true)]
async fn lists_and_history_show_what_branches_are() {
    let log = Arc::new(MemoryLog::new(2));
    let node = start(log).await;
    let steps = vec![step("flights", &[]), step("hotels", &["flights"])];
    let trip = node.coordinator.begin(saga(new_xid(), steps)).await.unwrap().xid;
    let note = node.coordinator.begin(message(new_xid(), &["mail"])).await.unwrap().xid;
    node.coordinator.commit(commit(note, Wait::Finished)).await.unwrap();
    node.coordinator.get(trip, Wait::Finished, SOON).await.unwrap();
    for moment in ["live", "history"] {
        for (participant, xid) in [("hotels", trip), ("mail", note), ("shop", note)] {
            let filter =
                ListFilter { participant: Some(participant.to_owned()), limit: 10, ..ListFilter::default() };
            let page = node.coordinator.list(filter).await.unwrap();
            let found: Vec<_> = page.transactions.iter().map(|view| view.xid).collect();
            assert_eq!(found, [xid], "{participant}, {moment}");
        }
        let view = node.coordinator.get(trip, Wait::Accepted, Duration::ZERO).await.unwrap();
        let last = view.branches[1].step.clone().unwrap();
        assert_eq!(last.result.as_deref(), Some("result of hotels"), "{moment}");
        assert_eq!(last.after, [view.branches[0].id], "{moment}");
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
}
