//! Nodes that believe what is not true of their cluster: calls come to an end all the same, and cost no more than a
//! call.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use unanimity_coordinator::api::{self, Parts};
use unanimity_coordinator::cluster::{MemberHome, Router, View};
use unanimity_coordinator::config::Config;
use unanimity_coordinator::delivery::{AllowList, Delivery, DeliveryConfig, ParticipantsService};
use unanimity_coordinator::engine::{Assignments, Dispatcher, Engine, EngineConfig};
use unanimity_coordinator::log::{ClusterView, MemoryLog, NodeRow, PartitionRow, TransactionLog};
use unanimity_coordinator::server::{self, Stop};
use unanimity_coordinator::telemetry::Metrics;
use unanimity_proto::v1;
use unanimity_proto::v1::coordinator_client::CoordinatorClient;
use unanimity_types::PartitionId;
use uuid::Uuid;

use crate::served::{ANY_PORT, Answer, http_client};

/// A node that owns nothing, and is told by the test who does.
struct Lost {
    name: String,
    url: String,
    view: watch::Sender<Arc<View>>,
    _engine: Engine,
}

impl Lost {
    async fn start(name: &str, in_flight_max: usize) -> Self {
        let log: Arc<dyn TransactionLog> = Arc::new(MemoryLog::new(1));
        let mut config = Config::default();
        config.limits.in_flight_max = in_flight_max;
        let delivery = Delivery::new(DeliveryConfig::default());
        let dispatcher: Arc<dyn Dispatcher> = Arc::clone(&delivery) as Arc<dyn Dispatcher>;
        let engine_config = EngineConfig { node: name.to_owned(), ..EngineConfig::default() };
        let assignments = Assignments::none(1);
        let engine = Engine::start_assigned(engine_config, log, &dispatcher, assignments.listen());
        let view = watch::Sender::new(Arc::new(View::new(name, ClusterView::default())));
        let router = Arc::new(Router::new(engine.coordinator(), view.subscribe(), Arc::default()));
        let home = MemberHome { coordinator: engine.coordinator(), router: Arc::clone(&router) };
        let closing = CancellationToken::new();
        let assembled = api::assemble(Parts {
            participants: ParticipantsService::new(home, delivery),
            router: Some(router),
            coordinator: engine.coordinator(),
            allow: AllowList::none(),
            config: Arc::new(config.clone()),
            metrics: Arc::new(Metrics::default()),
            warnings: watch::channel(Vec::new()).1,
            closing: closing.clone(),
        });
        let listener = tokio::net::TcpListener::bind(ANY_PORT).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = Stop {
            signal: closing.cancelled_owned(),
            idle: assembled.calls.idle(),
            limit: Duration::from_secs(1),
        };
        tokio::spawn(async move {
            let _assignments = assignments;
            server::serve(listener, assembled.routes, &config.limits, stop).await;
        });
        Self { name: name.to_owned(), url, view, _engine: engine }
    }

    /// It believes that the partition is another node's.
    fn believes_in(&self, other: &Self) {
        let row = |node: &Self| NodeRow {
            node: node.name.clone(),
            address: node.url.clone(),
            version: String::new(),
            formats: 1,
            servers: None,
            draining: false,
            leaving: false,
            alive: true,
            silent_for: Duration::ZERO,
            remaining: Duration::from_secs(60),
        };
        let partition = PartitionRow {
            partition: PartitionId(0),
            owner: Some(other.name.clone()),
            address: Some(other.url.clone()),
            remaining: Duration::from_secs(60),
            server: "home".to_owned(),
        };
        let cluster =
            ClusterView { nodes: vec![row(self), row(other)], partitions: vec![partition], format: 1 };
        self.view.send_replace(Arc::new(View::new(&self.name, cluster)));
    }
}

fn begin() -> v1::BeginRequest {
    v1::BeginRequest { mode: v1::Mode::Tcc.into(), xid: Uuid::now_v7().to_string(), ..Default::default() }
}

/// M10: what was true a lease ago leads nobody to an owner that may be long dead.
#[tokio::test(flavor = "multi_thread")]
async fn m10_a_node_that_does_not_see_its_cluster_refuses_at_once_and_names_nobody() {
    let (a, b) = (Lost::start("a", 100).await, Lost::start("b", 100).await);
    a.believes_in(&b);
    a.view.send_modify(|view| {
        *view = Arc::new(View { stale: Some("the database is away".to_owned()), ..View::clone(view) });
    });
    let mut client = CoordinatorClient::connect(a.url.clone()).await.unwrap();
    let mut patient = tonic::Request::new(begin());
    patient.set_timeout(Duration::from_secs(600));
    let refused = client.begin(patient).await.unwrap_err();
    let detail = unanimity_proto::error_from_status(&refused).unwrap();
    assert_eq!((detail.code.as_str(), detail.owner_address.as_str()), ("unavailable", ""), "{detail:?}");
    assert!(detail.retry_after_ms > 0 && refused.message().contains("the database is away"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn m10_two_nodes_that_believe_in_each_other_pass_a_call_on_twice() {
    let (a, b) = (Lost::start("a", 100).await, Lost::start("b", 100).await);
    a.believes_in(&b);
    b.believes_in(&a);
    let mut client = CoordinatorClient::connect(a.url.clone()).await.unwrap();
    // The third node on its way refuses, and says where the owner should be.
    let mut passed = tonic::Request::new(begin());
    passed.metadata_mut().insert("unanimity-hops", "2".parse().unwrap());
    let detail = unanimity_proto::error_from_status(&client.begin(passed).await.unwrap_err()).unwrap();
    assert_eq!((detail.code.as_str(), detail.owner_address.as_str()), ("unavailable", b.url.as_str()));
    // The second one as well, after the third did; it says that it did not take the call.
    let mut passed = tonic::Request::new(begin());
    passed.metadata_mut().insert("unanimity-hops", "1".parse().unwrap());
    let detail = unanimity_proto::error_from_status(&client.begin(passed).await.unwrap_err()).unwrap();
    assert_eq!((detail.code.as_str(), detail.owner_address.as_str()), ("not_owner", b.url.as_str()));
    // Where it came in it waits for the truth, until its deadline.
    let mut waits = tonic::Request::new(begin());
    waits.set_timeout(Duration::from_secs(2));
    let status = client.begin(waits).await.unwrap_err();
    let detail = unanimity_proto::error_from_status(&status).unwrap();
    assert_eq!((detail.code.as_str(), detail.owner_address.as_str()), ("unavailable", b.url.as_str()));
    let http = http_client();
    let call = http.post(format!("{}/v1/transactions", b.url)).header("grpc-timeout", "2000m");
    let answer = Answer::of(call.json(&json!({ "mode": "tcc" })).send().await.unwrap()).await;
    assert_eq!((answer.status, answer.text("code")), (503, "unavailable"), "{answer:?}");
    assert_eq!(answer.text("owner"), a.url);
    // That waiting asked now and then, behind a gate.
    let metrics = http.get(format!("{}/metrics", b.url)).send().await.unwrap().text().await.unwrap();
    let count = |line: &&str| line.contains("Begin") && line.contains("_count");
    let asked: f64 =
        metrics.lines().filter(count).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    assert!(asked > 0.0 && asked < 60.0, "{asked} calls\n{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_for_an_owner_count_among_those_in_hand() {
    const IN_FLIGHT_MAX: usize = 8;
    let a = Lost::start("a", IN_FLIGHT_MAX).await;
    let client = CoordinatorClient::connect(a.url.clone()).await.unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..IN_FLIGHT_MAX {
        let mut client = client.clone();
        waiting.spawn(async move {
            let mut request = tonic::Request::new(begin());
            request.set_timeout(Duration::from_secs(5));
            client.begin(request).await.unwrap_err()
        });
    }
    let http = http_client();
    let codes = async {
        loop {
            let look = http.get(format!("{}/v1/transactions/{}", a.url, Uuid::now_v7()));
            let look = look.header("grpc-timeout", "20m").send().await.unwrap();
            if Answer::of(look).await.body["code"] == "too_busy" {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(4), codes).await.unwrap();
    let health = http.get(format!("{}/healthz", a.url)).send().await.unwrap();
    assert_eq!(health.status(), 200);
    while let Some(status) = waiting.join_next().await {
        let detail = unanimity_proto::error_from_status(&status.unwrap()).unwrap();
        assert_eq!(detail.code, "unavailable");
    }
}
