//! What a partition's rows must look like: the checks that all implementations share.
//!
//! ```text
//!  0      4      9        12     13     14     15
//!  birth  epoch  epoch  ‖ data ─ data ─ data ─ data      ‖ the floor that block 15 records
//!  └ kept for ever ──┘    └ complete and chained ──┘
//! ```
//!
//! Below the floor only birth and epoch blocks count; other rows there are leftovers of a trim that
//! was interrupted, or of a stale append, and are ignored. From the floor on nothing may be missing
//! (protocol H17): a row deleted by hand is found, also if it is the first one.

use unanimity_types::{LogId, PartitionId, Seq};

use super::{Block, BlockKind, Error, LogIdentity, known_format};

/// The largest block that any implementation takes. Far above what the engine seals (a few KB to a
/// few MB), far below what PostgreSQL and SQLite can store (1 GB): it only stops a runaway
/// (protocol H16).
pub const BLOCK_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Checks a block before it is written: the same rules as the tables' CHECK constraints, and the
/// checksum, so that memory damaged in between is not made durable.
pub(super) fn check_offer(identity: LogIdentity, block: &Block) -> Result<(), Error> {
    let refuse = |what: String| {
        Err(Error::Refused(format!("block {} of partition {}: {what}", block.seq, block.partition)))
    };
    if block.partition.0 >= identity.partitions {
        return refuse(format!("this log has partitions 0 to {}", identity.partitions.saturating_sub(1)));
    }
    if block.kind == BlockKind::Birth || block.seq.0 == 0 {
        return refuse("birth blocks are written by `migrate` only".to_owned());
    }
    if block.floor > block.seq {
        return refuse(format!("its floor {} lies above itself", block.floor));
    }
    if i64::try_from(block.seq.0.max(block.epoch.0).max(block.time.0)).is_err() {
        return refuse("a number in its header does not fit into 63 bits".to_owned());
    }
    if block.bytes() > BLOCK_BYTES_MAX {
        return refuse(format!("it has {} bytes, at most {BLOCK_BYTES_MAX} are taken", block.bytes()));
    }
    block.verify().or_else(|damage| refuse(damage.to_string()))
}

/// The rows of one partition, fed in ascending order, checked on the way.
pub(super) struct ChainReader {
    log_id: LogId,
    partition: PartitionId,
    floor: Seq,
    last: Seq,
    blocks: Vec<Block>,
}

impl ChainReader {
    /// A reader for a partition whose last block is `last` and records `floor`.
    pub(super) fn new(log_id: LogId, partition: PartitionId, floor: Seq, last: Seq) -> Result<Self, Error> {
        let reader = Self { log_id, partition, floor, last, blocks: Vec::new() };
        if floor > last {
            return reader.damaged(last, format!("it records the floor {floor}, above itself"));
        }
        Ok(reader)
    }

    /// Takes the next row. Leftovers below the floor are dropped.
    pub(super) fn push(&mut self, block: Block) -> Result<(), Error> {
        if block.seq < self.floor && !block.kind.is_kept() {
            return Ok(());
        }
        self.drop_strays(&block);
        self.check(&block)?;
        self.blocks.push(block);
        Ok(())
    }

    /// A claimant's epoch block may have landed late in a place that a trim had freed. It follows a
    /// kept block, or one that was trimmed too, and bears the number of the epoch that really came next, so that the true chain
    /// contradicts it. Above the floor no place is ever freed, and nothing is forgiven.
    fn drop_strays(&mut self, next: &Block) {
        while let [.., earlier, last] = self.blocks.as_slice() {
            let stray = last.kind == BlockKind::Epoch
                && last.seq < self.floor
                && (last.previous == earlier.checksum || last.seq != earlier.seq.next())
                && self.check_link(last, next).is_err()
                && self.check_link(earlier, next).is_ok();
            if !stray {
                return;
            }
            self.blocks.pop();
        }
    }

    /// The whole chain, if it is whole.
    pub(super) fn finish(self) -> Result<Vec<Block>, Error> {
        match self.blocks.last() {
            Some(block) if block.seq == self.last => Ok(self.blocks),
            Some(block) => self.damaged(block.seq.next().max(self.floor), "it is missing".to_owned()),
            None => Err(never_born(self.partition)),
        }
    }

    fn check(&self, block: &Block) -> Result<(), Error> {
        let seq = block.seq;
        if block.version > known_format() {
            return Err(newer_format(self.partition, seq, block.version));
        }
        if block.partition != self.partition {
            return self.damaged(seq, format!("it says that it belongs to partition {}", block.partition));
        }
        if let Err(damage) = block.verify() {
            return self.damaged(seq, damage.to_string());
        }
        match self.blocks.last() {
            None => self.check_birth(block),
            Some(before) => self.check_link(before, block),
        }
    }

    fn check_birth(&self, block: &Block) -> Result<(), Error> {
        if block.seq.0 != 0 || block.kind != BlockKind::Birth {
            return Err(never_born(self.partition));
        }
        if block.body.as_ref() != self.log_id.0.as_bytes() {
            return self.damaged(block.seq, "its birth block belongs to another log".to_owned());
        }
        Ok(())
    }

    fn check_link(&self, before: &Block, block: &Block) -> Result<(), Error> {
        let seq = block.seq;
        if block.kind == BlockKind::Birth {
            return self.damaged(seq, "a second birth block".to_owned());
        }
        let adjacent = before.seq.next() == seq;
        if !adjacent && seq > self.floor {
            return self.damaged(before.seq.next().max(self.floor), "it is missing".to_owned());
        }
        if adjacent && block.previous != before.checksum {
            let what = format!("it follows {}, the block before is {}", block.previous, before.checksum);
            return self.damaged(seq, what);
        }
        // An epoch block that is gone leaves blocks of an epoch that nobody began.
        let expected = before.epoch;
        let fits =
            if block.kind == BlockKind::Epoch { block.epoch > expected } else { block.epoch == expected };
        if !fits {
            let what = format!("its epoch is {}, the epoch before is {expected}", block.epoch);
            return self.damaged(seq, what);
        }
        Ok(())
    }

    fn damaged<T>(&self, seq: Seq, what: String) -> Result<T, Error> {
        Err(Error::Damaged { partition: self.partition, seq, what })
    }
}

/// The error for a partition without a birth block: not born, or all is lost (protocol H17).
pub(super) fn never_born(partition: PartitionId) -> Error {
    let what = "it has no birth block: it was never born by `unanimity migrate`, or its rows are lost";
    Error::Damaged { partition, seq: Seq(0), what: what.to_owned() }
}

/// The error for a block that a later version of Unanimity wrote (protocol M18: stop, do not skip).
pub(super) fn newer_format(partition: PartitionId, seq: Seq, version: u16) -> Error {
    Error::Schema(format!(
        "block {seq} of partition {partition} has format {version}, this binary knows {}: \
         use the version of Unanimity that wrote it, or a later one",
        known_format()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{BlockHeader, Checksum};
    use bytes::Bytes;
    use unanimity_types::{Epoch, Timestamp};
    use uuid::Uuid;

    const P: PartitionId = PartitionId(0);

    fn log_id() -> LogId {
        LogId(Uuid::from_u128(5))
    }

    fn next(before: &Block, kind: BlockKind, epoch: u64, floor: u64) -> Block {
        let header = BlockHeader {
            kind,
            partition: P,
            seq: before.seq.next(),
            epoch: Epoch(epoch),
            floor: Seq(floor),
            time: Timestamp(before.time.0 + 1),
            previous: before.checksum,
        };
        Block::new(header, Bytes::from_static(b"body"))
    }

    /// birth, epoch 1, data 2 to 5, epoch 2 at 6, data 7 and 8; floor 4 from block 5 on.
    fn chain() -> Vec<Block> {
        let mut blocks = vec![Block::birth(P, log_id(), Timestamp(1))];
        let kinds = [
            (BlockKind::Epoch, 1, 0),
            (BlockKind::Data, 1, 0),
            (BlockKind::Data, 1, 0),
            (BlockKind::Data, 1, 0),
            (BlockKind::Data, 1, 4),
            (BlockKind::Epoch, 2, 4),
            (BlockKind::Data, 2, 4),
            (BlockKind::Data, 2, 4),
        ];
        for (kind, epoch, floor) in kinds {
            let block = next(&blocks[blocks.len() - 1], kind, epoch, floor);
            blocks.push(block);
        }
        blocks
    }

    fn read(blocks: &[Block]) -> Result<Vec<u64>, Error> {
        let last = &blocks[blocks.len() - 1];
        let mut reader = ChainReader::new(log_id(), P, last.floor, last.seq)?;
        for block in blocks {
            reader.push(block.clone())?;
        }
        Ok(reader.finish()?.iter().map(|block| block.seq.0).collect())
    }

    #[test]
    fn h17_below_the_floor_only_birth_and_epoch_blocks_count() {
        assert_eq!(read(&chain()).expect("whole"), [0, 1, 4, 5, 6, 7, 8]);
        let mut trimmed = chain();
        trimmed.remove(2);
        assert_eq!(read(&trimmed).expect("whole"), [0, 1, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn h17_any_missing_block_that_is_needed_is_found() {
        for missing in [0, 1, 4, 5, 6, 7] {
            let mut blocks = chain();
            blocks.remove(missing);
            let found = read(&blocks).expect_err("something is missing");
            let Error::Damaged { seq, .. } = found else { panic!("{found}") };
            // A lost epoch block shows at the first block that it should have opened.
            let shows = if missing == 1 { 4 } else { missing as u64 };
            assert_eq!(seq, Seq(shows), "without block {missing}");
        }
    }

    #[test]
    fn c7_a_claimants_late_epoch_block_below_the_floor_is_ignored() {
        let mut blocks = chain();
        let stray = next(&blocks[1], BlockKind::Epoch, 2, 0);
        blocks[2] = stray;
        assert_eq!(read(&blocks).expect("whole"), [0, 1, 4, 5, 6, 7, 8]);
    }

    /// It saw block 2 as the last, and took place 3 when both had been trimmed.
    #[test]
    fn c7_a_claimants_late_epoch_block_behind_a_trimmed_one_is_ignored() {
        let mut blocks = chain();
        blocks[3] = next(&blocks[2], BlockKind::Epoch, 2, 0);
        blocks.remove(2);
        assert_eq!(read(&blocks).expect("whole"), [0, 1, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn damage_and_foreign_births_are_found() {
        let mut blocks = chain();
        blocks[7].body = Bytes::from_static(b"other");
        assert!(matches!(read(&blocks), Err(Error::Damaged { seq: Seq(7), .. })));

        let mut blocks = chain();
        let mut forged = next(&blocks[6], BlockKind::Data, 2, 4);
        forged.previous = Checksum([9; 16]);
        let header = BlockHeader {
            kind: BlockKind::Data,
            partition: P,
            seq: Seq(7),
            epoch: Epoch(2),
            floor: Seq(4),
            time: Timestamp(9),
            previous: Checksum([9; 16]),
        };
        blocks[7] = Block::new(header, Bytes::new());
        assert!(matches!(read(&blocks), Err(Error::Damaged { seq: Seq(7), .. })));

        let mut blocks = chain();
        blocks[0] = Block::birth(P, LogId(Uuid::from_u128(6)), Timestamp(1));
        assert!(matches!(read(&blocks), Err(Error::Damaged { seq: Seq(0), .. })));
    }
}
