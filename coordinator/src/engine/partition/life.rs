//! A life of a partition: from recovery until it is deposed, fails, stops or is shut down.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use unanimity_core::{Command, Effect};
use unanimity_types::mutant::{self, Mutant};
use unanimity_types::{AbortReason, Epoch, ErrorCode, LogPosition, PartitionId, Seq, Ticket, Xid};

use super::calls::CallsOut;
use super::clean::Cleaner;
use super::locks::Locks;
use super::memory::Memory;
use super::moving::Moving;
use super::open_row::LostRows;
use super::project::Projector;
use super::recover::{Recovered, Restored};
use super::settle::{Settled, settle};
use super::witness::Epochs;
use super::writer::Writer;
use super::{Internal, PartitionTask, shutdown_asked};
use crate::engine::clock::PartitionClock;
use crate::engine::codec::PartitionEvent;
use crate::engine::config::EngineConfig;
use crate::engine::dispatch::{BranchCall, BranchReply, Dispatcher, ResultSink};
use crate::engine::error::Error;
use crate::engine::handle::Coordinator;
use crate::engine::mailbox::ReplyTo;
use crate::engine::ownership::Ownership;
use crate::engine::refuse::outcome_unknown;
use crate::engine::request::{PartitionCounters, PartitionState, StopReason};
use crate::failpoint::Kinds;
use crate::log::{Block, Checksum, Lease, TransactionLog};

/// Mails and results that are taken in one turn of the loop: enough to fill a block, few enough that
/// timers and durable blocks are not kept waiting.
const TURN_MAX: usize = 512;

/// A lease that could not be renewed is tried again so soon.
const LEASE_RETRY: Duration = Duration::from_millis(500);

/// Why a life ended.
#[derive(Debug)]
pub(super) enum Exit {
    Shutdown,
    /// It is another node's turn.
    HandedOver,
    /// Another owner wrote to the log.
    Deposed(String),
    /// The log refused a block: nothing of what was decided after the last durable one counts.
    Failed(String),
    /// What was durable is gone: to be put on record.
    LostTail(PartitionEvent),
    /// A witness showed so, and that is on record.
    LostTailRecorded,
    /// An operator restored the log: to be put on record.
    Restored(PartitionEvent, ReplyTo<LogPosition>),
    /// The log goes on at another server; who asked for it waits for the next life.
    Sealed(ReplyTo<LogPosition>),
    Stopped(StopReason),
}

#[derive(Debug)]
pub(super) struct Life {
    pub(super) partition: PartitionId,
    pub(super) config: Arc<EngineConfig>,
    pub(super) log: Arc<dyn TransactionLog>,
    pub(super) dispatcher: Arc<dyn Dispatcher>,
    pub(super) coordinator: Coordinator,
    pub(super) epoch: Epoch,
    epoch_tag: u32,
    /// Tickets of this epoch and later ones are good (protocol 1.2).
    pub(super) valid_since: Epoch,
    owner_changed: Vec<Xid>,
    pub(super) counters: PartitionCounters,
    /// The generation of tickets that was shown last.
    shown_generation: u64,
    pub(super) epochs: Epochs,
    pub(super) clock: PartitionClock,
    pub(super) memory: Memory,
    pub(super) locks: Locks,
    pub(super) writer: Writer,
    pub(super) projector: Projector,
    pub(super) cleaner: Cleaner,
    pub(super) sink: ResultSink,
    results: mpsc::UnboundedReceiver<BranchReply>,
    pub(super) internal: mpsc::UnboundedSender<Internal>,
    pub(super) reports: mpsc::UnboundedReceiver<Internal>,
    /// A buffer that is used again and again.
    pub(super) effects: Vec<Effect>,
    /// Calls that are let out and go on their way together.
    pub(super) outgoing: Vec<BranchCall>,
    pub(super) exit: Option<Exit>,
    /// A loss was found and is being put on record: nothing more is taken.
    pub(super) losing: bool,
    /// The end in good order has begun: cleaning, which the next owner can do as well, starts nothing more.
    pub(super) ending: bool,
    /// The log is to go to another server: no more calls are made.
    pub(super) moving: Option<Moving>,
    /// The last restore from a backup.
    pub(super) restored: Option<Restored>,
    /// What was open when the log lost it, and is aborted.
    pub(super) lost_rows: LostRows,
    owed: Vec<(Xid, Effect)>,
    /// Whether what no decision stands behind may still be sent (protocol H3).
    pub(super) ownership: Ownership,
    lease_at: Instant,
    leasing: bool,
    /// The last durable block when the lease was renewed before.
    renewed_at: Seq,
    /// Since the lease was renewed before, something was in trouble.
    was_in_trouble: bool,
    pub(super) append_in_trouble: bool,
    pub(super) lease_in_trouble: bool,
    /// Calls whose results are to come.
    pub(super) calls_out: CallsOut,
    /// It is another node's turn: no more calls are made, and those that are out are waited for until then.
    pub(super) leaving_by: Option<Instant>,
}

impl Life {
    /// A life after a recovery; its lease was asked for at `asked`.
    pub(super) fn new(task: &PartitionTask, recovered: Recovered, asked: Instant) -> Self {
        let (sink, results) = ResultSink::new();
        let (internal, reports) = mpsc::unbounded_channel();
        let floor = recovered.last.floor;
        let ownership = Ownership::until(asked + task.config.lease);
        let mut life = Self {
            partition: task.partition,
            config: Arc::clone(&task.config),
            log: Arc::clone(&task.log),
            dispatcher: Arc::clone(&task.dispatcher),
            coordinator: task.coordinator.clone(),
            epoch: recovered.epoch,
            epoch_tag: recovered.epoch_tag,
            valid_since: recovered.valid_since,
            owner_changed: recovered.owner_changed,
            counters: task.state.borrow().counters,
            shown_generation: 0,
            epochs: recovered.epochs,
            clock: recovered.clock,
            memory: recovered.memory,
            locks: recovered.locks,
            writer: Writer::after(&recovered.last, task.config.format.clone()),
            projector: Projector::new(),
            cleaner: Cleaner::new(recovered.blocks, floor, recovered.accepted),
            sink: sink.owned(ownership.clone()),
            results,
            internal,
            reports,
            effects: Vec::new(),
            outgoing: Vec::new(),
            exit: None,
            losing: false,
            ending: false,
            moving: None,
            restored: recovered.restored,
            lost_rows: LostRows::default(),
            owed: recovered.owed,
            ownership,
            // At once, if the recovery took long.
            lease_at: asked + task.config.lease / 3,
            leasing: false,
            renewed_at: Seq(0),
            was_in_trouble: false,
            append_in_trouble: false,
            lease_in_trouble: false,
            calls_out: CallsOut::default(),
            leaving_by: None,
        };
        let now = life.clock.now();
        for xid in recovered.finished {
            if let Some(entry) = life.memory.entries.get(&xid) {
                life.projector.finished(xid, entry.last);
            }
        }
        for xid in recovered.open {
            if let Some(entry) = life.memory.entries.get_mut(&xid) {
                entry.queued_for_history = true;
            }
            life.projector.changed(xid, now.after(life.config.project_open_after));
        }
        life
    }

    /// The last durable place.
    pub(super) fn position(&self) -> LogPosition {
        LogPosition {
            partition: self.partition,
            epoch: self.epoch,
            epoch_tag: self.epoch_tag,
            seq: self.writer.durable(),
        }
    }

    /// Works until the life is over. Everything that was held is failed then.
    pub(super) async fn run(mut self, task: &mut PartitionTask) -> Exit {
        self.show(task);
        task.set_state(PartitionState::Running);
        // Before anybody can ask: what an unclean end may have lost must not be committed (protocol C3).
        for xid in std::mem::take(&mut self.owner_changed) {
            if mutant::is(Mutant::TakeoverKeepsTicketed) {
                break;
            }
            let abort = Command::Abort { reason: AbortReason::OwnerChanged, by: None };
            if self.judge(xid, abort).is_none() {
                break;
            }
        }
        for (xid, effect) in std::mem::take(&mut self.owed) {
            self.effect(xid, Seq(0), &effect);
        }
        let exit = loop {
            if let Some(exit) = self.exit.take() {
                break exit;
            }
            self.turn(task).await;
            if *task.shutdown.borrow() && self.exit.is_none() {
                break self.shut_down(task).await;
            }
            if self.exit.is_none()
                && let Some(exit) = self.move_if_due(task).await
            {
                break exit;
            }
            if self.exit.is_none()
                && let Some(exit) = self.leave_if_due(task).await
            {
                break exit;
            }
        };
        let exit = self.look_behind(exit).await;
        self.ownership.end();
        self.end(&exit);
        exit
    }

    /// Deposed, or did the log lose what was durable? A live owner is a witness itself (protocol H6).
    async fn look_behind(&self, exit: Exit) -> Exit {
        if !matches!(exit, Exit::Deposed(_)) {
            return exit;
        }
        let durable = self.writer.durable();
        match self.log.block_at(self.partition, durable).await {
            Ok(Some(block)) if block.checksum == self.writer.durable_checksum() => exit,
            // Trimmed by the new owner, who read it first.
            Ok(None) if self.was_trimmed().await => exit,
            Ok(_) => Exit::LostTail(PartitionEvent::LostTailFound {
                epoch: self.epoch,
                epoch_tag: self.epoch_tag,
                seq: durable,
            }),
            Err(error) => {
                tracing::warn!(partition = %self.partition, %error, "deposed, and the log cannot be looked at");
                exit
            }
        }
    }

    /// Whether a block that follows our last durable one, or what we offered after it, shows that its
    /// successor read it. What cannot be looked at accuses nobody.
    async fn was_trimmed(&self) -> bool {
        for (seq, checksum) in self.writer.ends() {
            match self.log.block_at(self.partition, seq.next()).await {
                Ok(Some(block)) if block.previous == checksum => return true,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(partition = %self.partition, %error, "deposed, and the log cannot be looked at");
                    return true;
                }
            }
        }
        false
    }

    /// One turn: wait for something, take what else is there, start what is due.
    async fn turn(&mut self, task: &mut PartitionTask) {
        let open_for_work = self.is_open_for_work();
        let wake = self.next_wake();
        tokio::select! {
            biased;
            Some(report) = self.reports.recv() => self.report(report, task),
            () = shutdown_asked(&mut task.shutdown) => {}
            Ok(()) = task.assignment.changed() => {}
            Some(reply) = self.results.recv(), if open_for_work => self.result(reply),
            Some(mail) = task.mail.recv(), if open_for_work => self.mail(mail),
            () = tokio::time::sleep_until(wake) => {}
        }
        let mut taken = 0;
        while taken < TURN_MAX && self.exit.is_none() && self.is_open_for_work() {
            taken += 1;
            if let Some(reply) = self.next_result() {
                self.result(reply);
            } else if let Ok(mail) = task.mail.try_recv() {
                self.mail(mail);
            } else {
                break;
            }
        }
        self.fire_timers();
        self.fire_locks();
        self.send_off();
        self.start_append(false);
        self.project(false);
        self.renew_lease();
        if Ticket::generation_at(self.clock.now()) != self.shown_generation {
            self.show(task);
        }
    }

    /// What a participant answered, if something is there.
    pub(super) fn next_result(&mut self) -> Option<BranchReply> {
        self.results.try_recv().ok()
    }

    /// Back-pressure: while the log is in trouble or the next block is full, nothing more is taken.
    pub(super) fn is_open_for_work(&self) -> bool {
        !self.append_in_trouble
            && !self.lease_in_trouble
            && !self.losing
            && self.writer.building_bytes() < self.config.building_bytes_max
    }

    fn next_wake(&self) -> Instant {
        let planned = [self.memory.next_timer(), self.locks.next_ask()].into_iter().flatten().min();
        let timer = planned.filter(|_| self.is_open_for_work()).map(|at| self.clock.instant_of(at));
        let lease = (!self.leasing).then_some(self.lease_at);
        let moving = self.moving.as_ref().map(|moving| moving.by);
        let leaving = [self.leaving_by, moving].into_iter().flatten().min();
        let leaving = leaving.filter(|_| self.is_open_for_work());
        [timer, lease, leaving, self.writer.lazy_due(), self.projector.next_at(), self.locks.next_end()]
            .into_iter()
            .flatten()
            .min()
            // Nothing is planned: look again after a while all the same.
            .unwrap_or_else(|| Instant::now() + Duration::from_secs(1))
    }

    fn fire_timers(&mut self) {
        let now = self.clock.now();
        let mut fired = 0;
        while fired < TURN_MAX
            && self.exit.is_none()
            && self.is_open_for_work()
            && let Some((xid, timer)) = self.memory.pop_timer(now)
        {
            fired += 1;
            self.timer(xid, timer);
        }
    }

    pub(super) fn start_append(&mut self, force: bool) {
        if self.exit.is_some() {
            return;
        }
        if let Some(block) = self.writer.seal(self.cleaner.floor(), force) {
            self.append(block);
        }
    }

    fn append(&self, block: Block) {
        let log = Arc::clone(&self.log);
        let internal = self.internal.clone();
        let kinds = Kinds::of(&block);
        crate::task::spawn(async move {
            let trouble = internal.clone();
            kinds.reach("append.before");
            let settled = settle(log, block, move |why| {
                let _ = trouble.send(Internal::Trouble(why));
            })
            .await;
            kinds.reach("append.after");
            let _ = internal.send(Internal::Settled(settled));
        });
    }

    pub(super) fn report(&mut self, report: Internal, task: &PartitionTask) {
        match report {
            Internal::Settled(settled) => self.settled(settled, task),
            Internal::Trouble(why) => {
                self.append_in_trouble = true;
                self.was_in_trouble = true;
                tracing::warn!(partition = %self.partition, why, "the log does not answer; new calls are refused until it does");
                task.set_state(PartitionState::Unavailable(why));
            }
            Internal::Projected(result) => {
                self.projected(result);
                self.show(task);
            }
            Internal::Trimmed(floor, result) => self.trimmed(floor, result),
            Internal::Leased(asked, lease) => self.leased(asked, lease, task),
            Internal::Holders(asked, answers) => self.holders(&asked, &answers),
        }
    }

    fn settled(&mut self, settled: Settled, task: &PartitionTask) {
        let settled = match settled {
            Settled::AlreadyThere if mutant::is(Mutant::AlreadyThereReleases) => Settled::Written,
            settled => settled,
        };
        match settled {
            Settled::Written => {
                if let Some(durable) = self.writer.written() {
                    self.counters.blocks += 1;
                    self.counters.block_bytes += durable.bytes;
                    self.cleaner.add(durable.seq, durable.bytes);
                    debug_assert!(durable.floor <= durable.seq, "a floor above its own block");
                    for release in durable.released {
                        self.let_out(release);
                    }
                    self.send_off();
                }
                self.recovered_from_trouble(task);
                self.clean();
                self.show(task);
            }
            Settled::AlreadyThere => {
                let seq = self.writer.building_seq();
                let bytes = self.writer.already_there(self.clock.now());
                self.cleaner.add(Seq(seq.0 - 1), bytes);
                self.recovered_from_trouble(task);
            }
            Settled::Conflict => self.exit = Some(Exit::Deposed(String::new())),
            Settled::Refused { why, maybe } => {
                let error = if maybe || self.writer.holds_what_is_there() {
                    outcome_unknown(self.partition, &why)
                } else {
                    let message = format!("the log refused to take it: {why}; nothing was changed");
                    Error::new(ErrorCode::Unavailable, message).retry_after(Duration::from_secs(1))
                };
                for release in self.writer.drain() {
                    release.fail(&error);
                }
                self.exit = Some(Exit::Failed(why));
            }
        }
    }

    fn show(&mut self, task: &PartitionTask) {
        let generation = Ticket::generation_at(self.clock.now());
        self.shown_generation = generation;
        let ticket = Ticket { epoch: self.epoch, epoch_tag: self.epoch_tag, generation };
        // What is over and only waits for its row in history is not open.
        let open = self.memory.entries.len().saturating_sub(self.projector.backlog());
        task.show(self.position(), open, self.projector.backlog(), ticket, self.counters);
    }

    fn recovered_from_trouble(&mut self, task: &PartitionTask) {
        self.append_in_trouble = false;
        self.lease_in_trouble = false;
        self.show_trouble(task);
    }

    /// Back to work when nothing is in trouble any more.
    fn show_trouble(&self, task: &PartitionTask) {
        let shown = matches!(task.state.borrow().state, PartitionState::Unavailable(_));
        if shown && !self.append_in_trouble && !self.lease_in_trouble {
            tracing::info!(partition = %self.partition, "the log answers again");
            task.set_state(PartitionState::Running);
        }
    }

    fn renew_lease(&mut self) {
        if self.leasing || self.lease_at > Instant::now() {
            return;
        }
        self.leasing = true;
        let log = Arc::clone(&self.log);
        let config = Arc::clone(&self.config);
        let partition = self.partition;
        let internal = self.internal.clone();
        let asked = Instant::now();
        let ownership = self.ownership.clone();
        let end = End {
            epoch: self.epoch,
            seq: self.writer.durable(),
            checksum: self.writer.durable_checksum(),
            history: self.projector.acknowledged(),
        };
        // Whoever writes hears from the log whether it is still what it was; who is idle has to look. And nobody hears
        // that history alone went back, which takes a failover: then something was in trouble.
        let must_look = (self.writer.is_idle() && self.renewed_at == end.seq) || self.was_in_trouble;
        self.renewed_at = end.seq;
        self.was_in_trouble = false;
        crate::task::spawn(async move {
            let mut lease = log.lease(partition, &config.node, &config.address, config.lease).await;
            // While it had none, another owner may have come and gone. Looked at now: it may have slept since it asked.
            let held_all_along = ownership.holds();
            if (must_look || !held_all_along)
                && let Ok(had) = &lease
                && had.held
            {
                lease = match still_ours(&*log, partition, end, had.clone()).await {
                    // It was had before, too: the next renewal looks.
                    Err(error) if held_all_along => {
                        tracing::debug!(%partition, %error, "the log could not be looked at");
                        lease
                    }
                    looked => looked,
                };
            }
            let _ = internal.send(Internal::Leased(asked, lease));
        });
    }

    fn leased(&mut self, asked: Instant, lease: Result<Lease, crate::log::Error>, task: &PartitionTask) {
        self.leasing = false;
        self.lease_at = Instant::now() + self.config.lease / 3;
        match lease {
            Ok(lease) if !lease.held => {
                let at =
                    if lease.address.is_empty() { String::new() } else { format!(" at {}", lease.address) };
                self.exit = Some(Exit::Deposed(lease.owner + &at));
            }
            Ok(_) => {
                self.ownership.renewed(asked + self.config.lease);
                self.lease_in_trouble = false;
                self.show_trouble(task);
            }
            // The log decides who wins; the lease only keeps two from trying. But a database that does
            // not take a lease takes no block either: say so before a caller has to find out.
            Err(error) => {
                tracing::warn!(partition = %self.partition, %error, "the lease could not be renewed");
                self.lease_at = Instant::now() + LEASE_RETRY.min(self.config.lease / 3);
                self.lease_in_trouble = true;
                self.was_in_trouble = true;
                task.set_state(PartitionState::Unavailable(error.to_string()));
            }
        }
    }

    /// Whatever still waits learns that its outcome is unknown: what was decided after the last
    /// durable block goes down with this life's memory.
    fn end(&mut self, exit: &Exit) {
        let why = match exit {
            Exit::Shutdown => "the node shuts down",
            Exit::HandedOver => "it was handed over to another node",
            Exit::Deposed(_) => "another owner took it over",
            Exit::Failed(_) => "its log refused a block",
            Exit::Restored(..) => "its log was restored from a backup",
            Exit::Sealed(_) => "its log went to another server",
            Exit::LostTail(_) | Exit::LostTailRecorded | Exit::Stopped(_) => "it stopped",
        };
        let error = outcome_unknown(self.partition, why);
        for release in self.writer.drain() {
            release.fail(&error);
        }
        self.locks.fail(&error);
        for entry in self.memory.entries.values_mut() {
            for waiter in entry.waiters.drain(..) {
                waiter.fail(&error);
            }
        }
    }
}

/// The last durable block that an owner knows, and how far history speaks.
#[derive(Debug, Clone, Copy)]
struct End {
    epoch: Epoch,
    seq: Seq,
    checksum: Checksum,
    history: Seq,
}

/// A lease that was had again after it had run out is worth something only if nobody else wrote meanwhile, and any lease
/// only if the log and its history still have what they had: an idle owner would not find out otherwise (protocol M10,
/// H6), and would presume aborted what left its memory for a row that is gone. What it finds is told apart when this
/// life ends; if it is history alone, the next one writes it again from the log.
async fn still_ours(
    log: &dyn TransactionLog,
    partition: PartitionId,
    end: End,
    lease: Lease,
) -> Result<Lease, crate::log::Error> {
    let tip = log.tip(partition).await?;
    let lacks_our_last = tip.seq < end.seq || (tip.seq == end.seq && tip.checksum != end.checksum);
    let history = log.history_watermark(partition).await?.seq;
    if tip.epoch == end.epoch && !lacks_our_last && history >= end.history {
        return Ok(lease);
    }
    let owner = format!(
        "whoever wrote block {} of epoch {}, with history up to {history} where {} was known",
        tip.seq, tip.epoch, end.history
    );
    Ok(Lease { held: false, owner, address: String::new(), remaining: Duration::ZERO })
}
