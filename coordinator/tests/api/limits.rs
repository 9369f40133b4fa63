//! Everything is bounded, and says so.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use unanimity_coordinator::config::{Config, Limits, Timeouts};
use unanimity_proto::v1;

use crate::support::{Fixture, grpc_code};

#[tokio::test]
async fn calls_beyond_the_bound_are_told_to_come_back() {
    let limits = Limits { in_flight_max: 2, ..Limits::default() };
    let fixture = Fixture::with(Config { limits, ..Config::default() }).await;
    let xid = fixture.begin().await;
    let path = format!("/v1/transactions/{xid}?wait=decided&wait_ms=3000");
    let probe = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let answer = fixture.post("/v1/transactions", &json!({ "mode": "tcc" })).await;
        assert_eq!((answer.code().as_str(), answer.status), ("too_busy", 429));
        assert_eq!(answer.headers["retry-after"], "1");
        assert_eq!(answer.body["retry_after"], 1);
        let mut client = fixture.grpc().await;
        let status = client.get_info(v1::GetInfoRequest {}).await.expect_err("too busy");
        assert_eq!(
            (grpc_code(&status).as_str(), status.code()),
            ("too_busy", tonic::Code::ResourceExhausted)
        );
        // What tells how the node is still answers.
        assert_eq!(fixture.get("/readyz").await.status, 200);
        assert_eq!(fixture.get("/metrics").await.status, 200);
    };
    let (first, second, ()) = tokio::join!(fixture.get(&path), fixture.get(&path), probe);
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(fixture.get("/v1/info").await.status, 200);
}

#[tokio::test]
async fn deadlines_are_honoured_and_capped() {
    let timeouts = Timeouts { request_ms: 400, ..Timeouts::default() };
    let fixture = Fixture::with(Config { timeouts, ..Config::default() }).await;
    let xid = fixture.begin().await;
    // A long poll answers within the cap, whatever it asked for.
    let started = std::time::Instant::now();
    let answer = fixture.get(&format!("/v1/transactions/{xid}?wait=decided&wait_ms=60000")).await;
    assert_eq!((answer.status, answer.text("status").as_str()), (200, "active"));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    // A body that does not come is not waited for.
    let mut stream = tokio::net::TcpStream::connect(fixture.node.local_addr().expect("it listens"))
        .await
        .expect("connected");
    let head = "POST /v1/transactions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = vec![0; 1_024];
    let count = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut answer))
        .await
        .expect("in time")
        .expect("read");
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("deadline_exceeded"), "{answer}");

    // A gRPC client's own deadline, shorter than the cap.
    let mut client = fixture.grpc().await;
    let mut request = tonic::Request::new(v1::GetTransactionRequest {
        xid,
        wait: v1::Wait::Decided as i32,
        wait_ms: 60_000,
    });
    request.set_timeout(Duration::from_millis(200));
    let started = std::time::Instant::now();
    let answer = client.get_transaction(request).await;
    assert!(started.elapsed() < Duration::from_millis(390), "{:?}", started.elapsed());
    assert_eq!(answer.expect("in time").into_inner().status, v1::Status::Active as i32);
}

#[tokio::test]
async fn a_begin_whose_caller_hung_up_still_happens() {
    let fixture = Fixture::start().await;
    let mut began = 0;
    for n in 0..50 {
        let xid = format!("0191e7a4-5c1b-7d3e-8f00-{n:012}");
        let body = json!({ "mode": "tcc", "xid": xid, "name": "hung up" });
        let call = fixture.post("/v1/transactions", &body);
        // Somewhere between not sent and answered.
        let _ = tokio::time::timeout(Duration::from_micros(100 * n), call).await;
        let again = fixture.post("/v1/transactions", &body).await;
        // Sent or not, whole or not: a repetition is answered as the first time would have been.
        assert_eq!(again.status, 201, "{again:?}");
        began += 1;
    }
    assert_eq!(began, 50);
}

#[tokio::test]
async fn headers_are_bounded() {
    let fixture = Fixture::start().await;
    let request = fixture.http.get(fixture.url("/v1/info")).header("x-large", "x".repeat(64 * 1024));
    let answer = request.send().await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 431));
    assert_eq!(fixture.get("/v1/info").await.status, 200);
}
