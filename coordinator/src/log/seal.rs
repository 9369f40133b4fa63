//! What a sealing block says: where the log goes on, who wanted that and why (protocol H10).

use bytes::Bytes;
use unanimity_types::{Epoch, Limits};

use super::{Block, BlockKind};

/// What a sealing block says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// The server at which the log goes on.
    pub server: String,
    /// Who moved it.
    pub operator: String,
    /// Why.
    pub reason: String,
}

impl Seal {
    /// The body of a block with this seal, by an owner whose tickets were valid since then.
    #[must_use]
    pub fn body(&self, valid_since: Epoch) -> Bytes {
        let mut body = valid_since.0.to_be_bytes().to_vec();
        for text in [&self.server, &self.operator, &self.reason] {
            body.extend_from_slice(&behind_its_length(text));
        }
        body.into()
    }

    /// What this block says, if it is a sealing block that can be read.
    #[must_use]
    pub fn of(block: &Block) -> Option<Self> {
        if block.kind != BlockKind::Sealing {
            return None;
        }
        let mut rest = block.body.get(8..)?;
        let mut next = || {
            let (length, text) = rest.split_first_chunk::<2>()?;
            let (text, after) = text.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            rest = after;
            String::from_utf8(text.to_vec()).ok()
        };
        Some(Self { server: next()?, operator: next()?, reason: next()? })
    }
}

/// A text behind its length: how a server's name stands in a seal from its ninth byte on.
pub(super) fn behind_its_length(text: &str) -> Vec<u8> {
    // Texts of operators are bounded far below; what is longer still is cut, between two characters.
    let text = &text[..text.floor_char_boundary(Limits::REASON_BYTES_MAX.min(usize::from(u16::MAX)))];
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{BlockHeader, Checksum};
    use unanimity_types::{PartitionId, Seq, Timestamp};

    #[test]
    fn h10_a_seal_says_where_the_log_goes_on() {
        let seal = Seal { server: "b".into(), operator: "ops".into(), reason: "more disk, für alle".into() };
        let header = BlockHeader {
            kind: BlockKind::Sealing,
            partition: PartitionId(1),
            seq: Seq(9),
            epoch: Epoch(4),
            floor: Seq(2),
            time: Timestamp(5),
            previous: Checksum::default(),
        };
        let block = Block::new(header, seal.body(Epoch(3)));
        assert_eq!(Seal::of(&block), Some(seal));
        assert_eq!(block.closed_since(), Some(Epoch(3)), "a seal closes cleanly");
        assert!(block.body[8..].starts_with(&behind_its_length("b")));
        for length in 0..block.body.len() {
            assert_eq!(Seal::of(&Block::new(header, block.body.slice(..length))), None, "cut at {length}");
        }
    }
}
