//! The bulkhead of one callback origin: a bounded queue and a few workers that live while there is
//! something to do, so a call costs no task of its own.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};

use futures::FutureExt as _;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use unanimity_core::ResultOutcome;
use unanimity_types::Target;

use super::addresses::Addresses;
use super::config::DeliveryConfig;
use super::flight::{Counters, Flight};
use super::grpc::{GrpcCaller, operation_to_wire};
use super::http::HttpCaller;
use super::stats::{BulkheadKind, BulkheadStats};
use super::text::lock;

/// Where delivery stands between start and stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Running,
    /// Takes nothing new, finishes what is out.
    Draining,
    /// What is still out is answered "unknown".
    Stopped,
}

/// What all bulkheads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: DeliveryConfig,
    pub(super) log_id: OnceLock<String>,
    pub(super) addresses: Addresses,
    pub(super) http: HttpCaller,
    pub(super) grpc: GrpcCaller,
    pub(super) runtime: Handle,
    pub(super) phase: watch::Sender<Phase>,
}

impl Shared {
    pub(super) fn log_id(&self) -> &str {
        self.log_id.get().map_or("", String::as_str)
    }

    /// Brings one call to a callback that the allow list has passed.
    async fn execute(&self, flight: &Flight) -> ResultOutcome {
        let call = flight.call();
        let timeout = self.config.timeout_of(call);
        let Some(address) = flight.address() else {
            return ResultOutcome::Unusable { error: "a participant is no callback".into() };
        };
        if matches!(call.target, Target::Grpc(_)) {
            let operation = operation_to_wire(call, 0, "", self.log_id(), timeout);
            self.grpc.call(address, operation, call.operation, timeout).await
        } else {
            self.http.call(&address.url, call, self.log_id(), timeout).await
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Callbacks {
    kind: BulkheadKind,
    origin: Arc<str>,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Flight>,
    workers: usize,
    /// Workers with a call out.
    busy: usize,
    last_used: Instant,
    closed: bool,
}

impl Callbacks {
    pub(super) fn new(kind: BulkheadKind, origin: Arc<str>, shared: Arc<Shared>) -> Arc<Self> {
        let state =
            State { queue: VecDeque::new(), workers: 0, busy: 0, last_used: Instant::now(), closed: false };
        Arc::new(Self { kind, origin, shared, counters: Arc::default(), state: Mutex::new(state) })
    }

    /// Takes a call, or answers it if there is no room.
    pub(super) fn offer(self: &Arc<Self>, mut flight: Flight) {
        flight.counted_by(&self.counters);
        let config = &self.shared.config;
        let mut state = lock(&self.state);
        state.last_used = Instant::now();
        if state.closed {
            return flight.not_sent("this node is shutting down");
        }
        if state.queue.len() >= config.queue_max {
            let error = format!("{} calls wait for {} already", state.queue.len(), self.origin);
            return flight.not_sent(&error);
        }
        state.queue.push_back(flight);
        if state.workers < config.callback_concurrency {
            state.workers += 1;
            drop(state);
            // Made here, so that the worker is counted out even if the runtime never starts it.
            let worker = Worker { callbacks: Arc::clone(self), busy: false, left: false };
            self.shared.runtime.spawn(worker.work());
        }
    }

    /// Takes nothing more, and hands back what waits.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        for flight in state.queue.drain(..) {
            flight.not_sent("this node is shutting down");
        }
    }

    /// Since when nothing waits and nothing is out; `None` if something is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = lock(&self.state);
        (state.workers == 0 && state.queue.is_empty()).then_some(state.last_used)
    }

    pub(super) fn stats(&self) -> BulkheadStats {
        let state = lock(&self.state);
        BulkheadStats {
            kind: self.kind,
            name: self.origin.to_string(),
            queued: state.queue.len(),
            in_flight: state.busy,
            done: self.counters.done.load(Ordering::Relaxed),
            failed: self.counters.failed.load(Ordering::Relaxed),
            instances: Vec::new(),
        }
    }
}

/// One of an origin's workers.
struct Worker {
    callbacks: Arc<Callbacks>,
    busy: bool,
    left: bool,
}

impl Worker {
    /// Calls until nothing waits.
    async fn work(mut self) {
        let shared = Arc::clone(&self.callbacks.shared);
        let mut phase = shared.phase.subscribe();
        while let Some(mut flight) = self.next() {
            // The HTTP client takes a connection back in a task of its own. Without its turn this call would
            // find none and open another one.
            tokio::task::yield_now().await;
            if !flight.may_leave() {
                flight.outlived_lease();
                continue;
            }
            flight.mark_sent(Instant::now());
            let outcome = tokio::select! {
                outcome = AssertUnwindSafe(shared.execute(&flight)).catch_unwind() => outcome,
                // An error would mean that delivery is gone, which this worker keeps alive.
                _ = phase.wait_for(|phase| *phase == Phase::Stopped) => {
                    flight.unknown("this node stopped before the answer came");
                    continue;
                }
            };
            match outcome {
                Ok(outcome) => flight.finish(outcome),
                Err(_) => flight.unknown("delivery failed inside; the node's log has the details"),
            }
        }
    }

    /// The next call that has not waited too long. Where there is none, the worker leaves under the
    /// same lock: a call that comes right after finds it gone and starts another.
    fn next(&mut self) -> Option<Flight> {
        let callbacks = &self.callbacks;
        let mut state = lock(&callbacks.state);
        if std::mem::take(&mut self.busy) {
            state.busy -= 1;
        }
        let now = Instant::now();
        while let Some(flight) = state.queue.pop_front() {
            if flight.age(now) <= callbacks.shared.config.queue_wait_max {
                state.busy += 1;
                self.busy = true;
                return Some(flight);
            }
            flight.not_sent("it waited too long behind other calls");
        }
        state.workers -= 1;
        state.last_used = now;
        self.left = true;
        None
    }
}

impl Drop for Worker {
    /// A worker that did not leave by itself was dropped with its runtime. Nobody may come after it,
    /// so the last one hands back what waits.
    fn drop(&mut self) {
        if self.left {
            return;
        }
        let mut state = lock(&self.callbacks.state);
        state.workers -= 1;
        state.busy -= usize::from(self.busy);
        if state.workers == 0 {
            for flight in state.queue.drain(..) {
                flight.not_sent("delivery has nobody to send it");
            }
        }
    }
}
