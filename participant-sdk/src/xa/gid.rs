//! The name of a branch's prepared transaction.
//!
//! ```text
//!   una1:0191e7a45c1b7d3e8f001a2b3c4d5e6f:0191e7a45c1b7d3e8f001a2b3c4d5e70:5d41402abc4b2a76b9719d911017c592
//!   │    │ the log (C8)                   │ the global transaction         │ digest of the branch's key
//!   └ form of the name
//! ```
//!
//! **The log is part of it**: two clusters whose participants share a database server must not presume
//! each other's transactions aborted (protocol C8). **There is one spelling**: what does not read back
//! byte for byte is somebody else's and is never touched. **It needs no quoting**: gids are literals in
//! SQL, and this one is made of `[a-z0-9:]` alone, whatever text the key was.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use unanimity_types::{BranchKey, LogId, Xid};
use uuid::Uuid;

/// What every gid of this form begins with.
const FORM: &str = "una1";
/// `una1` as a number: the format id of XIDs in MariaDB and MySQL, where the standard's own forms are
/// 0 and 1.
#[cfg(feature = "mysql")]
const FORMAT_ID: i64 = 0x756e_6131;
/// A UUID and a digest have as many digits: 16 bytes in hex.
const DIGITS: usize = 32;
/// Below PostgreSQL's limit of 199.
const GID_BYTES: usize = FORM.len() + 3 * (1 + DIGITS);

/// The name of a branch's prepared transaction in its database.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gid {
    log_id: LogId,
    xid: Xid,
    /// The first half of the SHA-256 of the branch's key.
    key: [u8; 16],
}

/// A text that is no gid of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a gid of this coordinator's form (una1:log:xid:key)")]
pub struct ForeignGid;

impl Gid {
    /// The gid of a branch that is registered in this log.
    #[must_use]
    pub fn new(log_id: LogId, xid: Xid, key: &BranchKey) -> Self {
        let hash = Sha256::digest(key.as_str().as_bytes());
        let mut half = [0; 16];
        half.copy_from_slice(&hash[..16]);
        Self { log_id, xid, key: half }
    }

    /// The identity of the coordinator's log in which the branch is registered.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.log_id
    }

    /// The global transaction.
    #[must_use]
    pub fn xid(&self) -> Xid {
        self.xid
    }

    /// Whether this is the gid of the branch with that key.
    #[must_use]
    pub fn is_of(&self, key: &BranchKey) -> bool {
        Self::new(self.log_id, self.xid, key) == *self
    }

    /// The XID of MariaDB and MySQL as a literal: gtrid (log and transaction, 64 bytes, the most that
    /// there is room for), bqual (form and key), format id.
    #[cfg(feature = "mysql")]
    pub(super) fn xa_literal(&self) -> String {
        let (gtrid, bqual) = self.xa_parts();
        format!("'{gtrid}','{bqual}',{FORMAT_ID}")
    }

    #[cfg(feature = "mysql")]
    fn xa_parts(&self) -> (String, String) {
        let gtrid = format!("{}{}", self.log_id.0.simple(), self.xid.uuid().simple());
        (gtrid, format!("{FORM}:{}", Uuid::from_bytes(self.key).simple()))
    }

    /// Reads a line of `XA RECOVER`: the data are gtrid and bqual one after the other, as they are or,
    /// from `CONVERT XID`, as `0x…` in hex.
    #[cfg(feature = "mysql")]
    pub(super) fn from_xa(
        format_id: i64,
        gtrid_length: i64,
        bqual_length: i64,
        data: &[u8],
    ) -> Result<Self, ForeignGid> {
        let gtrid_length = usize::try_from(gtrid_length).map_err(|_| ForeignGid)?;
        let bqual_length = usize::try_from(bqual_length).map_err(|_| ForeignGid)?;
        if format_id != FORMAT_ID || gtrid_length != 2 * DIGITS || bqual_length != FORM.len() + 1 + DIGITS {
            return Err(ForeignGid);
        }
        let hex = data.strip_prefix(b"0x").filter(|hex| hex.len() == 2 * (gtrid_length + bqual_length));
        let bytes = match hex {
            Some(hex) => from_hex(hex).ok_or(ForeignGid)?,
            None => data.to_vec(),
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| ForeignGid)?;
        if !text.is_ascii() || text.len() != gtrid_length + bqual_length {
            return Err(ForeignGid);
        }
        let (gtrid, bqual) = text.split_at(gtrid_length);
        let (log, xid) = gtrid.split_at(DIGITS);
        let key = bqual.strip_prefix(FORM).ok_or(ForeignGid)?;
        format!("{FORM}:{log}:{xid}{key}").parse()
    }
}

#[cfg(feature = "mysql")]
fn from_hex(hex: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    hex.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (log, xid) = (self.log_id.0.simple(), self.xid.uuid());
        write!(f, "{FORM}:{log}:{}:{}", xid.simple(), Uuid::from_bytes(self.key).simple())
    }
}

impl fmt::Debug for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Gid {
    type Err = ForeignGid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != GID_BYTES {
            return Err(ForeignGid);
        }
        let mut parts = text.split(':');
        if parts.next() != Some(FORM) {
            return Err(ForeignGid);
        }
        let mut uuid = || -> Result<Uuid, ForeignGid> {
            let digits = parts.next().filter(|part| part.len() == DIGITS).ok_or(ForeignGid)?;
            Uuid::try_parse(digits).map_err(|_| ForeignGid)
        };
        let (log_id, xid, key) = (LogId(uuid()?), uuid()?, uuid()?.into_bytes());
        let xid = Xid::from_slice(xid.as_bytes()).ok_or(ForeignGid)?;
        let gid = Self { log_id, xid, key };
        // Capital letters and whatever else a parser is generous about.
        if gid.to_string() == text { Ok(gid) } else { Err(ForeignGid) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gid(log: u128, xid: u128, key: &str) -> Gid {
        Gid::new(LogId(Uuid::from_u128(log)), Xid::new(Uuid::from_u128(xid)), &BranchKey::new(key).unwrap())
    }

    /// What PostgreSQL and our statements may be given without a quote.
    fn is_plain(text: &str) -> bool {
        (1..=180).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:-".contains(&b))
    }

    #[test]
    fn c8e_the_log_is_part_of_the_name() {
        let (one, other) = (gid(1, 7, "k"), gid(2, 7, "k"));
        assert_ne!(one.to_string(), other.to_string());
        assert_ne!(gid(1, 7, "k"), gid(1, 7, "l"));
        assert!(one.is_of(&BranchKey::new("k").unwrap()) && !one.is_of(&BranchKey::new("l").unwrap()));
        assert_eq!(one.to_string().parse::<Gid>().unwrap().log_id(), LogId(Uuid::from_u128(1)));
    }

    #[test]
    fn gids_of_somebody_else_are_refused() {
        let ours = gid(1, 7, "k").to_string();
        let nil =
            gid(1, 1, "k").to_string().replace(&Uuid::from_u128(1).simple().to_string(), &"0".repeat(32));
        for text in [
            "",
            "una1",
            "una1:::",
            "dtm-gid-01",
            "'; DROP TABLE accounts; --",
            &ours.to_uppercase(),
            &ours.replace("una1", "una2"),
            &format!("{ours} "),
            &ours.replacen(':', "-", 2),
            &ours.replace('0', "é"),
            &nil,
        ] {
            assert_eq!(text.parse::<Gid>(), Err(ForeignGid), "{text:?}");
        }
    }

    #[cfg(feature = "mysql")]
    #[test]
    fn an_xid_of_mariadb_and_mysql_reads_back() {
        let ours = gid(3, 9, "payment/debit#1@c1");
        let (gtrid, bqual) = ours.xa_parts();
        assert!(gtrid.len() <= 64 && bqual.len() <= 64);
        let data = format!("{gtrid}{bqual}");
        let read = |format, g: usize, b: usize, data: &[u8]| {
            Gid::from_xa(format, i64::try_from(g).unwrap(), i64::try_from(b).unwrap(), data)
        };
        assert_eq!(read(FORMAT_ID, gtrid.len(), bqual.len(), data.as_bytes()), Ok(ours));
        let hex: String = data.bytes().map(|b| format!("{b:02X}")).collect();
        let hex = format!("0x{hex}");
        assert_eq!(read(FORMAT_ID, gtrid.len(), bqual.len(), hex.as_bytes()), Ok(ours));
        // Another format, other lengths, other bytes: somebody else's.
        assert!(read(1, gtrid.len(), bqual.len(), data.as_bytes()).is_err());
        assert!(read(FORMAT_ID, gtrid.len() - 1, bqual.len() + 1, data.as_bytes()).is_err());
        assert!(read(FORMAT_ID, gtrid.len(), bqual.len(), &data.as_bytes()[1..]).is_err());
        assert!(read(FORMAT_ID, gtrid.len(), bqual.len(), &[0xff; 101]).is_err());
        assert!(Gid::from_xa(FORMAT_ID, -1, 37, data.as_bytes()).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn every_gid_reads_back_and_needs_no_quotes(log: u128, xid in 1u128.., key in "\\PC{1,32}") {
            prop_assume!(BranchKey::new(key.clone()).is_ok());
            let gid = gid(log, xid, &key);
            let text = gid.to_string();
            prop_assert!(is_plain(&text), "{text}");
            prop_assert_eq!(text.parse::<Gid>(), Ok(gid));
        }

        #[test]
        fn hostile_texts_are_foreign_or_exactly_ours(text in "(una1:)?[0-9a-fA-F:'\\-;\\x00 ]{0,120}") {
            if let Ok(gid) = text.parse::<Gid>() {
                prop_assert_eq!(gid.to_string(), text);
            }
        }

        #[test]
        fn a_gid_with_one_byte_changed_is_another_or_none(log: u128, xid in 1u128.., at in 0usize..GID_BYTES, byte: u8) {
            let gid = gid(log, xid, "k");
            let mut bytes = gid.to_string().into_bytes();
            prop_assume!(bytes[at] != byte);
            bytes[at] = byte;
            if let Some(other) = String::from_utf8(bytes).ok().and_then(|text| text.parse::<Gid>().ok()) {
                prop_assert_ne!(other, gid);
            }
        }
    }
}
