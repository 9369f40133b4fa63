//! Context out, votes back: over axum, reqwest and tonic.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use http::StatusCode;
use sqlx::Sqlite;
use tower::ServiceBuilder;
use unanimity_proto::v1;
use unanimity_proto::v1::branch_callback_client::BranchCallbackClient;
use unanimity_proto::v1::branch_callback_server::{BranchCallback, BranchCallbackServer};
use unanimity_sdk::{
    AbortCause, ClientLayer, Context, Participant, SendInTransaction, ServerLayer, TransactionError, TryError,
};

use crate::support::databases::fence;
use crate::support::fake::Fake;
use crate::support::stock::{Mood, Reserve, stock, take};

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

#[derive(Clone)]
struct Shop {
    inventory: Participant<Sqlite>,
    http: reqwest::Client,
    next: Option<SocketAddr>,
}

async fn reserve(State(shop): State<Shop>) -> Result<String, TryError> {
    // Two lines of one order: two branches.
    shop.inventory.try_branch::<Reserve>(take(1)).await?;
    shop.inventory.try_labelled::<Reserve>("second", take(2)).await?;
    if let Some(next) = shop.next {
        let answer = shop.http.post(format!("http://{next}/reserve")).send_in_current().await;
        return Ok(format!("{:?}", answer.map(|answer| answer.status().as_u16()).map_err(|_| "failed")));
    }
    Ok("reserved".into())
}

async fn traced(headers: http::HeaderMap, context: Option<Context>) -> String {
    let trace = headers.get("traceparent").and_then(|value| value.to_str().ok()).unwrap_or("none");
    format!("{} {trace}", context.is_some())
}

async fn serve(shop: Shop) -> SocketAddr {
    let app = Router::new()
        .route("/reserve", post(reserve))
        .route("/traced", post(traced))
        .route(
            "/forward",
            post(async |State(shop): State<Shop>| {
                let next = shop.next.unwrap();
                shop.http
                    .post(format!("http://{next}/traced"))
                    .send_in_current()
                    .await
                    .unwrap()
                    .text()
                    .await
                    .unwrap()
            }),
        )
        .route("/slow", post(async || tokio::time::sleep(Duration::from_secs(30)).await))
        .with_state(shop)
        .layer(ServerLayer::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

/// Two services in a row, on one database.
async fn world() -> (Fake, Participant<Sqlite>, Reserve, SocketAddr, SocketAddr, impl Sized) {
    let (fence, guard) = fence::<Sqlite>().await.unwrap();
    let fake = Fake::start().await;
    let hooks = Reserve::default();
    let inventory = Participant::builder("inventory", fence)
        .tcc("reserve", hooks.clone())
        .attach(&fake.client())
        .await
        .unwrap();
    let http = client();
    let last = serve(Shop { inventory: inventory.clone(), http: http.clone(), next: None }).await;
    let first = serve(Shop { inventory: inventory.clone(), http, next: Some(last) }).await;
    (fake, inventory, hooks, first, last, guard)
}

#[tokio::test]
async fn votes_come_back_over_two_hops() {
    let (fake, inventory, _, first, _, _guard) = world().await;
    let http = client();
    fake.client()
        .transaction("order")
        .run(async |tx| {
            let answer = http.post(format!("http://{first}/reserve")).send_in(&tx).await?;
            assert_eq!(answer.text().await?, "Ok(200)");
            // The manager may own branches as well.
            inventory.try_branch::<Reserve>(take(5)).await.unwrap();
            Ok::<_, reqwest::Error>(())
        })
        .await
        .unwrap();
    assert_eq!(stock(inventory.fence().unwrap().pool()).await, (89, 11, 0));
    fake.with(|state| {
        let mut voted = state.commits[0].votes.clone().unwrap().keys;
        let mut registered: Vec<_> = state.registered.keys().map(|(_, key)| key.clone()).collect();
        voted.sort();
        registered.sort();
        assert_eq!(voted.len(), 5);
        assert_eq!(voted, registered);
    });
}

#[tokio::test]
async fn a_refusal_is_an_answer_and_brings_no_vote() {
    let (fake, inventory, hooks, _, last, _guard) = world().await;
    hooks.set(Mood::Refuses);
    let http = client();
    let error = fake
        .client()
        .transaction("order")
        .run(async |tx| {
            let answer = http.post(format!("http://{last}/reserve")).send_in(&tx).await.unwrap();
            assert_eq!(answer.status(), StatusCode::CONFLICT);
            Err::<(), _>(answer.text().await.unwrap())
        })
        .await
        .unwrap_err();
    assert!(matches!(error, TransactionError::User { error, .. } if error == "out of stock"));
    assert_eq!(stock(inventory.fence().unwrap().pool()).await, (100, 0, 0));
}

#[tokio::test]
async fn a_call_without_an_answer_makes_the_commit_an_abort() {
    let (fake, _, _, _, last, _guard) = world().await;
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let http = client();
    let client = fake.client();
    // Refused connection; a caller that stops waiting. Both errors are swallowed by the closure.
    for (url, tolerated) in [
        (format!("http://{dead}/reserve"), false),
        (format!("http://{last}/slow"), false),
        (format!("http://{dead}/reserve"), true),
    ] {
        let before = fake.with(|state| state.commits.len());
        let result = client
            .transaction("order")
            .run(async |tx| {
                if tolerated {
                    tx.tolerate_failed_calls();
                }
                let call = http.post(&url).send_in(&tx);
                let _ = tokio::time::timeout(Duration::from_millis(200), call).await;
                Ok::<_, String>(())
            })
            .await;
        let commits = fake.with(|state| state.commits.len()) - before;
        if tolerated {
            result.unwrap();
            assert_eq!(commits, 1);
        } else {
            let error = result.unwrap_err();
            assert!(error.is_retryable());
            let said =
                matches!(&error, TransactionError::Aborted { reason: AbortCause::CallWithoutAnswer(_), .. });
            assert!(said, "{error}");
            assert_eq!(commits, 0);
        }
    }
    assert_eq!(fake.with(|state| state.aborts.len()), 2);
}

#[tokio::test]
async fn a_call_that_failed_at_a_hop_in_the_middle_reaches_the_manager() {
    let (fake, inventory, _, _, _, _guard) = world().await;
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let http = client();
    let hop = serve(Shop { inventory, http: http.clone(), next: Some(dead) }).await;
    let error = fake
        .client()
        .transaction("order")
        .run(async |tx| {
            let answer = http.post(format!("http://{hop}/reserve")).send_in(&tx).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "the hop swallows the error");
            Ok::<_, String>(())
        })
        .await
        .unwrap_err();
    assert!(
        matches!(error, TransactionError::Aborted { reason: AbortCause::CallWithoutAnswer(_), .. }),
        "{error}"
    );
}

#[tokio::test]
async fn hostile_headers_are_refused() {
    let (fake, inventory, hooks, _, last, _guard) = world().await;
    let http = client();
    let xid = "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f";
    let hostile: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"x".to_vec(),
        "x".repeat(5_000).into_bytes(),
        format!("{xid};timeout=999999999999999999999").into_bytes(),
        format!("{xid};call='; drop table stock; --").into_bytes(),
        [xid.as_bytes(), &[0xff, 0xfe]].concat(),
        format!("{xid}{}", ";a=1".repeat(100)).into_bytes(),
    ];
    for value in hostile {
        let request = http.post(format!("http://{last}/reserve"));
        let answer = request.header("unanimity-xid", value.as_slice()).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{value:?}");
    }
    let twice =
        http.post(format!("http://{last}/reserve")).header("unanimity-xid", xid).header("unanimity-xid", xid);
    assert_eq!(twice.send().await.unwrap().status(), StatusCode::BAD_REQUEST);
    // Without a context: the handler says what is missing. With one whose time is over: no try.
    let plain = http.post(format!("http://{last}/reserve")).send().await.unwrap();
    assert_eq!(plain.status(), StatusCode::BAD_REQUEST);
    let late =
        http.post(format!("http://{last}/reserve")).header("unanimity-xid", format!("{xid};timeout=0"));
    assert_eq!(late.send().await.unwrap().status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(hooks.counts(), (0, 0, 0));
    assert!(fake.with(|state| state.registered.is_empty()));
    assert_eq!(stock(inventory.fence().unwrap().pool()).await, (100, 0, 0));
}

#[tokio::test]
async fn a_repeated_request_makes_no_second_branch() {
    let (fake, inventory, hooks, _, last, _guard) = world().await;
    let http = client();
    let header = "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f;call=c9;timeout=9000;ticket=later";
    let mut votes = Vec::new();
    for _ in 0..3 {
        let answer =
            http.post(format!("http://{last}/reserve")).header("unanimity-xid", header).send().await.unwrap();
        votes.push(answer.headers()["unanimity-votes"].clone());
    }
    assert!(votes.iter().all(|vote| *vote == votes[0]), "{votes:?}");
    assert_eq!(hooks.counts(), (2, 0, 0));
    assert_eq!(fake.with(|state| state.registered.len()), 2);
    assert_eq!(stock(inventory.fence().unwrap().pool()).await, (97, 3, 0));
}

#[tokio::test]
async fn traceparent_is_passed_on() {
    let (_, _, _, first, _, _guard) = world().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = client().post(format!("http://{first}/forward")).header("traceparent", trace);
    let header = "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f";
    let answer = request.header("unanimity-xid", header).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), format!("true {trace}"));
}

/// A gRPC service of the application's; any will do.
struct Echo;

#[tonic::async_trait]
impl BranchCallback for Echo {
    async fn execute(
        &self,
        request: tonic::Request<v1::BranchOperation>,
    ) -> Result<tonic::Response<v1::BranchResult>, tonic::Status> {
        match (Context::current(), request.get_ref().call_id) {
            (None, _) => Err(tonic::Status::invalid_argument("no context")),
            (Some(_), 0) => Err(tonic::Status::failed_precondition("no")),
            (Some(_), 1) => Err(tonic::Status::unavailable("try later")),
            (Some(context), _) => {
                let error = context.xid().to_string();
                Ok(tonic::Response::new(v1::BranchResult { error, ..Default::default() }))
            }
        }
    }
}

#[tokio::test]
async fn tonic_carries_the_context_both_ways() {
    let fake = Fake::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder()
        .layer(ServerLayer::new())
        .add_service(BranchCallbackServer::new(Echo))
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
    tokio::spawn(server);
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = ServiceBuilder::new().layer(ClientLayer::new()).service(endpoint.connect_lazy());
    let echo = BranchCallbackClient::new(channel);
    let call = async |call_id| {
        let request = v1::BranchOperation { call_id, ..Default::default() };
        echo.clone().execute(request).await.map(|answer| answer.into_inner().error)
    };
    assert_eq!(call(2).await.unwrap_err().message(), "no context");
    let client = fake.client();
    let xid = client.transaction("x").run(async |_| call(2).await).await.unwrap();
    assert!(fake.with(|state| state.commits[0].xid == xid));
    // An answer of the service, whatever it says, is an answer: its votes came with it.
    for call_id in [0, 1] {
        let run = client.transaction("x").run(async |_| {
            assert!(call(call_id).await.is_err());
            Ok::<_, String>(())
        });
        run.await.unwrap();
    }
    // A gRPC request with a broken context is refused in gRPC's own way.
    let mut request = tonic::Request::new(v1::BranchOperation::default());
    request.metadata_mut().insert("unanimity-xid", "nonsense".parse().unwrap());
    let status = echo.clone().execute(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().contains("xid"), "{status}");
}
