//! The driver of the core, as small as it can be: commands, blocks, crashes, takeovers.

use unanimity_core::{
    Answer, Command, Effect, Event, Persistence, Refusal, Timer, Verdict, apply, decide, pending,
};
use unanimity_types::{BranchStatus, Decision, Operation, Timestamp};

use super::{Flight, Ghost, Rule, World};
use crate::fixture::{self, as_written, replay};

/// A verdict that waits for its block.
pub(super) struct Held {
    pub(super) events: Vec<(Timestamp, Event)>,
    pub(super) effects: Vec<Effect>,
    decision: Option<Decision>,
    /// What the answer makes known to whoever asked.
    pub(super) registered: Option<unanimity_types::BranchKey>,
}

impl World {
    /// A command reaches the coordinator.
    #[expect(clippy::needless_pass_by_value, reason = "a message is handed over")]
    pub(super) fn command(&mut self, command: Command) {
        if self.verbose {
            self.note(&format!("command {command:?}"));
        }
        let verdict = decide(self.state.as_ref(), command.clone(), self.context());
        if self.verbose {
            self.note(&format!("  → {verdict:?}"));
        }
        self.check_verdict(&command, &verdict);
        let Verdict { events, answer } = verdict;
        let mut effects = Vec::new();
        for event in &events {
            self.hits.event(event);
            apply(&mut self.state, self.xid, event.clone(), self.now, &mut effects)
                .expect("what was decided can be applied");
        }
        if answer == Ok(Answer::Undecided) {
            self.waiters += 1;
        }
        let decision = match &answer {
            Ok(Answer::Status) => self.state.as_ref().and_then(|transaction| transaction.status().decision()),
            Err(Refusal::AlreadyDecided { status, .. }) => status.decision(),
            _ => None,
        };
        let registered = match (&command, &answer) {
            (Command::Register(registration), Ok(Answer::Registered(_))) => Some(registration.key.clone()),
            _ => None,
        };
        self.hold(events, effects, decision, registered);
    }

    /// Timers at once, the rest when the block is durable.
    fn hold(
        &mut self,
        events: Vec<Event>,
        mut effects: Vec<Effect>,
        decision: Option<Decision>,
        registered: Option<unanimity_types::BranchKey>,
    ) {
        effects.retain(|effect| match effect {
            Effect::SetTimer { at, timer } => {
                self.timers.push((*at, *timer));
                false
            }
            _ => true,
        });
        let at = self.now;
        let events: Vec<_> = events
            .into_iter()
            .filter(|event| event.persistence() != Persistence::Volatile)
            .map(|event| (at, event))
            .collect();
        self.queue.push(Held { events, effects, decision, registered });
        if self.queue.iter().all(|held| held.events.is_empty()) {
            self.flush(self.queue.len());
        }
    }

    pub(super) fn flush_some(&mut self) {
        if !self.queue.is_empty() {
            let size = 1 + self.rng.index(self.queue.len());
            self.flush(size);
        }
    }

    pub(super) fn flush_all(&mut self) {
        while !self.queue.is_empty() {
            self.flush(self.queue.len());
        }
    }

    /// A block of so many verdicts is durable: what they caused is let out.
    fn flush(&mut self, size: usize) {
        let block: Vec<_> = self.queue.drain(..size).collect();
        for held in &block {
            self.append(&held.events);
        }
        self.note("block durable");
        for held in block {
            for effect in &held.effects {
                self.release(effect);
            }
            if let Some(decision) = held.decision {
                self.tell(decision);
            }
            if let Some(key) = held.registered {
                self.works(&key);
            }
        }
    }

    fn append(&mut self, events: &[(Timestamp, Event)]) {
        for (at, event) in events {
            let durable = &mut self.durable;
            match event {
                Event::Decided { decision, .. } => {
                    assert_eq!(durable.decision, None, "one decision in the log (I3)");
                    durable.decision = Some(*decision);
                }
                Event::Presumed => {
                    assert_eq!(durable.decision, None, "one decision in the log (I3)");
                    durable.decision = Some(Decision::Abort);
                    durable.finished = true;
                }
                Event::Finished => durable.finished = true,
                Event::PlanAccepted { .. } => durable.planned = true,
                Event::Delegated { .. } => durable.delegated = true,
                Event::PreparesAsked { .. } => durable.prepares = true,
                Event::CheckBackAsked { .. } => durable.checked = true,
                Event::ActionDone { branch_id, result, .. } => {
                    let before = durable.results.insert(*branch_id, result.clone());
                    assert_eq!(before, None, "a step is done once");
                }
                Event::BranchResolved { branch_id, .. } => {
                    durable.resolved.insert(*branch_id);
                }
                Event::Snapshot(_) if self.rng.chance(60) => {
                    self.hits.rule(Rule::SnapshotTrims);
                    self.log.clear();
                }
                _ => {}
            }
            self.log.push((*at, as_written(event.clone())));
        }
    }

    fn release(&mut self, effect: &Effect) {
        match *effect {
            Effect::Dispatch { branch_id, operation, attempt } => {
                self.check_dispatch(branch_id, operation);
                let transaction = self.state.as_ref().expect("known");
                let branch = transaction.branch(branch_id).expect("registered");
                let flight = Flight {
                    branch_id,
                    key: branch.key.clone(),
                    operation,
                    attempt,
                    inputs: transaction.inputs_of(branch),
                    timeout: branch.policy().timeout.unwrap_or_default().max(fixture::CALL_TIMEOUT),
                };
                self.flights.push(flight);
            }
            Effect::SetTimer { at, timer } => self.timers.push((at, timer)),
            Effect::Decided(decision) => {
                assert_eq!(self.durable.decision, Some(decision), "told behind its block");
                if self.waiters > 0 {
                    self.waiters = 0;
                    self.tell(decision);
                }
            }
            Effect::Finished => assert!(self.durable.finished, "told behind its block"),
        }
    }

    /// Somebody learns an outcome (I4).
    fn tell(&mut self, decision: Decision) {
        assert_eq!(self.durable.decision, Some(decision), "nobody is told what is not durable (I3, C5)");
        assert!(self.told.is_none_or(|told| told == decision), "nobody is told both outcomes (I4)");
        self.told = Some(decision);
    }

    /// The process dies, or is deposed and does not know it yet: what was not durable never was, and a
    /// new owner starts from the log.
    pub(super) fn crash(&mut self) {
        self.hit(Rule::Crash);
        if self.rng.chance(40) && !self.queue.is_empty() {
            // The block was written, and the process died before it let anything out.
            let size = 1 + self.rng.index(self.queue.len());
            let block: Vec<_> = self.queue.drain(..size).collect();
            for held in &block {
                self.append(&held.events);
            }
        }
        self.queue.clear();
        // Earlier owners' late requests outlive their successors, also those of steps with known results.
        if self.ghosts.iter().any(|ghost| {
            ghost.flight.operation == Operation::Action
                && self.now < ghost.until
                && self.durable.results.contains_key(&ghost.flight.branch_id)
        }) {
            self.hit(Rule::LateActionOfKnownResult);
        }
        let deposed = self.rng.chance(50);
        let before = self.state.take();
        for flight in std::mem::take(&mut self.flights) {
            let until = self.now.after(flight.timeout);
            self.ghosts.push(Ghost { flight, until });
        }
        self.state = replay(self.xid, &self.log);
        if let (true, Some(before)) = (deposed, before) {
            self.old_owner_sends(&before);
        }
        self.timers.clear();
        self.waiters = 0;
        self.note(if deposed { "deposed" } else { "crash" });
        let context = self.context();
        let Some(transaction) = &mut self.state else { return };
        if transaction.branches.iter().any(|branch| branch.parked) {
            self.hits.rule(Rule::ParkedInCrash);
        }
        let effects = pending(transaction, context);
        let held = transaction
            .branches
            .iter()
            .any(|branch| branch.status == BranchStatus::ToCompensate && branch.next_attempt_at.is_some());
        if held {
            self.hit(Rule::CompensationHeldAfterTakeover);
        }
        for effect in effects {
            self.release(&effect);
        }
    }

    /// What the old owner may go on sending until its lease ends: attempts of what runs in its memory.
    fn old_owner_sends(&mut self, before: &unanimity_core::Transaction) {
        for branch in &before.branches {
            let operation = match branch.status {
                BranchStatus::Running => Operation::Action,
                BranchStatus::Preparing => Operation::Prepare,
                BranchStatus::Checking => Operation::CheckBack,
                _ => continue,
            };
            // It sends nothing either before what led to it is durable, and its block lost the race.
            let known = self.state.as_ref().and_then(|now| now.branch(branch.id));
            let Some(known) = known.filter(|known| known.status == branch.status) else { continue };
            let inputs = self.state.as_ref().map(|now| now.inputs_of(known)).unwrap_or_default();
            let timeout = branch.policy().timeout.unwrap_or_default().max(fixture::CALL_TIMEOUT);
            let flight = Flight {
                branch_id: branch.id,
                key: branch.key.clone(),
                operation,
                attempt: branch.attempts + 1,
                inputs,
                timeout,
            };
            let until = self.now.after(fixture::LEASE).after(timeout);
            self.ghosts.push(Ghost { flight, until });
            self.hits.rule(Rule::DeposedOwnerSends);
        }
    }

    /// Cleaning writes the whole transaction again; it may then forget what stood before.
    pub(super) fn clean(&mut self) {
        let Some(transaction) = &self.state else { return };
        let event = Event::Snapshot(Box::new(transaction.durable()));
        let before = self.state.clone();
        let mut effects = Vec::new();
        apply(&mut self.state, self.xid, event.clone(), self.now, &mut effects).expect("its own snapshot");
        assert!(effects.is_empty(), "a snapshot is no news");
        assert_eq!(self.state, before, "a snapshot changes nothing");
        self.hits.event(&event);
        self.note("snapshot");
        self.hold(vec![event], effects, None, None);
    }

    /// The log, once all is durable, gives the state and what is owed (M7).
    pub(super) fn compare_with_replay(&mut self) {
        self.hit(Rule::ReplayCompared);
        let queued = self.queue.iter().flat_map(|held| &held.events);
        let mut replayed = replay(self.xid, self.log.iter().chain(queued));
        let Some(live) = &self.state else {
            assert_eq!(replayed, None, "nothing lives that is not in the log");
            return;
        };
        let context = self.context();
        let replayed = replayed.as_mut().expect("the log knows it");
        assert_eq!(comparable(replayed), comparable(live), "live and replayed are the same");
        let owed = pending(replayed, context);
        self.check_owed(&owed);
    }

    pub(super) fn fire(&mut self, timer: Timer) {
        self.note(&format!("timer {timer:?}"));
        self.command(Command::Timer(timer));
    }
}

/// A state without what is written sparsely: counts of attempts, and whether a compensation had its turn.
fn comparable(transaction: &unanimity_core::Transaction) -> unanimity_core::Transaction {
    let mut durable = transaction.durable();
    for branch in &mut durable.branches {
        branch.attempts = 0;
        branch.last_error = None;
        if branch.status == BranchStatus::Compensating {
            branch.status = BranchStatus::ToCompensate;
        }
    }
    durable
}
