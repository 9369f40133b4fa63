//! What the modes beyond TCC bring over HTTP and gRPC callbacks: inputs and results, votes, timeouts of
//! one call, and that one call is one request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::{Request, Response, Status};
use unanimity_coordinator::engine::BranchCall;
use unanimity_core::ResultOutcome;
use unanimity_proto::v1;
use unanimity_proto::v1::branch_callback_server::{BranchCallback, BranchCallbackServer};
use unanimity_types::{BranchKey, BranchKind, Limits, Operation, Target, Vote};

use crate::support::{Bench, PATIENCE, call, config, is_unknown, text};

fn key(text: &str) -> BranchKey {
    BranchKey::new(text).expect("a key")
}

fn step(target: Target, operation: Operation) -> BranchCall {
    BranchCall { operation, kind: BranchKind::Step, ..call(target, 1) }
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn http(address: SocketAddr, path: &str) -> Target {
    Target::Http(format!("http://{address}{path}").into())
}

#[tokio::test]
async fn c6_a_step_is_given_the_results_before_it_and_its_own_to_undo() {
    type Seen = Arc<Mutex<Vec<Value>>>;
    let seen = Seen::default();
    let remember = {
        let seen = Arc::clone(&seen);
        async move |axum::Json(body): axum::Json<Value>| {
            seen.lock().expect("seen").push(body);
            StatusCode::OK
        }
    };
    let address = serve(Router::new().route("/", post(remember))).await;
    let mut bench = Bench::new(config());
    let inputs = vec![
        (key("flight"), Bytes::from_static(b"{\"seat\":1.50}")),
        (key("hotel"), Bytes::from_static(b"\xff\x00")),
        (key("car"), Bytes::new()),
    ];
    let action = BranchCall { inputs: inputs.clone(), ..step(http(address, "/"), Operation::Action) };
    assert_eq!(bench.ask_for(action.clone()).await, ResultOutcome::Done);
    for result in [Some(Bytes::from_static(b"7")), Some(Bytes::from_static(b"seven")), None] {
        let compensate = BranchCall { operation: Operation::Compensate, result, ..action.clone() };
        assert_eq!(bench.ask_for(compensate).await, ResultOutcome::Done);
    }
    assert_eq!(bench.ask_for(step(http(address, "/"), Operation::Action)).await, ResultOutcome::Done);
    let seen = seen.lock().expect("seen");
    for body in &seen[..4] {
        assert_eq!(body["inputs"], json!({ "flight": { "seat": 1.50 }, "hotel": null, "car": null }));
        assert_eq!(body["inputs_base64"], json!({ "hotel": "/wA=" }));
        assert_eq!((&body["kind"], &body["attempt"]), (&json!("step"), &json!(2)));
    }
    let own: Vec<_> = seen.iter().map(|body| (body.get("result"), body.get("result_base64"))).collect();
    let (null, text) = (json!(null), json!("c2V2ZW4="));
    assert_eq!(
        own,
        [
            (None, None),
            (Some(&json!(7)), None),
            (Some(&null), Some(&text)),
            (Some(&null), None),
            (None, None)
        ]
    );
    assert_eq!((&seen[4]["inputs"], seen[4].get("inputs_base64")), (&json!({}), None));
}

#[tokio::test]
async fn the_body_of_an_actions_answer_is_its_result() {
    let max = Limits::RESULT_BYTES_MAX;
    let router = Router::new()
        .route("/json", post(|| async { "{\"room\": 7}" }))
        .route("/empty", post(|| async { StatusCode::NO_CONTENT }))
        .route("/full", post(move || async move { "x".repeat(max) }))
        .route("/over", post(move || async move { "x".repeat(max + 1) }))
        .route("/far-over", post(|| async { "x".repeat(5_000_000) }))
        .route("/refused", post(|| async { (StatusCode::CONFLICT, "sold out") }));
    let address = serve(router).await;
    let mut bench = Bench::new(config());
    let bytes = |size: usize| ResultOutcome::Result("x".repeat(size).into());
    for (path, expected) in [
        ("/json", ResultOutcome::Result(Bytes::from_static(b"{\"room\": 7}"))),
        ("/empty", ResultOutcome::Done),
        ("/full", bytes(max)),
        // So much that the core sees that it is too large, and no more.
        ("/over", bytes(max + 1)),
        ("/far-over", bytes(max + 1)),
        ("/refused", ResultOutcome::Refused { error: "sold out".into() }),
    ] {
        let outcome = bench.ask_for(step(http(address, path), Operation::Action)).await;
        assert!(outcome == expected, "{path}: {:.200}", format!("{outcome:?}"));
    }
    // Nobody asked any other operation for a result.
    let outcome = bench.ask_for(step(http(address, "/json"), Operation::Compensate)).await;
    assert_eq!(outcome, ResultOutcome::Done);
}

#[tokio::test]
async fn m11_a_prepare_is_answered_with_a_vote() {
    let router = Router::new()
        .route("/plain", post(|| async { "OK" }))
        .route("/read-only", post(|| async { "{\"vote\": \"read_only\"}" }))
        .route("/odd", post(|| async { "{\"vote\": \"perhaps\"}" }))
        .route("/no", post(|| async { "{\"vote\": \"refused\"}" }))
        .route("/conflict", post(|| async { StatusCode::CONFLICT }));
    let address = serve(router).await;
    let mut bench = Bench::new(config());
    for (path, expected) in [
        ("/plain", Some(Vote::Prepared)),
        ("/read-only", Some(Vote::ReadOnly)),
        ("/no", Some(Vote::Refused)),
        ("/conflict", Some(Vote::Refused)),
        ("/odd", None),
    ] {
        let prepare = BranchCall {
            operation: Operation::Prepare,
            kind: BranchKind::TwoPhase,
            ..call(http(address, path), 1)
        };
        let outcome = bench.ask_for(prepare).await;
        let vote = match &outcome {
            ResultOutcome::Voted(vote) => Some(*vote),
            ResultOutcome::Refused { .. } => Some(Vote::Refused),
            other => {
                assert!(is_unknown(other), "{other:?}");
                None
            }
        };
        assert_eq!(vote, expected, "{path}: {outcome:?}");
    }
}

/// The policy's timeout counts, whether it is shorter or longer than the node's own.
#[tokio::test]
async fn a_call_may_have_a_timeout_of_its_own() {
    let slow = || async {
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        "late"
    };
    let address = serve(Router::new().route("/", post(slow))).await;
    let mut bench = Bench::new(config());
    let action = step(http(address, "/"), Operation::Action);
    let outcome = bench.ask_for(action.clone()).await;
    assert!(is_unknown(&outcome), "the node's own 600 ms: {outcome:?}");
    let patient = BranchCall { timeout: Some(PATIENCE), ..action.clone() };
    assert_eq!(bench.ask_for(patient).await, ResultOutcome::Result(Bytes::from_static(b"late")));
    let hasty = BranchCall { timeout: Some(Duration::from_millis(50)), ..action };
    let started = Instant::now();
    let outcome = bench.ask_for(hasty).await;
    assert!(is_unknown(&outcome) && started.elapsed() < Duration::from_millis(600), "{outcome:?}");
}

/// A server that counts requests: the first on each connection is answered and the connection kept, the
/// second is read whole, and then the connection is closed.
async fn closes_on_the_second(requests: Arc<Mutex<usize>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let requests = Arc::clone(&requests);
            tokio::spawn(async move {
                for turn in 0..2 {
                    if !request(&mut stream).await {
                        return;
                    }
                    *requests.lock().expect("count") += 1;
                    if turn == 0 {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                    }
                }
            });
        }
    });
    address
}

/// Reads one HTTP/1.1 request to its end.
async fn request(stream: &mut TcpStream) -> bool {
    let mut text = Vec::new();
    loop {
        let mut part = [0; 4_096];
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => return false,
            Ok(count) => text.extend_from_slice(&part[..count]),
        }
        let read = String::from_utf8_lossy(&text).to_lowercase();
        let Some((head, body)) = read.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.expect("a length") {
            return true;
        }
    }
}

/// "Refused" as the answer to the first attempt means "did nothing" (protocol H2). That holds only if
/// no layer below sends an attempt again by itself, as HTTP clients like to do on a kept connection
/// that closes.
#[tokio::test]
async fn h2_an_attempt_is_sent_once_also_on_a_kept_connection_that_closes() {
    let requests = Arc::default();
    let address = closes_on_the_second(Arc::clone(&requests)).await;
    let mut bench = Bench::new(config());
    let mut unknown = 0;
    for sent in 1..=20 {
        let outcome = bench.ask_for(step(http(address, "/"), Operation::Action)).await;
        assert_eq!(*requests.lock().expect("count"), sent, "{outcome:?}");
        unknown += usize::from(is_unknown(&outcome));
    }
    assert_eq!(unknown, 10, "every second one met the end of its connection");
}

/// Speaks just enough HTTP/2 to read a request's head, and closes. Counts the heads.
async fn closes_after_headers(heads: Arc<Mutex<usize>>, go_away: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let heads = Arc::clone(&heads);
            tokio::spawn(async move {
                let mut preface = [0; 24];
                stream.read_exact(&mut preface).await?;
                stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
                loop {
                    let mut head = [0; 9];
                    stream.read_exact(&mut head).await?;
                    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                    let mut body = vec![0; usize::try_from(length).expect("fits")];
                    stream.read_exact(&mut body).await?;
                    if head[3] == 1 {
                        *heads.lock().expect("count") += 1;
                        if go_away {
                            // "I did not look at any stream": an invitation to send it again.
                            stream.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await?;
                        }
                        return std::io::Result::Ok(());
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn h2_a_grpc_attempt_is_sent_once() {
    for go_away in [false, true] {
        let heads = Arc::default();
        let address = closes_after_headers(Arc::clone(&heads), go_away).await;
        let mut bench = Bench::new(config());
        for sent in 1..=5 {
            let target = Target::Grpc(format!("http://{address}").into());
            let outcome = bench.ask_for(step(target, Operation::Action)).await;
            assert!(is_unknown(&outcome), "{outcome:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(*heads.lock().expect("count"), sent, "{outcome:?}");
        }
    }
}

#[derive(Clone)]
struct Says(Arc<Mutex<v1::BranchResult>>, Arc<Mutex<Vec<v1::BranchOperation>>>);

#[tonic::async_trait]
impl BranchCallback for Says {
    async fn execute(
        &self,
        request: Request<v1::BranchOperation>,
    ) -> Result<Response<v1::BranchResult>, Status> {
        self.1.lock().expect("seen").push(request.into_inner());
        Ok(Response::new(self.0.lock().expect("said").clone()))
    }
}

#[tokio::test]
async fn grpc_callbacks_bring_inputs_results_and_votes() {
    let says = Says(Arc::default(), Arc::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let target = Target::Grpc(format!("http://{}", listener.local_addr().expect("an address")).into());
    let service = BranchCallbackServer::new(says.clone());
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)),
    );
    let mut bench = Bench::new(config());
    let say = |result: v1::BranchResult| {
        let done = v1::branch_result::Outcome::Done.into();
        *says.0.lock().expect("said") = v1::BranchResult { outcome: done, ..result };
    };
    say(v1::BranchResult { result: "room 7".into(), ..Default::default() });
    let inputs = vec![(key("flight"), Bytes::from_static(b"LH 7"))];
    let action = BranchCall {
        inputs,
        timeout: Some(Duration::from_secs(9)),
        ..step(target.clone(), Operation::Action)
    };
    assert_eq!(bench.ask_for(action.clone()).await, ResultOutcome::Result("room 7".into()));
    let undo =
        BranchCall { operation: Operation::Compensate, result: Some("room 7".into()), ..action.clone() };
    assert_eq!(bench.ask_for(undo).await, ResultOutcome::Done);
    let max = Limits::RESULT_BYTES_MAX;
    say(v1::BranchResult { result: vec![0; 2 * max].into(), ..Default::default() });
    let outcome = bench.ask_for(action).await;
    assert!(matches!(&outcome, ResultOutcome::Result(bytes) if bytes.len() == max + 1));
    {
        let seen = says.1.lock().expect("seen");
        assert_eq!(seen[0].inputs["flight"], Bytes::from_static(b"LH 7"));
        assert_eq!((seen[0].timeout_ms, seen[0].kind()), (9_000, v1::BranchKind::Step));
        assert_eq!((seen[0].result.len(), &seen[1].result[..]), (0, &b"room 7"[..]));
    }
    for (vote, expected) in [
        (v1::Vote::Unspecified.into(), "Voted(Prepared)"),
        (v1::Vote::Prepared.into(), "Voted(Prepared)"),
        (v1::Vote::ReadOnly.into(), "Voted(ReadOnly)"),
        (v1::Vote::Refused.into(), "Refused { error: \"it voted refused\" }"),
        (77, "Unknown { error: \"vote 77 is unknown here\", retry_after: None }"),
    ] {
        say(v1::BranchResult { vote, ..Default::default() });
        let prepare = BranchCall {
            operation: Operation::Prepare,
            kind: BranchKind::TwoPhase,
            ..call(target.clone(), 1)
        };
        let outcome = bench.ask_for(prepare).await;
        assert_eq!(format!("{outcome:?}"), expected, "{}", text(&outcome));
    }
}
