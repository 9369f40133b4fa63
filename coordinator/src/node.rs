//! [`Node`]: log, engine, delivery and server put together; what `serve` and `dev` run, and what a
//! program embeds.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use unanimity_coordinator::Node;
//!
//! let node = Node::builder()
//!     .sqlite("/var/lib/shop/unanimity.db")
//!     .listen("127.0.0.1:7460".parse()?)
//!     .start()
//!     .await?;
//! node.ready(Duration::from_secs(10)).await?;
//! // … participants attach to node.url(); this program may also call node.coordinator() directly …
//! node.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod builder;
mod warnings;

pub use builder::{Error, NodeBuilder};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::cluster::Cluster;
use crate::config::Config;
use crate::delivery::Delivery;
use crate::engine::{self, Coordinator, Engine};
use crate::log::TransactionLog;

/// A node that others take over from still takes calls for so long after it began to stop: they may have been on their way.
const LINGER: Duration = Duration::from_millis(500);
/// Left to the engine's last block even if delivery used up the time to stop.
const ENGINE_STOP_MIN: Duration = Duration::from_secs(2);
/// A node that says nothing is missed a lease later.
const FAREWELL_MAX: Duration = Duration::from_secs(1);
/// Closing the log's connections is a courtesy to the database, not worth a long wait.
const LOG_CLOSE_MAX: Duration = Duration::from_secs(5);

/// A running coordinator.
///
/// Dropped without [`Node::shutdown`] it stops at once, as if the process had been killed: nothing
/// durable is lost, but callers and participants notice.
#[derive(Debug)]
pub struct Node {
    engine: Engine,
    cluster: Cluster,
    delivery: Arc<Delivery>,
    log: Arc<dyn TransactionLog>,
    config: Arc<Config>,
    server: Option<Server>,
    closing: CancellationToken,
    /// Ends with the node.
    _tasks: [AbortOnDropHandle<()>; 2],
}

#[derive(Debug)]
struct Server {
    /// None where connections are handed over.
    address: Option<SocketAddr>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Node {
    /// Describes a node to start.
    #[must_use]
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }

    /// The engine's handle, for calls without a network between.
    #[must_use]
    pub fn coordinator(&self) -> Coordinator {
        self.engine.coordinator()
    }

    /// The log, for instance to start another node over it.
    #[must_use]
    pub fn log(&self) -> Arc<dyn TransactionLog> {
        Arc::clone(&self.log)
    }

    /// Where the node listens, if it does: with port 0 asked for, the port that it got.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.server.as_ref().and_then(|server| server.address)
    }

    /// The node's URL for clients on this machine, if it listens.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        self.local_addr().map(|address| format!("http://{address}"))
    }

    /// Waits until every partition works.
    ///
    /// # Errors
    /// If one stopped, or not all work in time.
    pub async fn ready(&self, limit: Duration) -> Result<(), engine::Error> {
        self.coordinator().ready(limit).await
    }

    /// Stops in good order, within about the configured `timeouts.shutdown_ms`: hands its partitions over to other
    /// nodes, if there are any, and serves meanwhile; then takes no new calls, answers those in hand, hears
    /// participants out, writes the last blocks, closes the log.
    pub async fn shutdown(self) {
        let started = Instant::now();
        let limit = self.config.timeouts.shutdown();
        if self.cluster.leave(limit / 2).await {
            // A hand-over takes less time than a call that was sent before its sender heard of this.
            tokio::time::sleep(LINGER.saturating_sub(started.elapsed())).await;
        }
        // The server's signal; readiness, health and long polls see it too.
        self.closing.cancel();
        // The server waits for delivery, whose answers come over its connections.
        if let Some(mut server) = self.server
            && let Err(error) = (&mut server.task).await
        {
            tracing::error!(%error, "the server did not stop in good order");
        }
        // Where no connection is left the server does not wait: callbacks have connections of their own.
        self.delivery.shutdown(limit.saturating_sub(started.elapsed())).await;
        let left = limit.saturating_sub(started.elapsed()).max(ENGINE_STOP_MIN);
        self.engine.shutdown(left).await;
        self.cluster.farewell(FAREWELL_MAX).await;
        if tokio::time::timeout(LOG_CLOSE_MAX, self.log.close()).await.is_err() {
            tracing::warn!("the log did not close in time");
        }
        tracing::info!(took = ?started.elapsed(), "stopped");
    }

    /// Stops at once without any of the steps of [`Node::shutdown`], as `kill -9` does, for tests:
    /// connections break, what was not durable is gone. The log object lives on if somebody else
    /// holds it.
    pub async fn kill(self) {
        let Self { engine, cluster, delivery, server, closing, .. } = self;
        drop(cluster);
        if let Some(mut server) = server {
            server.task.abort();
            // Awaited, so that the port is free and every connection is broken afterwards.
            let _ = (&mut server.task).await;
        }
        drop(engine);
        closing.cancel();
        // What delivery still has in hand answers to nobody.
        tokio::spawn(async move { delivery.shutdown(Duration::ZERO).await });
    }
}
