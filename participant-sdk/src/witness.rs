//! Witnesses: the highest places of the coordinator's log that this process was told of.
//!
//! A log that lost its tail looks perfect from inside. Whoever was answered from the lost part can
//! prove the loss, so SDKs keep the highest position of each partition and show it on attach and
//! with inquiries (protocol H6).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use unanimity_proto::{position_from_wire, position_to_wire, v1};
use unanimity_types::{LogId, LogPosition, PartitionId};

/// The witnesses of one log.
#[derive(Debug, Default)]
pub(crate) struct Witnesses {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    log: Option<LogId>,
    /// Another log answered as well: positions can no longer be told apart, and a position of one
    /// log shown to another would accuse it of a loss.
    mixed: bool,
    highest: BTreeMap<PartitionId, LogPosition>,
}

impl Witnesses {
    /// The log that was met, if any.
    pub(crate) fn log_id(&self) -> Option<LogId> {
        self.with(|inner| inner.log)
    }

    /// Remembers the log that answered. `Err` with the log that was met before, if it is another
    /// one; then nothing changes.
    pub(crate) fn meet(&self, log: LogId) -> Result<(), LogId> {
        self.with(|inner| match inner.log {
            Some(known) if known != log => {
                inner.mixed = true;
                Err(known)
            }
            _ => {
                inner.log = Some(log);
                Ok(())
            }
        })
    }

    /// Whether two logs answered, so that no position can be trusted.
    pub(crate) fn is_mixed(&self) -> bool {
        self.with(|inner| inner.mixed)
    }

    /// Goes over to another log on purpose, forgetting the old one's positions.
    pub(crate) fn switch(&self, log: LogId) {
        self.with(|inner| *inner = Inner { log: Some(log), ..Inner::default() });
    }

    /// Keeps a position if it is the highest of its partition.
    pub(crate) fn observe(&self, position: LogPosition) {
        self.with(|inner| inner.observe(position));
    }

    /// Keeps a position from the wire; one that makes no sense is left out.
    pub(crate) fn observe_wire(&self, position: Option<&v1::LogPosition>) -> Option<LogPosition> {
        let position = position_from_wire(position?).ok()?;
        self.observe(position);
        Some(position)
    }

    /// The same for many, under one lock: what a message of a session brings.
    pub(crate) fn observe_all<'a>(&self, positions: impl IntoIterator<Item = &'a v1::LogPosition>) {
        self.with(|inner| {
            for position in positions.into_iter().filter_map(|position| position_from_wire(position).ok()) {
                inner.observe(position);
            }
        });
    }

    /// All positions, for the wire.
    pub(crate) fn to_wire(&self) -> Vec<v1::LogPosition> {
        self.with(|inner| {
            let known = inner.highest.values().copied().filter(|_| !inner.mixed);
            known.map(position_to_wire).collect()
        })
    }

    fn with<T>(&self, action: impl FnOnce(&mut Inner) -> T) -> T {
        // Nothing inside can panic half-way, so a poisoned lock still guards sound data.
        action(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    fn observe(&mut self, position: LogPosition) {
        // A place without its epoch's tag comes from history: it proves nothing.
        if self.mixed || position.epoch_tag == 0 {
            return;
        }
        let highest = self.highest.entry(position.partition).or_insert(position);
        if (position.seq, position.epoch) > (highest.seq, highest.epoch) {
            *highest = position;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimity_types::{Epoch, Seq};

    fn at(partition: u16, epoch: u64, seq: u64) -> LogPosition {
        LogPosition { partition: PartitionId(partition), epoch: Epoch(epoch), epoch_tag: 7, seq: Seq(seq) }
    }

    #[test]
    fn the_highest_position_of_each_partition_is_kept() {
        let witnesses = Witnesses::default();
        for position in [at(1, 1, 5), at(2, 1, 9), at(1, 2, 4), at(1, 2, 6)] {
            witnesses.observe(position);
        }
        let seqs: Vec<_> = witnesses.to_wire().iter().map(|p| (p.partition, p.epoch, p.seq)).collect();
        assert_eq!(seqs, [(1, 2, 6), (2, 1, 9)]);
    }

    #[test]
    fn h6_a_place_from_history_is_no_witness() {
        let witnesses = Witnesses::default();
        witnesses.observe(at(1, 1, 5));
        witnesses.observe(LogPosition { epoch_tag: 0, ..at(1, 1, 9) });
        witnesses.observe(LogPosition { epoch_tag: 0, ..at(2, 1, 9) });
        let kept: Vec<_> = witnesses.to_wire().iter().map(|p| (p.partition, p.seq)).collect();
        assert_eq!(kept, [(1, 5)]);
    }

    #[test]
    fn another_log_is_noticed() {
        let witnesses = Witnesses::default();
        let (a, b) = (LogId(uuid::Uuid::from_u128(1)), LogId(uuid::Uuid::from_u128(2)));
        assert_eq!(witnesses.meet(a), Ok(()));
        assert_eq!(witnesses.meet(b), Err(a));
        assert_eq!(witnesses.log_id(), Some(a));
        witnesses.observe(at(1, 1, 5));
        assert!(witnesses.to_wire().is_empty(), "positions of two logs must not mix");
    }
}
