//! Attached sessions that behave.

use std::collections::HashSet;
use std::time::Duration;

use unanimity_coordinator::delivery::DeliveryConfig;
use unanimity_coordinator::engine::{BranchCall, Dispatcher as _};
use unanimity_core::ResultOutcome;
use unanimity_proto::v1;
use unanimity_proto::v1::branch_result::Outcome;
use unanimity_proto::v1::coordinator_message::Kind as FromCoordinator;
use unanimity_proto::v1::participant_message::Kind as ToCoordinator;
use unanimity_types::Target;

use crate::support::{
    Bench, FakeHome, LOG_ID, Session, call, config, hello, is_unknown, name, participant, position, serve,
    text, until,
};

#[tokio::test]
async fn an_operation_goes_out_and_its_answer_comes_back() {
    let mut bench = Bench::new(config());
    let home = FakeHome::default();
    let address = serve(&bench.delivery, &home).await;
    let mut said = hello("stock", "stock-1");
    said.witnesses = vec![unanimity_proto::position_to_wire(position(4))];
    let (mut session, welcome) = Session::open(address, said).await.expect("attached");
    assert_eq!((welcome.log_id.as_str(), welcome.partitions, welcome.node.as_str()), (LOG_ID, 1, "node-1"));
    assert_eq!((welcome.heartbeat_interval_ms, welcome.protocol_version), (300, 1));
    assert_eq!(welcome.positions.len(), 1);
    until("the engine was told", || home.0.lock().expect("told").available == ["stock"]).await;
    assert_eq!(home.0.lock().expect("told").witnesses, [position(4)]);

    for (outcome, error, expected) in [
        (Outcome::Done, "", ResultOutcome::Done),
        (Outcome::Refused, "no\tstock", ResultOutcome::Refused { error: "no stock".into() }),
        (Outcome::NotYet, "try runs", ResultOutcome::NotYet { error: "try runs".into() }),
        (Outcome::Unknown, "hm", ResultOutcome::Unknown { error: "hm".into(), retry_after: None }),
    ] {
        bench.dispatch(participant("stock"), 1);
        let operation = session.operation().await.expect("an operation");
        assert_eq!((operation.name.as_str(), operation.branch_id, operation.attempt), ("hooks", 1, 2));
        assert_eq!((operation.log_id.as_str(), operation.timeout_ms), (LOG_ID, 600));
        assert_eq!(operation.position.map(|position| position.seq), Some(9));
        session.answer(operation.call_id, outcome, error).await;
        // An answer twice is one answer, and an answer to nothing is none.
        session.answer(operation.call_id, Outcome::Refused, "again").await;
        session.answer(u64::MAX, Outcome::Refused, "to nothing").await;
        assert_eq!(bench.reply().await.outcome, expected);
        bench.nothing_more().await;
    }
    let stats = bench.delivery.stats();
    assert_eq!((stats[0].name.as_str(), stats[0].done, stats[0].failed), ("stock", 1, 2));
    assert_eq!((stats[0].instances.len(), stats[0].instances[0].sdk.as_str()), (1, "test/1"));
}

#[tokio::test]
async fn nobody_attached_is_unknown_at_once() {
    let mut bench = Bench::new(config());
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let outcome = bench.ask(participant("stock")).await;
    assert_eq!(text(&outcome), "no instance of participant stock is attached");
    assert!(is_unknown(&outcome));
    assert!(bench.delivery.stats().is_empty(), "a name alone makes no bulkhead");
    // Whoever attaches is heard of: an absence that lasts is not asked about twice a minute for each branch.
    for (attempt, lasts) in [(7, false), (8, true)] {
        bench.send(BranchCall { attempt, ..call(participant("stock"), 1) });
        let ResultOutcome::Unknown { retry_after, .. } = bench.reply().await.outcome else {
            panic!("attempt {attempt} is something else than unknown")
        };
        assert_eq!(retry_after.is_some_and(|wait| wait >= Duration::from_secs(60)), lasts, "{retry_after:?}");
    }
    bench.send(BranchCall { attempt: 8, own_pace: true, ..call(participant("stock"), 1) });
    assert!(matches!(bench.reply().await.outcome, ResultOutcome::Unknown { retry_after: None, .. }));

    let session = Session::attach(address, "stock", "1").await;
    let other = Target::Participant { participant: name("stock"), operation: name("other-hooks") };
    let outcome = bench.ask(other).await;
    assert!(matches!(outcome, ResultOutcome::Unusable { .. }), "{outcome:?}");
    drop(session);
    until("the instance is gone", || bench.delivery.stats()[0].instances.is_empty()).await;
    assert!(is_unknown(&bench.ask(participant("stock")).await));
}

/// Operations that gather while a session is busy go out in few messages.
#[tokio::test]
async fn operations_go_out_in_batches_and_within_the_concurrency() {
    let mut bench = Bench::new(config());
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let mut said = hello("stock", "1");
    said.concurrency = 100;
    let (mut session, _) = Session::open(address, said).await.expect("attached");
    for branch in 0..150 {
        bench.dispatch(participant("stock"), branch);
    }
    let mut received = Vec::new();
    let mut messages = 0;
    while received.len() < 100 {
        if let FromCoordinator::Operations(batch) = session.next().await.expect("a message") {
            messages += 1;
            received.extend(batch.operations);
        }
    }
    assert!(messages <= 10, "{messages} messages for 100 operations");
    assert_eq!((bench.delivery.stats()[0].in_flight, bench.delivery.stats()[0].queued), (100, 50));
    for operation in &received {
        session.answer(operation.call_id, Outcome::Done, "").await;
    }
    for _ in 0..50 {
        let operation = session.operation().await.expect("an operation");
        session.answer(operation.call_id, Outcome::Done, "").await;
    }
    let outcomes = bench.collect(150).await;
    assert!(outcomes.values().all(|outcome| *outcome == ResultOutcome::Done));
}

/// Large payloads are spread over messages, so that none exceeds the limit.
#[tokio::test]
async fn large_payloads_fit() {
    let mut bench = Bench::new(DeliveryConfig { request_timeout: Duration::from_secs(10), ..config() });
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let session = Session::attach(address, "stock", "1").await;
    let working = session.work(Duration::ZERO);
    for branch in 0..20 {
        let mut call = call(participant("stock"), branch);
        call.payload = vec![7; 1024 * 1024].into();
        bench.delivery.dispatch(call, &bench.sink);
    }
    let outcomes = bench.collect(20).await;
    assert!(outcomes.values().all(|outcome| *outcome == ResultOutcome::Done), "{outcomes:?}");
    working.abort();
}

#[tokio::test]
async fn instances_share_the_load() {
    let mut bench = Bench::new(config());
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let mut working = Vec::new();
    for instance in ["1", "2", "3"] {
        let mut said = hello("stock", instance);
        said.concurrency = 10;
        working.push(Session::open(address, said).await.expect("attached").0.work(Duration::from_millis(1)));
    }
    until("three attached", || {
        bench.delivery.stats().first().is_some_and(|stats| stats.instances.len() == 3)
    })
    .await;
    for branch in 0..300 {
        bench.dispatch(participant("stock"), branch);
    }
    let outcomes = bench.collect(300).await;
    assert!(outcomes.values().all(|outcome| *outcome == ResultOutcome::Done));
    // Ends the sessions, so that they say what they did.
    bench.delivery.shutdown(Duration::from_secs(5)).await;
    let mut seen = HashSet::new();
    for working in working {
        let branches = working.await.expect("worked");
        assert!(branches.len() >= 30, "one of three instances did only {} of 300", branches.len());
        seen.extend(branches);
    }
    assert_eq!(seen.len(), 300);
}

#[tokio::test]
async fn an_instance_that_says_goodbye_finishes_and_gets_nothing_more() {
    let mut bench = Bench::new(DeliveryConfig { request_timeout: Duration::from_secs(5), ..config() });
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let mut leaving = Session::attach(address, "stock", "leaving").await;
    bench.dispatch(participant("stock"), 1);
    let operation = leaving.operation().await.expect("an operation");
    leaving.send(ToCoordinator::Goodbye(v1::Goodbye { reason: "deploy".into() })).await;
    until("draining", || bench.delivery.stats()[0].instances[0].draining).await;
    // Alone and leaving: nobody is there.
    bench.dispatch(participant("stock"), 2);
    assert!(is_unknown(&bench.reply().await.outcome));

    let staying = Session::attach(address, "stock", "staying").await.work(Duration::ZERO);
    for branch in 10..30 {
        bench.dispatch(participant("stock"), branch);
    }
    let outcomes = bench.collect(20).await;
    assert!(outcomes.values().all(|outcome| *outcome == ResultOutcome::Done));
    leaving.answer(operation.call_id, Outcome::Done, "").await;
    let reply = bench.reply().await;
    assert_eq!((reply.branch_id.0, reply.outcome), (1, ResultOutcome::Done));
    // With nothing in its hand, its session ends by itself.
    assert_eq!(leaving.end().await.message(), "ended");
    staying.abort();
}

/// A reconnect before the broken session was noticed takes its place.
#[tokio::test]
async fn a_second_session_of_an_instance_replaces_the_first() {
    let mut bench = Bench::new(DeliveryConfig { request_timeout: Duration::from_secs(5), ..config() });
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let mut first = Session::attach(address, "stock", "1").await;
    bench.dispatch(participant("stock"), 1);
    first.operation().await.expect("an operation");
    let second = Session::attach(address, "stock", "1").await.work(Duration::ZERO);
    assert_eq!(first.end().await.code(), tonic::Code::Aborted);
    assert!(is_unknown(&bench.reply().await.outcome), "what the first had in hand is unknown");
    assert_eq!(bench.ask(participant("stock")).await, ResultOutcome::Done);
    second.abort();
}

#[tokio::test]
async fn heartbeats_keep_a_quiet_session_and_carry_witnesses() {
    let bench = Bench::new(config());
    let home = FakeHome::default();
    let address = serve(&bench.delivery, &home).await;
    let mut session = Session::attach(address, "stock", "1").await;
    for beat in 0..6_u64 {
        match session.next().await.expect("still attached") {
            FromCoordinator::Heartbeat(heartbeat) => assert_eq!(heartbeat.positions[0].seq, 9),
            other => panic!("{other:?}"),
        }
        // The node is at 9: only what is beyond is news to the engine.
        session.heartbeat(vec![unanimity_proto::position_to_wire(position(5 + beat))]).await;
    }
    until("news reached the engine", || home.0.lock().expect("told").witnesses == [position(10)]).await;
}
