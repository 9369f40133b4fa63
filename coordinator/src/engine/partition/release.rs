//! What a durable block lets out.

use std::collections::BTreeSet;
use std::time::Duration;

use unanimity_core::{Effect, Refusal, ResultOutcome};
use unanimity_types::mutant::{self, Mutant};
use unanimity_types::{BranchId, Decision, LogPosition, Name, Operation, Seq, Xid};

use super::life::{Exit, Life};
use super::memory::{Waiter, Who};
use super::writer::Release;
use crate::engine::detail::live_view;
use crate::engine::dispatch::{BranchCall, BranchReply};
use crate::engine::error::Error;
use crate::engine::locks::tell_homes;
use crate::engine::mailbox::{Done, Reply};
use crate::engine::request::Wait;
use crate::failpoint;

/// When to try again what was not sent for want of a lease, which is one round trip, or before a hand-over.
const FORWARD_RETRY: Duration = Duration::from_millis(250);

impl Life {
    /// Lets a release out when block `gate` is durable: now, if it is.
    pub(super) fn release(&mut self, gate: Seq, release: Release) {
        self.release_at_leisure(gate, release, true);
    }

    fn release_at_leisure(&mut self, gate: Seq, release: Release, hurries: bool) {
        let held = gate > self.writer.durable();
        if held && release.is_answer() {
            self.counters.held_answers += 1;
        }
        let gate = if too_early(&release) { Seq(0) } else { gate };
        if let Some(release) = self.writer.hold(gate, release, self.clock.now(), hurries) {
            self.let_out(release);
        }
    }

    /// Lets it out.
    pub(super) fn let_out(&mut self, release: Release) {
        match release {
            // A receiver that is gone gave up waiting; nothing is owed to it.
            Release::Answer(reply, answer) => drop(reply.send(*answer)),
            Release::View(reply, view) => drop(reply.send(Ok(view))),
            Release::Views(reply, views) => drop(reply.send(Ok(views))),
            Release::Inquired(reply, inquired) => drop(reply.send(Ok(inquired))),
            Release::Heard(reply, error) => drop(reply.send(Err(error))),
            Release::LookAgain(reply) => drop(reply.send(Ok(()))),
            Release::Locked(reply, answer) => drop(reply.send(answer)),
            Release::Dispatch { xid, branch_id, operation, attempt } => {
                self.dispatch(xid, branch_id, operation, attempt);
            }
            Release::Decided(xid) => self.tell_waiters(xid, Wait::Decided),
            Release::Finished(xid) => {
                self.tell_waiters(xid, Wait::Finished);
                self.free_locks(xid);
                if let Some(entry) = self.memory.entries.get(&xid) {
                    self.projector.finished(xid, entry.last);
                }
            }
            Release::Stop => self.exit = Some(Exit::LostTailRecorded),
        }
    }

    /// An effect of an event of block `gate`.
    pub(super) fn effect(&mut self, xid: Xid, gate: Seq, effect: &Effect) {
        match *effect {
            // A timer that goes off too early finds nothing to do.
            Effect::SetTimer { at, timer } => self.memory.set_timer(at, xid, timer),
            Effect::Dispatch { branch_id, operation, attempt } => {
                self.release(gate, Release::Dispatch { xid, branch_id, operation, attempt });
            }
            Effect::Decided(decision) => {
                match decision {
                    Decision::Commit => self.counters.committed += 1,
                    Decision::Abort => self.counters.aborted += 1,
                }
                self.release(gate, Release::Decided(xid));
            }
            Effect::Finished => {
                self.counters.finished += 1;
                // The table of protocol 1.1: only who waits for the end makes its block wait.
                let awaited = self.memory.entries.get(&xid).is_some_and(|entry| !entry.waiters.is_empty());
                self.release_at_leisure(gate, Release::Finished(xid), awaited);
            }
        }
    }

    /// The transaction is over, durably: its locks are free (protocol H7).
    fn free_locks(&self, xid: Xid) {
        let Some(transaction) = self.memory.transaction(xid) else { return };
        let keys: BTreeSet<Name> =
            transaction.branches.iter().flat_map(|branch| branch.lock_keys.iter().cloned()).collect();
        if !keys.is_empty() {
            tell_homes(&self.coordinator, xid, keys);
        }
    }

    fn dispatch(&mut self, xid: Xid, branch_id: BranchId, operation: Operation, attempt: u32) {
        let position = self.position();
        let Some(transaction) = self.memory.transaction(xid) else { return };
        let Some(branch) = transaction.branch(branch_id) else { return };
        // Settled by hand while the block was on its way: nothing is owed any more.
        if branch.status.is_settled() {
            return;
        }
        let Some(target) = branch.targets.of(operation) else {
            // Registrations are checked for it; without a target there is nobody to ask.
            tracing::error!(%xid, branch = %branch_id, %operation, "the branch has no target for what it is owed");
            return;
        };
        // It is another node's turn: what is still owed is that one's to send.
        if self.leaving_by.is_some() || self.moving.is_some() {
            return self.not_sent(xid, branch_id, operation, attempt, "the partition is being handed over");
        }
        // An owner that slept through its lease sends nothing that no decision stands behind: another one
        // may have turned back meanwhile (protocol H3).
        if !self.sink.may_send(operation) {
            tracing::warn!(partition = %self.partition, %xid, branch = %branch_id, %operation, "not sent: the lease has run out");
            return self.not_sent(xid, branch_id, operation, attempt, "the partition's lease has run out");
        }
        // What is prepared can be finished by any instance.
        let pinned = matches!(operation, Operation::Prepare | Operation::CommitOnePhase);
        let compensates = operation == Operation::Compensate;
        let call = BranchCall {
            xid,
            transaction_name: transaction.name.clone(),
            branch_id,
            key: branch.key.clone(),
            operation,
            target: target.clone(),
            payload: branch.payload.clone(),
            attempt,
            position,
            kind: branch.kind,
            role: branch.role(),
            inputs: transaction.inputs_of(branch),
            result: branch.step.as_ref().filter(|_| compensates).and_then(|step| step.result.clone()),
            timeout: branch.policy().timeout,
            own_pace: branch.policy().has_pace(),
            instance: branch.two_phase.instance.clone().filter(|_| pinned),
        };
        failpoint::operation("dispatch.before", operation);
        self.outgoing.push(call);
    }

    /// Answers a call that was not let out: that is no attempt.
    fn not_sent(&mut self, xid: Xid, branch_id: BranchId, operation: Operation, attempt: u32, why: &str) {
        let outcome = ResultOutcome::NotSent { error: why.into(), retry_after: FORWARD_RETRY };
        let (position, took) = (self.position(), Duration::ZERO);
        self.calls_out.goes_as(xid, branch_id, operation, attempt);
        self.sink.send(BranchReply { xid, branch_id, operation, attempt, position, outcome, took });
    }

    /// Brings on its way what a block, or a turn of the loop, let out: together it costs less and leaves in
    /// fewer messages.
    pub(super) fn send_off(&mut self) {
        if self.outgoing.is_empty() {
            return;
        }
        let calls = std::mem::take(&mut self.outgoing);
        let operations = failpoint::operations(&calls);
        for call in &calls {
            self.calls_out.goes(call);
        }
        self.dispatcher.dispatch_many(calls, &self.sink);
        for operation in operations {
            failpoint::operation("dispatch.after", operation);
        }
    }

    /// Tells those who wait for no more than what is now durable. Their answers look at the whole
    /// transaction, so they wait for its last block like every other (protocol C5).
    fn tell_waiters(&mut self, xid: Xid, reached: Wait) {
        let position = self.position();
        let Some(entry) = self.memory.entries.get_mut(&xid) else { return };
        if entry.waiters.is_empty() {
            return;
        }
        let Some(transaction) = &entry.transaction else { return };
        let gate = entry.last;
        let position = LogPosition { seq: gate, ..position };
        let decision = transaction.decision.as_ref().map(|record| record.decision);
        let done = Done {
            answer: unanimity_core::Answer::Status,
            status: transaction.status(),
            abort_reason: transaction.abort_reason(),
            position,
        };
        let all = std::mem::take(&mut entry.waiters);
        let (ready, waiting): (Vec<Waiter>, Vec<Waiter>) = all.into_iter().partition(|waiter| {
            // The wrong decision is an answer too, and final.
            let refused = matches!(&waiter.who, Who::Decides { wants, .. } if Some(*wants) != decision);
            waiter.wait <= reached || refused
        });
        entry.waiters = waiting;
        let view = ready
            .iter()
            .any(|waiter| matches!(waiter.who, Who::Looks(_)))
            .then(|| Box::new(live_view(transaction, position)));
        for waiter in ready {
            let release = match waiter.who {
                Who::Decides { wants, reply } if Some(wants) == decision => {
                    Release::Answer(reply, Box::new(Ok(Reply::Done(done.clone()))))
                }
                Who::Decides { reply, .. } => Release::Answer(reply, Box::new(Err(already(xid, &done)))),
                Who::Looks(reply) => Release::View(reply, view.clone()),
            };
            self.release(gate, release);
        }
    }
}

/// Planted bugs: what does not wait for its block.
fn too_early(release: &Release) -> bool {
    if release.is_answer() {
        return mutant::is(Mutant::AnswerBeforeDurable);
    }
    let Release::Dispatch { operation, .. } = release else { return false };
    let back = matches!(operation, Operation::Cancel | Operation::Rollback | Operation::Compensate);
    mutant::is(Mutant::ActBeforeDurable)
        || mutant::is(Mutant::CancelBeforeAbortBlock) && back
        || mutant::is(Mutant::DispatchBeforePredecessor) && *operation == Operation::Action
}

fn already(xid: Xid, done: &Done) -> Error {
    Error::refused(xid, &Refusal::AlreadyDecided { status: done.status, reason: done.abort_reason })
}
