//! The driver of the core, as small as it can be: commands, blocks, crashes.

use unanimity_core::{
    Answer, AttentionCode, Command, Effect, Event, Persistence, Refusal, Timer, Verdict, apply, decide,
    pending,
};
use unanimity_types::{AbortReason, BranchStatus, Decision, Operation, Timestamp};

use super::people::Asker;
use super::{Flight, Hit, Owed, World, Written};
use crate::fixture::{as_written, replay};

/// A verdict that waits for its block.
pub(super) struct Held {
    pub(super) events: Vec<(Timestamp, Event)>,
    pub(super) effects: Vec<Effect>,
    pub(super) reply: Option<Reply>,
}

/// An answer, with what the asker is told of the outcome.
pub(super) struct Reply {
    pub(super) asker: Asker,
    pub(super) answer: Result<Answer, Refusal>,
    pub(super) decision: Option<Decision>,
}

impl World {
    /// A command reaches the coordinator.
    #[expect(clippy::needless_pass_by_value, reason = "a message is handed over")]
    pub(super) fn command(&mut self, command: Command, asker: Asker) {
        if self.verbose {
            self.note(&format!("command {command:?}"));
        }
        self.foresee(&command);
        let verdict = decide(self.state.as_ref(), command.clone(), self.context());
        if self.verbose {
            self.note(&format!("  → {verdict:?}"));
        }
        self.check_verdict(&command, &verdict);
        let Verdict { events, answer } = verdict;
        let mut effects = Vec::new();
        for event in &events {
            self.look_at(event);
            let before = effects.len();
            apply(&mut self.state, self.xid, event.clone(), self.now, &mut effects)
                .expect("what was decided can be applied");
            for effect in &effects[before..] {
                self.book(effect);
            }
            self.settle_books(event);
        }
        if answer == Ok(Answer::Undecided) {
            self.waiters += 1;
        }
        let decision = match &answer {
            Ok(Answer::Status) => self.state.as_ref().and_then(|transaction| transaction.status().decision()),
            Err(Refusal::AlreadyDecided { status, .. }) => status.decision(),
            _ => None,
        };
        let reply = Some(Reply { asker, answer, decision });
        self.hold(events, effects, reply);
    }

    /// Timers at once, the rest when the block is durable.
    fn hold(&mut self, events: Vec<Event>, mut effects: Vec<Effect>, reply: Option<Reply>) {
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
        if events.is_empty() && self.eager_effects && !effects.is_empty() {
            self.hit(Hit::VolatileEffectsAtOnce);
            for effect in std::mem::take(&mut effects) {
                self.release(&effect);
            }
        }
        self.queue.push(Held { events, effects, reply });
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
            for effect in held.effects {
                self.release(&effect);
            }
            if let Some(reply) = held.reply {
                self.answered(reply);
            }
        }
    }

    fn append(&mut self, events: &[(Timestamp, Event)]) {
        for (at, event) in events {
            match event {
                Event::Decided { decision, .. } => {
                    assert_eq!(self.durable_decision, None, "one decision in the log (I3)");
                    self.durable_decision = Some(*decision);
                }
                Event::Presumed => {
                    assert_eq!(self.durable_decision, None, "one decision in the log (I3)");
                    self.durable_decision = Some(Decision::Abort);
                    self.durable_finish = true;
                }
                Event::Finished => self.durable_finish = true,
                Event::Snapshot(_) if self.rng.chance(60) => {
                    self.hit(Hit::SnapshotTrims);
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
                assert_eq!(
                    self.durable_decision.map(operation_of),
                    Some(operation),
                    "an operation goes out behind its durable decision (I2, C1)"
                );
                self.flights.push(Flight { branch_id, operation, attempt });
            }
            Effect::SetTimer { at, timer } => self.timers.push((at, timer)),
            Effect::Decided(decision) => {
                assert_eq!(self.durable_decision, Some(decision), "told behind its block");
                if self.waiters > 0 {
                    self.waiters = 0;
                    self.tell(decision);
                }
            }
            Effect::Finished => {
                assert!(self.durable_finish, "told behind its block");
                self.told_finished = true;
            }
        }
    }

    /// Somebody learns an outcome (I4).
    pub(super) fn tell(&mut self, decision: Decision) {
        assert_eq!(self.durable_decision, Some(decision), "nobody is told what is not durable (I3, C5)");
        assert!(self.told.is_none_or(|told| told == decision), "nobody is told both outcomes (I4)");
        self.told = Some(decision);
    }

    /// The process dies: what was not durable never was. It starts again from the log.
    pub(super) fn crash(&mut self) {
        self.hit(Hit::Crash);
        if self.rng.chance(40) && !self.queue.is_empty() {
            // The block was written, and the process died before it let anything out.
            let size = 1 + self.rng.index(self.queue.len());
            let block: Vec<_> = self.queue.drain(..size).collect();
            for held in &block {
                if held.events.iter().any(|(_, event)| matches!(event, Event::Decided { .. })) {
                    self.hit(Hit::CrashKeepsUnreleased);
                }
                self.append(&held.events);
            }
        }
        let lost = std::mem::take(&mut self.queue);
        let losing = lost.iter().flat_map(|held| &held.events);
        if losing.clone().any(|(_, event)| matches!(event, Event::Decided { .. } | Event::Presumed)) {
            self.hit(Hit::CrashLosesDecision);
            self.client.lost_decision = true;
        }
        if losing.count() == 0 {
            self.hit(Hit::CrashWithoutLoss);
        }
        let before = self.state.take();
        if let Some(before) = &before {
            if before.commit_asked.is_some() {
                self.hit(Hit::CrashWithUndecidedCommit);
            }
            if before.branches.iter().any(|branch| branch.next_attempt_at.is_some()) {
                self.hit(Hit::CrashWhileBackingOff);
            }
        }
        self.ghosts.append(&mut self.flights);
        self.timers.clear();
        self.waiters = 0;
        self.owed.clear();
        self.written.clear();
        self.deadline_set = None;
        self.note("crash");
        self.state = replay(self.xid, &self.log);
        self.recover();
        if let (Some(before), Some(after)) = (before, &self.state)
            && before
                .branches
                .iter()
                .zip(&after.branches)
                .any(|(before, after)| before.attempts > after.attempts)
        {
            self.hit(Hit::AttemptsLostInCrash);
        }
        if self.state.is_none() {
            self.hit(Hit::CrashBeforeAnything);
        }
    }

    fn recover(&mut self) {
        let context = self.context();
        let Some(transaction) = &mut self.state else { return };
        self.written = transaction
            .branches
            .iter()
            .map(|branch| Written { attempts: branch.attempts, last_error: branch.last_error.clone() })
            .collect();
        let effects = pending(transaction, context);
        for effect in effects {
            // What is owed was owed before: the books start anew.
            if let Effect::SetTimer { timer: Timer::Retry(id), .. } = &effect {
                let decision = self.durable_decision.expect("owed behind a decision");
                self.owes(*id, Some(Owed::Waits(operation_of(decision))));
            } else {
                self.book(&effect);
            }
            self.release(&effect);
        }
    }

    /// Cleaning writes the whole transaction again; it may then forget what stood before.
    pub(super) fn clean(&mut self) {
        let Some(transaction) = &self.state else { return };
        let waits = transaction.commit_asked.is_some();
        let backs_off = transaction.branches.iter().any(|branch| branch.next_attempt_at.is_some());
        let event = Event::Snapshot(Box::new(transaction.durable()));
        if waits {
            self.hit(Hit::SnapshotWhileCommitWaits);
        }
        if backs_off {
            self.hit(Hit::SnapshotWhileBackingOff);
        }
        let before = self.state.clone();
        let mut effects = Vec::new();
        apply(&mut self.state, self.xid, event.clone(), self.now, &mut effects).expect("its own snapshot");
        assert!(effects.is_empty(), "a snapshot is no news");
        assert_eq!(self.state, before, "a snapshot changes nothing");
        self.settle_books(&event);
        self.note("snapshot");
        self.hold(vec![event], effects, None);
    }

    /// The log, once all is durable, gives the state and what is owed (M7).
    pub(super) fn compare_with_replay(&mut self) {
        let queued = self.queue.iter().flat_map(|held| &held.events);
        let mut replayed = replay(self.xid, self.log.iter().chain(queued));
        let Some(live) = &self.state else {
            assert_eq!(replayed, None, "nothing lives that is not in the log");
            return;
        };
        let mut expected = live.durable();
        for (branch, written) in expected.branches.iter_mut().zip(&self.written) {
            branch.attempts = written.attempts;
            branch.last_error.clone_from(&written.last_error);
        }
        let replayed = replayed.as_mut().expect("the log knows it");
        assert_eq!(replayed.durable(), expected, "live and replayed are the same");
        let owed = pending(replayed, self.context());
        self.check_owed(&owed);
    }

    /// What `pending` says against what the effects said.
    fn check_owed(&self, owed: &[Effect]) {
        let mut named = vec![false; self.owed.len()];
        let mut deadline = None;
        for effect in owed {
            match effect {
                Effect::Dispatch { branch_id, operation, attempt } => {
                    let (Some(Owed::Sent(live) | Owed::Waits(live)), 1) =
                        (self.owed_now(*branch_id), *attempt)
                    else {
                        panic!("recovery sends what is not owed: {effect:?}");
                    };
                    let written = &self.written[usize::try_from(branch_id.0).expect("small") - 1];
                    assert_eq!((live, written.attempts), (*operation, 0));
                    named[usize::try_from(branch_id.0).expect("small") - 1] = true;
                }
                Effect::SetTimer { at, timer: Timer::Retry(id) } => {
                    let place = usize::try_from(id.0).expect("small") - 1;
                    let attempts = self.written[place].attempts;
                    assert!(
                        self.owed_now(*id).is_some() && attempts > 0,
                        "recovery retries what is not owed"
                    );
                    assert!(
                        *at <= self
                            .now
                            .after(self.retry.bound(attempts))
                            .after(std::time::Duration::from_millis(1))
                    );
                    named[place] = true;
                }
                Effect::SetTimer { at, timer: Timer::Deadline } => deadline = Some(*at),
                Effect::SetTimer { .. } | Effect::Decided(_) | Effect::Finished => {
                    panic!("not owed after recovery: {effect:?}")
                }
            }
        }
        let live: Vec<_> = self.owed.iter().map(Option::is_some).collect();
        assert_eq!(named, live, "recovery owes what the live run owed (M7)");
        assert_eq!(deadline, self.deadline_set, "recovery waits for the deadline as the live run did (M7)");
    }

    /// Keeps the books of what is owed and written, by events alone.
    fn settle_books(&mut self, event: &Event) {
        match event {
            Event::Registered { .. } => self.written.push(Written::default()),
            Event::BranchSettled { branch_id, attempts } => {
                self.owes(*branch_id, None);
                self.written[usize::try_from(branch_id.0).expect("small") - 1].attempts = *attempts;
            }
            Event::BranchResolved { branch_id, .. } => self.owes(*branch_id, None),
            Event::AttemptFailed { branch_id, attempts, error, .. } => {
                if event.persistence() == Persistence::Volatile {
                    self.hit(Hit::AttemptNotWritten);
                } else {
                    self.written[usize::try_from(branch_id.0).expect("small") - 1] =
                        Written { attempts: *attempts, last_error: Some(error.clone()) };
                }
            }
            Event::Snapshot(transaction) => {
                for (written, branch) in self.written.iter_mut().zip(&transaction.branches) {
                    *written = Written { attempts: branch.attempts, last_error: branch.last_error.clone() };
                }
            }
            _ => {}
        }
    }

    /// Counts what a command is about to run into.
    fn foresee(&mut self, command: &Command) {
        let known = self.state.as_ref();
        let status = known.map(unanimity_core::Transaction::status);
        let decision = status.and_then(|status| status.decision());
        let late = known.is_some_and(|transaction| self.now >= transaction.deadline);
        let hit = match (command, decision) {
            (Command::Commit { .. }, None) if late => Hit::DeadlineAtCommit,
            (Command::Register(_), None) if late => Hit::DeadlineAtRegistration,
            (Command::Commit { .. }, _) if known.is_none() => Hit::PresumedByCommit,
            (Command::Inquire, _) if known.is_none() => Hit::PresumedByInquiry,
            (Command::Register(_), _) if known.is_none() => Hit::PresumedByRegistration,
            (Command::Abort { .. }, _) if known.is_none() => Hit::PresumedByAbort,
            (Command::Commit { .. }, Some(Decision::Commit)) => Hit::RepeatedCommit,
            (Command::Commit { .. }, Some(Decision::Abort)) => Hit::CommitOfAborted,
            (Command::Abort { .. }, Some(Decision::Commit)) => Hit::AbortOfCommitted,
            (Command::Register(_), Some(_)) => Hit::RegistrationAfterDecision,
            (Command::Register(new), None)
                if known.is_some_and(|transaction| transaction.branch_by_key(&new.key).is_some()) =>
            {
                Hit::RegistrationRepeated
            }
            (Command::Begin(_), _) if known.is_some_and(|transaction| transaction.mode.is_none()) => {
                Hit::BeginAfterPresumed
            }
            (Command::Begin(_), _) if known.is_some() => Hit::RepeatedBegin,
            (Command::Timer(timer), _) => {
                let due = known.is_some_and(|transaction| match timer {
                    Timer::Deadline => decision.is_none() && self.now >= transaction.deadline,
                    Timer::CommitWait => transaction.commit_asked.is_some(),
                    Timer::Prepare => panic!("nothing is prepared in a TCC transaction"),
                    Timer::Retry(id) => transaction
                        .branch(*id)
                        .is_some_and(|branch| branch.next_attempt_at.is_some_and(|at| at <= self.now)),
                });
                if due {
                    return;
                }
                Hit::StaleTimer
            }
            (Command::Result { branch_id, .. }, _)
                if known
                    .and_then(|transaction| transaction.branch(*branch_id))
                    .is_some_and(|branch| branch.status.is_settled()) =>
            {
                Hit::LateResult
            }
            _ => return,
        };
        self.hit(hit);
    }

    /// Counts what an event is a case of.
    fn look_at(&mut self, event: &Event) {
        let hit = match event {
            Event::Decided { decision: Decision::Commit, branches: 4, .. } => Hit::CommitOfAll,
            Event::Decided { decision: Decision::Commit, branches: 0, .. } => Hit::CommitOfNothing,
            Event::Decided { decision: Decision::Commit, .. } if self.client.lost_decision => {
                Hit::DecidedAfterLostDecision
            }
            Event::Decided { reason: Some(reason), .. } => match reason {
                AbortReason::BranchMissing => Hit::BranchMissing,
                AbortReason::BranchNotVoted => Hit::BranchNotVoted,
                AbortReason::Deadline => Hit::DeadlineAbort,
                AbortReason::Requested => Hit::AbortByClient,
                _ => return,
            },
            Event::Decided { decision: Decision::Commit, .. } => Hit::CommitOfSome,
            Event::CommitAsked { .. } => Hit::CommitWaits,
            Event::Contradicted { .. } => Hit::Contradicted,
            Event::AttentionRaised { code, .. } => match code {
                AttentionCode::ParticipantFailing => Hit::AttentionFailing,
                AttentionCode::ParticipantRefuses => Hit::AttentionRefuses,
                AttentionCode::TargetUnusable => Hit::AttentionUnusable,
                AttentionCode::HeuristicMixed => Hit::ResolvedAgainst,
                AttentionCode::HeuristicContradicted => return,
                AttentionCode::Overdue | AttentionCode::Parked => panic!("not of a TCC branch: {code:?}"),
            },
            Event::BranchResolved { .. } => Hit::ResolvedWith,
            Event::RetryRequested { .. } => Hit::RetryByOperator,
            _ => return,
        };
        self.hit(hit);
    }
}

pub(super) const fn operation_of(decision: Decision) -> Operation {
    match decision {
        Decision::Commit => Operation::Confirm,
        Decision::Abort => Operation::Cancel,
    }
}

pub(super) const fn by_hand(status: BranchStatus) -> bool {
    matches!(status, BranchStatus::HeuristicConfirmed | BranchStatus::HeuristicCancelled)
}
