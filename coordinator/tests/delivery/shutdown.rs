//! Stopping: nothing new, what is out is waited for within the limit, everything is answered.

use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use tokio::net::TcpListener;
use unanimity_coordinator::delivery::DeliveryConfig;
use unanimity_core::ResultOutcome;
use unanimity_proto::v1::branch_result::Outcome;
use unanimity_proto::v1::coordinator_message::Kind as FromCoordinator;
use unanimity_types::Target;

use crate::support::{
    Bench, FakeHome, Session, code_of, config, hello, is_unknown, participant, serve, until,
};

#[tokio::test]
async fn what_is_out_is_waited_for() {
    let mut bench = Bench::new(DeliveryConfig {
        request_timeout: Duration::from_secs(10),
        callback_concurrency: 1,
        ..config()
    });
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = Target::Http(format!("http://{}/", listener.local_addr().expect("an address")).into());
    let router = Router::new().route(
        "/",
        post(|| async {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }),
    );
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mut session = Session::attach(address, "stock", "1").await;
    bench.dispatch(participant("stock"), 1);
    let operation = session.operation().await.expect("an operation");
    bench.dispatch(url.clone(), 2);
    bench.dispatch(url.clone(), 3);
    until("one out, one waits", || {
        bench.delivery.stats().iter().any(|stats| stats.queued == 1 && stats.in_flight == 1)
    })
    .await;

    let delivery = std::sync::Arc::clone(&bench.delivery);
    let stopping = tokio::spawn(async move { delivery.shutdown(Duration::from_secs(10)).await });
    loop {
        if let FromCoordinator::Goodbye(_) = session.next().await.expect("a message") {
            break;
        }
    }
    bench.dispatch(url, 4);
    bench.dispatch(participant("stock"), 5);
    session.answer(operation.call_id, Outcome::Done, "").await;
    assert_eq!(stopping.await.expect("stopped").cut_off, 0);
    assert_eq!(session.end().await.message(), "ended");
    let outcomes = bench.collect(5).await;
    assert_eq!((&outcomes[&1], &outcomes[&2]), (&ResultOutcome::Done, &ResultOutcome::Done));
    for branch in [3, 4, 5] {
        assert!(matches!(outcomes[&branch], ResultOutcome::NotSent { .. }), "{outcomes:?}");
    }
    let Err(status) = Session::open(address, hello("stock", "2")).await else {
        panic!("attached while stopping")
    };
    assert!(matches!(code_of(&status).as_str(), "unavailable"), "{status:?}");
}

/// A session without anything in hand hears goodbye too, and ends without an error.
#[tokio::test]
async fn an_idle_session_hears_goodbye() {
    let bench = Bench::new(DeliveryConfig { heartbeat_interval: Duration::from_secs(60), ..config() });
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let mut session = Session::attach(address, "stock", "1").await;
    let began = Instant::now();
    assert_eq!(bench.delivery.shutdown(Duration::from_secs(10)).await.cut_off, 0);
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    assert!(matches!(session.next().await.expect("a message"), FromCoordinator::Goodbye(_)));
    assert_eq!(session.end().await.message(), "ended");
}

#[tokio::test]
async fn what_hangs_is_cut_off_at_the_limit() {
    let mut bench = Bench::new(DeliveryConfig { request_timeout: Duration::from_secs(60), ..config() });
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let hanging = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut session = Session::attach(address, "stock", "1").await;
    bench.dispatch(participant("stock"), 1);
    session.operation().await.expect("an operation");
    bench.dispatch(Target::Http(format!("http://{}/", hanging.local_addr().expect("an address")).into()), 2);
    bench.dispatch(Target::Grpc(format!("http://{}/", hanging.local_addr().expect("an address")).into()), 3);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let began = Instant::now();
    assert_eq!(bench.delivery.shutdown(Duration::from_millis(200)).await.cut_off, 3);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(bench.collect(3).await.values().all(is_unknown));
    assert_eq!(code_of(&session.end().await), "unavailable");
    bench.nothing_more().await;
    // Twice is once.
    assert_eq!(bench.delivery.shutdown(Duration::from_secs(5)).await.cut_off, 0);
}

/// A runtime that goes away drops every task: their calls are answered all the same.
#[test]
fn a_runtime_that_stops_answers_everything() {
    let (sink, mut replies) = unanimity_coordinator::engine::ResultSink::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = Target::Http(format!("http://{}/", hanging.local_addr().expect("an address")).into());
    let delivery = runtime.block_on(async {
        let bench = Bench {
            sink: sink.clone(),
            ..Bench::new(DeliveryConfig {
                request_timeout: Duration::from_secs(60),
                callback_concurrency: 2,
                ..config()
            })
        };
        for branch in 0..10 {
            bench.dispatch(url.clone(), branch);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        std::sync::Arc::clone(&bench.delivery)
    });
    drop(runtime);
    // And after it: nobody is there to send.
    unanimity_coordinator::engine::Dispatcher::dispatch(&*delivery, crate::support::call(url, 10), &sink);
    let mut unknown = 0;
    let mut not_sent = 0;
    while let Ok(reply) = replies.try_recv() {
        match reply.outcome {
            ResultOutcome::Unknown { .. } => unknown += 1,
            ResultOutcome::NotSent { .. } => not_sent += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((unknown, not_sent), (2, 9));
    assert_eq!(delivery.calls(), 0);
}
