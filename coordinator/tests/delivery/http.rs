//! HTTP callbacks that answer, and that do not.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect};
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use unanimity_core::ResultOutcome;
use unanimity_types::Target;

use crate::support::{Bench, LOG_ID, call, config, is_unknown, text};

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// A server that reads something, writes these bytes and closes.
async fn raw(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let mut request = [0; 4_096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
                let _ = stream.flush().await;
            });
        }
    });
    address
}

fn http(address: SocketAddr, path: &str) -> Target {
    Target::Http(format!("http://{address}{path}").into())
}

fn answers() -> Router {
    Router::new()
        .route("/ok", post(|| async { "fine" }))
        .route("/empty", post(|| async { StatusCode::NO_CONTENT }))
        .route("/huge", post(|| async { "x".repeat(5_000_000) }))
        .route("/refused", post(|| async { (StatusCode::CONFLICT, "no\nstock \u{202E}left") }))
        .route("/refused-long", post(|| async { (StatusCode::CONFLICT, "ä".repeat(500_000)) }))
        .route("/refused-empty", post(|| async { StatusCode::CONFLICT }))
        .route("/early", post(|| async { StatusCode::TOO_EARLY }))
        .route("/busy", post(|| async { (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "7")], "busy") }))
        .route(
            "/busy-long",
            post(|| async { (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "999999")]) }),
        )
        .route("/busy-odd", post(|| async { (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "soon")]) }))
        .route("/slow-client", post(|| async { StatusCode::REQUEST_TIMEOUT }))
        .route("/broken", post(|| async { StatusCode::INTERNAL_SERVER_ERROR }))
        .route("/bad", post(|| async { StatusCode::BAD_REQUEST }))
        .route("/gone", post(|| async { StatusCode::GONE }))
        .route("/moved", post(|| async { Redirect::temporary("/ok") }))
        .route("/elsewhere", post(|| async { Redirect::permanent("http://10.255.255.1/") }))
        .route("/get-only", get(|| async { "fine" }))
        .route("/hang", post(|| async { std::future::pending::<()>().await }))
}

#[tokio::test]
async fn the_status_is_the_answer() {
    let address = serve(answers()).await;
    let mut bench = Bench::new(config());
    let unknown = |error: &str, seconds: Option<u64>| ResultOutcome::Unknown {
        error: error.into(),
        retry_after: seconds.map(Duration::from_secs),
    };
    let unusable = |error: &str| ResultOutcome::Unusable { error: error.into() };
    for (path, expected) in [
        ("/ok", ResultOutcome::Done),
        ("/empty", ResultOutcome::Done),
        ("/huge", ResultOutcome::Done),
        ("/refused", ResultOutcome::Refused { error: "no stock left".into() }),
        ("/refused-long", ResultOutcome::Refused { error: "ä".repeat(512).into() }),
        ("/refused-empty", ResultOutcome::Refused { error: "HTTP 409 Conflict".into() }),
        ("/early", ResultOutcome::NotYet { error: "HTTP 425 Too Early".into() }),
        ("/busy", unknown("HTTP 429 Too Many Requests: busy", Some(7))),
        ("/busy-long", unknown("HTTP 503 Service Unavailable", Some(300))),
        ("/busy-odd", unknown("HTTP 503 Service Unavailable", None)),
        ("/slow-client", unknown("HTTP 408 Request Timeout", None)),
        ("/broken", unknown("HTTP 500 Internal Server Error", None)),
        ("/bad", unusable("HTTP 400 Bad Request")),
        ("/gone", unusable("HTTP 410 Gone")),
        ("/nowhere", unusable("HTTP 404 Not Found")),
        ("/get-only", unusable("HTTP 405 Method Not Allowed")),
        ("/moved", unusable("HTTP 307 Temporary Redirect")),
        ("/elsewhere", unusable("HTTP 308 Permanent Redirect")),
    ] {
        assert_eq!(bench.ask(http(address, path)).await, expected, "{path}");
    }
    let stats = bench.delivery.stats();
    assert_eq!(stats.len(), 1);
    assert_eq!((stats[0].done, stats[0].failed), (3, 14), "{stats:?}");
    assert_eq!((stats[0].queued, stats[0].in_flight), (0, 0));
}

#[tokio::test]
async fn no_answer_and_half_an_answer_are_unknown() {
    let mut bench = Bench::new(config());
    let hanging = serve(answers()).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let refusing = {
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        closed.local_addr().expect("an address")
    };
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n";
    for (what, address) in [
        ("nobody listens", refusing),
        ("accepts and says nothing", silent.local_addr().expect("an address")),
        ("closes at once", raw(Vec::new()).await),
        ("garbage", raw(b"\x16\x03\x01 this is not HTTP\r\n\r\n".to_vec()).await),
        ("half a status line", raw(b"HTTP/1.1 2".to_vec()).await),
        ("half a head", raw(head.as_bytes().to_vec()).await),
        ("less body than it said", raw(format!("{head}content-length: 50\r\n\r\nshort").into()).await),
        (
            "a chunked body that breaks off",
            raw(format!("{head}transfer-encoding: chunked\r\n\r\n10\r\nab").into()).await,
        ),
        ("a status that is none", raw(b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n".to_vec()).await),
        (
            "a head without an end",
            raw(format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(2_000_000)).into()).await,
        ),
    ] {
        let outcome = bench.ask(http(address, "/x")).await;
        assert!(is_unknown(&outcome), "{what}: {outcome:?}");
        assert!(!text(&outcome).is_empty() && text(&outcome).len() <= 1_024, "{what}: {outcome:?}");
    }
    let outcome = bench.ask(http(refusing, "/x")).await;
    assert!(text(&outcome).contains("refused"), "the cause is named: {outcome:?}");
    let outcome = bench.ask(http(hanging, "/hang")).await;
    assert!(is_unknown(&outcome), "{outcome:?}");
}

/// A refusal's status stands even if the text that explains it breaks off.
#[tokio::test]
async fn a_refusal_with_a_broken_text_is_a_refusal() {
    let mut bench = Bench::new(config());
    let address = raw(b"HTTP/1.1 409 Conflict\r\ncontent-length: 50\r\n\r\nshort".to_vec()).await;
    let outcome = bench.ask(http(address, "/")).await;
    assert!(matches!(outcome, ResultOutcome::Refused { .. }), "{outcome:?}");
}

#[tokio::test]
async fn the_request_is_as_documented() {
    type Seen = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;
    let seen = Seen::default();
    let router = Router::new().route(
        "/confirm",
        post({
            let seen = Arc::clone(&seen);
            async move |headers: HeaderMap, body: Bytes| {
                seen.lock().expect("seen").push((headers, body));
                ().into_response()
            }
        }),
    );
    let address = serve(router).await;
    let mut bench = Bench::new(unanimity_coordinator::delivery::DeliveryConfig {
        log_id: Some(unanimity_types::LogId(LOG_ID.parse().expect("a uuid"))),
        ..config()
    });
    for payload in [&b"{\"n\":1.50, \"n\":2}"[..], b"", b"\x00\xff\x10", b"1}, {"] {
        let mut call = call(http(address, "/confirm?x=1"), 5);
        call.payload = Bytes::from_static(payload);
        bench.send(call);
        assert_eq!(bench.reply().await.outcome, ResultOutcome::Done);
    }
    let seen = seen.lock().expect("seen");
    let xid = "00000000-0000-0000-0000-000000000006";
    for (headers, _) in seen.iter() {
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["unanimity-xid"], xid);
    }
    let head = format!(
        r#"{{"xid":"{xid}","branch_id":5,"key":"key-5","operation":"confirm","name":"place-order","attempt":2,"epoch":3,"kind":"tcc","log_id":"{LOG_ID}","timeout_ms":600"#
    );
    let bodies: Vec<_> = seen.iter().map(|(_, body)| std::str::from_utf8(body).expect("text")).collect();
    assert_eq!(bodies[0], format!(r#"{head},"payload":{{"n":1.50, "n":2}}}}"#));
    assert_eq!(bodies[1], format!(r#"{head},"payload":null}}"#));
    assert_eq!(bodies[2], format!(r#"{head},"payload_base64":"AP8Q","payload":null}}"#));
    assert_eq!(bodies[3], format!(r#"{head},"payload_base64":"MX0sIHs=","payload":null}}"#));
}
