//! A node's way to the other nodes' engines, over the simulated network (`engine/peers.rs` is the seam). The real
//! one speaks gRPC.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use unanimity_coordinator::engine::{Asked, Coordinator, Elsewhere, Error, Inquiry, ListFilter, Peers};
use unanimity_types::{ErrorCode, LogPosition, Name, PartitionId, Xid};

use crate::hits::Hit;
use crate::net::NoAnswer;
use crate::world::{Host, World};

/// How long a call to another node takes at most, beyond its own wait.
const LIMIT: Duration = Duration::from_secs(2);

/// See the module's page.
pub(crate) struct NodePeers {
    world: Arc<World>,
    node: usize,
}

impl NodePeers {
    pub(crate) const fn new(world: Arc<World>, node: usize) -> Self {
        Self { world, node }
    }

    /// Asks whoever is thought to own a partition: news of it may be old.
    async fn owner<T, F, Fut>(&self, partition: PartitionId, limit: Duration, ask: F) -> Result<T, Error>
    where
        F: Fn(Coordinator) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, Error>> + Send + 'static,
        T: Send + 'static,
    {
        let world = &self.world;
        let first = world.dice(|dice| dice.usize(..world.nodes.len()));
        let mut others = (0..world.nodes.len()).map(|at| (first + at) % world.nodes.len());
        let owner = others.find(|at| {
            *at != self.node
                && world.nodes[*at].coordinator().is_some_and(|coordinator| coordinator.is_here(partition))
        });
        let Some(owner) = owner else {
            return Err(Error::new(ErrorCode::Unavailable, format!("nobody owns partition {partition}")));
        };
        world.hit(Hit::AskedPeer);
        match world.ask(Host::Node(self.node), owner, limit, ask).await {
            Ok(answer) => answer,
            Err(NoAnswer::NotSent) => Err(Error::new(ErrorCode::Unavailable, "connection refused")),
            Err(NoAnswer::Unknown) => {
                Err(Error::new(ErrorCode::OutcomeUnknown, "no answer from another node"))
            }
        }
    }
}

impl fmt::Debug for NodePeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodePeers").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Peers for NodePeers {
    fn lock<'a>(
        &'a self,
        home: PartitionId,
        key: &'a Name,
        xid: Xid,
        wait: Duration,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let key = key.clone();
        Box::pin(self.owner(home, wait + LIMIT, move |coordinator| {
            let key = key.clone();
            async move { coordinator.lock_here(home, key, xid, wait).await }
        }))
    }

    fn unlock(&self, home: PartitionId, xid: Xid, keys: Vec<Name>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let told = self.owner(home, LIMIT, move |coordinator| {
                let keys = keys.clone();
                async move { coordinator.unlock_here(home, xid, keys) }
            });
            // A home that does not hear it asks by itself.
            drop(told.await);
        })
    }

    fn inquire(
        &self,
        partition: PartitionId,
        asked: Vec<Asked>,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Vec<Inquiry>, Error>> {
        Box::pin(self.owner(partition, limit.min(LIMIT * 2), move |coordinator| {
            let asked = asked.clone();
            async move { coordinator.inquire_here(partition, asked).await }
        }))
    }

    fn witness(&self, positions: Vec<LogPosition>) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let mut refused = Ok(());
            for position in positions {
                let heard = self.owner(position.partition, LIMIT, move |coordinator| async move {
                    coordinator.witness_here(position).await
                });
                if let Err(error) = heard.await
                    && matches!(error.code, ErrorCode::LogLostTail | ErrorCode::NotMine)
                {
                    refused = Err(error);
                }
            }
            refused
        })
    }

    fn open(&self, filter: ListFilter) -> BoxFuture<'_, Elsewhere> {
        Box::pin(async move {
            let mut elsewhere = Elsewhere::default();
            for node in (0..self.world.nodes.len()).filter(|node| *node != self.node) {
                let filter = filter.clone();
                let answer = self
                    .world
                    .ask(Host::Node(self.node), node, LIMIT, move |coordinator| {
                        let filter = filter.clone();
                        async move { coordinator.open_here(&filter).await }
                    })
                    .await;
                match answer {
                    Ok(Ok(open)) => elsewhere.transactions.extend(open),
                    Ok(Err(_)) | Err(_) => elsewhere.missing.push(format!("n{node}")),
                }
            }
            elsewhere
        })
    }
}
