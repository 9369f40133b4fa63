//! The bulkhead of one attached participant: what waits, and its instances.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tokio::time::Instant;
use unanimity_core::ResultOutcome;
use unanimity_proto::v1;
use unanimity_types::{Name, Target};

use super::instance::{Instance, NewInstance};
use super::pinned::Pinned;
use crate::delivery::callbacks::Shared;
use crate::delivery::flight::{Counters, Flight};
use crate::delivery::stats::{BulkheadKind, BulkheadStats};
use crate::delivery::text::{lock, printable};

/// See the module.
#[derive(Debug)]
pub(in crate::delivery) struct Participant {
    pub(in crate::delivery) name: Name,
    pub(super) shared: Arc<Shared>,
    counters: Arc<Counters>,
    pub(super) state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    /// What waits for room, by the name of its hook set, so that a name whose instances are full does
    /// not hold up another. Only names that an attached instance serves; never an empty queue.
    queues: BTreeMap<Name, VecDeque<(u64, Flight)>>,
    /// What waits for one instance alone, by its name. Never an empty queue.
    pub(super) pinned: BTreeMap<Name, VecDeque<Pinned>>,
    /// In both kinds of queues.
    pub(super) queued: usize,
    pub(super) instances: BTreeMap<u64, Instance>,
    /// Numbers sessions, calls and turns.
    next_number: u64,
    last_used: Instant,
    pub(super) closed: bool,
}

impl Participant {
    pub(in crate::delivery) fn new(name: Name, shared: Arc<Shared>) -> Arc<Self> {
        let state = State {
            queues: BTreeMap::new(),
            pinned: BTreeMap::new(),
            queued: 0,
            instances: BTreeMap::new(),
            next_number: 1,
            last_used: Instant::now(),
            closed: false,
        };
        Arc::new(Self { name, shared, counters: Arc::default(), state: Mutex::new(state) })
    }

    /// Takes calls, or answers them at once if nobody can serve them or there is no room.
    pub(in crate::delivery) fn offer(self: &Arc<Self>, first: Flight, more: impl Iterator<Item = Flight>) {
        let mut state = lock(&self.state);
        state.last_used = Instant::now();
        for mut flight in std::iter::once(first).chain(more) {
            flight.counted_by(&self.counters);
            if state.closed {
                flight.not_sent("this node is shutting down");
            } else {
                self.place(&mut state, flight);
            }
        }
    }

    /// Takes an instance in; it may get operations at once. A session of the same instance that is
    /// still here is a broken one that nobody has noticed yet: it is replaced.
    pub(in crate::delivery) fn attach(self: &Arc<Self>, about: NewInstance) -> Attachment {
        let bell = Arc::new(Notify::new());
        let mut state = lock(&self.state);
        state.last_used = Instant::now();
        for old in state.instances.values_mut().filter(|old| old.about.name == about.name) {
            old.replaced = true;
            old.draining = true;
            old.bell.notify_one();
        }
        let id = state.number();
        state.instances.insert(id, Instance::new(about, Arc::clone(&bell)));
        self.fill(&mut state, id);
        drop(state);
        Attachment { participant: Arc::clone(self), id, bell, ended_because: "the session broke off" }
    }

    /// Takes nothing more, and hands back what was not sent.
    pub(in crate::delivery) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.queued = 0;
        let queued = std::mem::take(&mut state.queues).into_values().flatten().map(|(_, flight)| flight);
        let pinned = std::mem::take(&mut state.pinned).into_values().flatten().map(|pinned| pinned.flight);
        let queued: Vec<_> = queued.chain(pinned).collect();
        let unsent: Vec<_> = state.instances.values_mut().flat_map(Instance::take_unsent).collect();
        for flight in queued.into_iter().chain(unsent) {
            flight.not_sent("this node is shutting down");
        }
    }

    /// Since when nobody is attached and nothing waits; `None` if it is not so.
    pub(in crate::delivery) fn idle_since(&self) -> Option<Instant> {
        let state = lock(&self.state);
        (state.instances.is_empty() && state.queued == 0).then_some(state.last_used)
    }

    pub(in crate::delivery) fn stats(&self) -> BulkheadStats {
        let state = lock(&self.state);
        BulkheadStats {
            kind: BulkheadKind::Participant,
            name: self.name.to_string(),
            queued: state.queued,
            in_flight: state.instances.values().map(Instance::in_hand).sum(),
            done: self.counters.done.load(Ordering::Relaxed),
            failed: self.counters.failed.load(Ordering::Relaxed),
            instances: state.instances.values().map(Instance::stats).collect(),
        }
    }

    /// Gives a call to the instance with the least to do, or queues it, or answers it.
    pub(super) fn place(self: &Arc<Self>, state: &mut State, flight: Flight) {
        match flight.call().instance.clone() {
            Some(instance) => self.place_pinned(state, flight, instance),
            None => self.place_anywhere(state, flight),
        }
    }

    /// The same for a call that any instance can take.
    pub(super) fn place_anywhere(&self, state: &mut State, flight: Flight) {
        let Target::Participant { operation, .. } = &flight.call().target else {
            return flight.finish(ResultOutcome::Unusable { error: "a callback is no participant".into() });
        };
        let mut serving =
            state.instances.iter().filter(|(_, instance)| instance.serves(operation)).peekable();
        if serving.peek().is_some() {
            let best = serving
                .filter(|(_, instance)| instance.has_room())
                .min_by_key(|(_, instance)| instance.load())
                .map(|(id, _)| *id);
            if let Some(id) = best {
                return state.give(id, flight);
            }
            let operation = operation.clone();
            let Some(flight) = self.queue_room(state, flight) else { return };
            let number = state.number();
            state.queued += 1;
            state.queues.entry(operation).or_default().push_back((number, flight));
            return;
        }
        if state.instances.values().any(|instance| !instance.draining) {
            let error = format!("no attached instance of participant {} serves {operation}", self.name);
            return flight.finish(ResultOutcome::Unusable { error: printable(&error) });
        }
        flight.nobody();
    }

    /// A call that there is room for, or nothing: then it was answered.
    pub(super) fn queue_room(&self, state: &State, flight: Flight) -> Option<Flight> {
        if state.queued < self.shared.config.queue_max {
            return Some(flight);
        }
        let error = format!("{} calls wait for participant {} already", state.queued, self.name);
        flight.not_sent(&error);
        None
    }

    /// Fills an instance's hand from what waits, oldest first.
    fn fill(&self, state: &mut State, id: u64) {
        let now = Instant::now();
        while let Some(instance) = state.instances.get(&id).filter(|instance| instance.has_room()) {
            let oldest = state
                .queues
                .iter()
                .filter(|(operation, _)| instance.serves(operation))
                .filter_map(|(operation, queue)| Some((queue.front()?.0, operation)))
                .min()
                .map(|(number, operation)| (number, operation.clone()));
            let name = instance.about.name.clone();
            let only_here = state.pinned.get(&name).and_then(|queue| Some(queue.front()?.number));
            let flight = match (oldest, only_here) {
                (Some((number, _)), Some(pinned)) if pinned < number => state.pop_pinned(&name),
                (Some((_, operation)), _) => state.pop(&operation),
                (None, _) => state.pop_pinned(&name),
            };
            let Some(flight) = flight else { return };
            if flight.age(now) > self.shared.config.queue_wait_max {
                flight.not_sent("it waited too long behind other calls");
            } else {
                state.give(id, flight);
            }
        }
    }

    /// Places what waited for an instance that is gone or going: to others, or back.
    fn place_again(self: &Arc<Self>, state: &mut State, unsent: Vec<Flight>) {
        let unserved: Vec<Name> = state
            .queues
            .keys()
            .filter(|operation| !state.instances.values().any(|instance| instance.serves(operation)))
            .cloned()
            .collect();
        for operation in unserved {
            while let Some(flight) = state.pop(&operation) {
                self.place(state, flight);
            }
        }
        self.wait_for_absent(state);
        for flight in unsent {
            if state.closed {
                flight.not_sent("this node is shutting down");
            } else {
                self.place(state, flight);
            }
        }
    }

    /// Hands back what has waited too long. Called by sessions now and then: a queue without sessions
    /// does not exist.
    fn expire_queued(&self, state: &mut State, now: Instant) {
        let max = self.shared.config.queue_wait_max;
        let State { queues, pinned, queued, .. } = state;
        for queue in pinned.values_mut() {
            while let Some(first) = queue.pop_front_if(|first| first.flight.age(now) > max) {
                *queued -= 1;
                first.flight.not_sent("it waited too long behind other calls");
            }
        }
        pinned.retain(|_, queue| !queue.is_empty());
        queues.retain(|_, queue| {
            while queue.front().is_some_and(|(_, flight)| flight.age(now) > max) {
                if let Some((_, flight)) = queue.pop_front() {
                    *queued -= 1;
                    flight.not_sent("it waited too long behind other calls");
                }
            }
            !queue.is_empty()
        });
    }
}

impl State {
    pub(super) fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    pub(super) fn give(&mut self, id: u64, flight: Flight) {
        let number = self.number();
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.last_given = number;
            instance.give(number, flight);
        }
    }

    fn pop(&mut self, operation: &Name) -> Option<Flight> {
        let queue = self.queues.get_mut(operation)?;
        let popped = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(operation);
        }
        popped.map(|(_, flight)| {
            self.queued -= 1;
            flight
        })
    }
}

/// An instance's place at its participant, held by its session. Dropping it ends it: what was sent is
/// answered "unknown", what was not goes to other instances.
#[derive(Debug)]
pub(in crate::delivery) struct Attachment {
    participant: Arc<Participant>,
    id: u64,
    /// Rings when there is something to send, or something changed.
    pub(super) bell: Arc<Notify>,
    /// What the calls in its hand are told when it ends.
    pub(super) ended_because: &'static str,
}

impl Attachment {
    /// How things are for the session's next step.
    pub(super) fn look(&self) -> Look {
        let state = lock(&self.participant.state);
        let instance = state.instances.get(&self.id);
        Look {
            outgoing: instance.is_some_and(Instance::has_outgoing),
            next_deadline: instance.and_then(Instance::next_deadline),
            replaced: instance.is_some_and(|instance| instance.replaced),
            draining: instance.is_none_or(|instance| instance.draining),
            in_hand: instance.map_or(0, Instance::in_hand),
        }
    }

    /// The next operations to send.
    pub(super) fn take_batch(&self) -> Vec<v1::BranchOperation> {
        let shared = &self.participant.shared;
        let mut state = lock(&self.participant.state);
        let batch = state
            .instances
            .get_mut(&self.id)
            .map(|instance| instance.take_batch(Instant::now(), &shared.config, shared.log_id()))
            .unwrap_or_default();
        // What outlived its owner's lease left room in its hand.
        self.participant.fill(&mut state, self.id);
        batch
    }

    /// Passes answers on and fills the hand again.
    pub(super) fn answers(&self, results: &[v1::BranchResult]) {
        let mut state = lock(&self.participant.state);
        if let Some(instance) = state.instances.get_mut(&self.id) {
            for result in results {
                instance.answer(result);
            }
        }
        self.participant.fill(&mut state, self.id);
    }

    /// Gives up what took too long, here and in the queue.
    pub(super) fn expire(&self, now: Instant) {
        let mut state = lock(&self.participant.state);
        if let Some(instance) = state.instances.get_mut(&self.id) {
            instance.expire(now, &self.participant.shared.config);
        }
        self.participant.expire_queued(&mut state, now);
        self.participant.fill(&mut state, self.id);
    }

    /// Gives it nothing more; what was not sent goes to others.
    pub(super) fn drain(&self) {
        let mut state = lock(&self.participant.state);
        let Some(instance) = state.instances.get_mut(&self.id) else { return };
        instance.draining = true;
        let unsent = instance.take_unsent();
        self.participant.place_again(&mut state, unsent);
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mut state = lock(&self.participant.state);
        state.last_used = Instant::now();
        let Some(mut instance) = state.instances.remove(&self.id) else { return };
        let unsent = instance.take_unsent();
        instance.end(&format!("instance {}: {}", instance.about.name, self.ended_because));
        self.participant.place_again(&mut state, unsent);
    }
}

/// See [`Attachment::look`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) outgoing: bool,
    pub(super) next_deadline: Option<Instant>,
    pub(super) replaced: bool,
    pub(super) draining: bool,
    pub(super) in_hand: usize,
}
