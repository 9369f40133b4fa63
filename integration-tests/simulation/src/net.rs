//! The network: messages that are lost, late, doubled and overtake each other, and links that carry nothing in
//! one direction.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use unanimity_coordinator::engine::{Coordinator, Error};
use unanimity_coordinator::simulation::Gate;
use unanimity_types::ErrorCode;

use crate::hits::Hit;
use crate::world::{Cell, Host, World};

/// Why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// Nobody listened: it was surely not taken.
    NotSent,
    /// It may have been taken.
    Unknown,
}

/// Links that are cut, by how many faults.
#[derive(Debug, Default)]
pub(crate) struct Net {
    cut: Cell<BTreeMap<(Host, Host), u32>>,
}

impl Net {
    pub(crate) fn is_cut(&self, from: Host, to: Host) -> bool {
        self.cut.get().contains_key(&(from, to))
    }

    pub(crate) fn cut(&self, from: Host, to: Host) {
        *self.cut.get().entry((from, to)).or_default() += 1;
    }

    pub(crate) fn mend(&self, from: Host, to: Host) {
        let mut cut = self.cut.get();
        if let Some(faults) = cut.get_mut(&(from, to)) {
            *faults -= 1;
            if *faults == 0 {
                cut.remove(&(from, to));
            }
        }
    }

    pub(crate) fn mend_all(&self) {
        self.cut.get().clear();
    }
}

/// A call's answer, or why there is none.
type Answer<T> = Result<T, NoAnswer>;

impl World {
    /// Calls `to`, which does `serve` for each copy of the message that arrives.
    pub(crate) async fn call<T, F, Fut>(
        self: &Arc<Self>,
        from: Host,
        to: Host,
        limit: Duration,
        serve: F,
    ) -> Answer<T>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let doubled = self.in_trouble() && self.of_10_000(self.swarm.doubling);
        self.call_once_or_twice(from, to, limit, doubled, serve).await
    }

    /// The same, and said whether the message comes twice.
    pub(crate) async fn call_once_or_twice<T, F, Fut>(
        self: &Arc<Self>,
        from: Host,
        to: Host,
        limit: Duration,
        doubled: bool,
        serve: F,
    ) -> Answer<T>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        // Not behind the sender's gate: what is on its way stays on its way.
        tokio::spawn(Arc::clone(self).carry(from, to, limit, doubled, serve, reply));
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(NoAnswer::Unknown),
        }
    }

    async fn carry<T, F, Fut>(
        self: Arc<Self>,
        from: Host,
        to: Host,
        limit: Duration,
        doubled: bool,
        serve: F,
        reply: oneshot::Sender<Answer<T>>,
    ) where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        if !self.travel(from, to, limit).await {
            self.hit(Hit::MessageLost);
            tokio::time::sleep(limit).await;
            return;
        }
        let Some(gate) = self.gate(to) else {
            self.travel(to, from, limit).await;
            let _ = reply.send(Err(NoAnswer::NotSent));
            return;
        };
        let served = gate.spawn(serve());
        if doubled {
            let again = self.up_to(limit);
            let world = Arc::clone(&self);
            tokio::spawn(async move {
                tokio::time::sleep(again).await;
                if let Some(gate) = world.gate(to) {
                    world.hit(Hit::MessageDoubled);
                    drop(gate.spawn(serve()));
                }
            });
        }
        // An error: its process died.
        let Ok(value) = served.await else { return };
        if self.travel(to, from, limit).await {
            let _ = reply.send(Ok(value));
        } else {
            self.hit(Hit::AnswerLost);
            tokio::time::sleep(limit).await;
        }
    }

    /// One way; false if it did not get there.
    async fn travel(&self, from: Host, to: Host, limit: Duration) -> bool {
        let mut way = self.up_to(self.swarm.delay_max);
        let trouble = self.in_trouble();
        let lost = trouble && self.of_10_000(self.swarm.loss);
        if trouble && self.of_10_000(self.swarm.lateness) {
            self.hit(Hit::MessageDelayed);
            way += self.up_to(limit * 2);
        }
        if lost || self.net.is_cut(from, to) {
            return false;
        }
        tokio::time::sleep(way).await;
        !self.net.is_cut(from, to)
    }

    /// The gate of a process that runs.
    pub(crate) fn gate(&self, host: Host) -> Option<Gate> {
        match host {
            Host::Node(at) => self.nodes[at].gate(),
            Host::Site(at) => self.sites[at].gate(),
            Host::Manager | Host::Database => None,
        }
    }

    /// Asks a node for something.
    pub(crate) async fn ask<T, F, Fut>(
        self: &Arc<Self>,
        from: Host,
        node: usize,
        limit: Duration,
        what: F,
    ) -> Result<Result<T, Error>, NoAnswer>
    where
        F: Fn(Coordinator) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, Error>> + Send + 'static,
        T: Send + 'static,
    {
        let world = Arc::clone(self);
        self.call(from, Host::Node(node), limit, move || {
            let asked = world.nodes[node].coordinator().map(&what);
            async move {
                match asked {
                    Some(asked) => asked.await,
                    None => Err(Error::new(ErrorCode::Unavailable, "starting")),
                }
            }
        })
        .await
    }
}
