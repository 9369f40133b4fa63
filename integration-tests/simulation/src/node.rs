//! A coordinator node: the real engine behind a gate, killed and started again.

use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::cluster::{Cluster, ClusterConfig};
use unanimity_coordinator::engine::{Coordinator, Dispatcher, Engine, EngineConfig};
use unanimity_coordinator::log::TransactionLog;
use unanimity_coordinator::simulation::Gate;

use crate::delivery::Delivery;
use crate::log::NodeLog;
use crate::peers::NodePeers;
use crate::world::{Cell, Host, World};

/// One life of a node's process.
#[derive(Debug)]
struct Process {
    gate: Gate,
    /// Nothing while it starts, and when it stops.
    running: Option<Running>,
    coordinator: Option<Coordinator>,
}

#[derive(Debug)]
struct Running {
    engine: Engine,
    /// Nothing if leases alone decide.
    cluster: Option<Cluster>,
}

/// A node, up or down.
#[derive(Debug)]
pub(crate) struct Node {
    number: usize,
    process: Cell<Option<Process>>,
}

impl Node {
    pub(crate) const fn new(number: usize) -> Self {
        Self { number, process: Cell::new(None) }
    }

    pub(crate) fn gate(&self) -> Option<Gate> {
        self.process.get().as_ref().map(|process| process.gate.clone())
    }

    pub(crate) fn coordinator(&self) -> Option<Coordinator> {
        self.process.get().as_ref().and_then(|process| process.coordinator.clone())
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.get().is_some()
    }

    /// Starts the process, if it is down.
    pub(crate) fn start(&self, world: &Arc<World>) {
        if self.is_up() {
            return;
        }
        world.note(Host::Node(self.number), None, "starts");
        let swarm = &world.swarm;
        let config = EngineConfig {
            node: format!("n{}", self.number),
            address: format!("http://n{}", self.number),
            lease: swarm.lease,
            call_timeout: swarm.call_timeout,
            clean_bytes: swarm.clean_bytes,
            trim_blocks: swarm.trim_blocks,
            project_every: Duration::from_millis(300),
            lock_ask_after: Duration::from_secs(2),
            ..EngineConfig::default()
        };
        let gone = u64::try_from(world.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let gate = Gate::new(world.wall_ms + gone);
        *self.process.get() = Some(Process { gate: gate.clone(), running: None, coordinator: None });
        let world = Arc::clone(world);
        let number = self.number;
        drop(gate.clone().spawn(async move {
            let log: Arc<dyn TransactionLog> = Arc::new(NodeLog::new(Arc::clone(&world), number));
            let delivery: Arc<dyn Dispatcher> =
                Arc::new(Delivery::new(Arc::clone(&world), number, gate.clone()));
            let (engine, cluster) = if world.swarm.cluster {
                let who = ClusterConfig::new(config.node.clone(), config.address.clone(), config.lease);
                let config = EngineConfig { format: who.agreed.clone(), ..config };
                match Cluster::join(who, Arc::clone(&log)).await {
                    Ok(cluster) => {
                        let assignments = cluster.assignments();
                        (Engine::start_assigned(config, log, &delivery, assignments), Some(cluster))
                    }
                    Err(error) => {
                        world.fail(None, format_args!("n{number} may not join: {error}"));
                        return;
                    }
                }
            } else {
                (Engine::start(config, log, &delivery), None)
            };
            let coordinator = engine.coordinator();
            coordinator.join(Arc::new(NodePeers::new(Arc::clone(&world), number)));
            let mut process = world.nodes[number].process.get();
            // Killed, this task does not run: what is there is its own life.
            if let Some(process) = process.as_mut() {
                process.running = Some(Running { engine, cluster });
                process.coordinator = Some(coordinator);
            }
        }));
    }

    /// SIGKILL.
    pub(crate) fn kill(&self, world: &World) {
        let process = self.process.get().take();
        if let Some(process) = process {
            world.note(Host::Node(self.number), None, "is killed");
            process.gate.kill();
        }
    }

    /// SIGTERM: what was taken becomes durable, leases are given back. Ends when the process has.
    pub(crate) async fn stop(&self, world: &World) {
        let taken = {
            let mut process = self.process.get();
            process.as_mut().and_then(|process| {
                let running = process.running.take()?;
                Some((process.gate.clone(), running))
            })
        };
        let Some((gate, Running { engine, cluster })) = taken else { return };
        world.note(Host::Node(self.number), None, "shuts down");
        let ended = gate.spawn(async move {
            if let Some(cluster) = &cluster {
                cluster.leave(Duration::from_secs(8)).await;
            }
            engine.shutdown(Duration::from_secs(10)).await;
            if let Some(cluster) = cluster {
                cluster.farewell(Duration::from_secs(2)).await;
            }
        });
        // An error: it was killed meanwhile.
        let _ = ended.await;
        let mut process = self.process.get();
        if process.as_ref().is_some_and(|process| process.coordinator.is_some() && process.running.is_none())
        {
            world.note(Host::Node(self.number), None, "has shut down");
            if let Some(process) = process.take() {
                process.gate.kill();
            }
        }
    }
}
