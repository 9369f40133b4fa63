//! The world outside: transaction managers, the network, time, operators.

use std::collections::BTreeSet;
use std::time::Duration;

use unanimity_core::{Command, Event, ResultOutcome};
use unanimity_types::{
    AbortReason, BranchId, BranchKey, BranchStatus, Operation, ResolveAs, Timestamp, Vote,
};

use super::sites::{Local, Row, Site};
use super::{Flight, Ghost, Kind, Rule, World};
use crate::fixture;

/// Who drives the transaction.
#[derive(Debug, Default)]
pub(super) struct Manager {
    /// It does not abort.
    pub(super) patient: bool,
    /// Its participants vote by calls of their own.
    pub(super) explicit: bool,
    /// The registrations of its branches.
    pub(super) parts: Vec<Command>,
    pub(super) acked: BTreeSet<BranchKey>,
    pub(super) committed: bool,
}

fn key_of(part: &Command) -> &BranchKey {
    let Command::Register(registration) = part else { panic!("a part is a registration") };
    &registration.key
}

fn is_early(part: &Command) -> bool {
    matches!(part, Command::Register(registration) if registration.two_phase.early)
}

impl World {
    /// Sends a message: at once, later, or twice.
    fn send(&mut self, command: Command) {
        if self.rng.chance(15) {
            self.mail.push(command.clone());
            if self.rng.chance(60) {
                return;
            }
        }
        self.command(command);
    }

    pub(super) fn managers_step(&mut self) {
        if !self.mail.is_empty() && self.rng.chance(15) {
            self.hit(Rule::Delayed);
            let place = self.rng.index(self.mail.len());
            let command = self.mail.swap_remove(place);
            self.command(command);
            return;
        }
        if self.state.is_none() || self.rng.chance(3) {
            let begin = self.begin.clone();
            let asks = self.kind != Kind::Message && self.rng.chance(2);
            self.send(if asks { Command::Inquire } else { begin });
            return;
        }
        if self.rng.chance(6) {
            self.send(Command::Inquire);
            return;
        }
        match self.kind {
            Kind::Saga if !self.manager.patient && self.rng.chance(8) => self.send(fixture::ABORT),
            Kind::Saga => {}
            Kind::Message => self.senders_step(),
            Kind::TwoPhase | Kind::Mixed => self.open_step(),
        }
    }

    fn sender() -> BranchKey {
        BranchKey::new(BranchKey::SENDER).expect("valid")
    }

    fn senders_step(&mut self) {
        let Some(Site::Sender(local)) = self.sites.get(&Self::sender()) else {
            panic!("every message has one")
        };
        let local = match *local {
            // Only after the prepare was acknowledged (H5).
            Local::NotBegun if self.durable.planned && self.rng.chance(70) => Local::Open,
            Local::Open if self.rng.chance(30) => {
                if self.rng.chance(75) {
                    Local::Committed
                } else {
                    Local::Over
                }
            }
            Local::Committed if self.rng.chance(40) => {
                self.send(fixture::COMMIT_ALL);
                return;
            }
            Local::Over if self.rng.chance(30) => {
                self.send(fixture::ABORT);
                return;
            }
            other => other,
        };
        self.sites.insert(Self::sender(), Site::Sender(local));
    }

    /// At the end the sender's local transaction ends one way or the other.
    pub(super) fn sender_ends(&mut self) {
        if let Some(Site::Sender(local @ Local::Open)) = self.sites.get_mut(&Self::sender()) {
            *local = if self.rng.chance(50) { Local::Committed } else { Local::Over };
        }
    }

    fn open_step(&mut self) {
        let part = self.rng.pick(&self.manager.parts).clone();
        let key = key_of(&part).clone();
        match self.rng.below(20) {
            0..=9 => self.send(part),
            10..=12 if self.manager.acked.contains(&key) => self.vote(&part, key),
            13 if self.rng.chance(25) => self.send(fixture::ABORT),
            _ => self.commit(),
        }
    }

    /// A registration was acknowledged: the participant does its work.
    pub(super) fn works(&mut self, key: &BranchKey) {
        let part = self.manager.parts.iter().find(|part| key_of(part) == key).expect("one of its parts");
        let early = is_early(part);
        let first = self.manager.acked.insert(key.clone());
        let loses = !self.manager.committed && self.rng.chance(4);
        if !first || loses {
            return;
        }
        match self.sites.get_mut(key) {
            Some(Site::TwoPhase(row @ Row::Absent)) if early => *row = Row::Prepared,
            Some(Site::TwoPhase(row @ Row::Absent) | Site::Tcc(row @ Row::Absent)) => *row = Row::Working,
            _ => {}
        }
    }

    fn vote(&mut self, part: &Command, key: BranchKey) {
        let Some(Site::TwoPhase(row)) = self.sites.get_mut(&key) else { return };
        let branch = self.state.as_ref().and_then(|transaction| transaction.branch_by_key(&key));
        let Some(branch) = branch.cloned() else { return };
        if branch.status != BranchStatus::Preparing && self.rng.chance(20) {
            // Wrongly: it was not asked.
            self.command(Command::Vote { key, vote: Vote::ReadOnly });
            return;
        }
        if branch.vote == Some(Vote::Prepared) && self.rng.chance(20) {
            self.hit(Rule::Contradictory);
            self.command(Command::Vote { key, vote: Vote::Refused });
            return;
        }
        if !self.manager.explicit && !is_early(part) {
            return;
        }
        match *row {
            Row::Working if branch.status != BranchStatus::Delegated && self.rng.chance(60) => {
                *row = Row::Prepared;
            }
            Row::Prepared => {}
            Row::Absent if self.rng.chance(50) => {
                *row = Row::RolledBack;
                self.send(Command::Vote { key, vote: Vote::Refused });
                return;
            }
            _ => return,
        }
        self.send(Command::Vote { key, vote: Vote::Prepared });
    }

    /// It commits when every call that it made ended well, or while a registration is still on its way.
    fn commit(&mut self) {
        let parts = &self.manager.parts;
        let all = parts.iter().all(|part| self.manager.acked.contains(key_of(part)));
        let well = parts.iter().all(|part| match self.sites.get(key_of(part)) {
            _ if !self.manager.acked.contains(key_of(part)) => true,
            Some(Site::Tcc(row)) => matches!(row, Row::Working | Row::Committed),
            Some(Site::TwoPhase(row)) if is_early(part) => matches!(row, Row::Prepared | Row::Committed),
            _ => true,
        });
        if !well || (!all && self.rng.chance(80)) {
            return;
        }
        let mut named: BTreeSet<_> = parts.iter().map(key_of).cloned().collect();
        if self.rng.chance(4) {
            // It lost an answer on its way.
            named.pop_first();
            self.manager.committed = true;
            self.send(Command::Commit { votes: Some(named) });
            return;
        }
        self.manager.committed = true;
        let votes = (!all || self.rng.chance(60)).then_some(named);
        self.send(Command::Commit { votes });
    }

    /// A call that was still running when the commit named it ends at last (K8).
    pub(super) fn late_work(&self, flight: &Flight) -> Option<Site> {
        let runs = self.manager.committed && !self.manager.acked.contains(&flight.key);
        match (self.sites.get(&flight.key), flight.operation) {
            (Some(Site::Tcc(Row::Absent)), Operation::Confirm) if runs => Some(Site::Tcc(Row::Working)),
            (Some(Site::TwoPhase(Row::Absent)), Operation::Commit) if runs => {
                Some(Site::TwoPhase(Row::Prepared))
            }
            _ => None,
        }
    }

    /// An operation arrives and its answer comes back.
    pub(super) fn deliver(&mut self, flight: &Flight) {
        let outcome = self.execute(flight);
        self.result(flight, outcome);
    }

    pub(super) fn result(&mut self, flight: &Flight, outcome: ResultOutcome) {
        let Flight { branch_id, operation, attempt, .. } = *flight;
        self.command(Command::Result { branch_id, operation, attempt, outcome });
    }

    pub(super) fn network_step(&mut self) {
        if !self.ghosts.is_empty() && (self.flights.is_empty() || self.rng.chance(15)) {
            self.ghost_step();
            return;
        }
        if self.flights.is_empty() {
            return;
        }
        let place = self.rng.index(self.flights.len());
        let flight = self.flights.swap_remove(place);
        let error = self.error();
        let retry_after = self.rng.chance(10).then_some(Duration::from_secs(20));
        match self.rng.below(16) {
            10..=11 => {
                // Done, and the answer lost.
                self.execute(&flight);
                self.result(&flight, ResultOutcome::Unknown { error, retry_after });
            }
            12 => {
                // Its time is over; the request is still somewhere.
                self.ghosts.push(Ghost { flight: flight.clone(), until: self.now });
                self.result(&flight, ResultOutcome::Unknown { error, retry_after });
            }
            13 => {
                let retry_after = Duration::from_millis(700);
                self.result(&flight, ResultOutcome::NotSent { error, retry_after });
            }
            14 => self.result(&flight, ResultOutcome::Unusable { error }),
            15 if !flight.operation.is_forward() && flight.operation != Operation::CommitOnePhase => {
                self.result(&flight, ResultOutcome::Refused { error });
            }
            _ => self.deliver(&flight),
        }
    }

    pub(super) fn time_step(&mut self) {
        let wait = *self.rng.pick(&[0, 1, 20, 200, 200, 600, 1_000, 1_000, 5_000, 10_000, 20_000]);
        self.now = self.now.after(Duration::from_millis(wait));
        if self.timers.is_empty() {
            return;
        }
        // Any timer: due or not, for what still waits or for what is long over.
        let place = self.rng.index(self.timers.len());
        let (at, timer) = self.timers[place];
        if at <= self.now {
            if self.rng.chance(90) {
                self.timers.swap_remove(place);
            }
        } else if self.rng.chance(70) {
            return;
        } else {
            self.hit(Rule::StaleTimer);
        }
        self.fire(timer);
    }

    /// Goes on to the next timer that is set.
    pub(super) fn next_timer(&mut self) {
        let next = (0..self.timers.len()).min_by_key(|place| self.timers[*place].0);
        let (at, timer): (Timestamp, _) =
            self.timers.swap_remove(next.expect("nothing on its way and no timer: stuck for ever (I5)"));
        self.now = self.now.max(at);
        self.fire(timer);
    }

    pub(super) fn operators_step(&mut self) {
        let count = self.state.as_ref().map_or(0, |transaction| transaction.branches.len());
        let id = BranchId(1 + u32::try_from(self.rng.index(count + 1)).expect("small"));
        match self.rng.below(10) {
            0..=3 => self.command(Command::Retry { by: fixture::by() }),
            4..=6 => {
                let at = self.now.after(Duration::from_millis(self.rng.below(500)));
                self.command(Command::Wake { branch_id: id, at });
            }
            7 if self.kind != Kind::Message => {
                self.command(Command::Abort { reason: AbortReason::Operator, by: Some(fixture::by()) });
            }
            8 if self.rng.chance(50) => self.resolve(id),
            _ => {}
        }
    }

    /// Somebody looks at what a participant did, and says so.
    pub(super) fn resolve(&mut self, branch_id: BranchId) {
        let branch = self.state.as_ref().and_then(|transaction| transaction.branch(branch_id));
        let there = branch.is_some_and(|branch| match &self.sites[&branch.key] {
            Site::Step(step) => step.effect,
            Site::TwoPhase(row) | Site::Tcc(row) => *row == Row::Committed,
            Site::Receiver(effects) => *effects > 0,
            Site::Sender(_) => false,
        });
        let resolve_as = if there { ResolveAs::Confirmed } else { ResolveAs::Cancelled };
        self.command(Command::Resolve { branch_id, resolve_as, by: fixture::by() });
        let resolved = self.queue.last().is_some_and(|held| {
            held.events.iter().any(|(_, event)| matches!(event, Event::BranchResolved { .. }))
        });
        if resolved {
            self.hit(Rule::OperatorResolves);
        }
    }
}
