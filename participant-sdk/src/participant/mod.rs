//! The participant's side: own branches, and answer for them.
//!
//! Every change of state runs in a task of its own that nobody cancels: a request that is dropped,
//! a session that breaks or a deadline that passes ends the waiting, never the work. (sqlx could
//! otherwise return a connection with an open transaction to its pool: reliability 3.2.)

mod builder;
mod callback;
mod error;
mod health;
mod hooks;
mod in_doubt;
mod messages;
mod options;
mod order;
mod second;
mod session;
mod sessions;
mod steps;
mod tries;
mod two_phase;

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use unanimity_proto::v1::branch_callback_server::BranchCallbackServer;
use unanimity_types::{Limits, Target};

use crate::client::Client;
use crate::fence::{Durability, Fence, FenceDatabase, FenceError, LocalTransaction, NoFence, Tally};
use crate::message::ErasedReceiver;
use crate::saga::ErasedStep;
use crate::wall_clock::now_ms;
use crate::xa::ErasedManager;
use health::AttentionList;
use hooks::ErasedHooks;
use order::Order;
use sessions::Sessions;

pub use builder::ParticipantBuilder;
pub use callback::Callback;
pub use error::{BuildError, TryError};
pub use health::{Attention, Health, NodeHealth, TwoPhaseHealth};
pub use hooks::{Branch, HookError, Refused, TccHooks};
pub use options::BranchOptions;
pub use two_phase::TwoPhaseBranch;

/// A participant that runs: a cheap clone of a handle. When the last one is dropped it shuts down
/// in the background; [`Participant::shutdown`] waits for that.
pub struct Participant<DB: FenceDatabase> {
    shared: Arc<Shared<DB>>,
    _stop: Arc<StopOnDrop>,
}

struct StopOnDrop(CancellationToken);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// What the tasks of a participant share.
struct Shared<DB: FenceDatabase> {
    name: String,
    instance: String,
    client: Client,
    /// `None`: there are resource managers only.
    fence: Option<Fence<DB>>,
    hooks: HashMap<String, HookSet<DB>>,
    /// The operation of a hooks' type; `None` if several are registered with that type.
    by_type: HashMap<TypeId, Option<String>>,
    /// Where the coordinator sends the operations, by operation's name.
    targets: HashMap<String, Target>,
    settings: Settings,
    permits: Arc<Semaphore>,
    in_hand: AtomicUsize,
    sessions: Sessions,
    attention: AttentionList,
    durability: Vec<Durability>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Hooks, and how their first operation is fenced.
enum HookSet<DB> {
    Tcc {
        hooks: Arc<dyn ErasedHooks<DB>>,
        external: bool,
    },
    Step {
        hooks: Arc<dyn ErasedStep<DB>>,
        external: bool,
    },
    Receiver(Arc<dyn ErasedReceiver<DB>>),
    /// Sends messages: check-backs need no hook.
    Sender,
    TwoPhase(Arc<dyn ErasedManager>),
}

#[derive(Debug, Clone)]
struct Settings {
    concurrency: usize,
    hook_timeout: Duration,
    register_for: Duration,
    in_doubt_after: Duration,
    in_doubt_every: Duration,
    collect_after: Duration,
    collect_every: Duration,
    drain_for: Duration,
    accept_new_log: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // More than a database usually has connections for one service.
            concurrency: 32,
            // A hook is a few statements. What takes longer is stuck, and holds a connection.
            hook_timeout: Duration::from_secs(60),
            // Longer than a partition is without an owner after its node was killed: a lease (6 s) and a takeover.
            register_for: Duration::from_secs(15),
            // Ordinary transactions are decided by then, so the coordinator has told us.
            in_doubt_after: Duration::from_secs(30),
            in_doubt_every: Duration::from_secs(5),
            // A late try must find its tombstone: longer than any request lives.
            collect_after: Duration::from_secs(600),
            collect_every: Duration::from_secs(60),
            drain_for: Duration::from_secs(30),
            accept_new_log: false,
        }
    }
}

impl Participant<NoFence> {
    /// A participant of this name with resource managers of two-phase commit only
    /// ([`ParticipantBuilder::two_phase`]): those keep a record of their own, so that it needs no fence.
    pub fn without_fence(name: impl Into<String>) -> ParticipantBuilder<NoFence> {
        ParticipantBuilder::new(name.into(), None)
    }
}

impl<DB: FenceDatabase> Participant<DB> {
    /// A participant of this name, whose fence is in the database that its hooks write to.
    pub fn builder(name: impl Into<String>, fence: Fence<DB>) -> ParticipantBuilder<DB> {
        ParticipantBuilder::new(name.into(), Some(fence))
    }

    /// The participant's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its fence, if it has one.
    #[must_use]
    pub fn fence(&self) -> Option<&Fence<DB>> {
        self.shared.fence.as_ref()
    }

    /// The gRPC service `unanimity.v1.BranchCallback` over the same hooks, for participants that
    /// are called at an address ([`ParticipantBuilder::called_at`]).
    #[must_use]
    pub fn grpc_service(&self) -> BranchCallbackServer<Callback<DB>> {
        BranchCallbackServer::new(Callback::new(self.clone()))
            .max_decoding_message_size(Limits::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(Limits::MESSAGE_BYTES_MAX)
    }

    /// How it is. Asks the database for its counts.
    ///
    /// # Errors
    /// [`FenceError::Database`].
    pub async fn health(&self) -> Result<Health, FenceError> {
        let shared = &self.shared;
        let now = now_ms();
        let age = i64::try_from(shared.settings.in_doubt_after.as_millis()).unwrap_or(i64::MAX);
        let tally = match &shared.fence {
            None => Tally::default(),
            Some(fence) => {
                let mut connection = fence.pool().acquire().await?;
                DB::tally(&mut connection, &shared.name, now.saturating_sub(age)).await?
            }
        };
        let attached = shared.sessions.nodes();
        let nodes = shared.node_health(&attached);
        let (attention, attention_total) = shared.attention.snapshot();
        Ok(Health {
            participant: shared.name.clone(),
            instance: shared.instance.clone(),
            attached: !attached.is_empty(),
            node: attached.into_iter().next(),
            nodes,
            log_id: shared.client.log_id(),
            in_hand: shared.in_hand.load(Ordering::Relaxed),
            open: tally.open,
            in_doubt: tally.in_doubt,
            oldest_open: tally
                .oldest_ms
                .map(|oldest| Duration::from_millis(now.saturating_sub(oldest).unsigned_abs())),
            attention,
            attention_total,
            durability: shared.durability.clone(),
            two_phase: two_phase::health(shared).await,
        })
    }

    /// Stops: says goodbye, takes no more operations, finishes and answers those in hand. Returns
    /// when that is done, or after 30 s ([`ParticipantBuilder::drain_for`]).
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(self.shared.settings.drain_for, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!(participant = %self.shared.name, "stopped with operations in hand; they come again");
        }
    }
}

impl<DB: FenceDatabase> Shared<DB> {
    /// Begins a local transaction in the fence's database.
    async fn begin_local(&self) -> Result<LocalTransaction<'static, DB>, FenceError> {
        self.fence.as_ref().ok_or(FenceError::Absent)?.begin().await
    }

    /// The nodes that are told of and those that sessions are open with, by name.
    fn node_health(&self, attached: &[String]) -> Vec<NodeHealth> {
        let told = Arc::clone(&self.client.nodes().watch().borrow());
        let mut nodes: Vec<_> = told
            .iter()
            .map(|(node, at)| NodeHealth {
                node: node.to_string(),
                address: Some(at.address.to_string()),
                attached: attached.iter().any(|attached| **attached == **node),
            })
            .collect();
        let untold = attached.iter().filter(|node| !told.contains_key(node.as_str()));
        nodes.extend(untold.map(|node| NodeHealth { node: node.clone(), address: None, attached: true }));
        nodes
    }

    /// The name of the hooks for an order. At an address the coordinator names none: then those with the
    /// branch's key for a name, or the only ones of their kind.
    fn hooks_name(&self, order: &Order, fits: impl Fn(&HookSet<DB>) -> bool) -> String {
        if !order.name.is_empty() {
            return order.name.clone();
        }
        if self.hooks.get(order.key.as_str()).is_some_and(&fits) {
            return order.key.to_string();
        }
        let mut fitting = self.hooks.iter().filter(|(_, set)| fits(set)).map(|(name, _)| name);
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => only.clone(),
            _ => String::new(),
        }
    }

    /// Runs work in a task that nobody cancels and that a shutdown waits for; a panic in it comes
    /// back as its text.
    async fn unstoppable<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, String> {
        self.tasks.spawn(work).await.map_err(|error| match error.try_into_panic() {
            Ok(panic) => panic_text(panic.as_ref()),
            Err(_) => "the runtime shut down".to_owned(),
        })
    }
}

/// What a panic said.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a text");
    crate::error::shorten(text)
}

impl<DB: FenceDatabase> Clone for Participant<DB> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), _stop: Arc::clone(&self._stop) }
    }
}

impl<DB: FenceDatabase> fmt::Debug for Participant<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Participant")
            .field("name", &self.shared.name)
            .field("instance", &self.shared.instance)
            .finish_non_exhaustive()
    }
}
