//! Witnesses: whether a place that somebody saw can be in this log (protocol C8, H6).

use unanimity_types::{Epoch, LogPosition, Seq};

use crate::log::{Block, BlockKind};

/// Every epoch that the log had, which is known for ever because epoch blocks are never trimmed.
#[derive(Debug, Clone, Default)]
pub(super) struct Epochs {
    /// (epoch, tag, its first block), ascending.
    known: Vec<(Epoch, u32, Seq)>,
    /// Witnesses of epochs up to this one were forgiven by an operator.
    forgiven: Epoch,
}

/// What a witness shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Testimony {
    /// The log has had that place.
    Fits,
    /// It cannot have had it. Says why.
    LostTail(String),
}

impl Epochs {
    pub(super) fn add(&mut self, block: &Block) {
        if matches!(block.kind, BlockKind::Epoch) {
            self.known.push((block.epoch, block.checksum.tag(), block.seq));
        }
    }

    pub(super) fn forgive(&mut self, epoch: Epoch) {
        self.forgiven = self.forgiven.max(epoch);
    }

    /// Whether the log had this epoch.
    pub(super) fn has(&self, epoch: Epoch, tag: u32) -> bool {
        // The present one is asked about nearly always.
        self.known.iter().rev().any(|(known, known_tag, _)| *known == epoch && *known_tag == tag)
    }

    /// Whether an operator accepted the loss of such an epoch.
    pub(super) fn is_forgiven(&self, epoch: Epoch) -> bool {
        epoch <= self.forgiven
    }

    /// Compares a witness with the log whose last durable block is `durable`.
    pub(super) fn hear(&self, witness: &LogPosition, durable: Seq) -> Testimony {
        // Places that history told have no tag: shown to callers, never a witness.
        let saw_nothing = witness.epoch == Epoch(0) || witness.epoch_tag == 0;
        if saw_nothing || witness.epoch <= self.forgiven {
            return Testimony::Fits;
        }
        let place = self
            .known
            .iter()
            .position(|(epoch, tag, _)| *epoch == witness.epoch && *tag == witness.epoch_tag);
        let Some(place) = place else {
            return Testimony::LostTail(format!(
                "a witness saw epoch {} (tag {:08x}), which this log never had",
                witness.epoch, witness.epoch_tag
            ));
        };
        let end = self.known.get(place + 1).map_or(durable, |(_, _, next)| Seq(next.0.saturating_sub(1)));
        if witness.seq > end {
            return Testimony::LostTail(format!(
                "a witness saw block {} of epoch {}, which ends at block {end} here",
                witness.seq, witness.epoch
            ));
        }
        Testimony::Fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimity_types::PartitionId;

    fn epochs() -> Epochs {
        Epochs { known: vec![(Epoch(1), 0xa, Seq(1)), (Epoch(2), 0xb, Seq(10))], forgiven: Epoch(0) }
    }

    fn witness(epoch: u64, epoch_tag: u32, seq: u64) -> LogPosition {
        LogPosition { partition: PartitionId(0), epoch: Epoch(epoch), epoch_tag, seq: Seq(seq) }
    }

    #[test]
    fn h6_a_witness_of_more_than_the_log_holds_is_heard() {
        let table = [
            (witness(1, 0xa, 9), true),
            (witness(1, 0xa, 10), false), // the new owner began at 10: block 10 of epoch 1 is lost
            (witness(2, 0xb, 20), true),
            (witness(2, 0xb, 21), false), // beyond the end
            (witness(2, 0xc, 12), false), // another epoch 2
            (witness(3, 0xd, 12), false), // an epoch that never was
            (witness(0, 0, 0), true),     // has seen nothing
        ];
        for (witness, fits) in table {
            assert_eq!(epochs().hear(&witness, Seq(20)) == Testimony::Fits, fits, "{witness:?}");
        }
    }

    #[test]
    fn h6_an_accepted_loss_forgives_its_witnesses() {
        let mut epochs = epochs();
        epochs.forgive(Epoch(2));
        assert_eq!(epochs.hear(&witness(2, 0xc, 99), Seq(20)), Testimony::Fits);
        assert_ne!(epochs.hear(&witness(3, 0xc, 99), Seq(20)), Testimony::Fits);
    }
}
