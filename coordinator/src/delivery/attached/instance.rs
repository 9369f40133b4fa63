//! One attached instance, as its participant's bulkhead sees it: what it serves and what is in its
//! hand.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::Notify;
use tokio::time::Instant;
use unanimity_proto::v1;
use unanimity_types::{Name, Target};

use crate::delivery::config::DeliveryConfig;
use crate::delivery::flight::Flight;
use crate::delivery::grpc::{operation_to_wire, outcome_of};
use crate::delivery::stats::InstanceStats;
use crate::delivery::text::printable;

/// Operations in one message: many enough to spare messages, few enough that the first of them does
/// not wait for the last.
const BATCH_OPERATIONS_MAX: usize = 256;
/// Bytes after which a message is full. With the last operation's (1 MiB of payload, 1 MiB of results
/// under a thousand names) it stays below the limit of a message (4 MiB).
const BATCH_BYTES_FULL: usize = 1024 * 1024;
/// How long an instance that let an operation time out is chosen only if no other has room.
const AVOID_AFTER_TIMEOUT: Duration = Duration::from_secs(30);

/// An instance that wants to attach.
#[derive(Debug)]
pub(in crate::delivery) struct NewInstance {
    /// Its own name.
    pub(in crate::delivery) name: Name,
    /// Its SDK's name and version.
    pub(in crate::delivery) sdk: String,
    /// The hook sets that it serves.
    pub(in crate::delivery) serves: BTreeSet<Name>,
    /// How many operations it takes at once.
    pub(in crate::delivery) concurrency: usize,
}

/// A call that it was given.
#[derive(Debug)]
struct InHand {
    flight: Flight,
    /// When it is given up; `None` before it was sent.
    deadline: Option<Instant>,
}

/// An attached instance. All under the lock of its participant.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) about: NewInstance,
    /// Wakes its session's task.
    pub(super) bell: Arc<Notify>,
    /// What is in its hand or about to be, by call id.
    in_hand: HashMap<u64, InHand>,
    /// Call ids not sent yet, in order.
    outbox: VecDeque<u64>,
    /// When to look for calls that took too long: not after the first deadline of what is out. It stays
    /// where that call is answered, so that an answer costs nothing here.
    look_at: Option<Instant>,
    /// Said goodbye.
    pub(super) draining: bool,
    /// Another session of the same instance took its place.
    pub(super) replaced: bool,
    avoid_until: Option<Instant>,
    /// When it was last given something, as a running number.
    pub(super) last_given: u64,
}

impl Instance {
    pub(super) fn new(about: NewInstance, bell: Arc<Notify>) -> Self {
        Self {
            about,
            bell,
            in_hand: HashMap::new(),
            outbox: VecDeque::new(),
            look_at: None,
            draining: false,
            replaced: false,
            avoid_until: None,
            last_given: 0,
        }
    }

    pub(super) fn in_hand(&self) -> usize {
        self.in_hand.len()
    }

    /// Whether it takes operations of this name at all.
    pub(super) fn serves(&self, operation: &Name) -> bool {
        !self.draining && self.about.serves.contains(operation)
    }

    pub(super) fn has_room(&self) -> bool {
        !self.draining && self.in_hand.len() < self.about.concurrency
    }

    /// What to choose the least of: trouble lately, load, and whose turn it is.
    pub(super) fn load(&self) -> (bool, usize, u64) {
        let avoided = self.avoid_until.is_some_and(|until| Instant::now() < until);
        (avoided, self.in_hand.len(), self.last_given)
    }

    pub(super) fn give(&mut self, call_id: u64, flight: Flight) {
        self.in_hand.insert(call_id, InHand { flight, deadline: None });
        self.outbox.push_back(call_id);
        self.bell.notify_one();
    }

    pub(super) fn has_outgoing(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// The next message to send. From here on, its operations count as sent.
    pub(super) fn take_batch(
        &mut self,
        now: Instant,
        config: &DeliveryConfig,
        log_id: &str,
    ) -> Vec<v1::BranchOperation> {
        let mut batch = Vec::with_capacity(self.outbox.len().min(BATCH_OPERATIONS_MAX));
        let mut bytes = 0;
        while batch.len() < BATCH_OPERATIONS_MAX && bytes < BATCH_BYTES_FULL {
            let Some(call_id) = self.outbox.pop_front() else { break };
            let Entry::Occupied(mut entry) = self.in_hand.entry(call_id) else { continue };
            if !entry.get().flight.may_leave() {
                entry.remove().flight.outlived_lease();
                continue;
            }
            let InHand { flight, deadline } = entry.get_mut();
            let timeout = config.timeout_of(flight.call());
            let until = now + timeout;
            flight.mark_sent(now);
            *deadline = Some(until);
            self.look_at = Some(self.look_at.map_or(until, |at| at.min(until)));
            let call = flight.call();
            let name = match &call.target {
                Target::Participant { operation, .. } => operation.as_str(),
                Target::Grpc(_) | Target::Http(_) => "",
            };
            let operation = operation_to_wire(call, call_id, name, log_id, timeout);
            // As it goes on the wire: a step may have a thousand inputs, each small beside its name.
            bytes += operation.encoded_len();
            batch.push(operation);
        }
        batch
    }

    /// Passes an answer on. One that nobody waits for any more is nothing.
    pub(super) fn answer(&mut self, result: &v1::BranchResult) {
        let Entry::Occupied(entry) = self.in_hand.entry(result.call_id) else { return };
        // An id that was never sent is a guess: answering it would settle what nobody did.
        if entry.get().deadline.is_none() {
            return;
        }
        self.avoid_until = None;
        let flight = entry.remove().flight;
        let outcome = outcome_of(flight.call().operation, result);
        flight.finish(outcome);
    }

    /// Gives up what took too long.
    pub(super) fn expire(&mut self, now: Instant, config: &DeliveryConfig) {
        if self.look_at.is_none_or(|at| now < at) {
            return;
        }
        // All at once: a hand is small, and its calls are seldom late.
        let late = |_: &u64, in_hand: &mut InHand| in_hand.deadline.is_some_and(|deadline| deadline <= now);
        for (_, InHand { flight, .. }) in self.in_hand.extract_if(late) {
            self.avoid_until = Some(now + AVOID_AFTER_TIMEOUT);
            let timeout = config.timeout_of(flight.call());
            flight.unknown(&format!("instance {} gave no answer within {timeout:?}", self.about.name));
        }
        self.look_at = self.in_hand.values().filter_map(|in_hand| in_hand.deadline).min();
    }

    /// When to call [`Self::expire`] next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.look_at
    }

    /// Takes back what was not sent.
    pub(super) fn take_unsent(&mut self) -> Vec<Flight> {
        let unsent = self.outbox.drain(..).filter_map(|call_id| self.in_hand.remove(&call_id));
        unsent.map(|in_hand| in_hand.flight).collect()
    }

    /// The session is over: what was sent is of unknown outcome.
    pub(super) fn end(&mut self, why: &str) {
        for (_, in_hand) in self.in_hand.drain() {
            in_hand.flight.unknown(why);
        }
    }

    pub(super) fn stats(&self) -> InstanceStats {
        InstanceStats {
            instance: self.about.name.to_string(),
            sdk: printable(&self.about.sdk).into(),
            in_flight: self.in_hand.len(),
            concurrency: self.about.concurrency,
            draining: self.draining,
        }
    }
}
