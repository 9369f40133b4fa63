//! The node's own part in the cluster: it says that it lives, looks at the others, and tells its partitions whose
//! they are to be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use unanimity_types::PartitionId;
use uuid::Uuid;

use super::tidings::Tidings;
use super::view::View;
use crate::engine::{Assignment, Assignments, Heir};
use crate::entropy;
use crate::log::{self, AgreedFormat, NodeBeat, NodeRow, PartitionRow, TransactionLog, known_format};
use crate::task;

/// While partitions are on their way from one node to another, nodes look so often. A look is one transaction of
/// six small statements.
const LOOK_WHILE_MOVING: Duration = Duration::from_millis(100);
/// A move that takes longer than this waits for something that takes its time: nodes look less often then.
const MOVING_SOON: Duration = Duration::from_secs(5);
const LOOK_WHILE_WAITING: Duration = Duration::from_millis(500);
/// Between two looks that others ask for: they move partitions in crowds, and each tells.
const LOOK_GAP: Duration = Duration::from_millis(25);
/// After a lease's end, so that the look does not come just before it.
const PAST_THE_END: Duration = Duration::from_millis(5);
/// How often a beat is tried that could not be written.
const BEAT_RETRY: Duration = Duration::from_millis(500);

/// Who a node is in its cluster.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Its name, unique in the cluster.
    pub node: String,
    /// Where other nodes and clients reach it.
    pub address: String,
    /// Its version of Unanimity.
    pub version: String,
    /// The highest block format that it reads and writes.
    pub formats: u32,
    /// Told what the cluster agreed on; the same as the engine's `EngineConfig::format`.
    pub agreed: AgreedFormat,
    /// For how long it counts as living after each beat: as long as its leases last.
    pub lease: Duration,
}

impl ClusterConfig {
    /// For a node of this build.
    #[must_use]
    pub fn new(node: String, address: String, lease: Duration) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self {
            node,
            address,
            version,
            formats: u32::from(known_format()),
            agreed: AgreedFormat::at(1),
            lease,
        }
    }
}

/// The node's part in its cluster. Dropped, the node falls silent, and the others take over after its lease.
#[derive(Debug)]
pub struct Cluster {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    config: ClusterConfig,
    log: Arc<dyn TransactionLog>,
    assignments: Assignments,
    view: watch::Sender<Arc<View>>,
    /// This process, among those that bear or bore the name.
    instance: Uuid,
    leaving: watch::Sender<bool>,
    /// Words from and to other nodes.
    tidings: Arc<Tidings>,
}

impl Cluster {
    /// Joins. If the database does not answer, it is tried again and again, and until then nothing is this node's.
    ///
    /// # Errors
    /// [`log::Error::Schema`] if the cluster writes a block format that this node does not know (protocol M18).
    pub async fn join(config: ClusterConfig, log: Arc<dyn TransactionLog>) -> Result<Self, log::Error> {
        let assignments = Assignments::none(log.identity().partitions);
        let view = View { node: config.node.clone(), ..View::default() };
        let shared = Arc::new(Shared {
            config,
            log,
            assignments,
            instance: entropy::uuid(),
            view: watch::Sender::new(Arc::new(view)),
            leaving: watch::Sender::new(false),
            tidings: Arc::default(),
        });
        let mut member = Member::new(Arc::clone(&shared));
        // Whatever else went wrong is tried again.
        if let Err(error @ log::Error::Schema(_)) = member.look().await {
            return Err(error);
        }
        // Whoever is to hand something over to this node need not wait for its own next look.
        shared.tidings.tell(None);
        Ok(Self { shared, task: task::spawn(member.run()) })
    }

    /// What the engine's partitions are to listen to.
    #[must_use]
    pub fn assignments(&self) -> Vec<watch::Receiver<Assignment>> {
        self.shared.assignments.listen()
    }

    /// The cluster as this node saw it last. Without nodes as long as it has not seen it.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.shared.view.borrow().clone()
    }

    /// Every look.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.shared.view.subscribe()
    }

    /// Words from and to other nodes: for the router.
    #[must_use]
    pub fn tidings(&self) -> Arc<Tidings> {
        Arc::clone(&self.shared.tidings)
    }

    /// The block format that the cluster agreed on: for the engine's configuration.
    #[must_use]
    pub fn format(&self) -> AgreedFormat {
        self.shared.config.agreed.clone()
    }

    /// Whether the node is about to stop.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        *self.shared.leaving.borrow()
    }

    /// Looks at the cluster now instead of later: something is known to have changed.
    pub fn look_now(&self) {
        self.shared.tidings.look_here();
    }

    /// The node is to stop: it gives up what it owns. Each partition is handed over as soon as the node that it is
    /// planned for knows of it; until then it works here. Answers when all is given away or the time is over, and
    /// whether there was somebody to give it to: if not, nothing was given up.
    pub async fn leave(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        self.shared.leaving.send_replace(true);
        self.look_now();
        let node = &self.shared.config.node;
        let mut view = self.shared.view.subscribe();
        // A database that does not take a beat takes no closing block either.
        let told = view.wait_for(|view| view.row(node).is_some_and(|row| row.leaving));
        let told_by = until.min(Instant::now() + self.shared.config.lease);
        if !matches!(tokio::time::timeout_at(told_by, told).await, Ok(Ok(_))) {
            tracing::warn!("the cluster could not be told that this node stops");
            return false;
        }
        // The heirs: what they are to have is handed over when they have looked.
        self.shared.tidings.tell(None);
        let gone = view.wait_for(|view| !owns(view, node));
        if !matches!(tokio::time::timeout_at(until, gone).await, Ok(Ok(_))) {
            tracing::warn!(
                "not every partition was handed over in time: other nodes wait for the leases' end"
            );
        }
        !self.shared.view.borrow().planned.is_empty()
    }

    /// The last word: the node is gone, nobody need wait for its end.
    pub async fn farewell(self, limit: Duration) {
        self.task.abort();
        self.shared.leaving.send_replace(true);
        let beat = self.shared.beat(false, Vec::new());
        match tokio::time::timeout(limit, self.shared.log.heartbeat(&beat, Duration::ZERO)).await {
            Ok(Ok(_)) => {}
            // It is silent from now on, which says the same a little later.
            Ok(Err(error)) => tracing::debug!(%error, "the cluster could not be told that this node is gone"),
            Err(_) => tracing::debug!("the cluster could not be told in time that this node is gone"),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether a node has something that somebody else could take.
fn owns(view: &View, node: &str) -> bool {
    let has = |row: &&PartitionRow| row.owner.as_deref() == Some(node) && !row.remaining.is_zero();
    view.cluster.partitions.iter().filter(has).any(|row| view.planned_for(row.partition).is_some())
}

impl Shared {
    fn is_stale(&self) -> bool {
        self.view.borrow().stale.is_some()
    }

    /// The cluster was not seen for a lease: what was seen then is told to nobody any more.
    fn grow_stale(&self, why: &str) {
        let grew = self.view.send_if_modified(|view| {
            let grows = view.stale.is_none();
            if grows {
                *view = Arc::new(View { stale: Some(why.to_owned()), ..View::clone(view) });
            }
            grows
        });
        if grew {
            tracing::warn!(
                why,
                "the cluster was not seen for a lease: who owns what is not known until it is"
            );
        }
    }

    fn beat(&self, joins: bool, servers: Vec<String>) -> NodeBeat {
        NodeBeat {
            node: self.config.node.clone(),
            instance: self.instance,
            joins,
            address: self.config.address.clone(),
            version: self.config.version.clone(),
            formats: self.config.formats,
            servers,
            leaving: *self.leaving.borrow(),
        }
    }
}

/// The task that beats.
#[derive(Debug)]
struct Member {
    shared: Arc<Shared>,
    joined: bool,
    /// To whom each partition of ours is planned to go, and since when we know that.
    heirs: BTreeMap<PartitionId, (String, Instant)>,
    /// Since when something is on its way from or to us.
    moving_since: Option<Instant>,
    next_at: Instant,
    /// When the last look began.
    looked_at: Instant,
    /// When the last good look was asked for.
    seen_at: Instant,
}

impl Member {
    fn new(shared: Arc<Shared>) -> Self {
        let now = Instant::now();
        Self {
            shared,
            joined: false,
            heirs: BTreeMap::new(),
            moving_since: None,
            next_at: now,
            looked_at: now,
            seen_at: now,
        }
    }

    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            tokio::select! {
                biased;
                () = shared.tidings.asked_to_look() => tokio::time::sleep_until(self.looked_at + LOOK_GAP).await,
                () = tokio::time::sleep_until(self.next_at) => {}
            }
            // What went wrong was said.
            let _ = self.look().await;
        }
    }

    /// Beats, looks, plans, and tells the partitions.
    async fn look(&mut self) -> Result<(), log::Error> {
        let shared = Arc::clone(&self.shared);
        let lease = shared.config.lease;
        let beat = shared.beat(!self.joined, shared.log.servers().await);
        let asked = Instant::now();
        self.looked_at = asked;
        let mut beating = std::pin::pin!(tokio::time::timeout(lease, shared.log.heartbeat(&beat, lease)));
        let answered = tokio::select! {
            biased;
            answered = &mut beating => answered,
            () = tokio::time::sleep_until(self.seen_at + lease), if !shared.is_stale() => {
                shared.grow_stale("the log's database does not answer");
                beating.await
            }
        };
        let no_answer = |_| Err(log::Error::Unavailable("no answer within a lease".to_owned()));
        let seen = answered.unwrap_or_else(no_answer);
        if let Err(error) = &seen
            && self.seen_at.elapsed() >= lease
        {
            shared.grow_stale(&error.to_string());
        }
        match seen {
            Ok(cluster) => {
                self.joined = true;
                self.seen_at = asked;
                // Before anything is assigned: whoever writes writes what all read (protocol M18).
                self.shared.config.agreed.raise(u16::try_from(cluster.format).unwrap_or(u16::MAX));
                let view = View::new(&self.shared.config.node, cluster);
                self.assign(&view, asked);
                self.next_at = asked + self.until_next(&view);
                self.shared.view.send_replace(Arc::new(view));
                Ok(())
            }
            Err(error @ (log::Error::InUse(_) | log::Error::Schema(_))) => {
                self.stand_down(&error.to_string());
                self.next_at = asked + lease;
                Err(error)
            }
            // Leases and the log say what this node still has.
            Err(error) => {
                tracing::warn!(%error, "the cluster could not be told that this node lives");
                self.next_at = Instant::now() + BEAT_RETRY.min(lease / 3);
                Err(error)
            }
        }
    }

    /// The cluster does not have this node: nothing is to be its.
    fn stand_down(&self, why: &str) {
        let news = self.shared.view.send_if_modified(|view| {
            let news = view.refused.as_deref() != Some(why);
            if news {
                *view = Arc::new(View { refused: Some(why.to_owned()), ..View::clone(view) });
            }
            news
        });
        if news {
            tracing::error!(why, "this node stands down and owns nothing");
        }
        for number in 0..self.shared.log.identity().partitions {
            self.shared.assignments.tell(PartitionId(number), Assignment::NotMine { to: None });
        }
    }

    /// Tells each partition whose it is to be.
    fn assign(&mut self, view: &View, asked: Instant) {
        let shared = Arc::clone(&self.shared);
        let me = shared.config.node.as_str();
        for row in &view.cluster.partitions {
            let is_ours = row.owner.as_deref() == Some(me);
            let is_kept = is_ours && shared.assignments.of(row.partition).is_some_and(|now| now.is_mine());
            let Some(planned) = view.planned_for(row.partition) else {
                // Without anybody to own it, who has it keeps it.
                if !is_kept && let Some(why) = view.unserved(row.partition) {
                    shared.assignments.tell(row.partition, Assignment::Nobodys { why });
                }
                continue;
            };
            if planned == me {
                self.heirs.remove(&row.partition);
                let free = is_ours || row.owner.is_none() || row.remaining.is_zero();
                shared.assignments.tell(row.partition, Assignment::Mine { free });
                continue;
            }
            let Some(heir) = view.row(planned) else { continue };
            if is_kept && !self.heir_knows(row.partition, heir, asked) {
                continue;
            }
            let to = Heir { node: heir.node.clone(), address: heir.address.clone() };
            if shared.assignments.tell(row.partition, Assignment::NotMine { to: Some(to) }) && is_kept {
                tracing::info!(partition = %row.partition, to = heir.node, "partition is handed over");
            }
        }
    }

    /// Whether the heir has looked at the cluster since we know that it is one: it waits for the partition.
    fn heir_knows(&mut self, partition: PartitionId, heir: &NodeRow, asked: Instant) -> bool {
        let known = self.heirs.get(&partition).filter(|(node, _)| *node == heir.node);
        let Some((_, since)) = known else {
            self.heirs.insert(partition, (heir.node.clone(), Instant::now()));
            return false;
        };
        heir.silent_for < asked.saturating_duration_since(*since)
    }

    /// When to look again.
    fn until_next(&mut self, view: &View) -> Duration {
        let me = self.shared.config.node.as_str();
        let (mut moving, mut soonest) = (false, self.shared.config.lease / 3);
        for row in &view.cluster.partitions {
            let Some(planned) = view.planned_for(row.partition) else { continue };
            let Some(owner) = row.owner.as_deref().filter(|_| !row.remaining.is_zero()) else {
                // It is being taken: callers are to be led there soon.
                moving |= planned == me;
                continue;
            };
            if planned == me && owner != me {
                // One that lives hands it over, else its lease ends.
                moving |= view.row(owner).is_some_and(|owner| owner.alive);
                soonest = soonest.min(row.remaining + PAST_THE_END);
            }
            moving |= owner == me && planned != me;
        }
        let others = view.living().filter(|node| node.node != me);
        soonest = others.map(|node| node.remaining + PAST_THE_END).fold(soonest, Duration::min);
        if !moving {
            self.moving_since = None;
            return soonest;
        }
        let since = *self.moving_since.get_or_insert_with(Instant::now);
        let often = if since.elapsed() < MOVING_SOON { LOOK_WHILE_MOVING } else { LOOK_WHILE_WAITING };
        soonest.min(often)
    }
}
