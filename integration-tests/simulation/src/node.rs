//! A coordinator node: the real engine behind a gate, killed and started again.

use std::sync::Arc;
use std::time::Duration;

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
    engine: Option<Engine>,
    coordinator: Coordinator,
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
        self.process.get().as_ref().map(|process| process.coordinator.clone())
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
        let log: Arc<dyn TransactionLog> = Arc::new(NodeLog::new(Arc::clone(world), self.number));
        let delivery: Arc<dyn Dispatcher> =
            Arc::new(Delivery::new(Arc::clone(world), self.number, gate.clone()));
        let engine = gate.enter(|| Engine::start(config, log, &delivery));
        let coordinator = engine.coordinator();
        coordinator.join(Arc::new(NodePeers::new(Arc::clone(world), self.number)));
        *self.process.get() = Some(Process { gate, engine: Some(engine), coordinator });
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
                let engine = process.engine.take()?;
                Some((process.gate.clone(), engine))
            })
        };
        let Some((gate, engine)) = taken else { return };
        world.note(Host::Node(self.number), None, "shuts down");
        let ended = gate.spawn(engine.shutdown(Duration::from_secs(10)));
        // An error: it was killed meanwhile.
        let _ = ended.await;
        let mut process = self.process.get();
        if process.as_ref().is_some_and(|process| process.engine.is_none()) {
            world.note(Host::Node(self.number), None, "has shut down");
            if let Some(process) = process.take() {
                process.gate.kill();
            }
        }
    }
}
