//! Attached sessions that do not behave.

use std::time::Duration;

use tonic::Code;
use unanimity_coordinator::delivery::DeliveryConfig;
use unanimity_coordinator::engine;
use unanimity_core::ResultOutcome;
use unanimity_proto::v1;
use unanimity_proto::v1::participant_message::Kind as ToCoordinator;
use unanimity_types::ErrorCode;

use crate::support::{
    Bench, FakeHome, Session, code_of, config, hello, is_unknown, participant, position, serve, text, until,
};

/// Two addresses may lead to one node, and a node may have come back under another name: who is looked for in vain is
/// told so before the session is ended that the same instance has here.
#[tokio::test]
async fn who_means_another_node_is_refused_and_ends_no_session() {
    let mut bench = Bench::new(config());
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let meant = |node: &str| v1::Hello { node: node.to_owned(), ..hello("stock", "stock-1") };
    let (mut session, _) = Session::open(address, meant("node-1")).await.expect("attached");
    for node in ["node-2", "NODE-1", "node-1 "] {
        let Err(status) = Session::open(address, meant(node)).await else { panic!("{node} was accepted") };
        assert_eq!(
            (code_of(&status), status.code()),
            ("unavailable".into(), Code::Unavailable),
            "{status:?}"
        );
        assert!(status.message().contains("node-1"), "{status:?}");
    }
    bench.dispatch(participant("stock"), 1);
    let operation = session.operation().await.expect("the first session is still the one");
    session.answer(operation.call_id, v1::branch_result::Outcome::Done, "").await;
    assert_eq!(bench.reply().await.outcome, ResultOutcome::Done);
    // Of two that are meant, the younger counts.
    let (mut younger, _) = Session::open(address, meant("node-1")).await.expect("attached");
    until("one is left", || bench.delivery.stats()[0].instances.len() == 1).await;
    bench.dispatch(participant("stock"), 2);
    let operation = younger.operation().await.expect("an operation");
    younger.answer(operation.call_id, v1::branch_result::Outcome::Done, "").await;
    assert_eq!(bench.reply().await.outcome, ResultOutcome::Done);
}

#[tokio::test]
async fn hostile_hellos_are_refused() {
    let bench = Bench::new(config());
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let good = || hello("stock", "1");
    for (what, said, code) in [
        ("no participant", v1::Hello { participant: String::new(), ..good() }, "invalid_name"),
        ("a long participant", v1::Hello { participant: "x".repeat(129), ..good() }, "invalid_name"),
        ("a hidden character", v1::Hello { participant: "st\u{202E}ock".into(), ..good() }, "invalid_name"),
        ("no instance", v1::Hello { instance: " ".into(), ..good() }, "invalid_name"),
        ("a bad operation", v1::Hello { operations: vec!["a\0b".into()], ..good() }, "invalid_name"),
        ("many operations", v1::Hello { operations: vec!["a".into(); 1_001], ..good() }, "invalid_request"),
        ("an old protocol", v1::Hello { protocol_version: 0, ..good() }, "invalid_request"),
        ("a new protocol", v1::Hello { protocol_version: 2, ..good() }, "invalid_request"),
        (
            "another log",
            v1::Hello { log_id: "0191e7a4-5c1b-7d3e-8f00-000000000000".into(), ..good() },
            "not_mine",
        ),
        ("no log's id", v1::Hello { log_id: "'; drop table".into(), ..good() }, "not_mine"),
        (
            "a partition that cannot be",
            v1::Hello {
                witnesses: vec![v1::LogPosition { partition: 70_000, ..Default::default() }],
                ..good()
            },
            "invalid_request",
        ),
        (
            "many witnesses",
            v1::Hello { witnesses: vec![v1::LogPosition::default(); 4_097], ..good() },
            "invalid_request",
        ),
    ] {
        let Err(status) = Session::open(address, said).await else { panic!("{what} was accepted") };
        assert_eq!(code_of(&status), code, "{what}: {status:?}");
        let expected = if code == "not_mine" { Code::FailedPrecondition } else { Code::InvalidArgument };
        assert_eq!(status.code(), expected, "{what}");
    }
    assert!(bench.delivery.stats().is_empty());
    // A participant that met no log yet is welcome.
    assert!(Session::open(address, v1::Hello { log_id: String::new(), ..good() }).await.is_ok());
}

#[tokio::test]
async fn a_session_begins_with_a_hello_in_time_and_only_once() {
    let bench = Bench::new(config());
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let mut silent = Session::connect(address).await.expect("connected");
    assert_eq!(code_of(&silent.end().await), "deadline_exceeded");
    let mut hasty = Session::connect(address).await.expect("connected");
    hasty.heartbeat(Vec::new()).await;
    assert_eq!(code_of(&hasty.end().await), "invalid_request");
    let mut twice = Session::attach(address, "stock", "1").await;
    twice.send(ToCoordinator::Hello(hello("stock", "2"))).await;
    assert_eq!(code_of(&twice.end().await), "invalid_request");
    let mut flooding = Session::attach(address, "stock", "1").await;
    let results = vec![v1::BranchResult::default(); 100_000];
    flooding.send(ToCoordinator::Results(v1::BranchResults { results })).await;
    assert_eq!(code_of(&flooding.end().await), "invalid_request");
    let gone = Session::connect(address).await.expect("connected");
    drop(gone);
    until("nobody is attached", || bench.delivery.stats().iter().all(|stats| stats.instances.is_empty()))
        .await;
}

#[tokio::test]
async fn a_witness_that_the_engine_refuses_ends_the_session() {
    let bench = Bench::new(config());
    let home = FakeHome::default();
    let address = serve(&bench.delivery, &home).await;
    let beyond = || vec![unanimity_proto::position_to_wire(position(99))];
    let mut session = Session::attach(address, "stock", "1").await;
    // That the log cannot be asked now says nothing about the witness.
    home.0.lock().expect("told").refuse = Some(engine::Error::new(ErrorCode::Unavailable, "no database"));
    session.heartbeat(beyond()).await;
    until("asked", || !home.0.lock().expect("told").witnesses.is_empty()).await;
    session.next().await.expect("still attached");
    home.0.lock().expect("told").refuse =
        Some(engine::Error::new(ErrorCode::LogLostTail, "the log lost its tail"));
    session.heartbeat(beyond()).await;
    assert_eq!(code_of(&session.end().await), "log_lost_tail");
    let said = v1::Hello { witnesses: beyond(), ..hello("stock", "1") };
    let Err(status) = Session::open(address, said).await else { panic!("accepted") };
    assert_eq!((code_of(&status).as_str(), status.message()), ("log_lost_tail", "the log lost its tail"));
}

/// What a session had in hand when it broke is unknown; the next one serves what comes.
#[tokio::test]
async fn a_session_that_breaks_answers_for_what_it_had() {
    let mut bench = Bench::new(DeliveryConfig { request_timeout: Duration::from_secs(30), ..config() });
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let mut said = hello("stock", "1");
    said.concurrency = 5;
    let (mut session, _) = Session::open(address, said).await.expect("attached");
    for branch in 0..8 {
        bench.dispatch(participant("stock"), branch);
    }
    for _ in 0..5 {
        session.operation().await.expect("an operation");
    }
    drop(session);
    let outcomes = bench.collect(8).await;
    assert!(outcomes.values().all(is_unknown), "{outcomes:?}");
    bench.nothing_more().await;
    let working = Session::attach(address, "stock", "2").await.work(Duration::ZERO);
    assert_eq!(bench.ask(participant("stock")).await, ResultOutcome::Done);
    working.abort();
}

/// What waited for a broken instance goes to its sibling.
#[tokio::test]
async fn what_waits_goes_to_the_sibling() {
    let mut bench = Bench::new(DeliveryConfig { request_timeout: Duration::from_secs(30), ..config() });
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let mut said = hello("stock", "1");
    said.concurrency = 2;
    let (mut first, _) = Session::open(address, said.clone()).await.expect("attached");
    said.instance = "2".into();
    let (mut second, _) = Session::open(address, said).await.expect("attached");
    for branch in 0..10 {
        bench.dispatch(participant("stock"), branch);
    }
    for session in [&mut first, &mut second] {
        session.operation().await.expect("an operation");
        // The second of its two is in the same message or the next.
        session.operation().await.expect("an operation");
    }
    drop(first);
    let lost = bench.collect(2).await;
    assert!(lost.values().all(is_unknown));
    drop(second);
    let outcomes = bench.collect(8).await;
    assert!(outcomes.values().all(is_unknown), "two in hand, six with nobody left: {outcomes:?}");
    bench.nothing_more().await;
}

#[tokio::test]
async fn an_operation_without_an_answer_is_unknown_after_its_time() {
    let mut bench = Bench::new(config());
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let mut session = Session::attach(address, "stock", "lazy").await;
    bench.dispatch(participant("stock"), 1);
    let operation = session.operation().await.expect("an operation");
    let beating = tokio::spawn(async move {
        while session.next().await.is_ok() {
            session.heartbeat(Vec::new()).await;
            session.answer(operation.call_id, v1::branch_result::Outcome::Unknown, "late").await;
            tokio::time::sleep(Duration::from_millis(400)).await;
            session.answer(operation.call_id, v1::branch_result::Outcome::Done, "later").await;
        }
    });
    let reply = bench.reply().await;
    assert!(is_unknown(&reply.outcome), "{reply:?}");
    bench.nothing_more().await;
    beating.abort();

    // One that says nothing at all times out by the clock.
    let mut session = Session::attach(address, "slow", "mute").await;
    bench.dispatch(participant("slow"), 2);
    session.operation().await.expect("an operation");
    let reply = bench.reply().await;
    assert!(text(&reply.outcome).contains("no answer within 600ms"), "{reply:?}");
    assert!(reply.took >= Duration::from_millis(600) && reply.took < Duration::from_secs(5), "{reply:?}");
    session.heartbeat(Vec::new()).await;
}

#[tokio::test]
async fn three_silent_intervals_end_a_session() {
    let mut bench = Bench::new(DeliveryConfig { request_timeout: Duration::from_secs(30), ..config() });
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let mut session = Session::attach(address, "stock", "1").await;
    bench.dispatch(participant("stock"), 1);
    let began = tokio::time::Instant::now();
    assert_eq!(code_of(&session.end().await), "deadline_exceeded");
    assert!(began.elapsed() >= Duration::from_millis(800), "{:?}", began.elapsed());
    let reply = bench.reply().await;
    assert!(is_unknown(&reply.outcome) && text(&reply.outcome).contains("silent"), "{reply:?}");
}

/// An instance that reads nothing fills its own stream, not our memory, and is ended.
#[tokio::test]
async fn an_instance_that_does_not_read_is_ended() {
    let mut bench = Bench::new(DeliveryConfig { request_timeout: Duration::from_secs(30), ..config() });
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let session = Session::attach(address, "stock", "1").await;
    for branch in 0..64 {
        let mut call = crate::support::call(participant("stock"), branch);
        call.payload = vec![7; 512 * 1024].into();
        engine::Dispatcher::dispatch(&*bench.delivery, call, &bench.sink);
    }
    // It lives: it beats. But it never takes a message.
    let out = session.out.clone();
    let beating = tokio::spawn(async move {
        let beat =
            || v1::ParticipantMessage { kind: Some(ToCoordinator::Heartbeat(v1::Heartbeat::default())) };
        while out.send(beat()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let outcomes = bench.collect(64).await;
    assert!(outcomes.values().all(is_unknown), "{outcomes:?}");
    assert!(outcomes.values().any(|outcome| text(outcome).contains("does not take")), "{outcomes:?}");
    bench.nothing_more().await;
    beating.abort();
    drop(session);
}

/// What a full stream never took is not lost with it: the sibling does it. And it cannot be answered
/// by who never got it.
#[tokio::test]
async fn what_was_not_sent_goes_to_the_sibling() {
    let mut bench = Bench::new(DeliveryConfig { request_timeout: Duration::from_secs(30), ..config() });
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let blocked = Session::attach(address, "stock", "blocked").await;
    for branch in 0..64 {
        let mut call = crate::support::call(participant("stock"), branch);
        call.payload = vec![7; 512 * 1024].into();
        engine::Dispatcher::dispatch(&*bench.delivery, call, &bench.sink);
    }
    assert_eq!(bench.delivery.stats()[0].in_flight, 64, "all in the hand of the one that is there");
    let guess = |call_id| v1::BranchResult {
        call_id,
        outcome: v1::branch_result::Outcome::Refused.into(),
        error: "a guess".to_owned(),
        ..Default::default()
    };
    let results = (0..300).map(guess).collect();
    blocked.send(ToCoordinator::Results(v1::BranchResults { results })).await;
    let working = Session::attach(address, "stock", "working").await.work(Duration::ZERO);
    let outcomes = bench.collect(64).await;
    let refused = outcomes.values().filter(|outcome| text(outcome) == "a guess").count();
    let done = outcomes.values().filter(|outcome| **outcome == ResultOutcome::Done).count();
    let unknown = outcomes.values().filter(|outcome| is_unknown(outcome)).count();
    assert!(done > 30 && done + unknown + refused == 64, "{done} done, {unknown} unknown, {refused} refused");
    working.abort();
    drop(blocked);
}

#[tokio::test]
async fn sessions_are_bounded() {
    let bench = Bench::new(DeliveryConfig { sessions_max: 2, ..config() });
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let first = Session::attach(address, "a", "1").await;
    let _second = Session::attach(address, "b", "1").await;
    let Err(status) = Session::open(address, hello("c", "1")).await else { panic!("a third was accepted") };
    assert_eq!((status.code(), code_of(&status).as_str()), (Code::ResourceExhausted, "too_busy"));
    drop(first);
    until("room again", || {
        bench.delivery.stats().iter().map(|stats| stats.instances.len()).sum::<usize>() == 1
    })
    .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(Session::open(address, hello("c", "1")).await.is_ok());
}
