//! A life that ends in good order: because the node stops, or because the partition is another node's turn.
//!
//! ```text
//!   told ──▶ works on, sends no new calls ──▶ refuses what comes ──▶ all of it durable ──▶ closing block
//!            until those that are out are back                                              then the lease
//! ```
//! The closing block keeps tickets valid (protocol 1.2), so nothing is aborted. Calls are waited for, because one
//! whose answer nobody hears is made again by the next owner: harmless where there is a fence, a doubled effect
//! where there is none (protocol M12). The wait has an end; after it, that is what happens.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::PartitionTask;
use super::life::{Exit, Life};
use super::settle::{Settled, settle};
use crate::engine::assignment::Assignment;
use crate::engine::request::PartitionState;

/// How long a hand-over waits for calls that are out, at most: the partition works meanwhile, but what it owes
/// participants stays where it is.
pub(super) const CALLS_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long an end in good order waits for blocks and history, and then for its closing block.
pub(super) const END_WAIT: Duration = Duration::from_secs(5);
const CLOSING_WAIT: Duration = Duration::from_secs(1);

impl Life {
    /// Looks whose the partition is to be. Answers an exit when it is another node's and nothing is out any more.
    pub(super) async fn leave_if_due(&mut self, task: &mut PartitionTask) -> Option<Exit> {
        let assignment = task.assignment.borrow().clone();
        let Assignment::NotMine { to } = assignment else {
            self.leaving_by = None;
            return None;
        };
        let longest = self.config.call_timeout.min(CALLS_WAIT_MAX);
        let by = *self.leaving_by.get_or_insert_with(|| Instant::now() + longest);
        let is_late = Instant::now() >= by;
        if !self.is_open_for_work() || (!self.calls_out.is_empty() && !is_late) {
            // A log in trouble takes no closing block: better to keep the partition until it is back. But who is
            // planned for it reaches the log, and waits for nothing but our lease: it may be our way there that is
            // cut, and the lease's that is not (H10).
            if is_late
                && (self.append_in_trouble || self.lease_in_trouble)
                && let Some(heir) = to
            {
                tracing::warn!(partition = %self.partition, to = heir.node, "partition left unclean: its log does not answer here");
                task.set_state(PartitionState::Waiting(format!("{} at {}", heir.node, heir.address)));
                return Some(self.exit.take().unwrap_or(Exit::HandedOver));
            }
            return None;
        }
        if !self.calls_out.is_empty() {
            tracing::warn!(partition = %self.partition, calls = self.calls_out.len(), "calls are still out: the next owner makes them again");
        }
        let started = Instant::now();
        let to =
            to.map_or_else(|| "no node yet".to_owned(), |heir| format!("{} at {}", heir.node, heir.address));
        // From now on callers are told to go there.
        task.set_state(PartitionState::Waiting(to.clone()));
        while let Ok(mail) = task.mail.try_recv() {
            if self.exit.is_some() || !self.is_open_for_work() {
                mail.refuse(&crate::engine::refuse::not_running(
                    self.partition,
                    &PartitionState::Waiting(to.clone()),
                ));
            } else {
                self.mail(mail);
            }
        }
        let closed = self.close(task, false).await;
        if self.exit.is_none() {
            tracing::info!(partition = %self.partition, to, clean = closed, took_ms = started.elapsed().as_millis(), "partition left");
        }
        Some(self.exit.take().unwrap_or(Exit::HandedOver))
    }

    /// The node stops.
    pub(super) async fn shut_down(&mut self, task: &mut PartitionTask) -> Exit {
        // From now on callers are told to go elsewhere, not left with an unknown outcome.
        task.set_state(PartitionState::Closed);
        self.close(task, true).await;
        Exit::Shutdown
    }

    /// Everything taken becomes durable within a limit, then a closing block (protocol 1.2). Whether history is
    /// waited for is a courtesy: the next owner writes what is missing. Answers whether the end is a clean one.
    async fn close(&mut self, task: &PartitionTask, with_history: bool) -> bool {
        self.ending = true;
        let limit = Instant::now() + END_WAIT;
        self.drain(task, with_history, limit).await;
        if !self.writer.is_idle() || self.exit.is_some() {
            return false;
        }
        let block = self.writer.seal_closing(self.clock.now(), self.valid_since);
        let settled = settle(Arc::clone(&self.log), block, |_| {});
        let limit = limit.max(Instant::now() + CLOSING_WAIT);
        let closed = matches!(tokio::time::timeout_at(limit, settled).await, Ok(Settled::Written));
        if !closed {
            // Without it the next owner knows that the end was not clean, which costs little.
            tracing::warn!(partition = %self.partition, "no closing block could be written");
        }
        closed
    }

    /// Everything taken becomes durable within a limit.
    pub(super) async fn drain(&mut self, task: &PartitionTask, with_history: bool, limit: Instant) {
        loop {
            self.start_append(true);
            if with_history {
                self.project(!self.projector.has_failed());
            }
            let in_history = self.projector.backlog() == 0 && !self.projector.is_writing();
            let finished = self.writer.is_idle() && (in_history || !with_history);
            if finished || self.exit.is_some() {
                break;
            }
            // A write to history that failed is tried again, but not at once.
            let next = self.projector.next_at().filter(|_| with_history);
            let wake = next.map_or(limit, |at| at.min(limit));
            match tokio::time::timeout_at(wake, self.reports.recv()).await {
                Ok(Some(report)) => self.report(report, task),
                Err(_) if Instant::now() < limit => {}
                Ok(None) | Err(_) => break,
            }
        }
    }
}
