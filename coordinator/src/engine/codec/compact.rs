//! Format 2 of a block's body: what most records are made of, in few bytes.
//!
//! A body is record after record until its end. Numbers are LEB128 varints.
//!
//! ```text
//! record = head [xid] [delay] fields     head: kind | FLAG… | SAME
//! xid    = 0 and 16 bytes: one that the block has not named yet; or n: the n-th that it named
//! delay  = milliseconds after the block's partition time
//! text   = 0, length, bytes: one that the block has not said yet; or n: the n-th that it said
//! to     = 0, length, `unanimity.log.v1.Targets`: likewise
//! ```
//!
//! `SAME` leaves xid and delay out: they are those of the record before. So a settled branch and the end
//! that follows from it take four bytes. Where a kind has nothing of its own (`OTHER`, `PARTITION`) or an
//! event has parts that few have (`FLAG_REST`), those are the protobuf messages of format 1, which can
//! grow; a record of an unknown kind stops the reader (protocol M18).
//!
//! | kind | fields |
//! | --- | --- |
//! | other | length, `Record` without xid and delay |
//! | partition | delay, length, `Record` without xid and delay; no xid, never `SAME` |
//! | begun | mode, digest, deadline − time (zigzag), \[text: name\], \[32 bytes: decide-hash\] |
//! | registered | branch, length, key, to, length, payload, digest, \[length, `Registered` with the rest\] |
//! | decided | decision, abort reason or 0, branches |
//! | voted | branch, vote |
//! | settled | branch, attempts |
//! | done | branch, attempts, length, result |
//! | failed | branch, attempts, text: error |
//! | accepted | branches |
//! | finished, presumed | nothing |

use super::CodecError;

/// What a record is.
pub(super) mod kind {
    pub(in super::super) const OTHER: u8 = 0;
    pub(in super::super) const PARTITION: u8 = 1;
    pub(in super::super) const BEGUN: u8 = 2;
    pub(in super::super) const REGISTERED: u8 = 3;
    pub(in super::super) const DECIDED: u8 = 4;
    pub(in super::super) const VOTED: u8 = 5;
    pub(in super::super) const SETTLED: u8 = 6;
    pub(in super::super) const DONE: u8 = 7;
    pub(in super::super) const FAILED: u8 = 8;
    pub(in super::super) const ACCEPTED: u8 = 9;
    pub(in super::super) const FINISHED: u8 = 10;
    pub(in super::super) const PRESUMED: u8 = 11;
}

/// The head's bits that say the kind.
pub(super) const KIND: u8 = 0x1F;
/// The xid and the delay are those of the record before.
pub(super) const SAME: u8 = 0x80;
/// Begun: it has a name.
pub(super) const FLAG_NAME: u8 = 0x40;
/// Begun: it was begun without a call, and has a decide-hash.
pub(super) const FLAG_HASH: u8 = 0x20;
/// Registered: it is more than a plain TCC branch.
pub(super) const FLAG_REST: u8 = 0x40;

/// Adds a number.
pub(super) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        // The cast keeps the seven bits that are meant.
        out.push((number & 0x7F) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Adds bytes behind their length.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Small numbers for small distances to either side.
pub(super) const fn zigzag(distance: i64) -> u64 {
    ((distance << 1) ^ (distance >> 63)) as u64
}

/// The distance behind such a number.
pub(super) const fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// A place in a body.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// How many bytes are left.
    pub(super) const fn left(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn byte(&mut self) -> Result<u8, CodecError> {
        let (first, rest) = self.rest.split_first().ok_or_else(cut_off)?;
        self.rest = rest;
        Ok(*first)
    }

    pub(super) fn number(&mut self) -> Result<u64, CodecError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7F);
            if shift == 63 && part > 1 {
                break;
            }
            number |= part << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(CodecError::Malformed("a number of more than 64 bits".to_owned()))
    }

    /// A number of at most 32 bits.
    pub(super) fn small(&mut self) -> Result<u32, CodecError> {
        let number = self.number()?;
        u32::try_from(number).map_err(|_| CodecError::Malformed(format!("{number} where 32 bits are meant")))
    }

    /// So many bytes.
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(cut_off)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or_else(cut_off)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Bytes behind their length.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], CodecError> {
        let length = usize::try_from(self.number()?).map_err(|_| cut_off())?;
        self.take(length)
    }

    /// Text behind its length.
    pub(super) fn text(&mut self) -> Result<&'a str, CodecError> {
        std::str::from_utf8(self.bytes()?).map_err(|error| CodecError::Malformed(error.to_string()))
    }
}

fn cut_off() -> CodecError {
    CodecError::Malformed("the body ends in the middle of a record".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_were_written() {
        for number in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            put_number(&mut out, number);
            let mut cursor = Cursor::new(&out);
            assert_eq!((cursor.number(), cursor.left()), (Ok(number), 0));
        }
        for distance in [0, 1, -1, 60_000, -60_000, i64::MAX, i64::MIN] {
            assert_eq!(unzigzag(zigzag(distance)), distance);
        }
        assert!(Cursor::new(&[0xFF; 9]).number().is_err());
        assert!(Cursor::new(&[0xFF; 11]).number().is_err());
        assert!(Cursor::new(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02]).number().is_err());
    }
}
