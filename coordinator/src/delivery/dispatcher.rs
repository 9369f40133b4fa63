//! [`Delivery`]: finds the bulkhead of each call.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use unanimity_core::ResultOutcome;
use unanimity_types::{LogId, Name, Target};

use super::addresses::Addresses;
use super::allow::AllowList;
use super::attached::{Attachment, NewInstance, Participant};
use super::callbacks::{Callbacks, Phase, Shared};
use super::config::DeliveryConfig;
use super::flight::{Flight, Gauge, participant_of};
use super::grpc::GrpcCaller;
use super::http::HttpCaller;
use super::stats::{BulkheadKind, BulkheadStats};
use super::text::printable;
use crate::engine::{BranchCall, Dispatcher, ResultSink};

/// What sessions are given for their goodbye once nothing is out, and calls that are cut off at the end
/// of [`Delivery::shutdown`] for their answer: both are ours to do and quick.
const LAST_STEPS_WAIT: Duration = Duration::from_secs(1);

/// How a shutdown went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Calls that were out when the time was over; answered "unknown".
    pub cut_off: usize,
}

/// Brings operations to participants: see the module.
#[derive(Debug)]
pub struct Delivery {
    pub(super) shared: Arc<Shared>,
    calls: Arc<Gauge>,
    sessions: Gauge,
    bulkheads: RwLock<Bulkheads>,
}

#[derive(Debug, Default)]
struct Bulkheads {
    participants: HashMap<Name, Arc<Participant>>,
    /// By kind and origin.
    callbacks: HashMap<(BulkheadKind, Arc<str>), Arc<Callbacks>>,
}

impl Delivery {
    /// A delivery that runs on the current runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new(config: DeliveryConfig) -> Arc<Self> {
        let log_id = OnceLock::new();
        if let Some(id) = config.log_id {
            let _ = log_id.set(id.to_string());
        }
        let shared = Shared {
            log_id,
            addresses: Addresses::new(config.allow.clone()),
            http: HttpCaller::new(&config),
            grpc: GrpcCaller::new(&config),
            runtime: Handle::current(),
            phase: watch::Sender::new(Phase::Running),
            config,
        };
        Arc::new(Self {
            shared: Arc::new(shared),
            calls: Arc::default(),
            sessions: Gauge::default(),
            bulkheads: RwLock::default(),
        })
    }

    /// The callbacks that are allowed: registrations ask it too.
    #[must_use]
    pub fn allow_list(&self) -> &AllowList {
        &self.shared.config.allow
    }

    /// How every bulkhead is, by kind and name.
    #[must_use]
    pub fn stats(&self) -> Vec<BulkheadStats> {
        let mut all: Vec<_> = {
            let bulkheads = self.read();
            let participants = bulkheads.participants.values().map(|participant| participant.stats());
            participants.chain(bulkheads.callbacks.values().map(|callbacks| callbacks.stats())).collect()
        };
        all.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        all
    }

    /// How many calls are anywhere in delivery: waiting or out.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.count()
    }

    /// Stops: takes nothing more, hands back what waits, says goodbye to sessions, waits for what is
    /// out at most `limit`, and answers the rest "unknown". Call it while the engine still runs, so
    /// that answers count (protocol M12).
    pub async fn shutdown(&self, limit: Duration) -> Drained {
        {
            // Under the write lock: no dispatch is between its look at the phase and its queue.
            let bulkheads = self.write();
            self.shared.phase.send_modify(|phase| *phase = (*phase).max(Phase::Draining));
            bulkheads.participants.values().for_each(|participant| participant.close());
            bulkheads.callbacks.values().for_each(|callbacks| callbacks.close());
        }
        let in_time = tokio::time::timeout(limit, self.calls.none_left()).await.is_ok();
        if in_time {
            let _ = tokio::time::timeout(LAST_STEPS_WAIT, self.sessions.none_left()).await;
        }
        let cut_off = self.calls.count();
        self.shared.phase.send_replace(Phase::Stopped);
        let _ = tokio::time::timeout(LAST_STEPS_WAIT, self.calls.none_left()).await;
        Drained { cut_off }
    }

    fn read(&self) -> RwLockReadGuard<'_, Bulkheads> {
        self.bulkheads.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Bulkheads> {
        self.bulkheads.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looked at under the lock on the bulkheads.
    fn is_running(&self) -> bool {
        *self.shared.phase.borrow() == Phase::Running
    }

    pub(super) fn learn_log_id(&self, log_id: LogId) {
        let _ = self.shared.log_id.set(log_id.to_string());
    }

    /// Room for one session more; `None` if there is none.
    pub(super) fn session_room(self: &Arc<Self>) -> Option<SessionRoom> {
        self.sessions.enter_below(self.shared.config.sessions_max).then(|| SessionRoom(Arc::clone(self)))
    }

    /// Takes an instance in; `None` while stopping.
    pub(super) fn attach(&self, participant: &Name, instance: NewInstance) -> Option<Attachment> {
        let config = &self.shared.config;
        // Attached under the lock: the sweep never takes the bulkhead away from under an instance.
        let mut bulkheads = self.write();
        if !self.is_running() {
            return None;
        }
        bulkheads.make_room(config, participant);
        // What is left then has instances, whose number has its own bound.
        let bulkhead = bulkheads.participant(participant, &self.shared);
        Some(bulkhead.attach(instance))
    }

    /// To attached participants. One that never attached gets no bulkhead: its name may be anything.
    fn to_participants(&self, flights: impl IntoIterator<Item = Flight>) {
        let mut absent = Vec::new();
        {
            // Offered under the lock: the sweep never takes a bulkhead away from under a call.
            let bulkheads = self.read();
            let is_running = self.is_running();
            let mut flights = flights.into_iter().peekable();
            while let Some(flight) = flights.next() {
                if !is_running {
                    flight.not_sent("this node is shutting down");
                    continue;
                }
                let Some(participant) = flight.participant() else {
                    flight.finish(ResultOutcome::Unusable { error: "a callback is no participant".into() });
                    continue;
                };
                match bulkheads.participants.get(participant) {
                    Some(bulkhead) => {
                        let same = |next: &Flight| next.participant() == Some(&bulkhead.name);
                        bulkhead.offer(flight, std::iter::from_fn(|| flights.next_if(same)));
                    }
                    None if flight.call().instance.is_none() => flight.nobody(),
                    None => absent.push(flight),
                }
            }
        }
        for flight in absent {
            self.to_absent(flight);
        }
    }

    /// To a participant without a bulkhead, for one of its instances: that was attached once, perhaps to
    /// this node before a restart, and may come back.
    fn to_absent(&self, flight: Flight) {
        let Some(participant) = flight.participant().cloned() else { return };
        let mut bulkheads = self.write();
        if !self.is_running() {
            return flight.not_sent("this node is shutting down");
        }
        bulkheads.make_room(&self.shared.config, &participant);
        let is_new = !bulkheads.participants.contains_key(&participant);
        if is_new && bulkheads.participants.len() >= self.shared.config.bulkheads_max {
            return flight.not_sent("calls to too many different participants wait already");
        }
        bulkheads.participant(&participant, &self.shared).offer(flight, std::iter::empty());
    }

    fn to_callback(&self, kind: BulkheadKind, origin: Arc<str>, flight: Flight) {
        let key = (kind, origin);
        {
            // Offered under the lock: the sweep never takes a bulkhead away from under a call.
            let bulkheads = self.read();
            if !self.is_running() {
                return flight.not_sent("this node is shutting down");
            }
            if let Some(callbacks) = bulkheads.callbacks.get(&key) {
                return callbacks.offer(flight);
            }
        }
        let config = &self.shared.config;
        let mut bulkheads = self.write();
        if !self.is_running() {
            return flight.not_sent("this node is shutting down");
        }
        if !bulkheads.callbacks.contains_key(&key) {
            bulkheads.sweep(config.bulkhead_idle);
            if bulkheads.callbacks.len() >= config.bulkheads_max {
                bulkheads.sweep(Duration::ZERO);
            }
            if bulkheads.callbacks.len() >= config.bulkheads_max {
                return flight.not_sent("calls to too many different addresses are out already");
            }
        }
        bulkheads
            .callbacks
            .entry(key)
            .or_insert_with_key(|(kind, origin)| {
                Callbacks::new(*kind, Arc::clone(origin), Arc::clone(&self.shared))
            })
            .offer(flight);
    }
}

impl Dispatcher for Delivery {
    fn dispatch(&self, call: BranchCall, results: &ResultSink) {
        let mut flight = Flight::new(call, results.clone(), Arc::clone(&self.calls));
        let kind = match &flight.call().target {
            Target::Participant { .. } => return self.to_participants([flight]),
            Target::Grpc(_) => BulkheadKind::Grpc,
            Target::Http(_) => BulkheadKind::Http,
        };
        match self.shared.addresses.of(&flight.call().target) {
            Ok(Some(address)) => {
                let origin = Arc::clone(&address.origin);
                flight.addressed_to(address);
                self.to_callback(kind, origin, flight);
            }
            Ok(None) => {
                flight.finish(ResultOutcome::Unusable { error: "a callback without an address".into() });
            }
            Err(error) => flight.finish(ResultOutcome::Unusable { error: printable(&error) }),
        }
    }

    /// Those to attached participants together: a look at the bulkheads for all of them, and a lock on
    /// each for those that follow one another.
    fn dispatch_many(&self, calls: Vec<BranchCall>, results: &ResultSink) {
        let is_attached = |call: &BranchCall| matches!(call.target, Target::Participant { .. });
        let (mut attached, others): (Vec<_>, Vec<_>) = calls.into_iter().partition(is_attached);
        // Stable: what one participant is owed goes in the engine's order.
        attached.sort_by(|a, b| participant_of(a).cmp(&participant_of(b)));
        let flight = |call| Flight::new(call, results.clone(), Arc::clone(&self.calls));
        if !attached.is_empty() {
            self.to_participants(attached.into_iter().map(flight));
        }
        for call in others {
            self.dispatch(call, results);
        }
    }
}

impl Bulkheads {
    /// Lets idle ones go if this participant is new.
    fn make_room(&mut self, config: &DeliveryConfig, participant: &Name) {
        if self.participants.contains_key(participant) {
            return;
        }
        self.sweep(config.bulkhead_idle);
        if self.participants.len() >= config.bulkheads_max {
            self.sweep(Duration::ZERO);
        }
    }

    fn participant(&mut self, name: &Name, shared: &Arc<Shared>) -> &Arc<Participant> {
        self.participants
            .entry(name.clone())
            .or_insert_with(|| Participant::new(name.clone(), Arc::clone(shared)))
    }

    /// Removes those that have been idle so long. Done where a new one comes, which is when room
    /// matters; so it needs no task of its own.
    fn sweep(&mut self, idle: Duration) {
        let now = Instant::now();
        let stays =
            |since: Option<Instant>| since.is_none_or(|since| now.saturating_duration_since(since) < idle);
        self.participants.retain(|_, participant| stays(participant.idle_since()));
        self.callbacks.retain(|_, callbacks| stays(callbacks.idle_since()));
    }
}

/// A session's place among the allowed number.
#[derive(Debug)]
pub(super) struct SessionRoom(Arc<Delivery>);

impl Drop for SessionRoom {
    fn drop(&mut self) {
        self.0.sessions.leave();
    }
}
