//! Whole nodes over one log, with their interfaces, and participants that are called by HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router as Routes;
use axum::routing::post;
use serde_json::{Value, json};
use tonic::transport::Channel;
use unanimity_coordinator::Node;
use unanimity_coordinator::config::Config;
use unanimity_coordinator::delivery::AllowList;
use unanimity_coordinator::log::{MemoryLog, TransactionLog};
use unanimity_proto::v1::coordinator_client::CoordinatorClient;
use unanimity_types::{PartitionId, Xid, partition_of};
use uuid::Uuid;

use crate::nodes::{PARTITIONS, until};

pub const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Nodes that serve, and a client for them.
pub struct Served {
    pub log: Arc<dyn TransactionLog>,
    pub nodes: Vec<Node>,
    pub http: reqwest::Client,
    /// Where a participant listens that does whatever is asked of it.
    pub participant: SocketAddr,
}

pub fn http_client() -> reqwest::Client {
    // The second one is told that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap()
}

pub async fn participant() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind(ANY_PORT).await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Routes::new().route("/{operation}", post(async || "{}"));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    address
}

pub async fn start(log: &Arc<dyn TransactionLog>, name: &str) -> Node {
    start_at(log, name, ANY_PORT).await
}

pub async fn start_at(log: &Arc<dyn TransactionLog>, name: &str, address: SocketAddr) -> Node {
    let config = Config { node: Some(name.to_owned()), ..Config::default() };
    let node = Node::builder()
        .log(Arc::clone(log))
        .listen(address)
        .allow_callbacks(AllowList::loopback())
        .config(config)
        .start();
    node.await.unwrap()
}

impl Served {
    /// So many nodes, with the partitions spread over them.
    pub async fn start(names: &[&str]) -> Self {
        let log: Arc<dyn TransactionLog> = Arc::new(MemoryLog::new(PARTITIONS));
        let mut nodes = Vec::new();
        for name in names {
            nodes.push(start(&log, name).await);
        }
        let served = Self { log, nodes, http: http_client(), participant: participant().await };
        served.balanced().await;
        served
    }

    /// Waits until every partition works at one node, and every node has its share.
    pub async fn balanced(&self) {
        let share = usize::from(PARTITIONS) / self.nodes.len();
        until("balance", || {
            let counts: Vec<usize> = self.nodes.iter().map(|node| partitions_of(node).len()).collect();
            counts.iter().sum::<usize>() == usize::from(PARTITIONS)
                && counts.iter().all(|count| *count >= share)
        })
        .await;
    }

    pub fn url(&self, node: usize, path: &str) -> String {
        format!("{}{path}", self.nodes[node].url().unwrap())
    }

    pub async fn grpc(&self, node: usize) -> CoordinatorClient<Channel> {
        CoordinatorClient::connect(self.url(node, "")).await.unwrap()
    }

    pub async fn post(&self, node: usize, path: &str, body: &Value) -> Answer {
        Answer::of(self.http.post(self.url(node, path)).json(body).send().await.unwrap()).await
    }

    pub async fn get(&self, node: usize, path: &str) -> Answer {
        Answer::of(self.http.get(self.url(node, path)).send().await.unwrap()).await
    }

    /// Which node has an xid's partition.
    pub fn owner_of(&self, xid: Xid) -> usize {
        let partition = partition_of(xid, PARTITIONS);
        self.nodes.iter().position(|node| node.coordinator().is_here(partition)).unwrap()
    }

    /// A fresh xid of one of a node's partitions.
    pub fn xid_at(&self, node: usize) -> Xid {
        xid_of(&partitions_of(&self.nodes[node]))
    }

    /// A branch at the participant.
    pub fn branch(&self, key: &str) -> Value {
        let url = |operation| json!({ "url": format!("http://{}/{operation}", self.participant) });
        json!({ "key": key, "confirm": url("confirm"), "cancel": url("cancel"), "payload": { "n": 7 } })
    }

    /// Begins a TCC transaction by a call at a node.
    pub async fn begin(&self, node: usize, xid: Xid) {
        let body = json!({ "mode": "tcc", "xid": xid.to_string(), "timeout_ms": 300_000 });
        let begun = self.post(node, "/v1/transactions", &body).await;
        assert_eq!(begun.status, 201, "{begun:?}");
    }

    pub async fn stop(self) {
        for node in self.nodes {
            node.shutdown().await;
        }
    }
}

/// A fresh xid of one of these partitions.
pub fn xid_of(partitions: &[PartitionId]) -> Xid {
    let xids = std::iter::repeat_with(|| Xid::new(Uuid::now_v7()));
    xids.take(100_000).find(|xid| partitions.contains(&partition_of(*xid, PARTITIONS))).unwrap()
}

/// The partitions that work at a node.
pub fn partitions_of(node: &Node) -> Vec<PartitionId> {
    let coordinator = node.coordinator();
    (0..PARTITIONS).map(PartitionId).filter(|id| coordinator.is_here(*id)).collect()
}

/// An HTTP answer, read.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub owner: Option<String>,
    pub body: Value,
}

impl Answer {
    pub async fn of(response: reqwest::Response) -> Self {
        let owner = response.headers().get("unanimity-owner").map(|owner| owner.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        Self { status, owner, body: serde_json::from_str(&text).unwrap_or_default() }
    }

    pub fn text(&self, key: &str) -> &str {
        self.body[key].as_str().unwrap_or_else(|| panic!("no {key} in {self:?}"))
    }
}
