//! Calls that only one instance can take (protocol H11).

use std::time::{Duration, Instant};

use unanimity_coordinator::delivery::DeliveryConfig;
use unanimity_coordinator::engine::BranchCall;
use unanimity_core::ResultOutcome;
use unanimity_proto::v1;
use unanimity_proto::v1::branch_result::Outcome;
use unanimity_proto::v1::participant_message::Kind as ToCoordinator;
use unanimity_types::{BranchKind, Operation, Vote};

use crate::support::{
    Bench, FakeHome, PATIENCE, Session, call, config, hello, is_unknown, name, participant, serve, text,
    until,
};

/// Longer than a test needs to attach again, shorter than its patience.
const GRACE: Duration = Duration::from_millis(700);

fn patient() -> DeliveryConfig {
    DeliveryConfig { instance_grace: GRACE, request_timeout: PATIENCE, ..config() }
}

fn pinned(operation: Operation, instance: &str, branch: u32) -> BranchCall {
    BranchCall {
        operation,
        kind: BranchKind::TwoPhase,
        instance: Some(name(instance)),
        ..call(participant("bank"), branch)
    }
}

async fn done(session: &mut Session) -> u32 {
    let operation = session.operation().await.expect("an operation");
    session.answer(operation.call_id, Outcome::Done, "").await;
    operation.branch_id
}

#[tokio::test]
async fn h11_a_prepare_goes_to_the_instance_that_holds_the_work_alone() {
    let mut bench = Bench::new(patient());
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let mut others = Vec::new();
    for n in 0..5 {
        others.push(Session::attach(address, "bank", &format!("other-{n}")).await.work(Duration::ZERO));
    }
    let mut holder = Session::attach(address, "bank", "holder").await;
    for branch in 1..=20 {
        bench.send(pinned(Operation::Prepare, "holder", branch));
        assert_eq!(done(&mut holder).await, branch);
        assert_eq!(bench.reply().await.outcome, ResultOutcome::Voted(Vote::Prepared));
    }
    // What is prepared may be finished by any of them.
    let commit = BranchCall { instance: None, ..pinned(Operation::Commit, "holder", 21) };
    let work = holder.work(Duration::ZERO);
    assert_eq!(bench.ask_for(commit).await, ResultOutcome::Done);
    drop((others, work));
}

#[tokio::test]
async fn h11_an_instance_that_is_gone_refuses_after_the_grace() {
    let mut bench = Bench::new(patient());
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let other = Session::attach(address, "bank", "other").await.work(Duration::ZERO);
    let holder = Session::attach(address, "bank", "holder").await;
    drop(holder);
    until("it is gone", || bench.delivery.stats()[0].instances.len() == 1).await;
    let started = Instant::now();
    let outcome = bench.ask_for(pinned(Operation::Prepare, "holder", 1)).await;
    assert!(matches!(outcome, ResultOutcome::Refused { .. }), "{outcome:?}");
    assert!(text(&outcome).contains("instance holder of participant bank is gone"), "{outcome:?}");
    assert!(started.elapsed() >= GRACE, "{:?}", started.elapsed());
    drop(other);
}

/// Also where nobody of the participant is known, as on a node that just started.
#[tokio::test]
async fn h11_an_instance_that_never_attached_here_refuses_too() {
    let mut bench = Bench::new(patient());
    let outcome = bench.ask_for(pinned(Operation::Prepare, "holder", 1)).await;
    assert!(matches!(outcome, ResultOutcome::Refused { .. }), "{outcome:?}");
    assert_eq!(bench.delivery.stats()[0].queued, 0);
}

#[tokio::test]
async fn h11_an_instance_that_comes_back_in_time_is_asked() {
    let mut bench = Bench::new(DeliveryConfig { instance_grace: PATIENCE, ..patient() });
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    bench.send(pinned(Operation::Prepare, "holder", 1));
    bench.send(pinned(Operation::Prepare, "another", 2));
    let mut holder = Session::attach(address, "bank", "holder").await;
    assert_eq!(done(&mut holder).await, 1);
    assert_eq!(bench.reply().await.outcome, ResultOutcome::Voted(Vote::Prepared));
    // The session breaks before what is meant for it was sent: a new one of the same name takes it.
    drop(holder);
    until("it is gone", || bench.delivery.stats()[0].instances.is_empty()).await;
    bench.send(pinned(Operation::Prepare, "holder", 3));
    let mut again = Session::attach(address, "bank", "holder").await;
    assert_eq!(done(&mut again).await, 3);
    assert_eq!(bench.reply().await.outcome, ResultOutcome::Voted(Vote::Prepared));
    // A second session under the same name replaces the first, which nobody has missed yet.
    let mut newest = Session::attach(address, "bank", "holder").await;
    bench.send(pinned(Operation::Prepare, "holder", 4));
    assert_eq!(done(&mut newest).await, 4);
    assert_eq!(bench.reply().await.outcome, ResultOutcome::Voted(Vote::Prepared));
    bench.delivery.shutdown(Duration::ZERO).await;
    let last = bench.reply().await;
    assert_eq!(last.branch_id.0, 2);
    assert!(matches!(last.outcome, ResultOutcome::NotSent { .. }), "{last:?}");
}

/// What was sent and not answered may have been done: never a refusal, as long as nobody knows.
#[tokio::test]
async fn h11_a_session_that_breaks_with_a_prepare_in_hand_is_unknown() {
    let mut bench = Bench::new(patient());
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let mut holder = Session::attach(address, "bank", "holder").await;
    bench.send(pinned(Operation::Prepare, "holder", 1));
    holder.operation().await.expect("an operation");
    drop(holder);
    let outcome = bench.reply().await.outcome;
    assert!(is_unknown(&outcome), "{outcome:?}");
}

/// An instance that drains takes nothing more, and its work ends with it.
#[tokio::test]
async fn h11_an_instance_that_said_goodbye_counts_as_gone() {
    let mut bench = Bench::new(patient());
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let mut holder = Session::attach(address, "bank", "holder").await;
    bench.send(pinned(Operation::Prepare, "holder", 1));
    let in_hand = holder.operation().await.expect("an operation");
    holder.send(ToCoordinator::Goodbye(v1::Goodbye { reason: "restart".to_owned() })).await;
    until("it drains", || bench.delivery.stats()[0].instances[0].draining).await;
    bench.send(pinned(Operation::Prepare, "holder", 2));
    let refused = bench.reply().await;
    assert_eq!(refused.branch_id.0, 2);
    assert!(matches!(refused.outcome, ResultOutcome::Refused { .. }), "{refused:?}");
    holder.answer(in_hand.call_id, Outcome::Done, "").await;
    assert_eq!(bench.reply().await.outcome, ResultOutcome::Voted(Vote::Prepared));
}

/// A one-phase commit that nobody answered may have committed, so "the instance is gone" is no answer to
/// it: another instance looks into the ledger (protocol H4).
#[tokio::test]
async fn h4_a_delegate_whose_instance_is_gone_is_asked_for_at_another() {
    let mut bench = Bench::new(patient());
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let mut holder = Session::attach(address, "bank", "holder").await;
    let mut other = Session::attach(address, "bank", "other").await;
    bench.send(pinned(Operation::CommitOnePhase, "holder", 1));
    holder.operation().await.expect("an operation");
    // It committed, and dies before it can say so.
    drop(holder);
    assert!(is_unknown(&bench.reply().await.outcome));
    bench.send(pinned(Operation::CommitOnePhase, "holder", 1));
    assert_eq!(done(&mut other).await, 1);
    assert_eq!(bench.reply().await.outcome, ResultOutcome::Done);
    drop(other);
    until("nobody is there", || bench.delivery.stats()[0].instances.is_empty()).await;
    let outcome = bench.ask_for(pinned(Operation::CommitOnePhase, "holder", 2)).await;
    assert!(is_unknown(&outcome), "{outcome:?}");
}

/// What waits for one instance and what any may take are served in the order in which they came, within
/// the instance's concurrency.
#[tokio::test]
async fn h11_pinned_calls_wait_for_room_in_their_order() {
    let mut bench = Bench::new(patient());
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let said = v1::Hello { concurrency: 1, ..hello("bank", "holder") };
    let (mut holder, _) = Session::open(address, said).await.expect("attached");
    for branch in 1..=6 {
        let instance = (branch % 2 == 0).then(|| name("holder"));
        bench.send(BranchCall { instance, ..pinned(Operation::Commit, "holder", branch) });
    }
    for branch in 1..=6 {
        assert_eq!(done(&mut holder).await, branch);
        assert_eq!(bench.reply().await.outcome, ResultOutcome::Done);
    }
}

/// Each call in a hand has its own timeout, also a later one that ends sooner.
#[tokio::test]
async fn calls_in_one_hand_end_each_at_its_own_time() {
    let mut bench = Bench::new(patient());
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let mut session = Session::attach(address, "bank", "1").await;
    let step = |branch, timeout| BranchCall {
        operation: Operation::Action,
        kind: BranchKind::Step,
        timeout: Some(timeout),
        ..call(participant("bank"), branch)
    };
    bench.send(step(1, PATIENCE));
    let first = session.operation().await.expect("an operation");
    bench.send(step(2, Duration::from_millis(100)));
    let second = session.operation().await.expect("an operation");
    assert_eq!((first.timeout_ms, second.timeout_ms), (20_000, 100));
    let reply = bench.reply().await;
    assert_eq!(reply.branch_id.0, 2);
    assert!(text(&reply.outcome).contains("no answer within 100ms"), "{reply:?}");
    let result = v1::BranchResult {
        call_id: first.call_id,
        outcome: Outcome::Done.into(),
        result: "seat 7".into(),
        ..Default::default()
    };
    session.answer_all(result).await;
    assert_eq!(bench.reply().await.outcome, ResultOutcome::Result("seat 7".into()));
}
