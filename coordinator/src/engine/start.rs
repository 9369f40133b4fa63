//! [`Engine`]: the partitions' tasks and their end.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use unanimity_types::PartitionId;

use super::assignment::Assignment;
use super::config::EngineConfig;
use super::dispatch::Dispatcher;
use super::handle::{Coordinator, Partition, Shared};
use super::partition::PartitionTask;
use super::request::{PartitionCounters, PartitionInfo, PartitionState, StopReason};
use super::retention;
use crate::log::TransactionLog;

/// The running engine. Dropped, it stops at once as if the process had been killed: nothing durable is
/// lost, and nothing more is said.
#[derive(Debug)]
pub struct Engine {
    coordinator: Coordinator,
    shutdown: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Starts a task for each partition of the log. They take their leases and recover in the
    /// background: see [`Coordinator::ready`]. All of them are to be this node's.
    #[must_use]
    pub fn start(
        config: EngineConfig,
        log: Arc<dyn TransactionLog>,
        dispatcher: &Arc<dyn Dispatcher>,
    ) -> Self {
        // Nobody will ever say otherwise.
        let all = (0..log.identity().partitions).map(|_| watch::channel(Assignment::Mine { free: true }).1);
        let all = all.collect();
        Self::start_assigned(config, log, dispatcher, all)
    }

    /// The same in a cluster, which says of each partition, in the order of their numbers, whether it is to be this
    /// node's ([`Cluster::assignments`](crate::cluster::Cluster::assignments)). One without an assignment has no
    /// task.
    #[must_use]
    pub fn start_assigned(
        config: EngineConfig,
        log: Arc<dyn TransactionLog>,
        dispatcher: &Arc<dyn Dispatcher>,
        assignments: Vec<watch::Receiver<Assignment>>,
    ) -> Self {
        let config = Arc::new(config);
        let (shutdown, stop) = watch::channel(false);
        let mut partitions = Vec::new();
        let mut mailboxes = Vec::new();
        for (id, assignment) in (0..log.identity().partitions).map(PartitionId).zip(assignments) {
            let (mail, mailbox) = mpsc::channel(config.mailbox_max);
            let info = PartitionInfo {
                partition: id,
                state: PartitionState::Recovering,
                position: None,
                open: 0,
                history_lag: 0,
                ticket: None,
                counters: PartitionCounters::default(),
                turn: assignment.borrow().turn(),
                due: None,
            };
            let (state, watch) = watch::channel(info);
            let room = Arc::new(Semaphore::new(config.mailbox_bytes_max));
            partitions.push(Partition { id, mail, room, state: watch });
            mailboxes.push((id, mailbox, state, assignment));
        }
        let shared = Shared { log, node: config.node.clone(), partitions, peers: RwLock::default() };
        let coordinator = Coordinator { shared: Arc::new(shared) };
        let mut tasks = Vec::new();
        for (partition, mail, state, assignment) in mailboxes {
            let task = PartitionTask {
                partition,
                config: Arc::clone(&config),
                log: Arc::clone(&coordinator.shared.log),
                dispatcher: Arc::clone(dispatcher),
                coordinator: coordinator.clone(),
                mail,
                state: state.clone(),
                assignment,
                holds: false,
                shutdown: stop.clone(),
            };
            tasks.push(tokio::spawn(supervise(partition, tokio::spawn(task.run()), state)));
        }
        let log = Arc::clone(&coordinator.shared.log);
        tasks.push(tokio::spawn(retention::run(log, config.history_retention, shutdown.subscribe())));
        Self { coordinator, shutdown, tasks }
    }

    /// The handle.
    #[must_use]
    pub fn coordinator(&self) -> Coordinator {
        self.coordinator.clone()
    }

    /// Stops: what was taken becomes durable, partitions are closed and leases given back, all within
    /// `limit`.
    pub async fn shutdown(mut self, limit: Duration) {
        // Nobody may be listening: then all is over already.
        let _ = self.shutdown.send(true);
        let tasks = std::mem::take(&mut self.tasks);
        let aborts: Vec<_> = tasks.iter().map(JoinHandle::abort_handle).collect();
        let all = futures::future::join_all(tasks);
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!("partitions did not close in time; the next start recovers from the log");
            for abort in aborts {
                abort.abort();
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.coordinator.leave();
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Ends the task when the supervisor is dropped.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A partition whose task panics stops with a clear state; its siblings go on.
async fn supervise(id: PartitionId, task: JoinHandle<()>, state: watch::Sender<PartitionInfo>) {
    let mut task = AbortOnDrop(task);
    if let Err(error) = (&mut task.0).await
        && error.is_panic()
    {
        tracing::error!(partition = %id, %error, "a partition's task panicked: this is a bug");
        let reason = StopReason::Unreadable("its task panicked, which is a bug; restart the node".to_owned());
        state.send_modify(|info| info.state = PartitionState::Stopped(reason));
    }
}
