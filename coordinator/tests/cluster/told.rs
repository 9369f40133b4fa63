//! Nodes that tell one another what changed. They look by themselves so seldom that every test would end before.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use unanimity_coordinator::api::{self, Parts};
use unanimity_coordinator::cluster::{Cluster, ClusterConfig, MemberHome, Router};
use unanimity_coordinator::config::Config;
use unanimity_coordinator::delivery::{AllowList, Delivery, DeliveryConfig, ParticipantsService};
use unanimity_coordinator::engine::{Dispatcher, Engine, EngineConfig, Peers};
use unanimity_coordinator::log::{MemoryLog, TransactionLog};
use unanimity_coordinator::server::{self, Stop};
use unanimity_coordinator::telemetry::Metrics;

use crate::nodes::*;
use crate::served::{ANY_PORT, Answer, http_client};

/// A node looks three times in its lease, if nobody tells it to.
const LEASE: Duration = Duration::from_secs(3_600);

struct Told {
    node: Node,
    url: String,
    tasks: [AbortHandle; 2],
}

impl Told {
    async fn start(log: &Arc<dyn TransactionLog>, name: &str) -> Self {
        let listener = tokio::net::TcpListener::bind(ANY_PORT).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let cluster = ClusterConfig::new(name.to_owned(), url.clone(), LEASE);
        let cluster = Cluster::join(cluster, Arc::clone(log)).await.unwrap();
        let delivery = Delivery::new(DeliveryConfig::default());
        let dispatcher: Arc<dyn Dispatcher> = Arc::clone(&delivery) as Arc<dyn Dispatcher>;
        let config = EngineConfig {
            node: name.to_owned(),
            address: url.clone(),
            lease: LEASE,
            format: cluster.format(),
            ..EngineConfig::default()
        };
        let engine = Engine::start_assigned(config, Arc::clone(log), &dispatcher, cluster.assignments());
        let coordinator = engine.coordinator();
        let router = Arc::new(Router::new(coordinator.clone(), cluster.watch(), cluster.tidings()));
        coordinator.join(Arc::clone(&router) as Arc<dyn Peers>);
        let telling = tokio::spawn(Arc::clone(&router).spread_tidings()).abort_handle();
        let home = MemberHome { coordinator: coordinator.clone(), router: Arc::clone(&router) };
        let (config, closing) = (Config::default(), CancellationToken::new());
        let assembled = api::assemble(Parts {
            participants: ParticipantsService::new(home, delivery),
            router: Some(router),
            coordinator: coordinator.clone(),
            allow: AllowList::none(),
            config: Arc::new(config.clone()),
            metrics: Arc::new(Metrics::default()),
            warnings: tokio::sync::watch::channel(Vec::new()).1,
            closing: closing.clone(),
        });
        let stop = Stop {
            signal: closing.cancelled_owned(),
            idle: assembled.calls.idle(),
            limit: Duration::from_secs(1),
        };
        let serving = tokio::spawn(async move {
            server::serve(listener, assembled.routes, &config.limits, stop).await;
        });
        let tasks = [telling, serving.abort_handle()];
        Self { node: Node { cluster, engine, coordinator }, url, tasks }
    }
}

/// F4: who joins, is drained, or stops is heard of at once, and so is each lease that is given away.
#[tokio::test(flavor = "multi_thread")]
async fn f4_what_changes_is_heard_of_at_once() {
    let log: Arc<dyn TransactionLog> = Arc::new(MemoryLog::new(PARTITIONS));
    let a = Told::start(&log, "a").await;
    balanced(&[&a.node]).await;
    let b = Told::start(&log, "b").await;
    balanced(&[&a.node, &b.node]).await;
    let http = http_client();
    let drain = async |path: &str| {
        let body = json!({ "operator": "test", "reason": "f4" });
        let url = format!("{}/v1/cluster/nodes/a/{path}", b.url);
        let answer = Answer::of(http.post(url).json(&body).send().await.unwrap()).await;
        assert!(answer.status < 300, "{answer:?}");
    };
    for _ in 0..3 {
        let started = std::time::Instant::now();
        drain("drain").await;
        until("a is drained", || b.node.running().len() == usize::from(PARTITIONS)).await;
        eprintln!("cluster tests: a drain of {} partitions took {:?}", PARTITIONS / 2, started.elapsed());
        // Calls are led there at once as well.
        let led = || {
            (0..PARTITIONS).all(|n| {
                let partition = unanimity_types::PartitionId(n);
                a.node.cluster.view().owner(partition).is_some_and(|(node, _)| node == "b")
            })
        };
        until("a knows", led).await;
        drain("undrain").await;
        balanced(&[&a.node, &b.node]).await;
    }
    assert!(a.node.cluster.leave(Duration::from_secs(120)).await, "somebody took what it gave");
    until("b has all", || b.node.running().len() == usize::from(PARTITIONS)).await;
    for told in [a, b] {
        told.tasks.iter().for_each(AbortHandle::abort);
    }
}
