//! The sessions of a participant: one with each of the coordinator's nodes.
//!
//! ```text
//!   scout: an address that was given ── while there is no session at all ──► Welcome, with the topology
//!                                                                                │
//!   follow: the nodes that are told of ── a keeper for each ◄────────────────────┘
//! ```
//! The owner of a transaction calls its branches by the sessions that it has, so a participant attaches everywhere. The
//! scout's session is that of whichever node answered; the node's own keeper lets it be. A node that says goodbye, or
//! cannot be reached, is tried again with back-off for as long as anybody tells of it; the others are not concerned.
//!
//! Of two sessions with one node the younger counts, and the node ends the other: it alone knows in which order they came.
//! So that no keeper ends another one's session for nothing, it says whom it means: a node of another name refuses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use unanimity_types::ErrorCode;

use crate::backoff::Backoff;
use crate::error::ClientError;
use crate::fence::FenceDatabase;
use crate::participant::Shared;
use crate::participant::session::{self, End};

/// How long the keepers have before the scout looks for anybody at all.
const SCOUT_AFTER: Duration = Duration::from_secs(1);

/// The sessions that are open: the nodes, and how many sessions each has. Two for a moment, until the node has
/// ended the older one.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    open: watch::Sender<BTreeMap<String, usize>>,
}

/// A session's entry, while it is open.
pub(super) struct Attached<'a> {
    sessions: &'a Sessions,
    node: String,
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.sessions.open.send_modify(|open| {
            if let Some(count) = open.get_mut(&self.node) {
                *count -= 1;
            }
            open.retain(|_, count| *count > 0);
        });
    }
}

impl Sessions {
    /// Enters a session.
    pub(super) fn attach(&self, node: &str) -> Attached<'_> {
        self.open.send_modify(|open| *open.entry(node.to_owned()).or_default() += 1);
        Attached { sessions: self, node: node.to_owned() }
    }

    /// Whether there is more than one session with a node.
    pub(super) fn is_doubled(&self, node: &str) -> bool {
        self.open.borrow().get(node).is_some_and(|count| *count > 1)
    }

    /// The nodes that sessions are open with.
    pub(super) fn nodes(&self) -> Vec<String> {
        self.open.borrow().keys().cloned().collect()
    }

    /// Waits until there is no session with a node, or with any.
    async fn without(&self, node: Option<&str>) {
        let is_gone =
            |open: &BTreeMap<String, usize>| node.map_or(open.is_empty(), |node| !open.contains_key(node));
        // The sender is ours: it cannot be gone.
        let _ = self.open.subscribe().wait_for(is_gone).await;
    }
}

/// Keeps the sessions until the participant stops.
pub(super) async fn run<DB: FenceDatabase>(shared: Arc<Shared<DB>>) {
    shared.tasks.spawn(scout(Arc::clone(&shared)));
    let mut nodes = shared.client.nodes().watch();
    let mut keepers: BTreeMap<Arc<str>, CancellationToken> = BTreeMap::new();
    loop {
        let told = Arc::clone(&nodes.borrow_and_update());
        keepers.retain(|node, left| {
            let stays = told.contains_key(node);
            if !stays {
                left.cancel();
            }
            stays
        });
        for node in told.keys().filter(|node| !keepers.contains_key(*node)).cloned().collect::<Vec<_>>() {
            let left = CancellationToken::new();
            shared.tasks.spawn(keep(Arc::clone(&shared), Arc::clone(&node), left.clone()));
            keepers.insert(node, left);
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            changed = nodes.changed() => if changed.is_err() { return },
        }
    }
}

/// Looks for a node at the addresses that were given, whenever there is no session at all.
async fn scout<DB: FenceDatabase>(shared: Arc<Shared<DB>>) {
    let mut attempts = Attempts::new();
    let mut turn = 0_usize;
    loop {
        tokio::select! {
            () = shared.sessions.without(None) => {}
            () = shared.stop.cancelled() => return,
        }
        if !shared.client.nodes().watch().borrow().is_empty() {
            tokio::select! {
                () = sleep(SCOUT_AFTER) => {}
                () = shared.stop.cancelled() => return,
            }
            if !shared.sessions.nodes().is_empty() {
                continue;
            }
        }
        let seeds = shared.client.nodes().seeds();
        let Some((address, channel)) = seeds.get(turn % seeds.len().max(1)) else { return };
        turn += 1;
        if attempts.make(&shared, (address, channel.clone()), None).await {
            return;
        }
        // The next address at once; all of them again after a pause.
        if turn.is_multiple_of(seeds.len()) && attempts.pause(&shared, None).await {
            return;
        }
    }
}

/// Keeps the session with one node, until it left.
async fn keep<DB: FenceDatabase>(shared: Arc<Shared<DB>>, node: Arc<str>, left: CancellationToken) {
    let mut attempts = Attempts::new();
    let mut turn = 0_usize;
    loop {
        tokio::select! {
            // The scout may have met it first.
            () = shared.sessions.without(Some(&node)) => {}
            () = shared.stop.cancelled() => return,
            () = left.cancelled() => return,
        }
        let addresses = shared.client.nodes().of_node(&node);
        if let Some((address, channel)) = addresses.get(turn % addresses.len().max(1)) {
            turn += 1;
            // A session with a node that nobody tells of any more is kept while it lasts.
            if attempts.make(&shared, (address, channel.clone()), Some(&node)).await {
                return;
            }
        }
        if attempts.pause(&shared, Some(&left)).await {
            return;
        }
    }
}

/// Attempts to attach, one after the other.
struct Attempts {
    backoff: Backoff,
    show_log: bool,
}

impl Attempts {
    fn new() -> Self {
        Self { backoff: Backoff::for_sessions(), show_log: true }
    }

    /// Attaches, to the node of that name if it is given, and stays while the session lasts. Answers whether that was
    /// the last of it.
    async fn make<DB: FenceDatabase>(
        &mut self,
        shared: &Arc<Shared<DB>>,
        (address, channel): (&Arc<str>, Channel),
        node: Option<&str>,
    ) -> bool {
        let opened = Instant::now();
        match session::run(shared, (address, channel), node, self.show_log).await {
            Ok(End::Stopped) => return true,
            Ok(End::Goodbye) => {
                tracing::info!(participant = %shared.name, %address, "the session was closed; attaching again");
            }
            Ok(End::Replaced) => {
                tracing::debug!(participant = %shared.name, %address, "a younger session took its place");
            }
            Ok(End::Another(met)) => {
                tracing::warn!(participant = %shared.name, %address, node, %met, "attached to another node");
                return false;
            }
            Err(error) => self.failed(shared, address, &error),
        }
        // A session that lived for a while was a good one.
        if opened.elapsed() > Duration::from_secs(10) {
            self.backoff.reset();
        }
        false
    }

    fn failed<DB: FenceDatabase>(&mut self, shared: &Shared<DB>, address: &str, error: &ClientError) {
        if error.code() == Some(ErrorCode::NotMine) {
            shared.attention.raise(
                "log_changed",
                None,
                format!("the coordinator does not have the log that this participant's open branches are in: {error}"),
            );
            // Said once with our log, so that its loss is seen; then without, if that is allowed.
            self.show_log = !shared.settings.accept_new_log;
        }
        tracing::warn!(participant = %shared.name, %address, %error, "not attached; trying again");
    }

    /// Waits for the next attempt; answers whether there is none.
    async fn pause<DB: FenceDatabase>(
        &mut self,
        shared: &Shared<DB>,
        left: Option<&CancellationToken>,
    ) -> bool {
        let left = async {
            match left {
                Some(left) => left.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep(self.backoff.next()) => false,
            () = shared.stop.cancelled() => true,
            () = left => true,
        }
    }
}
