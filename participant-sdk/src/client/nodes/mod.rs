//! The coordinator's nodes as a client sees them: at which addresses they answer, which of those can be reached now, and
//! whom to ask about a transaction.
//!
//! ```text
//!   addresses that were given ──► doors ── command stream to each ──► tickets, topology: nodes and owners ──┐
//!                                   ▲                                                                      │
//!                                   └── a door for each node; those of nodes that left are closed ◄────────┘
//! ```
//! A **door** is an address with its connection and its command stream. A door that was given (a *seed*) opens when it is
//! first used; those of the cluster's nodes are kept open, so that they bring their tickets. A node that is reached by a
//! seed needs no second door: its advertised address may not even be one that can be reached from here.
//!
//! Wrong advice costs a hop, never more: nodes pass on what is another's.

mod door;
mod known;
mod pick;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;
use unanimity_proto::{Connector, v1};
use unanimity_types::PartitionId;

use crate::client::addresses::{endpoint, is_named, resolve};
use crate::client::tickets::Tickets;
use crate::error::ClientError;

pub(crate) use door::Door;
use known::{Known, Owner};
pub(crate) use known::{Teller, View};

/// Doors that hints led to, besides those of nodes that are known.
const HINTED_MAX: usize = 16;
/// How long such a door is kept: by then the topology knows the node, or nobody does.
const HINTED_FOR: Duration = Duration::from_secs(60);
/// How often the name of an address is looked up again while it does not answer.
const RESOLVE_EVERY: Duration = Duration::from_secs(5);

/// Says whether a text is the address of a coordinator, without the slash at its end.
fn checked(address: &str) -> Option<&str> {
    let address = address.trim_end_matches('/');
    endpoint(address, Duration::ZERO).map(|_| address)
}

/// The nodes of one client.
#[derive(Debug)]
pub(crate) struct Nodes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    view: watch::Sender<Arc<View>>,
    tickets: Arc<Tickets>,
    connect_timeout: Duration,
    /// How to connect, if not by TCP.
    connector: Option<Connector>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By address.
    doors: BTreeMap<Arc<str>, Entry>,
    known: Known,
    view: Arc<View>,
    /// The order of seeds, and of what they resolve to.
    last_place: usize,
}

#[derive(Debug)]
struct Entry {
    door: Arc<Door>,
    origin: Origin,
    place: usize,
    reach: Reach,
    /// Who answered there last.
    node: Option<Arc<str>>,
    /// Not to be asked before that, if another can be: it had no answer, or said to ask elsewhere.
    avoid_until: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq)]
enum Origin {
    /// It was given, or is one of the addresses of a name that was given.
    Seed { of: Option<Arc<str>>, resolved_at: Option<Instant> },
    /// It is a node's, as far as is told.
    Node,
    /// A hint led there.
    Hint(Instant),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Unknown,
    Up,
    Down(Instant),
}

impl Nodes {
    /// The nodes behind these addresses. Needs a tokio runtime.
    pub(super) fn new(
        seeds: &[String],
        (connect_timeout, connector): (Duration, Option<Connector>),
        tickets: Arc<Tickets>,
    ) -> Result<Self, ClientError> {
        let (inner, view) = (Mutex::default(), watch::Sender::default());
        let shared = Arc::new(Shared { inner, view, tickets, connect_timeout, connector });
        let mut inner = shared.lock();
        for seed in seeds {
            let origin = Origin::Seed { of: None, resolved_at: None };
            if shared.add(&mut inner, seed, origin).is_none() {
                let message = "it is no URL with a host".to_owned();
                return Err(ClientError::InvalidUrl { url: seed.clone(), message });
            }
        }
        drop(inner);
        Ok(Self { shared })
    }

    /// Follows the nodes that are told of.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.shared.view.subscribe()
    }

    /// Somebody who is about to tell, until it is dropped.
    pub(crate) fn ear(&self) -> Ear {
        let teller = self.shared.lock().known.teller();
        Ear { shared: Arc::downgrade(&self.shared), teller }
    }

    /// The connections to the addresses that were given, in their order.
    pub(crate) fn seeds(&self) -> Vec<(Arc<str>, Channel)> {
        let inner = self.shared.lock();
        let mut seeds: Vec<_> =
            inner.doors.values().filter(|entry| matches!(entry.origin, Origin::Seed { .. })).collect();
        seeds.sort_by_key(|entry| entry.place);
        seeds.iter().map(|entry| (Arc::clone(&entry.door.address), entry.door.channel.clone())).collect()
    }

    /// The connections at which a node may be reached: at its address, and where else it was met.
    pub(crate) fn of_node(&self, node: &str) -> Vec<(Arc<str>, Channel)> {
        let inner = self.shared.lock();
        let address = inner.view.get(node).map(|at| Arc::clone(&at.address));
        let own = address.as_ref().and_then(|address| inner.doors.get(address));
        let met = inner.doors.values().filter(|entry| {
            entry.node.as_deref() == Some(node) && Some(&entry.door.address) != address.as_ref()
        });
        own.into_iter()
            .chain(met)
            .map(|entry| (Arc::clone(&entry.door.address), entry.door.channel.clone()))
            .collect()
    }

    /// Says that a node was met at an address.
    pub(crate) fn met(&self, address: &str, node: &str) {
        let mut inner = self.shared.lock();
        if let Some(entry) = inner.doors.get_mut(address) {
            entry.node = Some(node.into());
        }
    }

    /// Takes a hint: where a partition's owner is. Answers the door there, if there may be one.
    pub(super) fn hinted(&self, partition: Option<PartitionId>, address: &str) -> Option<Arc<Door>> {
        let address = checked(address)?;
        let mut inner = self.shared.lock();
        let now = Instant::now();
        let door = match inner.doors.get_mut(address) {
            Some(entry) => {
                if let Origin::Hint(at) = &mut entry.origin {
                    *at = now;
                }
                Arc::clone(&entry.door)
            }
            None => {
                let hinted =
                    inner.doors.values().filter(|entry| matches!(entry.origin, Origin::Hint(_))).count();
                if hinted >= HINTED_MAX {
                    return None;
                }
                self.shared.add(&mut inner, address, Origin::Hint(now))?
            }
        };
        if let Some(partition) = partition {
            inner.known.hint(partition, &door.address);
        }
        Some(door)
    }

    /// Says that a door is better not asked for a while.
    pub(super) fn avoid(&self, door: &Door, pause: Duration) {
        let mut inner = self.shared.lock();
        if let Some(entry) = inner.doors.get_mut(&door.address) {
            entry.avoid_until = Some(Instant::now() + pause);
        }
    }

    /// Whether there is nobody else to ask.
    pub(super) fn alone(&self) -> bool {
        self.shared.lock().alone()
    }
}

impl Inner {
    fn alone(&self) -> bool {
        if self.view.is_empty() { self.doors.len() <= 1 } else { self.view.len() == 1 }
    }

    /// The node that is behind a door, as far as is known.
    fn node_at(&self, entry: &Entry) -> Option<Arc<str>> {
        let by_address = || {
            self.view
                .iter()
                .find(|(_, at)| at.address == entry.door.address)
                .map(|(node, _)| Arc::clone(node))
        };
        entry.node.clone().or_else(by_address)
    }

    /// Whether a node is reached by another door than this one.
    fn reached_besides(&self, node: &str, address: &str) -> bool {
        self.doors.values().any(|entry| {
            entry.reach == Reach::Up && entry.node.as_deref() == Some(node) && *entry.door.address != *address
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing inside can panic half-way, so a poisoned lock still guards sound data.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a door, if the address is one.
    fn add(self: &Arc<Self>, inner: &mut Inner, address: &str, origin: Origin) -> Option<Arc<Door>> {
        let endpoint = endpoint(address, self.connect_timeout)?;
        let address: Arc<str> = address.into();
        let teller = inner.known.teller();
        let ear =
            DoorEar { ear: Ear { shared: Arc::downgrade(self), teller }, address: Arc::clone(&address) };
        let channel = match &self.connector {
            Some(connector) => connector.lazily(&endpoint),
            None => endpoint.connect_lazy(),
        };
        let door = Arc::new(Door::new(Arc::clone(&address), channel, ear));
        inner.last_place += 1;
        let entry = Entry {
            door: Arc::clone(&door),
            origin,
            place: inner.last_place,
            reach: Reach::Unknown,
            node: None,
            avoid_until: None,
        };
        inner.doors.insert(address, entry);
        Some(door)
    }

    /// Brings the doors in line with what is known. Answers those that are closed, to be dropped without the lock.
    #[must_use]
    fn follow(self: &Arc<Self>, inner: &mut Inner) -> Vec<Entry> {
        let view = Arc::new(inner.known.view());
        if *view != *inner.view {
            tracing::debug!(nodes = ?view.keys().collect::<Vec<_>>(), "the cluster's nodes");
            inner.view = Arc::clone(&view);
            self.view.send_replace(Arc::clone(&view));
        }
        for at in view.values() {
            match inner.doors.get_mut(&at.address) {
                Some(Entry { origin: origin @ Origin::Hint(_), .. }) => *origin = Origin::Node,
                Some(_) => {}
                None => {
                    self.add(inner, &at.address, Origin::Node);
                }
            }
        }
        let is_told = |address: &str| view.values().any(|at| *at.address == *address);
        let closed: Vec<_> = inner
            .doors
            .iter()
            .filter(|(address, entry)| match &entry.origin {
                Origin::Seed { .. } => false,
                Origin::Node => !is_told(address),
                Origin::Hint(at) => at.elapsed() >= HINTED_FOR,
            })
            .map(|(address, _)| Arc::clone(address))
            .collect();
        let closed = closed.iter().filter_map(|address| inner.doors.remove(address)).collect();
        // A node's door is kept open; another one at which it was met only where that is the way to it.
        for entry in inner.doors.values() {
            let address = &entry.door.address;
            let wanted =
                match view.iter().find(|(_, at)| at.address == *address) {
                    Some((node, _)) => !inner.reached_besides(node, address),
                    None => entry.node.as_ref().and_then(|node| view.get(node)).is_some_and(|at| {
                        inner.doors.get(&at.address).is_none_or(|own| own.reach != Reach::Up)
                    }),
                };
            entry.door.want(wanted);
        }
        closed
    }

    /// Looks up what the name of a seed that does not answer stands for.
    fn look_up(self: &Arc<Self>, inner: &mut Inner, address: &Arc<str>) {
        let Some(entry) = inner.doors.get_mut(address) else { return };
        let Origin::Seed { of: None, resolved_at } = &mut entry.origin else { return };
        if !is_named(address) || resolved_at.is_some_and(|at| at.elapsed() < RESOLVE_EVERY) {
            return;
        }
        *resolved_at = Some(Instant::now());
        let (shared, name) = (Arc::downgrade(self), Arc::clone(address));
        let connector = self.connector.clone();
        tokio::spawn(async move {
            let found = resolve(&name, connector.as_ref()).await;
            // A name without addresses at the moment keeps those that it had.
            if let (Some(shared), false) = (shared.upgrade(), found.is_empty()) {
                shared.resolved(&name, &found);
            }
        });
    }

    fn resolved(self: &Arc<Self>, name: &Arc<str>, found: &[String]) {
        let mut inner = self.lock();
        let mut closed = Vec::new();
        // One address is what the connection looks up by itself.
        let found = if found.len() > 1 { found } else { &[] };
        let is_over = |address: &str, entry: &Entry| {
            matches!(&entry.origin, Origin::Seed { of: Some(of), .. } if of == name)
                && !found.iter().any(|url| url == address)
        };
        let over = inner.doors.iter().filter(|(address, entry)| is_over(address, entry));
        let over: Vec<_> = over.map(|(address, _)| Arc::clone(address)).collect();
        closed.extend(over.iter().filter_map(|address| inner.doors.remove(address)));
        for url in found {
            if !inner.doors.contains_key(url.as_str()) {
                let origin = Origin::Seed { of: Some(Arc::clone(name)), resolved_at: None };
                self.add(&mut inner, url, origin);
            }
        }
        closed.extend(self.follow(&mut inner));
        drop(inner);
        drop(closed);
    }
}

/// What somebody tells of the cluster goes in here: a session, or a door's command stream.
#[derive(Debug)]
pub(crate) struct Ear {
    shared: Weak<Shared>,
    teller: Teller,
}

impl Ear {
    /// Takes what is told.
    pub(crate) fn hear(&self, topology: &v1::Topology) {
        self.change(|inner, teller| inner.known.hear(teller, topology));
    }

    fn change(&self, action: impl FnOnce(&mut Inner, Teller)) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut inner = shared.lock();
        action(&mut inner, self.teller);
        let closed = shared.follow(&mut inner);
        drop(inner);
        drop(closed);
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.change(|inner, teller| inner.known.end(teller));
    }
}

/// What a door's command stream reports.
#[derive(Debug)]
pub(crate) struct DoorEar {
    ear: Ear,
    address: Arc<str>,
}

impl DoorEar {
    /// The stream is open, or the node answers by calls only.
    pub(super) fn opened(&self) {
        self.reached(Reach::Up);
    }

    /// The stream ended, or could not be opened: what it told is no news any more.
    pub(super) fn closed(&self) {
        if let Some(shared) = self.ear.shared.upgrade() {
            shared.tickets.end(self.ear.teller);
        }
        self.reached(Reach::Down(Instant::now()));
        self.ear.change(|inner, teller| inner.known.end(teller));
        let Some(shared) = self.ear.shared.upgrade() else { return };
        shared.look_up(&mut shared.lock(), &self.address);
    }

    fn reached(&self, reach: Reach) {
        self.ear.change(|inner, _| {
            if let Some(entry) = inner.doors.get_mut(&self.address) {
                entry.reach = reach;
                entry.avoid_until = None;
            }
        });
    }

    pub(super) fn hear(&self, batch: &v1::AnswerBatch) {
        if let (Some(tickets), Some(shared)) = (&batch.tickets, self.ear.shared.upgrade()) {
            shared.tickets.hear(tickets, self.ear.teller);
        }
        if let Some(topology) = &batch.topology {
            self.ear.change(|inner, teller| {
                if !topology.told_by.is_empty()
                    && let Some(entry) = inner.doors.get_mut(&self.address)
                {
                    entry.node = Some(topology.told_by.as_str().into());
                }
                inner.known.hear(teller, topology);
            });
        }
    }

    /// Whether there is nobody else to ask.
    pub(super) fn alone(&self) -> bool {
        self.ear.shared.upgrade().is_none_or(|shared| shared.lock().alone())
    }
}

impl Drop for DoorEar {
    fn drop(&mut self) {
        if let Some(shared) = self.ear.shared.upgrade() {
            shared.tickets.end(self.ear.teller);
        }
    }
}
