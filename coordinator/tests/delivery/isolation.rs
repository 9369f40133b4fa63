//! Bulkheads: what is slow or dead holds up nobody else, and everything is bounded.

use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use tokio::net::TcpListener;
use unanimity_coordinator::delivery::{BulkheadKind, DeliveryConfig};
use unanimity_core::ResultOutcome;
use unanimity_types::Target;

use crate::support::{Bench, FakeHome, Session, config, hello, is_unknown, participant, serve, until};

async fn http_server() -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let router = Router::new().route("/", post(|| async { "fine" }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Target::Http(format!("http://{address}/").into())
}

#[tokio::test]
async fn a_hanging_callback_with_a_full_queue_holds_up_nobody() {
    let mut bench = Bench::new(DeliveryConfig {
        queue_max: 200,
        callback_concurrency: 4,
        request_timeout: Duration::from_secs(3),
        ..config()
    });
    let home = FakeHome::default();
    let address = serve(&bench.delivery, &home).await;
    let hanging = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let hanging_url = Target::Http(format!("http://{}/", hanging.local_addr().expect("an address")).into());
    for branch in 0..500 {
        bench.dispatch(hanging_url.clone(), branch);
        if branch == 3 {
            until("four are out", || bench.delivery.stats()[0].in_flight == 4).await;
        }
    }
    // What found no room is handed back at once, to be offered again later.
    let refused = bench.collect(500 - 200 - 4).await;
    for outcome in refused.values() {
        let ResultOutcome::NotSent { retry_after, .. } = outcome else { panic!("{outcome:?}") };
        assert!((Duration::from_secs(1)..Duration::from_secs(2)).contains(retry_after));
    }
    let stats = bench.delivery.stats();
    assert_eq!((stats[0].kind, stats[0].queued, stats[0].in_flight), (BulkheadKind::Http, 200, 4));

    let began = Instant::now();
    let http = http_server().await;
    let working = Session::attach(address, "stock", "1").await.work(Duration::ZERO);
    let (sink, mut replies) = unanimity_coordinator::engine::ResultSink::new();
    for branch in 0..300 {
        for target in [http.clone(), participant("stock")] {
            let call = crate::support::call(target, branch);
            unanimity_coordinator::engine::Dispatcher::dispatch(&*bench.delivery, call, &sink);
        }
        // Within the neighbours' own bounds.
        if branch % 50 == 49 {
            for _ in 0..100 {
                assert_eq!(replies.recv().await.expect("a reply").outcome, ResultOutcome::Done);
            }
        }
    }
    assert!(began.elapsed() < Duration::from_secs(3), "neighbours took {:?}", began.elapsed());
    assert!(
        bench.delivery.stats().iter().any(|stats| stats.queued >= 196),
        "and the hanging one hangs still"
    );
    working.abort();
    bench.delivery.shutdown(Duration::ZERO).await;
    let rest = bench.collect(204).await;
    assert_eq!(rest.values().filter(|outcome| is_unknown(outcome)).count(), 4);
    bench.nothing_more().await;
}

/// An instance whose hooks hang gets no more than it asked for; a sibling does the rest.
#[tokio::test]
async fn a_hanging_instance_holds_up_only_its_own_hand() {
    let mut bench = Bench::new(DeliveryConfig { request_timeout: Duration::from_secs(2), ..config() });
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let mut said = hello("stock", "hanging");
    said.concurrency = 3;
    let (mut hanging, _) = Session::open(address, said).await.expect("attached");
    let beating = tokio::spawn(async move {
        while hanging.next().await.is_ok() {
            hanging.heartbeat(Vec::new()).await;
        }
    });
    let working = Session::attach(address, "stock", "working").await.work(Duration::ZERO);
    until("both attached", || bench.delivery.stats().first().is_some_and(|stats| stats.instances.len() == 2))
        .await;
    for branch in 0..400 {
        bench.dispatch(participant("stock"), branch);
    }
    let outcomes = bench.collect(400).await;
    let unknown = outcomes.values().filter(|outcome| is_unknown(outcome)).count();
    assert!(unknown <= 6, "{unknown} of 400 went to the hanging instance");
    beating.abort();
    working.abort();
}

#[tokio::test]
async fn a_call_that_waited_too_long_is_handed_back() {
    let mut bench = Bench::new(DeliveryConfig {
        callback_concurrency: 1,
        queue_wait_max: Duration::from_millis(100),
        request_timeout: Duration::from_millis(400),
        ..config()
    });
    let hanging = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let target = Target::Http(format!("http://{}/", hanging.local_addr().expect("an address")).into());
    for branch in 0..20 {
        bench.dispatch(target.clone(), branch);
    }
    let outcomes = bench.collect(20).await;
    assert_eq!(outcomes.values().filter(|outcome| is_unknown(outcome)).count(), 1, "{outcomes:?}");
    bench.nothing_more().await;

    // The same at a participant whose only instance is full.
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let mut said = hello("stock", "full");
    said.concurrency = 1;
    let (mut session, _) = Session::open(address, said).await.expect("attached");
    let beating = tokio::spawn(async move {
        while session.next().await.is_ok() {
            session.heartbeat(Vec::new()).await;
        }
    });
    for branch in 0..20 {
        bench.dispatch(participant("stock"), branch);
    }
    let outcomes = bench.collect(20).await;
    assert_eq!(outcomes.values().filter(|outcome| is_unknown(outcome)).count(), 1, "{outcomes:?}");
    beating.abort();
}

/// Addresses come with registrations, so their bulkheads are bounded; idle ones make room.
#[tokio::test]
async fn bulkheads_are_bounded() {
    let mut bench =
        Bench::new(DeliveryConfig { bulkheads_max: 3, request_timeout: Duration::from_secs(2), ..config() });
    let mut hanging = Vec::new();
    for branch in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target = Target::Http(format!("http://{}/", listener.local_addr().expect("an address")).into());
        hanging.push(listener);
        bench.dispatch(target, branch);
    }
    let target = http_server().await;
    bench.dispatch(target.clone(), 9);
    let reply = bench.reply().await;
    assert!(matches!(reply.outcome, ResultOutcome::NotSent { .. }), "{reply:?}");
    bench.collect(3).await;
    for _ in 0..3 {
        let next = http_server().await;
        assert_eq!(bench.ask(next).await, ResultOutcome::Done);
    }
    assert!(bench.delivery.stats().len() <= 3);
}

/// One origin has one bulkhead, however it is spelt.
#[tokio::test]
async fn spellings_share_a_bulkhead() {
    let mut bench = Bench::new(config());
    let Target::Http(url) = http_server().await else { unreachable!("a URL") };
    for target in [url.to_string(), url.replace("http", "HTTP"), url.replace("127.0.0.1", "127.1")] {
        assert_eq!(bench.ask(Target::Http(target.into())).await, ResultOutcome::Done);
    }
    assert_eq!(bench.delivery.stats().len(), 1);
}
