//! First contacts: what an owner does with an xid that it does not hold, whose ticket says where and
//! when it was minted (protocol 1.2).
//!
//! Every refusal here stands without a block. A ticket that was refused for its epoch stays refused,
//! because what is valid only moves on; one refused for its age stays too old. And a stale owner, whose
//! successor's epoch follows no closing block, refuses nothing that the successor would take.

use std::collections::VecDeque;

use fastbloom::BloomFilter;
use unanimity_types::{AbortReason, Epoch, Ticket, Timestamp, Xid};

use super::witness::Epochs;
use crate::entropy;

/// What a ticket is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    /// Good, and given out by this very owner, who knows what left since.
    Own,
    /// Good, and given out by an owner before, whose end was clean, or long ago: history is to be asked.
    Inherited,
    /// What it would begin is aborted: this is why.
    Gone(AbortReason),
    /// Of an epoch that this log has never had: another owner lives, or the log lost its tail.
    Foreign,
}

/// Judges a ticket. `valid_since` is the first epoch that no unclean end separates from the present one,
/// which is `epoch`.
pub(super) fn worth(
    ticket: &Ticket,
    epochs: &Epochs,
    epoch: Epoch,
    valid_since: Epoch,
    good_from: u64,
    now: Timestamp,
) -> Worth {
    if !epochs.has(ticket.epoch, ticket.epoch_tag) {
        let forgiven = epochs.is_forgiven(ticket.epoch);
        return if forgiven { Worth::Gone(AbortReason::OwnerChanged) } else { Worth::Foreign };
    }
    if ticket.epoch < valid_since {
        return Worth::Gone(AbortReason::OwnerChanged);
    }
    // Partition time never goes backwards: nobody has given out a ticket of the future.
    let forged = ticket.generation > Ticket::generation_at(now) + 1;
    if forged || ticket.is_expired(now) {
        return Worth::Gone(AbortReason::TicketExpired);
    }
    // Where what left was let go of, as for what an owner before let go, only history can tell.
    if ticket.epoch == epoch && ticket.generation >= good_from { Worth::Own } else { Worth::Inherited }
}

/// So many xids go into one filter: about 160 KB with one false positive in a hundred, which costs a
/// look into history.
const SEGMENT_ITEMS: usize = 131_072;
const FALSE_POSITIVES: f64 = 0.01;

/// More than eight million ended transactions in five minutes of one partition: from there on history is
/// asked about older tickets instead of growing without a bound.
const SEGMENTS_MAX: usize = 64;

/// The transactions that left memory in this life while tickets of theirs may still be good: a late
/// duplicate must not begin one again, and whoever is not in here was never here.
#[derive(Debug, Default)]
pub(super) struct Left {
    segments: VecDeque<Segment>,
    /// What tickets of earlier generations stamped was let go of.
    good_from: u64,
}

#[derive(Debug)]
struct Segment {
    filter: BloomFilter,
    items: usize,
    /// When its last one came.
    newest: u64,
}

impl Left {
    /// Remembers one that left now.
    pub(super) fn add(&mut self, xid: Xid, now: Timestamp) {
        let generation = Ticket::generation_at(now);
        self.forget(now);
        if self.segments.back().is_none_or(|segment| segment.items >= SEGMENT_ITEMS) {
            if self.segments.len() == SEGMENTS_MAX
                && let Some(oldest) = self.segments.pop_front()
            {
                self.good_from = oldest.newest + 1;
            }
            // The xids are somebody else's choice: the filter's hash is keyed by chance.
            let seed = entropy::uuid().as_u128();
            let filter =
                BloomFilter::with_false_pos(FALSE_POSITIVES).seed(&seed).expected_items(SEGMENT_ITEMS);
            self.segments.push_back(Segment { filter, items: 0, newest: generation });
        }
        if let Some(segment) = self.segments.back_mut() {
            segment.filter.insert(xid.as_bytes());
            segment.items += 1;
            segment.newest = generation;
        }
    }

    /// Whether it may have been here; false for certain if it was not.
    pub(super) fn may_have(&self, xid: Xid) -> bool {
        self.segments.iter().any(|segment| segment.filter.contains(xid.as_bytes()))
    }

    /// About earlier generations history is to be asked.
    pub(super) const fn good_from(&self) -> u64 {
        self.good_from
    }

    /// Lets go of what no good ticket can name any more: it was minted before it left.
    fn forget(&mut self, now: Timestamp) {
        while let Some(oldest) = self.segments.front() {
            let ticket = Ticket { epoch: Epoch(0), epoch_tag: 0, generation: oldest.newest };
            if !ticket.is_expired(now) {
                break;
            }
            self.segments.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use unanimity_types::{PartitionId, Seq, TICKETED_TIMEOUT_MAX};

    use crate::log::{Block, BlockHeader, BlockKind, Checksum};

    fn epochs() -> (Epochs, Vec<u32>) {
        let mut epochs = Epochs::default();
        let mut tags = Vec::new();
        for epoch in 1..=4 {
            let header = BlockHeader {
                kind: BlockKind::Epoch,
                partition: PartitionId(0),
                seq: Seq(epoch * 10),
                epoch: Epoch(epoch),
                floor: Seq(0),
                time: Timestamp(0),
                previous: Checksum::default(),
            };
            let block = Block::new(header, bytes::Bytes::from(vec![u8::try_from(epoch).unwrap(); 16]));
            tags.push(block.checksum.tag());
            epochs.add(&block);
        }
        (epochs, tags)
    }

    #[test]
    fn ticket_worth_by_epoch_and_age() {
        let (epochs, tags) = epochs();
        let now = Timestamp(10_000_000_000);
        let fresh = Ticket::generation_at(now);
        let ticket = |epoch: u64, generation| Ticket {
            epoch: Epoch(epoch),
            epoch_tag: tags[usize::try_from(epoch - 1).unwrap()],
            generation,
        };
        let judge = |ticket: &Ticket| worth(ticket, &epochs, Epoch(4), Epoch(3), 0, now);
        assert_eq!(judge(&ticket(4, fresh)), Worth::Own);
        assert_eq!(judge(&ticket(3, fresh)), Worth::Inherited);
        assert_eq!(judge(&ticket(2, fresh)), Worth::Gone(AbortReason::OwnerChanged));
        assert_eq!(judge(&ticket(4, fresh - 40)), Worth::Gone(AbortReason::TicketExpired));
        assert_eq!(judge(&ticket(4, fresh + 2)), Worth::Gone(AbortReason::TicketExpired));
        assert_eq!(judge(&Ticket { epoch_tag: 7, ..ticket(4, fresh) }), Worth::Foreign);
        assert_eq!(judge(&Ticket { epoch: Epoch(5), ..ticket(4, fresh) }), Worth::Foreign);
        assert_eq!(worth(&ticket(4, fresh), &epochs, Epoch(4), Epoch(3), fresh + 1, now), Worth::Inherited);
    }

    #[test]
    fn what_left_is_known_as_long_as_its_ticket_may_be_good() {
        let xid = |n: u128| Xid::new(uuid::Uuid::from_u128(n));
        let mut left = Left::default();
        let start = Timestamp(1_000_000_000);
        left.add(xid(1), start);
        assert!(left.may_have(xid(1)));
        left.add(xid(2), start.after(TICKETED_TIMEOUT_MAX));
        assert!(left.may_have(xid(1)), "its ticket may have been minted just before it left");
        // Enough for several filters, and late enough for the first to be let go of.
        let late = start.after(TICKETED_TIMEOUT_MAX * 3);
        for n in 0..(2 * SEGMENT_ITEMS as u128) {
            left.add(xid(1_000 + n), late);
        }
        assert!((0..1_000).all(|n| left.may_have(xid(1_000 + n * 200))));
        assert!(left.segments.len() <= 3);
        let strangers = (0..10_000).filter(|n| left.may_have(xid(n + (1 << 100)))).count();
        assert!(strangers < 500, "{strangers} of 10,000");
        left.add(xid(3), late.after(TICKETED_TIMEOUT_MAX + Duration::from_secs(60)));
        assert_eq!(left.segments.len(), 1);
    }
}
