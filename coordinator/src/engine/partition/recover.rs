//! Recovery: a new owner makes its mark, reads what is left and knows what is owed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use unanimity_core::{Effect, apply, pending};
use unanimity_types::mutant::{self, Mutant};
use unanimity_types::{Epoch, PartitionId, Seq, Status, Timestamp, Xid};
use uuid::Uuid;

use super::locks::Locks;
use super::memory::Memory;
use super::settle::{Settled, settle};
use super::witness::Epochs;
use crate::engine::clock::PartitionClock;
use crate::engine::codec::{BodyWriter, CodecError, LoggedEvent, PartitionEvent, decode};
use crate::engine::config::{EngineConfig, Timing};
use crate::engine::request::StopReason;
use crate::entropy;
use crate::failpoint;
use crate::log::{Block, BlockHeader, BlockKind, Checksum, Error, Tip, TransactionLog, known_format};

/// A recovery that takes long says how far it is so often.
const TELL_EVERY: Duration = Duration::from_secs(3);

/// Everything that a life of a partition starts with.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) last: Block,
    pub(super) epoch: Epoch,
    pub(super) epoch_tag: u32,
    /// Tickets of this epoch and later ones are good (protocol 1.2).
    pub(super) valid_since: Epoch,
    /// Undecided ones whose last registrations an unclean end may have lost: to be aborted.
    pub(super) owner_changed: Vec<Xid>,
    pub(super) epochs: Epochs,
    pub(super) memory: Memory,
    pub(super) locks: Locks,
    pub(super) clock: PartitionClock,
    /// The sizes of the blocks from the floor on, for cleaning's arithmetic.
    pub(super) blocks: VecDeque<(Seq, u64)>,
    /// What is owed, in no order.
    pub(super) owed: Vec<(Xid, Effect)>,
    /// Transactions that are over and not known to be in history.
    pub(super) finished: Vec<Xid>,
    /// Open transactions.
    pub(super) open: Vec<Xid>,
    /// A loss that no operator accepted yet.
    pub(super) lost_tail: Option<LostTail>,
    /// The last words of operators that outlive a trim, and where they stand.
    pub(super) accepted: Words,
    /// The last restore from a backup.
    pub(super) restored: Option<Restored>,
}

/// What operators said that outlives a trim: the last accepted loss, the last restore.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) accepted: Option<(Seq, PartitionEvent)>,
    pub(super) restored: Option<(Seq, PartitionEvent)>,
}

/// A restore from a backup that is on record (protocol C8).
#[derive(Debug, Clone, Copy)]
pub(super) struct Restored {
    /// Epochs up to this one were before.
    pub(super) epoch: Epoch,
    /// When.
    pub(super) at: Timestamp,
}

/// So many epochs are left out after a restore: more than the lost part of the log can have had, so that every witness
/// and ticket of it is of an epoch before, and none is taken for one that comes.
const EPOCHS_LEFT_OUT: u64 = 1_000_000;

/// A loss on record.
#[derive(Debug)]
pub(super) struct LostTail {
    pub(super) why: String,
    /// The highest epoch that a witness saw: accepting the loss forgives up to it.
    pub(super) epoch: Epoch,
}

/// Ends of the log that this task's own attempts left behind, and that no life followed: nobody was answered between a
/// clean end and here, so it is still a clean one (protocol 1.2). Lost with the process, which costs little.
#[derive(Debug)]
pub(super) struct Unlived {
    valid_since: Epoch,
    ends: Vec<Checksum>,
}

/// Attempts leave an epoch block each while a log is in trouble; the last ones count.
const UNLIVED_MAX: usize = 16;

impl Unlived {
    /// Since when tickets are valid behind this block, if it is an end of ours.
    fn behind(&self, tip: Checksum) -> Option<Epoch> {
        self.ends.contains(&tip).then_some(self.valid_since)
    }
}

/// Why a recovery did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Again later.
    Later(String),
    /// Somebody else appended meanwhile.
    Overtaken,
    /// Not without an operator.
    Stop(StopReason),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Damaged { .. } => Self::Stop(StopReason::Damaged(error.to_string())),
            Error::Schema(_) => Self::Stop(StopReason::Unreadable(error.to_string())),
            _ => Self::Later(error.to_string()),
        }
    }
}

impl From<CodecError> for Failure {
    fn from(error: CodecError) -> Self {
        Self::Stop(StopReason::Unreadable(error.to_string()))
    }
}

/// Hears when the log does not answer.
pub(super) type Trouble = Arc<dyn Fn(String) + Send + Sync>;

/// Takes a partition over.
///
/// First its epoch block: a synchronous write, so all before it is durable, and whoever owned it
/// before fails from now on. Then the reading. `inject` is put on record right after the epoch block. The lease was asked
/// for at `asked`: who slept, or copied a log, beyond its end leaves the next owner alone. `unlived` is what earlier
/// attempts left, since the last life.
pub(super) async fn recover(
    log: &Arc<dyn TransactionLog>,
    partition: PartitionId,
    config: &EngineConfig,
    asked: Instant,
    inject: Vec<PartitionEvent>,
    unlived: &mut Option<Unlived>,
    trouble: &Trouble,
) -> Result<Recovered, Failure> {
    let leased_until = asked + config.lease;
    let mut last = append_epoch(log, partition, config, leased_until, &inject, unlived, trouble).await?;
    failpoint::reach("recover.after_epoch");
    let epoch = last.epoch;
    let inject: Vec<_> = inject.into_iter().map(|event| dated(event, &last)).collect();
    if !inject.is_empty() {
        last = append_events(log, &last, config, &inject, trouble).await?;
    }
    let blocks = log.read(partition).await?;
    failpoint::reach("recover.after_read");
    if blocks.last().map(|block| block.checksum) != Some(last.checksum) {
        return Err(Failure::Overtaken);
    }
    replay(log, blocks, last, epoch, config).await
}

fn forgiven_by(events: &[PartitionEvent]) -> Epoch {
    let forgiven = events.iter().map(|event| match event {
        PartitionEvent::LossAccepted { epoch, .. } => *epoch,
        PartitionEvent::LostTailFound { .. } | PartitionEvent::Restored { .. } | PartitionEvent::Lock(_) => {
            Epoch(0)
        }
    });
    forgiven.max().unwrap_or_default()
}

/// A restore counts from the epoch block that precedes its record.
fn dated(event: PartitionEvent, epoch_block: &Block) -> PartitionEvent {
    match event {
        PartitionEvent::Restored { operator, reason, .. } => {
            let epoch = Epoch(epoch_block.epoch.0.saturating_sub(1));
            PartitionEvent::Restored { epoch, at: epoch_block.time, operator, reason }
        }
        event => event,
    }
}

async fn append_epoch(
    log: &Arc<dyn TransactionLog>,
    partition: PartitionId,
    config: &EngineConfig,
    leased_until: Instant,
    inject: &[PartitionEvent],
    unlived: &mut Option<Unlived>,
    trouble: &Trouble,
) -> Result<Block, Failure> {
    let now = log.now().await?;
    let (tip, before) = end_of(log, partition).await?;
    if Instant::now() >= leased_until {
        return Err(Failure::Overtaken);
    }
    if before.version > known_format() {
        let what =
            format!("block {} has format {}, this binary knows {}", tip.seq, before.version, known_format());
        return Err(Failure::Stop(StopReason::Unreadable(what)));
    }
    let is_restored = inject.iter().any(|event| matches!(event, PartitionEvent::Restored { .. }));
    let left_out = if is_restored { EPOCHS_LEFT_OUT } else { 0 };
    if mutant::is(Mutant::EpochBlockForgotten) && tip.seq.0 > 1 {
        return Ok(before);
    }
    let header = BlockHeader {
        kind: BlockKind::Epoch,
        partition,
        seq: tip.seq.next(),
        epoch: Epoch(tip.epoch.max(forgiven_by(inject)).0 + left_out).next(),
        floor: before.floor,
        time: now.max(tip.time),
        previous: tip.checksum,
    };
    // Tickets of before a restore are worth nothing, however the backup's last owner ended.
    let inherited = unlived.as_ref().and_then(|unlived| unlived.behind(tip.checksum));
    let clean_since = before.closed_since().or(inherited).filter(|_| !is_restored);
    let valid_since = clean_since.unwrap_or(header.epoch);
    let block = Block::in_format(config.format.get(), header, epoch_body(entropy::uuid(), valid_since));
    remember(unlived, &block, clean_since);
    append(log, &block, trouble).await?;
    Ok(block)
}

/// Notes the ends that this epoch block may leave, before it is offered: whatever becomes of the offer, an end with that
/// checksum is ours. The abort that an unclean end asks for is owed until a life has made it.
fn remember(unlived: &mut Option<Unlived>, block: &Block, clean_since: Option<Epoch>) {
    let Some(valid_since) = clean_since else {
        *unlived = None;
        return;
    };
    let known = unlived.take().filter(|unlived| unlived.valid_since == valid_since);
    let mut ends = known.map(|unlived| unlived.ends).unwrap_or_default();
    ends.extend([block.checksum, barrier_after(block).checksum]);
    ends.drain(..ends.len().saturating_sub(UNLIVED_MAX));
    *unlived = Some(Unlived { valid_since, ends });
}

/// The last block, on the server where the log goes on: a seal that somebody left unfinished is followed first
/// (protocol H10).
async fn end_of(log: &Arc<dyn TransactionLog>, partition: PartitionId) -> Result<(Tip, Block), Failure> {
    let look = async || {
        let tip = log.tip(partition).await?;
        let block = log.block_at(partition, tip.seq).await?.ok_or(Failure::Overtaken)?;
        Ok::<_, Failure>((tip, block))
    };
    let (tip, block) = look().await?;
    if block.kind != BlockKind::Sealing {
        return Ok((tip, block));
    }
    log.follow_seal(&block).await?;
    look().await
}

/// A nonce, which tells apart epochs of one number, and the epoch since which tickets are valid.
fn epoch_body(nonce: Uuid, valid_since: Epoch) -> Bytes {
    [nonce.as_bytes().as_slice(), &valid_since.0.to_be_bytes()].concat().into()
}

async fn append_events(
    log: &Arc<dyn TransactionLog>,
    before: &Block,
    config: &EngineConfig,
    events: &[PartitionEvent],
    trouble: &Trouble,
) -> Result<Block, Failure> {
    let mut body = BodyWriter::default();
    body.start_in(config.format.get(), before.time);
    for event in events {
        body.partition_event(before.time, event);
    }
    let header = BlockHeader {
        kind: BlockKind::Data,
        partition: before.partition,
        seq: before.seq.next(),
        epoch: before.epoch,
        floor: before.floor,
        time: before.time,
        previous: before.checksum,
    };
    let block = Block::in_format(body.format(), header, body.finish());
    append(log, &block, trouble).await?;
    Ok(block)
}

/// Appends outside the writer. If the block turns out to be there since an earlier offer, the next
/// append of this recovery, or the life's first block, is the acknowledged one after it (C4); a
/// recovery answers nobody before.
async fn append(log: &Arc<dyn TransactionLog>, block: &Block, trouble: &Trouble) -> Result<(), Failure> {
    let tell = || {
        let trouble = Arc::clone(trouble);
        move |why| trouble(why)
    };
    match settle(Arc::clone(log), block.clone(), tell()).await {
        Settled::Written => Ok(()),
        Settled::AlreadyThere => {
            match settle(Arc::clone(log), barrier_after(block), tell()).await {
                // The chain goes on behind the barrier: start over from there.
                Settled::Written | Settled::AlreadyThere | Settled::Conflict => Err(Failure::Overtaken),
                Settled::Refused { why, .. } => Err(Failure::Later(why)),
            }
        }
        Settled::Conflict => Err(Failure::Overtaken),
        Settled::Refused { why, .. } => Err(Failure::Later(why)),
    }
}

/// An empty block that makes the one before durable (protocol C4).
fn barrier_after(block: &Block) -> Block {
    let header = BlockHeader {
        kind: BlockKind::Data,
        partition: block.partition,
        seq: block.seq.next(),
        epoch: block.epoch,
        floor: block.floor,
        time: block.time,
        previous: block.checksum,
    };
    Block::in_format(block.version, header, Bytes::new())
}

async fn replay(
    log: &Arc<dyn TransactionLog>,
    blocks: Vec<Block>,
    last: Block,
    epoch: Epoch,
    config: &EngineConfig,
) -> Result<Recovered, Failure> {
    let partition = last.partition;
    let watermark = log.history_watermark(partition).await?;
    let mut memory = Memory::default();
    let mut locks = Locks::default();
    let mut epochs = Epochs::default();
    let mut sizes = VecDeque::new();
    let mut latest = last.time;
    let mut lost_tail = None;
    let mut words = Words::default();
    let mut restored = None;
    let mut epoch_tag = 0;
    let mut valid_since = epoch;
    // Effects of replayed events are dropped; `pending` yields what is owed (protocol M7).
    let mut dropped = Vec::new();
    let (mut records, mut told) = (0_u64, Instant::now());
    for (place, block) in blocks.iter().enumerate() {
        epochs.add(block);
        if block.kind == BlockKind::Epoch && block.epoch == epoch {
            epoch_tag = block.checksum.tag();
            valid_since = block.valid_since();
        }
        if block.seq < last.floor {
            continue;
        }
        sizes.push_back((block.seq, block.bytes() as u64));
        if block.kind != BlockKind::Data {
            continue;
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            tracing::info!(
                %partition, events = records, open = memory.entries.len(), blocks = place,
                of_blocks = blocks.len(), "still reading the log"
            );
        }
        for logged in decode(block)? {
            latest = latest.max(logged.at);
            records += 1;
            match logged.what {
                LoggedEvent::Partition(PartitionEvent::LostTailFound { epoch: seen, seq, .. }) => {
                    let why =
                        format!("a witness saw block {seq} of epoch {seen}, which this log does not hold");
                    // It may have seen more epochs than this log counted to since.
                    let before = lost_tail.map_or(epoch, |lost: LostTail| lost.epoch);
                    lost_tail = Some(LostTail { why, epoch: before.max(seen) });
                }
                LoggedEvent::Partition(event @ PartitionEvent::LossAccepted { epoch, .. }) => {
                    epochs.forgive(epoch);
                    lost_tail = None;
                    words.accepted = Some((block.seq, event));
                }
                LoggedEvent::Partition(event @ PartitionEvent::Restored { epoch, at, .. }) => {
                    epochs.forgive(epoch);
                    lost_tail = None;
                    restored = Some(Restored { epoch, at });
                    words.restored = Some((block.seq, event));
                }
                LoggedEvent::Partition(PartitionEvent::Lock(event)) => {
                    locks.written(&event, block.seq, logged.bytes, config.lock_ask_after).map_err(
                        |error| {
                            Failure::Stop(StopReason::Unreadable(format!("block {}: {error}", block.seq)))
                        },
                    )?;
                }
                // Its beginning was trimmed: it is over, or a snapshot of it stands further on.
                LoggedEvent::Transaction(xid, event)
                    if memory.transaction(xid).is_none() && !event.is_beginning() => {}
                LoggedEvent::Transaction(xid, mut event) => {
                    // A second life of one xid: the first was over, and history had dropped it when it began (M1).
                    if matches!(event, unanimity_core::Event::Begun { .. } | unanimity_core::Event::Presumed)
                        && memory.transaction(xid).is_some_and(|known| known.finished_at.is_some())
                    {
                        memory.evict(xid, logged.at);
                    }
                    memory.share(&mut event);
                    let is_snapshot = matches!(event, unanimity_core::Event::Snapshot(_));
                    let entry = memory.entry_or_new(xid, block.seq);
                    apply(&mut entry.transaction, xid, event, logged.at, &mut dropped).map_err(|error| {
                        Failure::Stop(StopReason::Unreadable(format!("block {}: {error}", block.seq)))
                    })?;
                    dropped.clear();
                    if is_snapshot {
                        memory.moved(xid, block.seq, logged.bytes);
                    } else {
                        memory.written(xid, block.seq, logged.bytes);
                    }
                }
            }
        }
    }
    let clock = PartitionClock::starting_at(latest);
    let mut recovered = Recovered {
        last,
        epoch,
        epoch_tag,
        valid_since,
        owner_changed: Vec::new(),
        epochs,
        memory,
        locks,
        clock,
        blocks: sizes,
        owed: Vec::new(),
        finished: Vec::new(),
        open: Vec::new(),
        lost_tail,
        accepted: words,
        restored,
    };
    owe(&mut recovered, watermark.seq, clock.now(), config.timing());
    Ok(recovered)
}

/// Sorts what was read into what is owed, what is over and not yet in history, and what is neither.
fn owe(recovered: &mut Recovered, in_history: Seq, now: Timestamp, timing: Timing) {
    let mut known = Vec::new();
    for (xid, entry) in &mut recovered.memory.entries {
        let Some(transaction) = &mut entry.transaction else { continue };
        if transaction.finished_at.is_some() {
            if entry.last <= in_history {
                known.push(*xid);
            } else {
                recovered.finished.push(*xid);
            }
            continue;
        }
        recovered.open.push(*xid);
        if recovered.valid_since == recovered.epoch
            && transaction.is_ticketed()
            && transaction.status() == Status::Active
        {
            recovered.owner_changed.push(*xid);
        }
        let context = timing.context(*xid, now);
        recovered.owed.extend(pending(transaction, context).into_iter().map(|effect| (*xid, effect)));
    }
    for xid in known {
        recovered.memory.evict(xid, now);
    }
}
