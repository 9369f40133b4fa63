//! Calls that only one instance can take (protocol H11): it holds the branch's open work, a transaction on
//! one of its connections. They wait for it alone, also for a moment in which it is not attached.
//!
//! An instance that does not come back has taken its open work with it, so a prepare is refused. A
//! one-phase commit is not: an attempt that nobody answered may have committed. Any other instance of the
//! participant can tell, because the answer is a write into its ledger (protocol H4); so it goes to
//! one of them.

use std::sync::Arc;

use tokio::time::Instant;
use unanimity_core::ResultOutcome;
use unanimity_types::{Name, Operation, Target};

use super::participant::{Participant, State};
use crate::delivery::flight::Flight;
use crate::delivery::text::{lock, printable};

/// A call that waits for its instance.
#[derive(Debug)]
pub(super) struct Pinned {
    /// Its place among all that wait.
    pub(super) number: u64,
    pub(super) flight: Flight,
    /// Since when its instance is not attached; of no meaning while it is.
    absent_since: Instant,
}

impl Participant {
    /// Gives a call to its instance, or lets it wait for it.
    pub(super) fn place_pinned(self: &Arc<Self>, state: &mut State, flight: Flight, instance: Name) {
        let Target::Participant { operation, .. } = &flight.call().target else {
            return flight.finish(ResultOutcome::Unusable { error: "a callback is no participant".into() });
        };
        let attached = state.attached(&instance);
        if let Some((id, there)) = attached {
            if !there.serves(operation) {
                let error =
                    format!("instance {instance} of participant {} does not serve {operation}", self.name);
                return flight.finish(ResultOutcome::Unusable { error: printable(&error) });
            }
            if there.has_room() {
                return state.give(id, flight);
            }
        }
        let is_absent = attached.is_none();
        let Some(flight) = self.queue_room(state, flight) else { return };
        let number = state.number();
        state.queued += 1;
        let pinned = Pinned { number, flight, absent_since: Instant::now() };
        state.pinned.entry(instance).or_default().push_back(pinned);
        if is_absent {
            self.look_after_grace();
        }
    }

    /// An instance left: what waits for one that is not here does so from now on.
    pub(super) fn wait_for_absent(self: &Arc<Self>, state: &mut State) {
        let now = Instant::now();
        let absent: Vec<Name> =
            state.pinned.keys().filter(|name| state.attached(name).is_none()).cloned().collect();
        for name in &absent {
            for pinned in state.pinned.get_mut(name).into_iter().flatten() {
                pinned.absent_since = now;
            }
        }
        if !absent.is_empty() {
            self.look_after_grace();
        }
    }

    /// A task of its own: there may be no session whose task could look.
    fn look_after_grace(self: &Arc<Self>) {
        let participant = Arc::clone(self);
        let grace = self.shared.config.instance_grace;
        self.shared.runtime.spawn(async move {
            tokio::time::sleep(grace).await;
            participant.give_up_absent();
        });
    }

    /// Answers what waited long enough for an instance that did not come back.
    fn give_up_absent(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        let grace = self.shared.config.instance_grace;
        let now = Instant::now();
        let absent: Vec<Name> =
            state.pinned.keys().filter(|name| state.attached(name).is_none()).cloned().collect();
        for name in absent {
            let over = |pinned: &Pinned| now.saturating_duration_since(pinned.absent_since) >= grace;
            while let Some(flight) = state.pop_pinned_if(&name, over) {
                if flight.call().operation == Operation::CommitOnePhase {
                    self.place_anywhere(&mut state, flight);
                } else {
                    let error = format!(
                        "instance {name} of participant {} is gone, and its open work with it",
                        self.name
                    );
                    flight.finish(ResultOutcome::Refused { error: printable(&error) });
                }
            }
        }
    }
}

impl State {
    /// The session of an instance that takes calls.
    fn attached(&self, name: &Name) -> Option<(u64, &super::instance::Instance)> {
        let mut found = self.instances.iter();
        found
            .find(|(_, instance)| instance.about.name == *name && !instance.draining)
            .map(|(id, instance)| (*id, instance))
    }

    pub(super) fn pop_pinned(&mut self, instance: &Name) -> Option<Flight> {
        self.pop_pinned_if(instance, |_| true)
    }

    fn pop_pinned_if(&mut self, instance: &Name, when: impl Fn(&Pinned) -> bool) -> Option<Flight> {
        let queue = self.pinned.get_mut(instance)?;
        let popped = queue.pop_front_if(|first| when(first));
        if queue.is_empty() {
            self.pinned.remove(instance);
        }
        popped.map(|pinned| {
            self.queued -= 1;
            pinned.flight
        })
    }
}
