//! A node on the memory log, clients for it, and a participant that is called by HTTP.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use http::StatusCode;
use serde_json::{Value, json};
use tonic::transport::Channel;
use unanimity_coordinator::Node;
use unanimity_coordinator::config::Config;
use unanimity_coordinator::delivery::AllowList;
use unanimity_proto::v1::coordinator_client::CoordinatorClient;

pub(crate) const ANY_PORT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
pub(crate) const READY_MAX: Duration = Duration::from_secs(10);
/// The default `timeouts.shutdown_ms`, the engine's last block and the log's closing, with room.
const STOP_MAX: Duration = Duration::from_secs(45);

/// A node and an HTTP client for it.
pub(crate) struct Fixture {
    pub(crate) node: Node,
    pub(crate) http: reqwest::Client,
}

pub(crate) fn http_client() -> reqwest::Client {
    // The second one is told that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(Duration::from_secs(30)).build().expect("a client")
}

/// Stops a node; one that hangs fails the test.
pub(crate) async fn stop(node: Node) {
    tokio::time::timeout(STOP_MAX, node.shutdown()).await.expect("it stops in time");
}

impl Fixture {
    pub(crate) async fn start() -> Self {
        Self::with(Config::default()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let node = Node::builder()
            .memory_with_partitions(2)
            .listen(ANY_PORT)
            .allow_callbacks(AllowList::loopback())
            .config(config)
            .start()
            .await
            .expect("started");
        node.ready(READY_MAX).await.expect("ready");
        Self { node, http: http_client() }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.node.url().expect("it listens"))
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.http.post(self.url(path)).json(body).send().await.expect("an answer")).await
    }

    /// A body as it is, however broken.
    pub(crate) async fn post_raw(
        &self,
        path: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let request = self.http.post(self.url(path)).header("content-type", content_type).body(body);
        Answer::of(request.send().await.expect("an answer")).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.http.get(self.url(path)).send().await.expect("an answer")).await
    }

    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(self.url("")).expect("a URL").connect().await.expect("connected")
    }

    pub(crate) async fn grpc(&self) -> CoordinatorClient<Channel> {
        CoordinatorClient::new(self.channel().await)
    }

    /// Begins a TCC transaction.
    pub(crate) async fn begin(&self) -> String {
        let begun = self.post("/v1/transactions", &json!({ "mode": "tcc", "name": "test" })).await;
        assert_eq!(begun.status, 201, "{begun:?}");
        begun.text("xid")
    }

    /// Registers a branch at a participant called by HTTP.
    pub(crate) async fn branch(&self, xid: &str, key: &str, participant: &Callback) -> Answer {
        let body = json!({
            "key": key,
            "confirm": { "url": participant.url("confirm") },
            "cancel": { "url": participant.url("cancel") },
            "payload": { "amount": 7 },
        });
        self.post(&format!("/v1/transactions/{xid}/branches"), &body).await
    }
}

/// An HTTP answer, read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
    pub(crate) raw: String,
}

impl Answer {
    async fn of(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let raw = response.text().await.expect("a body");
        let body = serde_json::from_str(&raw).unwrap_or_default();
        Self { status, headers, body, raw }
    }

    pub(crate) fn text(&self, key: &str) -> String {
        self.body[key].as_str().unwrap_or_else(|| panic!("no {key} in {self:?}")).to_owned()
    }

    /// The stable code, with everything else that a problem document owes.
    pub(crate) fn code(&self) -> String {
        let content_type = self.headers.get("content-type").and_then(|value| value.to_str().ok());
        assert_eq!(content_type, Some("application/problem+json"), "{self:?}");
        let code = self.text("code");
        assert_eq!(self.body["status"], self.status, "{self:?}");
        assert_eq!(self.text("type"), format!("/docs/errors/{code}.md"));
        assert!(!self.text("title").is_empty() && !self.text("detail").is_empty(), "{self:?}");
        code
    }
}

/// A participant that is called by HTTP and remembers what it was asked.
#[derive(Debug, Clone)]
pub(crate) struct Callback {
    address: SocketAddr,
    calls: Arc<Mutex<Vec<Value>>>,
    answer: Arc<Mutex<StatusCode>>,
    body: Arc<Mutex<String>>,
}

impl Callback {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind(ANY_PORT).await.expect("a port");
        let callback = Self {
            address: listener.local_addr().expect("an address"),
            calls: Arc::default(),
            answer: Arc::new(Mutex::new(StatusCode::OK)),
            body: Arc::default(),
        };
        let routes = Router::new().route("/{operation}", post(answer)).with_state(callback.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        callback
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    pub(crate) fn answer_with(&self, status: StatusCode) {
        *self.answer.lock().expect("unpoisoned") = status;
    }

    /// What it says in the body of every answer.
    pub(crate) fn say(&self, text: &str) {
        text.clone_into(&mut self.body.lock().expect("unpoisoned"));
    }

    pub(crate) fn calls(&self) -> Vec<Value> {
        self.calls.lock().expect("unpoisoned").clone()
    }
}

async fn answer(State(callback): State<Callback>, body: axum::Json<Value>) -> (StatusCode, String) {
    callback.calls.lock().expect("unpoisoned").push(body.0);
    (*callback.answer.lock().expect("unpoisoned"), callback.body.lock().expect("unpoisoned").clone())
}

/// The code in a gRPC status' details.
pub(crate) fn grpc_code(status: &tonic::Status) -> String {
    unanimity_proto::error_from_status(status).unwrap_or_else(|| panic!("no detail in {status:?}")).code
}
