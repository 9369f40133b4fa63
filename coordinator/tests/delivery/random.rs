//! Every call is answered exactly once, whatever participants and sessions do.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use tokio::net::TcpListener;
use unanimity_coordinator::delivery::DeliveryConfig;
use unanimity_core::ResultOutcome;
use unanimity_proto::v1;
use unanimity_proto::v1::branch_result::Outcome;
use unanimity_proto::v1::participant_message::Kind as ToCoordinator;
use unanimity_types::Target;

use crate::support::{Bench, FakeHome, Session, config, hello, participant, serve};

const PARTICIPANTS: [&str; 4] = ["stock", "payment", "order", "nobody"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_is_answered_exactly_once() {
    let seed = std::env::var("UNANIMITY_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("UNANIMITY_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let config = DeliveryConfig {
        queue_max: 50,
        callback_concurrency: 3,
        queue_wait_max: Duration::from_millis(400),
        request_timeout: Duration::from_millis(250),
        ..config()
    };
    let mut bench = Bench::new(config);
    let address = serve(&bench.delivery, &FakeHome::default()).await;
    let url = odd_server(random.u64(..)).await;
    let mut instances = tokio::task::JoinSet::new();
    for participant in &PARTICIPANTS[..3] {
        for instance in 0..3 {
            let random = fastrand::Rng::with_seed(random.u64(..));
            instances.spawn(odd_instance(address, participant, format!("{instance}"), random));
        }
    }
    let total = 4_000;
    for branch in 0..total {
        let target = match random.u32(0..10) {
            0 => Target::Http(url.clone()),
            1 => Target::Grpc("http://127.0.0.1:1".into()),
            _ => participant(PARTICIPANTS[random.usize(..4)]),
        };
        bench.dispatch(target, branch);
        if random.u32(0..20) == 0 {
            tokio::time::sleep(Duration::from_millis(random.u64(0..20))).await;
        }
    }
    let delivery = Arc::clone(&bench.delivery);
    let stopping = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        delivery.shutdown(Duration::from_millis(100)).await
    });
    let outcomes = bench.collect(total as usize).await;
    stopping.await.expect("stopped");
    bench.nothing_more().await;
    instances.shutdown().await;
    let count = |is: fn(&ResultOutcome) -> bool| outcomes.values().filter(|outcome| is(outcome)).count();
    let done = count(|outcome| matches!(outcome, ResultOutcome::Done));
    let unknown = count(|outcome| matches!(outcome, ResultOutcome::Unknown { .. }));
    let not_sent = count(|outcome| matches!(outcome, ResultOutcome::NotSent { .. }));
    println!("of {total}: {done} done, {unknown} unknown, {not_sent} not sent");
    assert!(done > 100 && unknown > 100, "the test tests nothing: {done} done, {unknown} unknown");
}

/// Attaches again and again; answers some, twice some, wrongly some; breaks off at random.
async fn odd_instance(
    address: std::net::SocketAddr,
    participant: &'static str,
    instance: String,
    mut random: fastrand::Rng,
) {
    loop {
        tokio::time::sleep(Duration::from_millis(random.u64(0..40))).await;
        let mut said = hello(participant, &instance);
        said.concurrency = random.u32(0..20);
        let Ok((mut session, _)) = Session::open(address, said).await else { continue };
        let life = random.u32(1..200);
        for _ in 0..life {
            let Ok(operation) = session.operation().await else { break };
            let outcome = [Outcome::Done, Outcome::Done, Outcome::Done, Outcome::Refused, Outcome::NotYet]
                [random.usize(..5)];
            match random.u32(0..40) {
                0 => {}
                1 => {
                    session.answer(operation.call_id, outcome, "").await;
                    session.answer(operation.call_id, Outcome::Refused, "twice").await;
                }
                2 => session.answer(operation.call_id + random.u64(0..50), outcome, "guessed").await,
                3 => tokio::time::sleep(Duration::from_millis(random.u64(0..300))).await,
                4 if random.bool() => {
                    session.send(ToCoordinator::Goodbye(v1::Goodbye::default())).await;
                }
                _ => session.answer(operation.call_id, outcome, "").await,
            }
        }
    }
}

async fn odd_server(seed: u64) -> Box<str> {
    let random = Arc::new(std::sync::Mutex::new(fastrand::Rng::with_seed(seed)));
    let router = Router::new().route(
        "/",
        post(async move || {
            let (status, wait) = {
                let mut random = random.lock().expect("random");
                ([200, 204, 409, 425, 429, 500, 404, 302][random.usize(..8)], random.u64(0..400))
            };
            tokio::time::sleep(Duration::from_millis(wait)).await;
            StatusCode::from_u16(status).expect("a status")
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/").into()
}
