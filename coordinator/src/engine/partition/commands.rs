//! Mail: judged in memory, answered when durable.

use unanimity_core::{
    Answer, Command, Event, Persistence, Refusal, ResultOutcome, Timer, Verdict, apply, decide,
};
use unanimity_types::mutant::{self, Mutant};
use unanimity_types::{Decision, ErrorCode, LogPosition, Name, Operation, Seq, Timestamp, Xid};

use super::contact::{Contact, is_lazy_registration};
use super::life::{Exit, Life};
use super::memory::{Waiter, Who};
use super::witness::Testimony;
use super::writer::Release;
use crate::engine::codec::PartitionEvent;
use crate::engine::detail::{brief_view, live_view};
use crate::engine::dispatch::BranchReply;
use crate::engine::error::Error;
use crate::engine::inquire::of_status;
use crate::engine::list::newest;
use crate::engine::mailbox::{AsOf, Done, Inquired, Mail, Reply, ReplyTo, Unknown};
use crate::engine::refuse::{forgotten, lease_over};
use crate::engine::request::{Claim, ListFilter, StopReason, TransactionView, Wait};
use crate::failpoint;

/// When a participant comes back, what waits for it is tried at this rate (protocol M9).
const WAKE_EVERY_US: u64 = 500;

impl Life {
    pub(super) fn mail(&mut self, mail: Mail) {
        match mail {
            Mail::Command { xid, command, claim, wait, unknown, room, reply } => {
                drop(room);
                self.command(xid, command, claim, wait, unknown, reply);
            }
            // An owner whose lease is over shows nothing: another one may have gone on (protocol M10).
            Mail::Get { reply, .. } if !self.ownership.holds() => {
                drop(reply.send(Err(lease_over(self.partition))));
            }
            Mail::List { reply, .. } if !self.ownership.holds() => {
                drop(reply.send(Err(lease_over(self.partition))));
            }
            Mail::Get { xid, wait, reply } => self.get(xid, wait, reply),
            Mail::List { filter, reply } => self.list(&filter, reply),
            Mail::Inquire { xids, as_of, reply } => self.inquire(xids, as_of, reply),
            Mail::Lock { key, xid, wait, reply } => self.lock(key, xid, wait, reply),
            Mail::Unlock { xid, keys } => self.unlock(xid, keys),
            Mail::Witness { position, reply } => self.witness(position, reply),
            Mail::OpenRow { row, as_of, reply } => self.open_row(row, as_of, reply),
            Mail::Restored { action, reply } => self.was_restored(action, reply),
            Mail::Move { seal, reply } => self.asked_to_move(seal, reply),
            Mail::AcceptLoss { reply, .. } => drop(reply.send(Err(nothing_lost()))),
            Mail::ParticipantAvailable(participant) => self.participant_available(&participant),
        }
    }

    fn command(
        &mut self,
        xid: Xid,
        command: Box<Command>,
        claim: Claim,
        wait: Wait,
        unknown: Unknown,
        reply: ReplyTo<Reply>,
    ) {
        let mut begins = None;
        if self.memory.transaction(xid).is_none() {
            let begins_by_call = matches!(*command, Command::Begin(_));
            match self.contact(xid, claim.birth.as_deref(), unknown, begins_by_call) {
                Contact::AskHistory => {
                    let as_of = self.memory.as_of(self.epoch);
                    let back = Box::new((command, claim));
                    drop(reply.send(Ok(Reply::AskHistory { as_of, back })));
                    return;
                }
                Contact::Foreign(ticket) => return drop(reply.send(Ok(Reply::Foreign(ticket)))),
                Contact::Gone(reason) => {
                    return drop(reply.send(self.gone(xid, &command, reason)));
                }
                Contact::Begins(spec) => begins = Some(spec),
                Contact::Forgotten => return drop(reply.send(Err(forgotten(xid)))),
                Contact::NobodyKnows => {}
            }
        }
        if let Some(error) = self.too_full(xid, &command) {
            drop(reply.send(Err(error)));
            return;
        }
        if let Some(spec) = begins
            && self.judge(xid, Command::Begin(spec)).is_none()
        {
            return;
        }
        if let Some((error, gate)) = self.not_the_tm(xid, &command, &claim) {
            self.release(gate, Release::Answer(reply, Box::new(Err(error))));
            return;
        }
        // The answer to a registration that nobody waits for says no more than that it was heard.
        let lazily = self.is_lazy(xid, &command, wait);
        let wants = match &*command {
            Command::Commit { .. } => Some(Decision::Commit),
            Command::Abort { .. } => Some(Decision::Abort),
            _ => None,
        };
        let Some((answer, gate)) = self.judge(xid, *command) else {
            return;
        };
        let gate = if lazily && answer.is_ok() { Seq(0) } else { gate };
        self.answer(xid, answer, gate, wait, wants, reply);
    }

    /// Whether memory has no room for what the command brings.
    fn too_full(&self, xid: Xid, command: &Command) -> Option<Error> {
        let known = self.memory.transaction(xid).is_some();
        let grows = matches!(command, Command::Begin(_) | Command::Register(_));
        let crowded = !known && self.memory.entries.len() >= self.config.open_max;
        let heavy = grows && self.memory.live_bytes() >= self.config.live_bytes_max;
        (crowded || heavy).then(|| self.full())
    }

    pub(super) fn full(&self) -> Error {
        let message = format!(
            "partition {} holds {} transactions with {} bytes, which is as much as it may",
            self.partition,
            self.memory.entries.len(),
            self.memory.live_bytes()
        );
        Error::new(ErrorCode::TooBusy, message).retry_after(std::time::Duration::from_secs(1))
    }

    fn answer(
        &mut self,
        xid: Xid,
        answer: Result<Answer, Refusal>,
        gate: Seq,
        wait: Wait,
        wants: Option<Decision>,
        reply: ReplyTo<Reply>,
    ) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(refusal) => {
                let error = Error::refused(xid, &refusal);
                self.release(gate, Release::Answer(reply, Box::new(Err(error))));
                return;
            }
        };
        // What was answered without a wait witnesses only what is durable.
        let durable = self.position();
        let position = if gate == Seq(0) { durable } else { LogPosition { seq: gate, ..durable } };
        let Some(entry) = self.memory.entries.get_mut(&xid) else { return };
        let Some(transaction) = &entry.transaction else { return };
        let status = transaction.status();
        let reached = if status.is_terminal() {
            Wait::Finished
        } else if status.decision().is_some() {
            Wait::Decided
        } else {
            Wait::Accepted
        };
        if let Some(wants) = wants
            && reached < wait
        {
            entry.wait(Waiter { wait, who: Who::Decides { wants, reply } });
            return;
        }
        let done = Done { answer, status, abort_reason: transaction.abort_reason(), position };
        self.release(gate, Release::Answer(reply, Box::new(Ok(Reply::Done(done)))));
    }

    /// Decides, applies, and gathers what follows into the next block. Answers with the block that an
    /// answer has to wait for. `None` if the partition stops, which is a bug's or a disk's doing.
    pub(super) fn judge(&mut self, xid: Xid, command: Command) -> Option<(Result<Answer, Refusal>, Seq)> {
        let now = self.clock.now();
        let context = self.config.timing().context(xid, now);
        let Verdict { events, answer } = decide(self.memory.transaction(xid), command, context);
        let was_over = self.memory.transaction(xid).is_some_and(|known| known.finished_at.is_some());
        let quiet = events.is_empty() && mutant::is(Mutant::DuplicateFromMemory);
        let comes_late = was_over && !events.is_empty();
        let mut effects = std::mem::take(&mut self.effects);
        for mut event in events {
            self.memory.share(&mut event);
            let persistence = event.persistence();
            self.counters.begun += u64::from(matches!(event, Event::Begun { .. } | Event::Presumed));
            if persistence != Persistence::Volatile {
                let known = self.memory.transaction(xid);
                let waits = persistence == Persistence::Waits && !is_lazy_registration(known, &event);
                self.counters.events += 1;
                let (seq, bytes) = self.writer.push(now, waits, |body| body.event(xid, now, &event))?;
                self.memory.entry_or_new(xid, seq);
                self.memory.written(xid, seq, bytes);
            }
            let Some(entry) = self.memory.entries.get_mut(&xid) else { continue };
            if let Err(error) = apply(&mut entry.transaction, xid, event, now, &mut effects) {
                // `decide` and `apply` disagree: a bug. Nothing of it may become durable.
                tracing::error!(partition = %self.partition, %error, "the core refused its own event");
                self.exit = Some(Exit::Stopped(StopReason::Unreadable(format!("a bug: {error}"))));
                return None;
            }
        }
        let gate = self.memory.entries.get(&xid).filter(|_| !quiet).map_or(Seq(0), |entry| entry.last);
        for effect in effects.drain(..) {
            self.effect(xid, gate, &effect);
        }
        self.effects = effects;
        if comes_late {
            // What comes after the end (protocol M14) goes into its row as soon as it is durable.
            self.release(gate, Release::Finished(xid));
        }
        self.queue_for_history(xid, now);
        Some((answer, gate))
    }

    fn queue_for_history(&mut self, xid: Xid, now: Timestamp) {
        let Some(entry) = self.memory.entries.get_mut(&xid) else { return };
        if entry.queued_for_history || entry.last <= self.writer.durable() {
            return;
        }
        entry.queued_for_history = true;
        self.projector.changed(xid, now.after(self.config.project_open_after));
    }

    fn get(&mut self, xid: Xid, wait: Wait, reply: ReplyTo<Option<Box<TransactionView>>>) {
        let position = self.position();
        let Some(entry) = self.memory.entries.get_mut(&xid) else {
            drop(reply.send(Ok(None)));
            return;
        };
        let Some(transaction) = &entry.transaction else { return };
        let status = transaction.status();
        let waits = match wait {
            Wait::Accepted => false,
            Wait::Decided => status.decision().is_none(),
            Wait::Finished => !status.is_terminal(),
        };
        if waits {
            entry.wait(Waiter { wait, who: Who::Looks(reply) });
            return;
        }
        let gate = entry.last;
        let view = Box::new(live_view(transaction, LogPosition { seq: gate, ..position }));
        self.release(gate, Release::View(reply, Some(view)));
    }

    fn list(&mut self, filter: &ListFilter, reply: ReplyTo<Vec<TransactionView>>) {
        let position = self.position();
        let open = self.memory.entries.values().filter_map(|entry| entry.transaction.as_ref());
        let (mut gate, mut views) = (Seq(0), Vec::new());
        for xid in newest(filter, open) {
            let Some(entry) = self.memory.entries.get(&xid) else { continue };
            let Some(transaction) = &entry.transaction else { continue };
            gate = gate.max(entry.last);
            views.push(brief_view(transaction, LogPosition { seq: entry.last, ..position }));
        }
        self.release(gate, Release::Views(reply, views));
    }

    /// A batch of inquiries, with one append for what nobody knows (protocol C2, M21).
    fn inquire(&mut self, xids: Vec<Xid>, as_of: Option<AsOf>, reply: ReplyTo<Inquired>) {
        let unknown = xids.iter().filter(|xid| self.memory.transaction(**xid).is_none()).count();
        if unknown > 0 && as_of.is_some() && self.memory.entries.len() + unknown > self.config.open_max {
            drop(reply.send(Err(self.full())));
            return;
        }
        let mut inquired = Inquired {
            as_of: self.memory.as_of(self.epoch),
            restored_at: self.restored.map(|restored| restored.at),
            ..Inquired::default()
        };
        let mut gate = Seq(0);
        for xid in xids {
            if self.memory.transaction(xid).is_none() {
                let in_doubt =
                    as_of.is_none_or(|as_of| self.memory.may_have_left_since(xid, self.epoch, as_of));
                if in_doubt {
                    inquired.unknown.push(xid);
                    continue;
                }
                if mutant::is(Mutant::UnknownWithoutAppend) {
                    inquired.known.push(of_status(xid, unanimity_types::Status::Aborted));
                    continue;
                }
            }
            let Some((_, last)) = self.judge(xid, Command::Inquire) else { return };
            gate = gate.max(last);
            if let Some(transaction) = self.memory.transaction(xid) {
                inquired.known.push(of_status(xid, transaction.status()));
            }
        }
        self.release(gate, Release::Inquired(reply, inquired));
    }

    /// A witness shows what it saw. A loss goes on record, and stops the partition when it is there.
    fn witness(&mut self, position: LogPosition, reply: ReplyTo<()>) {
        match self.epochs.hear(&position, self.writer.durable()) {
            _ if mutant::is(Mutant::WitnessIgnored) => drop(reply.send(Ok(()))),
            Testimony::Fits => drop(reply.send(Ok(()))),
            Testimony::LostTail(why) => self.lost_tail(&position, &why, reply),
        }
    }

    /// A place that somebody saw is not in the log: that goes on record, and the partition stops.
    pub(super) fn lost_tail(&mut self, position: &LogPosition, why: &str, reply: ReplyTo<()>) {
        let error = Error::new(
            ErrorCode::LogLostTail,
            format!("partition {} of this log lost its tail: {why}", self.partition),
        );
        // No second one comes before the first is on record: nothing is taken meanwhile.
        self.losing = true;
        let event = PartitionEvent::LostTailFound {
            epoch: position.epoch,
            epoch_tag: position.epoch_tag,
            seq: position.seq,
        };
        let now = self.clock.now();
        let pushed = self.writer.push(now, true, |body| Some(body.partition_event(now, &event)));
        // A stale owner does not know its successor's places: only its own block, durable, makes what it says
        // true.
        if let Some((seq, _)) = pushed {
            self.release(seq, Release::Heard(reply, error));
            self.release(seq, Release::Stop);
        }
    }

    /// A participant is back: what waits for it need not wait for the end of its back-off.
    fn participant_available(&mut self, participant: &Name) {
        // What was told before that nobody is there waits for this very word.
        while let Some(reply) = self.next_result() {
            self.result(reply);
        }
        let now = self.clock.now();
        let waiting = self.memory.take_waiting(participant);
        for (place, (xid, branch_id)) in (0u64..).zip(waiting) {
            let at = now.after(std::time::Duration::from_micros(place * WAKE_EVERY_US));
            if self.judge(xid, Command::Wake { branch_id, at }).is_none() {
                return;
            }
        }
    }

    /// A dispatched call came back.
    pub(super) fn result(&mut self, reply: BranchReply) {
        let is_awaited = self.calls_out.returns(&reply);
        let BranchReply { xid, branch_id, operation, attempt, outcome, took, .. } = reply;
        if !is_awaited {
            tracing::warn!(%xid, branch = %branch_id, %operation, attempt, ?outcome, "a second result of one call counts for nothing");
            return;
        }
        // What may still be refused may be refused: that is an answer, no trouble.
        let decided = !operation.is_forward() && operation != Operation::CommitOnePhase;
        let trouble = match &outcome {
            ResultOutcome::Refused { error } | ResultOutcome::Sealed { error } if decided => Some(error),
            ResultOutcome::Unusable { error } => Some(error),
            _ => None,
        };
        if let Some(error) = trouble {
            tracing::warn!(%xid, branch = %branch_id, %operation, attempt, error = %error, "a participant does not do what is asked of it");
        } else {
            tracing::debug!(%xid, branch = %branch_id, %operation, attempt, ?outcome, took_ms = took.as_millis(), "attempt ended");
        }
        failpoint::operation("result", operation);
        let _ = self.judge(xid, Command::Result { branch_id, operation, attempt, outcome });
    }

    pub(super) fn timer(&mut self, xid: Xid, timer: Timer) {
        // Timers of transactions that are over find nobody; that is their normal end.
        if self.memory.transaction(xid).is_some() {
            let _ = self.judge(xid, Command::Timer(timer));
        }
    }
}

pub(super) fn nothing_lost() -> Error {
    Error::new(
        ErrorCode::IllegalTransition,
        "the partition did not stop for a lost tail: there is nothing to accept",
    )
}
