//! gRPC callbacks.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tonic::{Code, Request, Response, Status};
use unanimity_core::ResultOutcome;
use unanimity_proto::v1;
use unanimity_proto::v1::branch_callback_server::{BranchCallback, BranchCallbackServer};
use unanimity_proto::v1::branch_result::Outcome;
use unanimity_types::Target;

use crate::support::{Bench, LOG_ID, config, is_unknown, text};

type Answer = Arc<dyn Fn() -> Option<Result<v1::BranchResult, Status>> + Send + Sync>;

#[derive(Clone)]
struct Callback {
    answer: Answer,
    seen: Arc<Mutex<Vec<v1::BranchOperation>>>,
}

#[tonic::async_trait]
impl BranchCallback for Callback {
    async fn execute(
        &self,
        request: Request<v1::BranchOperation>,
    ) -> Result<Response<v1::BranchResult>, Status> {
        self.seen.lock().expect("seen").push(request.into_inner());
        match (self.answer)() {
            Some(answer) => answer.map(Response::new),
            None => std::future::pending().await,
        }
    }
}

async fn serve(answer: Answer) -> (SocketAddr, Arc<Mutex<Vec<v1::BranchOperation>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let callback = Callback { answer, seen: Arc::default() };
    let seen = Arc::clone(&callback.seen);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(BranchCallbackServer::new(callback))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)),
    );
    (address, seen)
}

fn grpc(address: SocketAddr) -> Target {
    Target::Grpc(format!("http://{address}").into())
}

fn result(outcome: i32, error: &str) -> Option<Result<v1::BranchResult, Status>> {
    Some(Ok(v1::BranchResult { outcome, error: error.to_owned(), ..Default::default() }))
}

#[tokio::test]
async fn the_answer_is_passed_on() {
    let mut bench = Bench::new(unanimity_coordinator::delivery::DeliveryConfig {
        log_id: Some(unanimity_types::LogId(LOG_ID.parse().expect("a uuid"))),
        ..config()
    });
    for (outcome, error, expected) in [
        (Outcome::Done as i32, "", ResultOutcome::Done),
        (Outcome::Refused as i32, "no\0", ResultOutcome::Refused { error: "no".into() }),
        (Outcome::NotYet as i32, "try runs", ResultOutcome::NotYet { error: "try runs".into() }),
        (Outcome::Unknown as i32, "?", ResultOutcome::Unknown { error: "?".into(), retry_after: None }),
        (
            77,
            "new word",
            ResultOutcome::Unknown {
                error: "outcome 77 is unknown here: new word".into(),
                retry_after: None,
            },
        ),
    ] {
        let (address, seen) = serve(Arc::new(move || result(outcome, error))).await;
        assert_eq!(bench.ask(grpc(address)).await, expected);
        let seen = seen.lock().expect("seen");
        let operation = &seen[0];
        assert_eq!((operation.branch_id, operation.attempt, operation.key.as_str()), (1, 2, "key-1"));
        assert_eq!((operation.log_id.as_str(), operation.transaction_name.as_str()), (LOG_ID, "place-order"));
        assert_eq!(operation.operation, v1::Operation::Confirm as i32);
        assert_eq!(operation.timeout_ms, 600);
        let position = operation.position.expect("a position");
        assert_eq!((position.epoch, position.epoch_tag, position.seq), (3, 7, 9));
    }
}

#[tokio::test]
async fn a_status_is_unknown_or_unusable() {
    let mut bench = Bench::new(config());
    for (code, unusable) in [
        (Code::Unimplemented, true),
        (Code::NotFound, true),
        (Code::InvalidArgument, true),
        (Code::Unavailable, false),
        (Code::Internal, false),
        (Code::Aborted, false),
        (Code::FailedPrecondition, false),
        (Code::AlreadyExists, false),
        (Code::PermissionDenied, false),
        (Code::ResourceExhausted, false),
        (Code::DeadlineExceeded, false),
        (Code::Unknown, false),
    ] {
        let (address, _) = serve(Arc::new(move || Some(Err(Status::new(code, "why"))))).await;
        let outcome = bench.ask(grpc(address)).await;
        assert_eq!(matches!(outcome, ResultOutcome::Unusable { .. }), unusable, "{code:?}: {outcome:?}");
        assert_eq!(is_unknown(&outcome), !unusable, "{code:?}: {outcome:?}");
        assert!(text(&outcome).contains("why"));
    }
}

#[tokio::test]
async fn what_does_not_answer_is_unknown() {
    let mut bench = Bench::new(config());
    let (hanging, _) = serve(Arc::new(|| None)).await;
    assert!(is_unknown(&bench.ask(grpc(hanging)).await));
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    assert!(is_unknown(&bench.ask(grpc(silent.local_addr().expect("an address"))).await));
    let (huge, _) = serve(Arc::new(|| result(1, &"x".repeat(5_000_000)))).await;
    assert!(is_unknown(&bench.ask(grpc(huge)).await));
    // A server of something else.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let other = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, axum::Router::new()).await });
    let outcome = bench.ask(grpc(other)).await;
    assert!(matches!(outcome, ResultOutcome::Unusable { .. }), "{outcome:?}");
    let outcome = bench.ask(Target::Grpc("https://127.0.0.1:1".into())).await;
    assert!(matches!(outcome, ResultOutcome::Unusable { .. }), "{outcome:?}");
}

/// A participant that comes back is reached again, by the same cached connection.
#[tokio::test]
async fn a_participant_that_comes_back_is_reached_again() {
    let mut bench = Bench::new(config());
    let address = {
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        closed.local_addr().expect("an address")
    };
    let outcome = bench.ask(grpc(address)).await;
    assert!(is_unknown(&outcome) && text(&outcome).contains("refused"), "{outcome:?}");
    let listener = TcpListener::bind(address).await.expect("the port again");
    let callback = Callback { answer: Arc::new(|| result(1, "")), seen: Arc::default() };
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(BranchCallbackServer::new(callback))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)),
    );
    assert_eq!(bench.ask(grpc(address)).await, ResultOutcome::Done);
}

/// The cache is bounded: with room for two, three addresses still all work.
#[tokio::test]
async fn more_addresses_than_cached_connections() {
    let mut bench =
        Bench::new(unanimity_coordinator::delivery::DeliveryConfig { grpc_channels_max: 2, ..config() });
    let mut addresses = Vec::new();
    for _ in 0..3 {
        addresses.push(serve(Arc::new(|| result(1, ""))).await.0);
    }
    for round in 0..3 {
        for address in &addresses {
            assert_eq!(bench.ask(grpc(*address)).await, ResultOutcome::Done, "round {round}");
        }
    }
}
