//! Where the next page starts, as a text that says nothing to its holder.

use std::fmt::Write as _;

use unanimity_types::{ErrorCode, Timestamp, Xid};

use crate::engine::Error;

/// Tells a cursor of a later shape apart.
const VERSION: u8 = 1;
/// Version, eight bytes of time, sixteen of xid.
const BYTES: usize = 1 + 8 + 16;

/// A place as a cursor.
pub(super) fn write((at, xid): (Timestamp, Xid)) -> String {
    let mut bytes = [0; BYTES];
    bytes[0] = VERSION;
    bytes[1..9].copy_from_slice(&at.0.to_be_bytes());
    bytes[9..].copy_from_slice(xid.as_bytes());
    bytes.iter().fold(String::with_capacity(BYTES * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The place behind a cursor; none for an empty one.
pub(super) fn read(cursor: &str) -> Result<Option<(Timestamp, Xid)>, Error> {
    if cursor.is_empty() {
        return Ok(None);
    }
    parse(cursor).map(Some).ok_or_else(|| {
        Error::new(ErrorCode::InvalidRequest, "cursor: not one that a page gave; start again without it")
    })
}

fn parse(cursor: &str) -> Option<(Timestamp, Xid)> {
    if cursor.len() != BYTES * 2 || !cursor.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; BYTES];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(cursor.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    if bytes[0] != VERSION {
        return None;
    }
    let at = u64::from_be_bytes(bytes[1..9].try_into().ok()?);
    Some((Timestamp(at), Xid::from_slice(&bytes[9..])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_what_it_writes() {
        let place =
            (Timestamp(1_763_726_400_123), "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f".parse().expect("valid"));
        assert_eq!(read(&write(place)), Ok(Some(place)));
        assert_eq!(read(""), Ok(None));
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let place = (Timestamp(1), "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f".parse().expect("valid"));
        let good = write(place);
        for bad in [
            "x",
            &good[..48],
            &format!("{good}00"),
            &good.replacen("01", "02", 1),
            &"é".repeat(25),
            &"+f".repeat(25),
        ] {
            assert_eq!(read(bad).map_err(|error| error.code), Err(ErrorCode::InvalidRequest), "{bad}");
        }
    }
}
