//! Bulkheads under growth. Nothing here looks at a watch: calls, bulkheads and connections are counted.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use unanimity_coordinator::delivery::DeliveryConfig;
use unanimity_coordinator::engine::{BranchCall, Dispatcher as _};
use unanimity_core::ResultOutcome;
use unanimity_proto::v1::coordinator_message::Kind as FromCoordinator;
use unanimity_types::{Name, Target};

use crate::support::{
    Bench, FakeHome, PATIENCE, Session, call, config, hello, is_unknown, participant, serve, until,
};

fn patient() -> DeliveryConfig {
    DeliveryConfig {
        request_timeout: PATIENCE,
        write_timeout: PATIENCE,
        hello_timeout: PATIENCE,
        heartbeat_interval: PATIENCE,
        ..config()
    }
}

/// A server that counts the connections it is given.
async fn counting_server() -> (Target, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let listener = listener.tap_io(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let router = Router::new()
        .route("/", post(|| async { "fine" }))
        .route("/long", post(|| async { "x".repeat(20_000) }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (Target::Http(format!("http://{address}/").into()), connections)
}

/// One participant that works beside a thousand that never came, each owing a hundred operations.
#[tokio::test]
async fn dead_participants_cost_no_bulkhead_no_wait_and_no_task() {
    let mut bench = Bench::new(patient());
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let mut said = hello("good", "1");
    said.concurrency = 100;
    let working = Session::open(address, said).await.expect("attached").0.work(Duration::ZERO);
    let dead: Vec<Target> = (0..1_000).map(|number| participant(&format!("dead-{number}"))).collect();
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut good = 0;
    for round in 0..100 {
        let calls: Vec<BranchCall> = dead
            .iter()
            .map(|target| call(target.clone(), 1_000_000))
            .chain([call(participant("good"), round)])
            .collect();
        bench.delivery.dispatch_many(calls, &bench.sink);
        // Answered before `dispatch_many` came back: nothing of it waits in delivery.
        let mut answered = 0;
        while let Ok(reply) = bench.replies.try_recv() {
            if reply.branch_id.0 == 1_000_000 {
                assert!(is_unknown(&reply.outcome), "{reply:?}");
                answered += 1;
            } else {
                assert_eq!(reply.outcome, ResultOutcome::Done);
                good += 1;
            }
        }
        assert_eq!(answered, dead.len());
        let stats = bench.delivery.stats();
        assert_eq!((stats.len(), stats[0].name.as_str()), (1, "good"), "a dead participant has no bulkhead");
        assert!(bench.delivery.calls() <= 100);
        assert!(tokio::runtime::Handle::current().metrics().num_alive_tasks() <= tasks + 2);
    }
    while good < 100 {
        assert_eq!(bench.reply().await.outcome, ResultOutcome::Done);
        good += 1;
    }
    bench.nothing_more().await;
    working.abort();
}

/// One that takes its time fills its own hand and its own queue; what others are owed passes it by.
#[tokio::test]
async fn a_slow_participant_holds_only_its_own_bulkhead() {
    let mut bench = Bench::new(DeliveryConfig { queue_max: 500, ..patient() });
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    // It takes operations and answers none until it is told to.
    let (mut slow, _) = Session::open(address, hello("slow", "1")).await.expect("attached");
    let (go_on, taken) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let answering = {
        let (go_on, taken) = (Arc::clone(&go_on), Arc::clone(&taken));
        tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                tokio::select! {
                    operation = slow.operation() => {
                        held.push(operation.expect("an operation").call_id);
                        taken.fetch_add(1, Ordering::Relaxed);
                    }
                    () = go_on.notified() => break,
                }
            }
            for call_id in held {
                slow.answer(call_id, unanimity_proto::v1::branch_result::Outcome::Done, "").await;
            }
            slow.work(Duration::ZERO).await
        })
    };
    let in_hand = DeliveryConfig::default().session_concurrency;
    bench
        .delivery
        .dispatch_many((0..600).map(|branch| call(participant("slow"), branch)).collect(), &bench.sink);
    let refused = bench.collect(600 - 500 - in_hand).await;
    assert!(refused.values().all(|outcome| matches!(outcome, ResultOutcome::NotSent { .. })));
    until("its hand is full", || taken.load(Ordering::Relaxed) == in_hand).await;

    let good = Session::attach(address, "good", "1").await.work(Duration::ZERO);
    let (http, _) = counting_server().await;
    let mut others = 0;
    for round in 0..20 {
        let calls = (0..30).flat_map(|number| {
            let branch = 1_000 + 100 * round + 2 * number;
            [call(participant("good"), branch), call(http.clone(), branch + 1), call(participant("slow"), 9)]
        });
        bench.delivery.dispatch_many(calls.collect(), &bench.sink);
        let mut answered = 0;
        while answered < 90 {
            let reply = bench.reply().await;
            answered += 1;
            if reply.branch_id.0 == 9 {
                assert!(matches!(reply.outcome, ResultOutcome::NotSent { .. }), "{reply:?}");
            } else {
                assert_eq!(reply.outcome, ResultOutcome::Done);
                others += 1;
            }
        }
    }
    assert_eq!(others, 20 * 60, "all of the others' were done");
    assert_eq!(taken.load(Ordering::Relaxed), in_hand, "and the slow one has answered nothing yet");
    let stats = bench.delivery.stats();
    let slow = stats.iter().find(|stats| stats.name == "slow").expect("its bulkhead");
    assert_eq!((slow.queued, slow.in_flight, slow.done), (500, in_hand, 0));

    go_on.notify_one();
    let rest = bench.collect(500 + in_hand).await;
    assert!(rest.values().all(|outcome| *outcome == ResultOutcome::Done));
    answering.abort();
    good.abort();
}

/// What a block lets out at once goes out in few messages, each call once and in its order.
#[tokio::test]
async fn what_is_dispatched_together_leaves_together() {
    let mut bench = Bench::new(patient());
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let mut sessions = Vec::new();
    for name in ["a", "b"] {
        let mut said = hello(name, "1");
        said.concurrency = 1_000;
        sessions.push(Session::open(address, said).await.expect("attached").0);
    }
    let calls = (0..400).map(|branch| call(participant(if branch % 2 == 0 { "a" } else { "b" }), branch));
    bench.delivery.dispatch_many(calls.collect(), &bench.sink);
    for (session, parity) in sessions.iter_mut().zip(0..) {
        let mut branches = Vec::new();
        let mut messages = 0;
        while branches.len() < 200 {
            if let FromCoordinator::Operations(batch) = session.next().await.expect("a message") {
                messages += 1;
                branches.extend(batch.operations.iter().map(|operation| operation.branch_id));
                for operation in batch.operations {
                    let done = unanimity_proto::v1::branch_result::Outcome::Done;
                    session.answer(operation.call_id, done, "").await;
                }
            }
        }
        assert_eq!(messages, 1, "200 operations");
        assert_eq!(branches, (0..200).map(|number| 2 * number + parity).collect::<Vec<u32>>());
    }
    let outcomes = bench.collect(400).await;
    assert!(outcomes.values().all(|outcome| *outcome == ResultOutcome::Done));
    bench.nothing_more().await;
}

/// Every kind of target in one batch, also those that nobody can serve: each has its one reply.
#[tokio::test]
async fn a_mixed_batch_is_answered_once_each() {
    let mut bench = Bench::new(patient());
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let working = Session::attach(address, "good", "1").await.work(Duration::ZERO);
    let (http, _) = counting_server().await;
    let other_hooks = Target::Participant {
        participant: Name::new("good").expect("a name"),
        operation: Name::new("x").expect("a name"),
    };
    let targets = [
        participant("good"),
        participant("dead"),
        http,
        other_hooks,
        Target::Http("http://10.0.0.1/".into()),
        Target::Grpc("http://127.0.0.1:1/with/a/path".into()),
    ];
    let calls = (0..300_u32).map(|branch| call(targets[branch as usize % targets.len()].clone(), branch));
    bench.delivery.dispatch_many(calls.collect(), &bench.sink);
    let outcomes = bench.collect(300).await;
    for (branch, outcome) in outcomes {
        match branch % 6 {
            0 | 2 => assert_eq!(outcome, ResultOutcome::Done),
            1 => assert!(is_unknown(&outcome), "{outcome:?}"),
            _ => assert!(matches!(outcome, ResultOutcome::Unusable { .. }), "{outcome:?}"),
        }
    }
    bench.nothing_more().await;
    working.abort();
    bench.delivery.shutdown(Duration::ZERO).await;
    bench
        .delivery
        .dispatch_many((0..10).map(|branch| call(participant("good"), branch)).collect(), &bench.sink);
    let outcomes = bench.collect(10).await;
    assert!(outcomes.values().all(|outcome| matches!(outcome, ResultOutcome::NotSent { .. })));
}

/// Callbacks of one origin go over as many connections as may be out at once, whatever their number and
/// whether anybody looks at their answers.
#[tokio::test]
async fn callbacks_keep_their_connections() {
    let concurrency = 8;
    let mut bench = Bench::new(DeliveryConfig { callback_concurrency: concurrency, ..patient() });
    let (target, connections) = counting_server().await;
    let Target::Http(url) = &target else { unreachable!("a URL") };
    let long = Target::Http(format!("{url}long").into());
    let mut seen = HashSet::new();
    for round in 0..50 {
        let calls = (0..20).map(|number| {
            let target = if number % 5 == 0 { &long } else { &target };
            call(target.clone(), 20 * round + number)
        });
        bench.delivery.dispatch_many(calls.collect(), &bench.sink);
        for (branch, outcome) in bench.collect(20).await {
            assert_eq!(outcome, ResultOutcome::Done);
            assert!(seen.insert(branch));
        }
    }
    assert_eq!(seen.len(), 1_000);
    let connections = connections.load(Ordering::Relaxed);
    assert!((1..=concurrency).contains(&connections), "{connections} connections for 1,000 calls");
}
