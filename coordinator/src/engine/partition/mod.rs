//! A partition: lease, recovery, a life of work, and again.
//!
//! ```text
//!   waiting ──lease──▶ recovering ──epoch block, read──▶ running ──┬─ deposed ────▶ waiting
//!      ▲                   │ log away                              ├─ handed over ─▶ waiting
//!      └───────────────────┴──────────────────────────             ├─ log refused ─▶ recovering
//!                                                                  ├─ lost tail ───▶ stopped
//!                                                                  └─ shutdown ────▶ closed
//! ```
//! A life's memory is never carried over to the next: whoever lost or regained a partition reads its
//! log.

mod assigned;
mod calls;
mod clean;
mod commands;
pub(super) mod contact;
mod hand_over;
mod life;
mod locks;
mod memory;
mod moving;
mod open_row;
mod project;
mod recover;
mod release;
mod restored;
mod settle;
mod tickets;
mod witness;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use unanimity_types::{Epoch, LogPosition, PartitionId, Seq, Ticket, Timestamp, Xid};

use self::life::{Exit, Life};
use self::recover::{Failure, Trouble, recover};
use super::assignment::Assignment;
use super::codec::PartitionEvent;
use super::config::EngineConfig;
use super::dispatch::Dispatcher;
use super::handle::Coordinator;
use super::mailbox::{Mail, ReplyTo};
use super::request::{Inquiry, OperatorAction, PartitionCounters, PartitionInfo, PartitionState, StopReason};
use crate::log::TransactionLog;

/// What a life's own tasks report to its loop.
#[derive(Debug)]
enum Internal {
    Settled(settle::Settled),
    /// The append under way takes long.
    Trouble(String),
    Projected(Result<(), crate::log::Error>),
    Trimmed(Seq, Result<u64, crate::log::Error>),
    /// The renewal that was asked for at that moment.
    Leased(Instant, Result<crate::log::Lease, crate::log::Error>),
    /// What became of those holders of locks that were asked about.
    Holders(Vec<Xid>, Vec<Inquiry>),
}

/// The task of one partition.
#[derive(Debug)]
pub(super) struct PartitionTask {
    pub(super) partition: PartitionId,
    pub(super) config: Arc<EngineConfig>,
    pub(super) log: Arc<dyn TransactionLog>,
    pub(super) dispatcher: Arc<dyn Dispatcher>,
    /// The way to the other partitions.
    pub(super) coordinator: Coordinator,
    pub(super) mail: mpsc::Receiver<Mail>,
    pub(super) state: watch::Sender<PartitionInfo>,
    pub(super) shutdown: watch::Receiver<bool>,
    /// Whose it is to be.
    pub(super) assignment: watch::Receiver<Assignment>,
    /// Whether the lease may be ours.
    pub(super) holds: bool,
}

/// Between two tries of something that the database refused.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Another node's lease is looked at so often: it may be given back before its end.
const LEASE_LOOK: Duration = Duration::from_millis(500);

/// Waits until shutdown is asked for. If the engine was dropped instead, it never ends: the task is
/// aborted when it gives way, which a loop around an answer that is there at once never does.
async fn shutdown_asked(shutdown: &mut watch::Receiver<bool>) {
    if shutdown.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The record of a restore; its epoch and time are those of the epoch block before it.
fn restore_record(action: OperatorAction) -> PartitionEvent {
    let OperatorAction { operator, reason } = action;
    tracing::warn!(operator, reason, "an operator restored the log from a backup");
    PartitionEvent::Restored { epoch: Epoch(0), at: Timestamp(0), operator, reason }
}

impl PartitionTask {
    /// Runs until shutdown.
    pub(super) async fn run(mut self) {
        let mut pause = PAUSE_MIN;
        let mut inject = Vec::new();
        let mut accepting: Option<ReplyTo<LogPosition>> = None;
        let mut unlived = None;
        while !*self.shutdown.borrow() {
            if !self.is_assigned().await {
                continue;
            }
            let asked = Instant::now();
            match self.take_lease().await {
                Some(Duration::ZERO) => {}
                Some(remaining) => {
                    self.wait(remaining.clamp(PAUSE_MIN, LEASE_LOOK)).await;
                    continue;
                }
                None => {
                    self.pause(&mut pause).await;
                    continue;
                }
            }
            self.set_state(PartitionState::Recovering);
            let started = Instant::now();
            let trouble = self.trouble();
            let recovery = recover(
                &self.log,
                self.partition,
                &self.config,
                asked,
                inject.clone(),
                &mut unlived,
                &trouble,
            );
            let recovered = tokio::select! {
                biased;
                recovered = recovery => recovered,
                () = shutdown_asked(&mut self.shutdown) => break,
            };
            let recovered = match recovered {
                Ok(recovered) => recovered,
                Err(Failure::Overtaken) => {
                    self.set_state(PartitionState::Waiting("a node that appended meanwhile".to_owned()));
                    self.pause(&mut pause).await;
                    continue;
                }
                Err(Failure::Later(why)) => {
                    tracing::warn!(partition = %self.partition, why, "the log cannot be read; trying again");
                    self.set_state(PartitionState::Unavailable(why));
                    self.pause(&mut pause).await;
                    continue;
                }
                Err(Failure::Stop(reason)) => {
                    (inject, accepting) = self.stopped(reason, Epoch(0)).await;
                    continue;
                }
            };
            inject.clear();
            tracing::info!(
                partition = %self.partition, epoch = %recovered.epoch, open = recovered.memory.entries.len(),
                took_ms = started.elapsed().as_millis(), "partition recovered"
            );
            if let Some(lost) = recovered.lost_tail {
                (inject, accepting) = self.stopped(StopReason::LostTail(lost.why), lost.epoch).await;
                continue;
            }
            // From now on answers go out that no block holds yet.
            unlived = None;
            let life = Life::new(&self, recovered, asked);
            // Calls that wait elsewhere are to be led here.
            if let Some(peers) = self.coordinator.peers() {
                peers.look(None);
            }
            if let Some(reply) = accepting.take() {
                // The caller may have given up; the loss is accepted all the same.
                let _ = reply.send(Ok(life.position()));
            }
            let begun = life.position().seq;
            let exit = life.run(&mut self).await;
            // A log that takes epoch blocks, which stay for ever, and refuses all others is to be left in
            // peace for longer and longer.
            if self.state.borrow().position.is_some_and(|position| position.seq > begun) {
                pause = PAUSE_MIN;
            }
            match exit {
                Exit::Shutdown => break,
                // Whose it is now is seen at the next turn.
                Exit::HandedOver => {}
                Exit::Deposed(by) => {
                    tracing::warn!(partition = %self.partition, by, "deposed: another owner wrote to the log");
                    self.holds = false;
                    self.set_state(PartitionState::Waiting(by));
                    // Whoever deposed us is to be left alone for a lease.
                    self.wait(self.config.lease).await;
                }
                Exit::Failed(why) => {
                    tracing::warn!(partition = %self.partition, why, "the log refused a block; recovering from it");
                    self.set_state(PartitionState::Unavailable(why));
                    self.pause(&mut pause).await;
                }
                Exit::LostTail(found) => inject = vec![found],
                Exit::Restored(event, reply) => (inject, accepting) = (vec![event], Some(reply)),
                // The next recovery brings the log to its new server.
                Exit::Sealed(reply) => accepting = Some(reply),
                // The next recovery reads the record and stops.
                Exit::LostTailRecorded => {}
                Exit::Stopped(reason) => {
                    (inject, accepting) = self.stopped(reason, Epoch(0)).await;
                }
            }
        }
        self.give_away(None).await;
        self.set_state(PartitionState::Closed);
    }

    /// Tries to take the lease. Answers how long another node holds it, zero if it is ours, and nothing
    /// if the log does not answer.
    async fn take_lease(&mut self) -> Option<Duration> {
        let lease =
            self.log.lease(self.partition, &self.config.node, &self.config.address, self.config.lease).await;
        // What is not known to be ours may be: a lease that was not is not given away by us.
        self.holds = !matches!(&lease, Ok(lease) if !lease.held);
        match lease {
            Ok(lease) if lease.held => Some(Duration::ZERO),
            Ok(lease) => {
                let who = format!("{} at {} for another {:?}", lease.owner, lease.address, lease.remaining);
                self.set_state(PartitionState::Waiting(who));
                Some(lease.remaining.max(PAUSE_MIN))
            }
            Err(error) => {
                self.set_state(PartitionState::Unavailable(error.to_string()));
                None
            }
        }
    }

    /// Stopped: only an operator's word, the end, or another node's turn leads on. Answers what to put on record
    /// next. The lease is kept, so that callers are led here and learn why.
    async fn stopped(
        &mut self,
        reason: StopReason,
        epoch: Epoch,
    ) -> (Vec<PartitionEvent>, Option<ReplyTo<LogPosition>>) {
        tracing::error!(partition = %self.partition, ?reason, "partition stopped");
        let lost = matches!(reason, StopReason::LostTail(_));
        self.set_state(PartitionState::Stopped(reason));
        let mut renewal = tokio::time::interval(self.config.lease / 3);
        loop {
            let mail = tokio::select! {
                biased;
                () = shutdown_asked(&mut self.shutdown) => None,
                Ok(()) = self.assignment.changed() => {
                    if self.assignment.borrow().is_mine() {
                        continue;
                    }
                    None
                }
                _ = renewal.tick() => {
                    let (node, address) = (&self.config.node, &self.config.address);
                    let lease = self.log.lease(self.partition, node, address, self.config.lease).await;
                    match lease {
                        Ok(lease) if !lease.held => None,
                        // Nothing is done here that a lease is needed for.
                        Ok(_) | Err(_) => continue,
                    }
                }
                mail = self.mail.recv() => mail,
            };
            match mail {
                None => return (Vec::new(), None),
                Some(Mail::AcceptLoss { action, reply }) if lost => {
                    let OperatorAction { operator, reason } = action;
                    tracing::warn!(partition = %self.partition, operator, reason, "an operator accepted the loss");
                    return (vec![PartitionEvent::LossAccepted { epoch, operator, reason }], Some(reply));
                }
                Some(Mail::Restored { action, reply }) if lost => {
                    if let Some(error) = restored::not_known_by_all(&self.config) {
                        drop(reply.send(Err(error)));
                        continue;
                    }
                    return (vec![restore_record(action)], Some(reply));
                }
                // A damaged log is mended first; then the node is started again.
                Some(Mail::AcceptLoss { reply, .. } | Mail::Restored { reply, .. }) => {
                    drop(reply.send(Err(commands::nothing_lost())));
                }
                // What was on its way when the partition stopped: its sender learns by the closed
                // channel that the outcome is unknown.
                Some(_) => {}
            }
        }
    }

    async fn pause(&mut self, pause: &mut Duration) {
        let wait = *pause;
        *pause = (wait * 2).min(PAUSE_MAX);
        self.sleep(wait).await;
    }

    async fn sleep(&mut self, wait: Duration) {
        // Ends early on shutdown.
        let _ = tokio::time::timeout(wait, shutdown_asked(&mut self.shutdown)).await;
    }

    /// Shows during a recovery that the log does not answer.
    fn trouble(&self) -> Trouble {
        let state = self.state.clone();
        Arc::new(move |why| state.send_modify(|info| info.state = PartitionState::Unavailable(why.clone())))
    }

    /// Closed is the end: trouble while a partition drains does not open it again.
    fn set_state(&self, state: PartitionState) {
        self.state.send_modify(|info| {
            if info.state != PartitionState::Closed {
                // Only a live owner's tickets are worth something.
                if !matches!(state, PartitionState::Running | PartitionState::Unavailable(_)) {
                    info.ticket = None;
                }
                if state == PartitionState::Running {
                    info.due = None;
                }
                info.state = state;
            }
        });
    }

    fn show(
        &self,
        position: LogPosition,
        open: usize,
        history_lag: usize,
        ticket: Ticket,
        counters: PartitionCounters,
    ) {
        self.state.send_modify(|info| {
            info.position = Some(position);
            info.open = open as u64;
            info.history_lag = history_lag as u64;
            info.ticket = Some(ticket);
            info.counters = counters;
        });
    }
}
