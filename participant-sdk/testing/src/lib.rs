//! A Unanimity coordinator inside of a test: no server to start, no port to choose, no file left.
//!
//! It is the real coordinator, with its log in memory: what your participants and transactions do
//! with it is what they do in production. [`TestCoordinator::crash`] stops it as `kill -9` does,
//! and [`TestCoordinator::restart`] lets it recover from what was durable.
//!
//! ```
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
//! use unanimity_sdk::TransactionError;
//! use unanimity_testing::TestCoordinator;
//!
//! let mut coordinator = TestCoordinator::start().await.unwrap();
//! let client = coordinator.client();
//!
//! // A transaction of which nobody is a part yet commits.
//! let xid = client
//!     .transaction("place-order")
//!     .run(async |tx| Ok::<_, std::io::Error>(tx.xid()))
//!     .await
//!     .unwrap();
//!
//! // What was committed is so after a crash as well.
//! coordinator.crash().await;
//! coordinator.restart().await.unwrap();
//! assert!(client.status(xid).await.unwrap().status.is_terminal());
//!
//! // An error in the closure aborts.
//! let aborted = client.transaction("place-order").run(async |_| Err::<(), _>("no")).await;
//! assert!(matches!(aborted, Err(TransactionError::User { error: "no", .. })));
//!
//! coordinator.shutdown().await;
//! # });
//! ```
//!
//! Add it under `[dev-dependencies]`: it brings the whole coordinator.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use unanimity_coordinator::Node;
use unanimity_coordinator::engine;
use unanimity_coordinator::log::{MemoryLog, TransactionLog};
use unanimity_coordinator::node;
use unanimity_sdk::{Client, ClientError};

/// How long the partitions may take to read a log in memory.
const READY_MAX: Duration = Duration::from_secs(10);
/// How long a port may stay taken after a crash.
const BIND_MAX: Duration = Duration::from_secs(5);

/// Why a coordinator did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It cannot listen, or its configuration is wrong.
    #[error("the coordinator did not start")]
    Start(#[from] node::Error),
    /// It could not recover from its log.
    #[error("the coordinator did not recover from its log")]
    Recover(#[from] engine::Error),
    /// The client could not be made.
    #[error("the coordinator's client could not be made")]
    Client(#[from] ClientError),
}

/// A coordinator in this process, with its log in memory.
///
/// Dropped, it stops at once, as by [`TestCoordinator::crash`].
#[derive(Debug)]
pub struct TestCoordinator {
    log: Arc<MemoryLog>,
    address: SocketAddr,
    client: Client,
    node: Option<Node>,
}

impl TestCoordinator {
    /// Starts one on a free port of this machine, ready to work.
    ///
    /// Needs a tokio runtime. With one thread (`#[tokio::test]`'s default) it works as well, as
    /// long as the test never blocks it.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn start() -> Result<Self, Error> {
        let log = Arc::new(MemoryLog::new(1));
        let node = start_node(&log, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        // Asked to listen, it does.
        let address = node.local_addr().unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let client = Client::connect(format!("http://{address}"))?;
        Ok(Self { log, address, client, node: Some(node) })
    }

    /// Its URL: stays the same over crashes.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client of it; always the same one. It connects again after a restart.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Whether it runs.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.node.is_some()
    }

    /// Its node, while it runs: for assertions about what the coordinator itself knows.
    #[must_use]
    pub const fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Stops it at once, as `kill -9` does: connections break, and what was not durable is gone.
    /// The log stays. Does nothing if it does not run.
    pub async fn crash(&mut self) {
        if let Some(node) = self.node.take() {
            node.kill().await;
        }
    }

    /// Starts it again over the same log, at the same address, and waits until it has recovered.
    /// If it still runs it crashes first.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.crash().await;
        let end = Instant::now() + BIND_MAX;
        loop {
            match start_node(&self.log, self.address).await {
                Ok(node) => {
                    self.node = Some(node);
                    return Ok(());
                }
                // A client's connection may hold the port for a moment.
                Err(Error::Start(node::Error::Listen { .. })) if Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Stops it in good order: finishes what is in hand, says goodbye to participants.
    pub async fn shutdown(mut self) {
        if let Some(node) = self.node.take() {
            node.shutdown().await;
        }
    }
}

async fn start_node(log: &Arc<MemoryLog>, address: SocketAddr) -> Result<Node, Error> {
    let log: Arc<dyn TransactionLog> = Arc::<MemoryLog>::clone(log);
    let node = Node::builder().log(log).listen(address).start().await?;
    node.ready(READY_MAX).await?;
    Ok(node)
}
