//! Group commit: events gather in the next block while the one before is being written; what they
//! cause is held until their block is durable.

use bytes::Bytes;
use tokio::time::Instant;
use unanimity_types::{BranchId, Epoch, Operation, PartitionId, Seq, Timestamp, Xid};

use super::memory::{Waiter, Who};
use crate::engine::codec::BodyWriter;
use crate::engine::error::Error;
use crate::engine::mailbox::{Inquired, Reply, ReplyTo};
use crate::engine::request::TransactionView;
use crate::log::{AgreedFormat, Block, BlockHeader, BlockKind, Checksum, Seal};

/// A block with only lazy events is started at most so much later (protocol 1.1).
pub(super) const LAZY_WAIT: std::time::Duration = std::time::Duration::from_millis(5);

/// Something that may happen when a block is durable.
#[derive(Debug)]
pub(super) enum Release {
    /// An answer to a command.
    Answer(ReplyTo<Reply>, Box<Result<Reply, Error>>),
    /// An answer to a look.
    View(ReplyTo<Option<Box<TransactionView>>>, Option<Box<TransactionView>>),
    /// An answer to a list.
    Views(ReplyTo<Vec<TransactionView>>, Vec<TransactionView>),
    /// An answer to an inquiry.
    Inquired(ReplyTo<Inquired>, Inquired),
    /// The answer to a witness that knows more than the log holds.
    Heard(ReplyTo<()>, Error),
    /// What history has as open is settled: to be looked at again.
    LookAgain(ReplyTo<()>),
    /// An answer to who wanted a lock.
    Locked(ReplyTo<()>, Result<(), Error>),
    /// An operation to be brought.
    Dispatch { xid: Xid, branch_id: BranchId, operation: Operation, attempt: u32 },
    /// A decision that may be told.
    Decided(Xid),
    /// An end that may be told, and written to history.
    Finished(Xid),
    /// The partition stops: what a witness showed is on record.
    Stop,
}

impl Release {
    /// Whether a caller waits for it.
    pub(super) const fn is_answer(&self) -> bool {
        match self {
            Self::Answer(..)
            | Self::View(..)
            | Self::Views(..)
            | Self::Inquired(..)
            | Self::Heard(..)
            | Self::LookAgain(..)
            | Self::Locked(..) => true,
            Self::Dispatch { .. } | Self::Decided(_) | Self::Finished(_) | Self::Stop => false,
        }
    }

    /// The partition throws its memory away: callers are told `error`, effects are dropped
    /// (recovery yields what is owed).
    pub(super) fn fail(self, error: &Error) {
        match self {
            Self::Answer(reply, _) => drop(reply.send(Err(error.clone()))),
            Self::View(reply, _) => drop(reply.send(Err(error.clone()))),
            Self::Views(reply, _) => drop(reply.send(Err(error.clone()))),
            Self::Inquired(reply, _) => drop(reply.send(Err(error.clone()))),
            Self::Heard(reply, _) | Self::LookAgain(reply) | Self::Locked(reply, _) => {
                drop(reply.send(Err(error.clone())));
            }
            Self::Dispatch { .. } | Self::Decided(_) | Self::Finished(_) | Self::Stop => {}
        }
    }
}

impl Waiter {
    pub(super) fn fail(self, error: &Error) {
        match self.who {
            Who::Decides { reply, .. } => drop(reply.send(Err(error.clone()))),
            Who::Looks(reply) => drop(reply.send(Err(error.clone()))),
        }
    }
}

/// The block that gathers events; they are in the writer's body.
#[derive(Debug)]
struct Building {
    time: Timestamp,
    since: Instant,
    waits: bool,
    held: Vec<Release>,
}

/// The block that is being written.
#[derive(Debug)]
struct InFlight {
    seq: Seq,
    bytes: u64,
    floor: Seq,
    held: Vec<Release>,
}

/// The end of the log as its owner sees it.
#[derive(Debug)]
pub(super) struct Writer {
    partition: PartitionId,
    epoch: Epoch,
    /// The last block that is durable.
    durable: Seq,
    durable_checksum: Checksum,
    /// The last block that was offered.
    offered: Seq,
    offered_checksum: Checksum,
    /// The floor that the last durable block records.
    durable_floor: Seq,
    /// What was offered after the last durable block: all but the last are there.
    offered_since: Vec<(Seq, Checksum)>,
    building: Option<Building>,
    body: BodyWriter,
    format: AgreedFormat,
    in_flight: Option<InFlight>,
}

/// What a durable block lets out.
#[derive(Debug)]
pub(super) struct Durable {
    pub(super) seq: Seq,
    pub(super) bytes: u64,
    pub(super) floor: Seq,
    pub(super) released: Vec<Release>,
}

impl Writer {
    /// A writer that goes on after `last`, which is durable.
    pub(super) fn after(last: &Block, format: AgreedFormat) -> Self {
        Self {
            partition: last.partition,
            epoch: last.epoch,
            durable: last.seq,
            durable_checksum: last.checksum,
            offered: last.seq,
            offered_checksum: last.checksum,
            durable_floor: last.floor,
            offered_since: Vec::new(),
            building: None,
            body: BodyWriter::default(),
            format,
            in_flight: None,
        }
    }

    pub(super) const fn durable(&self) -> Seq {
        self.durable
    }

    pub(super) const fn durable_checksum(&self) -> Checksum {
        self.durable_checksum
    }

    pub(super) const fn durable_floor(&self) -> Seq {
        self.durable_floor
    }

    /// The blocks of ours that a successor's epoch block may follow.
    pub(super) fn ends(&self) -> impl Iterator<Item = (Seq, Checksum)> {
        std::iter::once((self.durable, self.durable_checksum)).chain(self.offered_since.iter().copied())
    }

    /// Whether something is held that stands in a block which is there, but not yet acknowledged.
    pub(super) fn holds_what_is_there(&self) -> bool {
        self.offered_since.len() > 1
    }

    /// Where the next event goes.
    pub(super) fn building_seq(&self) -> Seq {
        self.offered.next()
    }

    pub(super) fn building_bytes(&self) -> usize {
        self.building.as_ref().map_or(0, |_| self.body.len())
    }

    pub(super) const fn is_idle(&self) -> bool {
        self.building.is_none() && self.in_flight.is_none()
    }

    fn building(&mut self, now: Timestamp) -> &mut Building {
        self.building.get_or_insert_with(|| {
            self.body.start_in(self.format.get(), now);
            Building { time: now, since: Instant::now(), waits: false, held: Vec::new() }
        })
    }

    /// Adds a record by `write`, which answers its size. Answers that and the block that it goes into.
    pub(super) fn push(
        &mut self,
        now: Timestamp,
        waits: bool,
        write: impl FnOnce(&mut BodyWriter) -> Option<usize>,
    ) -> Option<(Seq, usize)> {
        let seq = self.building_seq();
        self.building(now).waits |= waits;
        let bytes = write(&mut self.body)?;
        Some((seq, bytes))
    }

    /// Holds a release until block `gate` is durable; gives it back if it is.
    ///
    /// Somebody waits for nearly all of them; an end that nobody waits for does not hurry its block.
    pub(super) fn hold(
        &mut self,
        gate: Seq,
        release: Release,
        now: Timestamp,
        hurries: bool,
    ) -> Option<Release> {
        if gate <= self.durable {
            return Some(release);
        }
        match &mut self.in_flight {
            Some(in_flight) if in_flight.seq >= gate => in_flight.held.push(release),
            _ => {
                let building = self.building(now);
                building.waits |= hurries;
                building.held.push(release);
            }
        }
        None
    }

    /// When a block must be started though nobody waits for it.
    pub(super) fn lazy_due(&self) -> Option<Instant> {
        if self.in_flight.is_some() {
            return None;
        }
        self.building
            .as_ref()
            .map(|building| if building.waits { building.since } else { building.since + LAZY_WAIT })
    }

    /// Seals the next block if one is due and none is being written.
    pub(super) fn seal(&mut self, floor: Seq, force: bool) -> Option<Block> {
        let due = self.lazy_due().is_some_and(|due| force || due <= Instant::now());
        if !due {
            return None;
        }
        let building = self.building.take()?;
        let (version, body) = (self.body.format(), self.body.finish());
        Some(self.offer(version, BlockKind::Data, building.time, floor, body, building.held))
    }

    /// Seals a closing block: nothing may be building or in flight.
    /// It says since which epoch tickets are valid: the next owner goes on from there.
    pub(super) fn seal_closing(&mut self, now: Timestamp, valid_since: Epoch) -> Block {
        let body = Bytes::copy_from_slice(&valid_since.0.to_be_bytes());
        self.offer(self.format.get(), BlockKind::Closing, now, self.durable_floor, body, Vec::new())
    }

    /// Seals the last block on this server: nothing may be building or in flight (protocol H10).
    pub(super) fn seal_off(&mut self, now: Timestamp, valid_since: Epoch, seal: &Seal) -> Block {
        let (format, floor) = (self.format.get(), self.durable_floor);
        self.offer(format, BlockKind::Sealing, now, floor, seal.body(valid_since), Vec::new())
    }

    fn offer(
        &mut self,
        version: u16,
        kind: BlockKind,
        time: Timestamp,
        floor: Seq,
        body: Bytes,
        held: Vec<Release>,
    ) -> Block {
        let block = Block::in_format(
            version,
            BlockHeader {
                kind,
                partition: self.partition,
                seq: self.building_seq(),
                epoch: self.epoch,
                // Never backwards.
                floor: floor.max(self.durable_floor),
                time,
                previous: self.offered_checksum,
            },
            body,
        );
        self.offered = block.seq;
        self.offered_checksum = block.checksum;
        self.offered_since.push((block.seq, block.checksum));
        self.in_flight =
            Some(InFlight { seq: block.seq, bytes: block.bytes() as u64, floor: block.floor, held });
        block
    }

    /// The block in flight was acknowledged: what waited for it, and for those before it, is free.
    pub(super) fn written(&mut self) -> Option<Durable> {
        let in_flight = self.in_flight.take()?;
        self.durable = in_flight.seq;
        self.durable_checksum = self.offered_checksum;
        self.durable_floor = in_flight.floor;
        self.offered_since.clear();
        Some(Durable {
            seq: in_flight.seq,
            bytes: in_flight.bytes,
            floor: in_flight.floor,
            released: in_flight.held,
        })
    }

    /// The block in flight is there since an earlier offer: what waited for it waits for the next
    /// acknowledged block, which is started at once (protocol C4). Answers its size.
    pub(super) fn already_there(&mut self, now: Timestamp) -> u64 {
        let Some(in_flight) = self.in_flight.take() else { return 0 };
        let building = self.building(now);
        building.waits = true;
        let mut held = in_flight.held;
        held.append(&mut building.held);
        building.held = held;
        in_flight.bytes
    }

    /// Everything that was held, because the partition throws its memory away.
    pub(super) fn drain(&mut self) -> Vec<Release> {
        let mut held = self.in_flight.take().map(|in_flight| in_flight.held).unwrap_or_default();
        held.extend(self.building.take().map(|building| building.held).unwrap_or_default());
        held
    }
}
