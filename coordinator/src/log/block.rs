//! Blocks: what the log is made of.
//!
//! The header's fields stand in columns of their own; the body of a data block is the events, in the
//! format that the header's version names: 1 is a protobuf `unanimity.log.v1.Body`, 2 is laid out in
//! `engine/codec/compact.rs`. Both are read, 2 is written. The other kinds are the same in both.

use std::fmt;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use unanimity_types::{Epoch, PartitionId, Seq, Timestamp};

/// The newest version of the block's format that this binary writes; it reads those before it as well.
pub const FORMAT_VERSION: u16 = 2;

/// The format that a log is born with, and writes until every living node knows a later one (protocol M18): what
/// `migrate` writes into `log_format`.
pub const BIRTH_FORMAT: u16 = 1;

/// Bytes that the header adds to the body where a block is measured (all its fixed fields).
pub const HEADER_BYTES: usize = 2 + 1 + 2 + 8 + 8 + 8 + 8 + 16;

/// The first 16 bytes of a SHA-256 over a block's header, its predecessor's checksum and its body.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Checksum(pub [u8; 16]);

impl Checksum {
    /// The first four bytes as a number: tells epochs of one number apart (protocol H6).
    #[must_use]
    pub fn tag(self) -> u32 {
        u32::from_be_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
    }

    /// Reads 16 bytes; `None` for any other length.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a block is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockKind {
    /// Block 0, written by `migrate`: its body is the log's id (16 bytes). Never trimmed.
    Birth,
    /// A new owner's first block; its body is a random nonce of 16 bytes, so that two epochs of one
    /// number have different checksums, and the epoch (8 bytes, big-endian) since which tickets are valid.
    /// Never trimmed (protocol C7).
    Epoch,
    /// Events.
    Data,
    /// The last block of an owner that stops: the next epoch block follows it cleanly (protocol 1.2). Its
    /// body is the epoch (8 bytes) since which the owner's tickets were valid.
    Closing,
    /// The last block of the partition on this server: the log goes on at the server that it names (protocol
    /// H10). It closes like [`BlockKind::Closing`]; its body is that epoch (8 bytes), then the server's name,
    /// who moved it and why, each behind its length. Never trimmed: it is what a stale owner's append hits.
    Sealing,
}

impl BlockKind {
    /// The number that stands for the kind in the checksum and the database.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Birth => 0,
            Self::Epoch => 1,
            Self::Data => 2,
            Self::Closing => 3,
            Self::Sealing => 4,
        }
    }

    /// The kind behind a number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Birth),
            1 => Some(Self::Epoch),
            2 => Some(Self::Data),
            3 => Some(Self::Closing),
            4 => Some(Self::Sealing),
            _ => None,
        }
    }

    /// Whether trimming spares the block.
    #[must_use]
    pub const fn is_kept(self) -> bool {
        matches!(self, Self::Birth | Self::Epoch | Self::Sealing)
    }
}

/// One block of a partition's log. Built by [`Block::new`], which computes the checksum; a block
/// read back is checked by [`Block::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The format's version.
    pub version: u16,
    /// What it is for.
    pub kind: BlockKind,
    /// Whose it is.
    pub partition: PartitionId,
    /// Its place.
    pub seq: Seq,
    /// The epoch of the owner that wrote it; 0 for the birth block.
    pub epoch: Epoch,
    /// Nothing below this place is needed: recorded before anything is deleted (protocol H17).
    pub floor: Seq,
    /// Partition time when it was sealed; never goes backwards (protocol M2).
    pub time: Timestamp,
    /// The checksum of the block before; zero for the birth block.
    pub previous: Checksum,
    /// Events in the version's format, or what [`BlockKind`] says.
    pub body: Bytes,
    /// The checksum of all of the above.
    pub checksum: Checksum,
}

/// A block whose checksum is not that of its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its checksum is {found}, its contents give {computed}")]
pub struct DamagedBlock {
    /// What stands in the row.
    pub found: Checksum,
    /// What the row's contents give.
    pub computed: Checksum,
}

/// The fields of a block that its writer chooses.
#[derive(Debug, Clone, Copy)]
pub struct BlockHeader {
    /// What it is for.
    pub kind: BlockKind,
    /// Whose it is.
    pub partition: PartitionId,
    /// Its place.
    pub seq: Seq,
    /// The writer's epoch.
    pub epoch: Epoch,
    /// See [`Block::floor`].
    pub floor: Seq,
    /// See [`Block::time`].
    pub time: Timestamp,
    /// See [`Block::previous`].
    pub previous: Checksum,
}

impl Block {
    /// Seals a block of the newest format.
    #[must_use]
    pub fn new(header: BlockHeader, body: Bytes) -> Self {
        Self::in_format(FORMAT_VERSION, header, body)
    }

    /// Seals a block of this format, in which its body is.
    #[must_use]
    pub fn in_format(version: u16, header: BlockHeader, body: Bytes) -> Self {
        let BlockHeader { kind, partition, seq, epoch, floor, time, previous } = header;
        let mut block = Self {
            version,
            kind,
            partition,
            seq,
            epoch,
            floor,
            time,
            previous,
            body,
            checksum: Checksum::default(),
        };
        block.checksum = block.compute();
        block
    }

    /// Of an epoch block: since which epoch tickets are valid (protocol 1.2). One that does not say, as those
    /// of before tickets, vouches for itself alone.
    #[must_use]
    pub fn valid_since(&self) -> Epoch {
        let bytes = self.body.get(16..24).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(self.epoch, |bytes| Epoch(u64::from_be_bytes(bytes)).min(self.epoch))
    }

    /// Of a closing block: since which epoch tickets were valid for its owner, and stay so. `None` for a
    /// block that does not close, or not in that way: what follows it is unclean.
    #[must_use]
    pub fn closed_since(&self) -> Option<Epoch> {
        let bytes = match self.kind {
            BlockKind::Closing => self.body.as_ref().try_into().ok()?,
            BlockKind::Sealing => *self.body.first_chunk()?,
            BlockKind::Birth | BlockKind::Epoch | BlockKind::Data => return None,
        };
        Some(Epoch(u64::from_be_bytes(bytes)))
    }

    /// The birth block of a partition: in the format that a new log has agreed on, whatever this binary knows.
    #[must_use]
    pub fn birth(partition: PartitionId, log_id: unanimity_types::LogId, time: Timestamp) -> Self {
        let header = BlockHeader {
            kind: BlockKind::Birth,
            partition,
            seq: Seq(0),
            epoch: Epoch(0),
            floor: Seq(0),
            time,
            previous: Checksum::default(),
        };
        Self::in_format(BIRTH_FORMAT, header, Bytes::copy_from_slice(log_id.0.as_bytes()))
    }

    /// Checks that the contents have the checksum.
    ///
    /// # Errors
    /// [`DamagedBlock`] if they have not.
    pub fn verify(&self) -> Result<(), DamagedBlock> {
        let computed = self.compute();
        if computed == self.checksum { Ok(()) } else { Err(DamagedBlock { found: self.checksum, computed }) }
    }

    /// How large the block is in the log, for limits and for cleaning's arithmetic.
    #[must_use]
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }

    fn compute(&self) -> Checksum {
        let mut hash = Sha256::new();
        hash.update(self.version.to_be_bytes());
        hash.update([self.kind.number()]);
        hash.update(self.partition.0.to_be_bytes());
        hash.update(self.seq.0.to_be_bytes());
        hash.update(self.epoch.0.to_be_bytes());
        hash.update(self.floor.0.to_be_bytes());
        hash.update(self.time.0.to_be_bytes());
        hash.update(self.previous.0);
        hash.update(&self.body);
        let digest = hash.finalize();
        let mut first = [0; 16];
        first.copy_from_slice(&digest[..16]);
        Checksum(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimity_types::LogId;
    use uuid::Uuid;

    #[test]
    fn m18_a_birth_is_written_in_the_format_that_a_new_log_has_agreed_on() {
        let block = Block::birth(PartitionId(3), LogId(Uuid::from_u128(7)), Timestamp(11));
        assert_eq!((block.version, block.verify()), (BIRTH_FORMAT, Ok(())));
    }

    #[test]
    fn every_field_is_under_the_checksum() {
        let block = Block::birth(PartitionId(3), LogId(Uuid::from_u128(7)), Timestamp(11));
        assert_eq!(block.verify(), Ok(()));
        let damage: [fn(&mut Block); 9] = [
            |b| b.version += 1,
            |b| b.kind = BlockKind::Data,
            |b| b.partition = PartitionId(4),
            |b| b.seq = Seq(1),
            |b| b.epoch = Epoch(1),
            |b| b.floor = Seq(1),
            |b| b.time = Timestamp(12),
            |b| b.previous = Checksum([1; 16]),
            |b| b.body = Bytes::from_static(b"x"),
        ];
        for harm in damage {
            let mut harmed = block.clone();
            harm(&mut harmed);
            assert!(harmed.verify().is_err(), "{harmed:?}");
        }
    }
}
