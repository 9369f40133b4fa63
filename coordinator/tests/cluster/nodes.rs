//! Nodes of one cluster in one process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::cluster::{Cluster, ClusterConfig};
use unanimity_coordinator::engine::{Coordinator, Dispatcher, Engine, EngineConfig, Error, PartitionState};
use unanimity_coordinator::log::{MemoryLog, TransactionLog};
use unanimity_types::{ErrorCode, PartitionId, Xid, partition_of};

use crate::support::{self, Participants};

pub const PARTITIONS: u16 = 8;

/// A node: its part in the cluster, its engine, and participants that it shares with the others.
pub struct Node {
    pub cluster: Cluster,
    pub engine: Engine,
    pub coordinator: Coordinator,
}

pub struct World {
    pub memory: MemoryLog,
    pub log: Arc<dyn TransactionLog>,
    pub participants: Arc<Participants>,
}

impl World {
    pub fn new() -> Self {
        let memory = MemoryLog::new(PARTITIONS);
        Self { log: Arc::new(memory.clone()), memory, participants: Arc::default() }
    }

    pub async fn node(&self, name: &str) -> Node {
        self.node_over(name, Arc::clone(&self.log)).await
    }

    pub async fn node_over(&self, name: &str, log: Arc<dyn TransactionLog>) -> Node {
        let config = support::config(name);
        let address = format!("http://{name}");
        let cluster = ClusterConfig::new(name.to_owned(), address.clone(), config.lease);
        let cluster = Cluster::join(cluster, Arc::clone(&log)).await.unwrap();
        let dispatcher: Arc<dyn Dispatcher> = self.participants.clone();
        let config = EngineConfig { address, ..config };
        let engine = Engine::start_assigned(config, log, &dispatcher, cluster.assignments());
        Node { coordinator: engine.coordinator(), cluster, engine }
    }
}

impl Node {
    /// What works here.
    pub fn running(&self) -> Vec<PartitionId> {
        let states = self.coordinator.info().states;
        states
            .iter()
            .filter(|info| info.state == PartitionState::Running)
            .map(|info| info.partition)
            .collect()
    }

    /// As SIGKILL.
    pub fn kill(self) {}

    /// In good order.
    pub async fn stop(self) {
        let limit = Duration::from_secs(20);
        self.cluster.leave(limit).await;
        self.engine.shutdown(limit).await;
        self.cluster.farewell(limit).await;
    }
}

/// Waits until every partition works at exactly one of these nodes, and none of them has more than one more than
/// another.
pub async fn balanced(nodes: &[&Node]) {
    until("balance", || is_balanced(nodes)).await;
}

fn is_balanced(nodes: &[&Node]) -> bool {
    let counts: Vec<usize> = nodes.iter().map(|node| node.running().len()).collect();
    let mut all: Vec<_> = nodes.iter().flat_map(|node| node.running()).collect();
    all.sort_unstable();
    all.dedup();
    let even = counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1;
    even && counts.iter().sum::<usize>() == usize::from(PARTITIONS) && all.len() == usize::from(PARTITIONS)
}

/// Waits for a condition, generously.
pub async fn until(what: &str, mut met: impl FnMut() -> bool) {
    let all_day = tokio::time::timeout(Duration::from_secs(120), async {
        while !met() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(all_day.await.is_ok(), "{what} never came");
}

/// Asks the node at which the xid's partition works, again and again while it moves: what a router does.
pub async fn at_owner<T>(
    nodes: &[&Node],
    xid: Xid,
    mut ask: impl AsyncFnMut(Coordinator) -> Result<T, Error>,
) -> Result<T, Error> {
    let partition = partition_of(xid, PARTITIONS);
    let mut unknown = 0;
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(node) = nodes.iter().find(|node| node.running().contains(&partition)) {
            match ask(node.coordinator.clone()).await {
                Err(error) if matches!(error.code, ErrorCode::NotOwner | ErrorCode::Unavailable) => {}
                // Taken, and its answer went down with the life: commands are repeated as the same (M3).
                Err(error) if error.code == ErrorCode::OutcomeUnknown && unknown < 10 => unknown += 1,
                answer => return answer,
            }
        }
        if tokio::time::Instant::now() > until {
            let states: BTreeMap<_, _> = nodes
                .iter()
                .map(|node| (node.coordinator.info().node, node.coordinator.info().states))
                .collect();
            panic!("nobody answers for {partition}: {states:?}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
