//! [`Delivery`]: finds the bulkhead of each call.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use unanimity_core::ResultOutcome;
use unanimity_types::{LogId, Name, Target};

use super::allow::AllowList;
use super::attached::{Attachment, NewInstance, Participant};
use super::callbacks::{Callbacks, Phase, Shared};
use super::config::DeliveryConfig;
use super::flight::{Flight, Gauge};
use super::grpc::GrpcCaller;
use super::http::HttpCaller;
use super::stats::{BulkheadKind, BulkheadStats};
use super::text::printable;
use crate::engine::{BranchCall, Dispatcher, ResultSink};

/// What is still given to calls that were cut off at the end of [`Delivery::shutdown`] to be answered.
const CUT_OFF_WAIT: Duration = Duration::from_secs(1);

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
    gauge: Arc<Gauge>,
    sessions: AtomicUsize,
    bulkheads: RwLock<HashMap<Key, Bulkhead>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key(BulkheadKind, String);

#[derive(Debug)]
enum Bulkhead {
    Participant(Arc<Participant>),
    Callbacks(Arc<Callbacks>),
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
            http: HttpCaller::new(&config),
            grpc: GrpcCaller::new(&config),
            runtime: Handle::current(),
            phase: watch::Sender::new(Phase::Running),
            config,
        };
        Arc::new(Self {
            shared: Arc::new(shared),
            gauge: Arc::default(),
            sessions: AtomicUsize::new(0),
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
            let bulkheads = self.bulkheads.read().unwrap_or_else(PoisonError::into_inner);
            bulkheads.values().map(Bulkhead::stats).collect()
        };
        all.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        all
    }

    /// How many calls are anywhere in delivery: waiting or out.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.gauge.count()
    }

    /// Stops: takes nothing more, hands back what waits, says goodbye to sessions, waits for what is
    /// out at most `limit`, and answers the rest "unknown". Call it while the engine still runs, so
    /// that answers count (protocol M12).
    pub async fn shutdown(&self, limit: Duration) -> Drained {
        {
            // Under the write lock: no dispatch is between its look at the phase and its queue.
            let bulkheads = self.bulkheads.write().unwrap_or_else(PoisonError::into_inner);
            self.shared.phase.send_if_modified(|phase| {
                let first = *phase == Phase::Running;
                *phase = (*phase).max(Phase::Draining);
                first
            });
            bulkheads.values().for_each(Bulkhead::close);
        }
        if tokio::time::timeout(limit, self.gauge.none_left()).await.is_ok() {
            self.shared.phase.send_replace(Phase::Stopped);
            return Drained { cut_off: 0 };
        }
        let cut_off = self.gauge.count();
        self.shared.phase.send_replace(Phase::Stopped);
        let _ = tokio::time::timeout(CUT_OFF_WAIT, self.gauge.none_left()).await;
        Drained { cut_off }
    }

    pub(super) fn learn_log_id(&self, log_id: LogId) {
        let _ = self.shared.log_id.set(log_id.to_string());
    }

    /// Room for one session more; `None` if there is none.
    pub(super) fn session_room(self: &Arc<Self>) -> Option<SessionRoom> {
        let max = self.shared.config.sessions_max;
        let taken = self.sessions.fetch_update(Ordering::AcqRel, Ordering::Acquire, |sessions| {
            (sessions < max).then_some(sessions + 1)
        });
        taken.is_ok().then(|| SessionRoom(Arc::clone(self)))
    }

    /// Takes an instance in; `None` while stopping.
    pub(super) fn attach(&self, participant: &Name, instance: NewInstance) -> Option<Attachment> {
        let key = Key(BulkheadKind::Participant, participant.to_string());
        // Attached under the lock: the sweep never takes the bulkhead away from under an instance.
        let mut bulkheads = self.bulkheads.write().unwrap_or_else(PoisonError::into_inner);
        if *self.shared.phase.borrow() != Phase::Running {
            return None;
        }
        // Not counted against the bound on bulkheads: sessions have their own.
        if !bulkheads.contains_key(&key) {
            sweep(&mut bulkheads, self.shared.config.bulkhead_idle);
        }
        let bulkhead = bulkheads.entry(key).or_insert_with(|| {
            Bulkhead::Participant(Participant::new(participant.clone(), Arc::clone(&self.shared)))
        });
        match bulkhead {
            Bulkhead::Participant(participant) => Some(participant.attach(instance)),
            Bulkhead::Callbacks(_) => None,
        }
    }

    /// To an attached participant. One that never attached gets no bulkhead: its name may be anything.
    fn to_participant(&self, participant: &Name, flight: Flight) {
        let key = Key(BulkheadKind::Participant, participant.to_string());
        let bulkheads = self.bulkheads.read().unwrap_or_else(PoisonError::into_inner);
        if *self.shared.phase.borrow() != Phase::Running {
            return flight.not_sent("this node is shutting down");
        }
        match bulkheads.get(&key) {
            Some(Bulkhead::Participant(participant)) => participant.offer(flight),
            _ => flight.unknown(&Participant::nobody(participant)),
        }
    }

    fn to_callback(&self, kind: BulkheadKind, origin: String, flight: Flight) {
        let key = Key(kind, origin);
        {
            let bulkheads = self.bulkheads.read().unwrap_or_else(PoisonError::into_inner);
            if *self.shared.phase.borrow() != Phase::Running {
                return flight.not_sent("this node is shutting down");
            }
            // Offered under the lock: the sweep never takes a bulkhead away from under a call.
            if let Some(Bulkhead::Callbacks(callbacks)) = bulkheads.get(&key) {
                return callbacks.offer(flight);
            }
        }
        let config = &self.shared.config;
        let mut bulkheads = self.bulkheads.write().unwrap_or_else(PoisonError::into_inner);
        if *self.shared.phase.borrow() != Phase::Running {
            return flight.not_sent("this node is shutting down");
        }
        if !bulkheads.contains_key(&key) {
            sweep(&mut bulkheads, config.bulkhead_idle);
            if bulkheads.len() >= config.bulkheads_max {
                sweep(&mut bulkheads, Duration::ZERO);
            }
            if bulkheads.len() >= config.bulkheads_max {
                return flight.not_sent("calls to too many different addresses are out already");
            }
        }
        let bulkhead = bulkheads.entry(key).or_insert_with_key(|Key(kind, origin)| {
            Bulkhead::Callbacks(Callbacks::new(*kind, origin.clone(), Arc::clone(&self.shared)))
        });
        match bulkhead {
            Bulkhead::Callbacks(callbacks) => callbacks.offer(flight),
            Bulkhead::Participant(_) => flight.not_sent("a participant has the bulkhead of a callback"),
        }
    }
}

impl Dispatcher for Delivery {
    fn dispatch(&self, call: BranchCall, results: &ResultSink) {
        let flight = Flight::new(call, results.clone(), Arc::clone(&self.gauge));
        let url = self.shared.config.allow.callback_url(&flight.call().target);
        let kind = match &flight.call().target {
            Target::Participant { participant, .. } => {
                let participant = participant.clone();
                return self.to_participant(&participant, flight);
            }
            Target::Grpc(_) => BulkheadKind::Grpc,
            Target::Http(_) => BulkheadKind::Http,
        };
        match url {
            // The parser's spelling, so that one origin has one bulkhead.
            Ok(Some(url)) => self.to_callback(kind, url.origin().ascii_serialization(), flight),
            Ok(None) => {
                flight.finish(ResultOutcome::Unusable { error: "a callback without an address".into() });
            }
            Err(error) => flight.finish(ResultOutcome::Unusable { error: printable(&error) }),
        }
    }
}

impl Bulkhead {
    fn stats(&self) -> BulkheadStats {
        match self {
            Self::Participant(participant) => participant.stats(),
            Self::Callbacks(callbacks) => callbacks.stats(),
        }
    }

    fn close(&self) {
        match self {
            Self::Participant(participant) => participant.close(),
            Self::Callbacks(callbacks) => callbacks.close(),
        }
    }

    fn idle_since(&self) -> Option<Instant> {
        match self {
            Self::Participant(participant) => participant.idle_since(),
            Self::Callbacks(callbacks) => callbacks.idle_since(),
        }
    }
}

/// Removes bulkheads that have been idle so long. Done where a new one comes, which is when room
/// matters; so it needs no task of its own.
fn sweep(bulkheads: &mut HashMap<Key, Bulkhead>, idle: Duration) {
    let now = Instant::now();
    bulkheads.retain(|_, bulkhead| {
        bulkhead.idle_since().is_none_or(|since| now.saturating_duration_since(since) < idle)
    });
}

/// A session's place among the allowed number.
#[derive(Debug)]
pub(super) struct SessionRoom(Arc<Delivery>);

impl Drop for SessionRoom {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::AcqRel);
    }
}
