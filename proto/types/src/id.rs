//! Identifiers: of global transactions, branches, request bodies and logs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::name::{Name, NameError};

/// The id of a global transaction: a random 128-bit UUID, written in its hyphenated form.
///
/// An xid is an identity, not a capability: knowing one gives no right to decide it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Xid(Uuid);

impl Xid {
    /// Wraps a UUID.
    #[must_use]
    pub const fn new(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID inside.
    #[must_use]
    pub const fn uuid(self) -> Uuid {
        self.0
    }

    /// The 16 bytes of the UUID, big-endian.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Reads the 16 bytes that [`Xid::as_bytes`] gives; `None` for any other length.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Uuid::from_slice(bytes).ok().filter(|uuid| !uuid.is_nil()).map(Self)
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not an xid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "an xid is a UUID such as 0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f, not nil and in hyphenated or simple form"
)]
pub struct ParseXidError;

impl FromStr for Xid {
    type Err = ParseXidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // `Uuid` also takes braces and URNs; one spelling less is one confusion less.
        if text.len() != 36 && text.len() != 32 {
            return Err(ParseXidError);
        }
        let uuid = Uuid::try_parse(text).map_err(|_| ParseXidError)?;
        if uuid.is_nil() {
            return Err(ParseXidError);
        }
        Ok(Self(uuid))
    }
}

/// The number of a branch inside its transaction, counted from 1: for display and compactness.
/// The identity of a branch is its [`BranchKey`] (protocol H8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BranchId(pub u32);

impl fmt::Display for BranchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A branch's identity inside its transaction, minted by whoever registers it and stable over
/// retries (protocol H8). 1 to 128 bytes of printable text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BranchKey(Name);

impl BranchKey {
    /// The key of the branch that stands for a message's sender.
    pub const SENDER: &'static str = "sender";

    /// Checks and wraps a key.
    ///
    /// # Errors
    /// [`NameError`] if the text is empty, too long or has a control character.
    pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
        Name::new(text).map(Self)
    }

    /// The key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for BranchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for BranchKey {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl From<BranchKey> for String {
    fn from(key: BranchKey) -> Self {
        key.0.into()
    }
}

/// A fingerprint of a request's body: tells a repetition from a reuse of the same id (M1, H8).
/// The first 16 bytes of a SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 16]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// The identity of a log, born with it in `unanimity migrate` (protocol C8). Whoever shows another
/// log's id is answered `not_mine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogId(pub Uuid);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_xid_reads_what_it_writes() {
        let xid: Xid = "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f".parse().expect("valid");
        assert_eq!(xid.to_string().parse::<Xid>(), Ok(xid));
        assert_eq!(Xid::from_slice(xid.as_bytes()), Some(xid));
    }

    #[test]
    fn malformed_xids_are_refused() {
        for text in [
            "",
            "x",
            "00000000-0000-0000-0000-000000000000",
            "{0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f}",
            "urn:uuid:0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f",
            "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6g",
            "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f ",
            "'; drop table log_blocks; --0000000000",
        ] {
            assert_eq!(text.parse::<Xid>(), Err(ParseXidError), "{text:?}");
        }
        assert_eq!(Xid::from_slice(&[0; 16]), None);
        assert_eq!(Xid::from_slice(&[1; 15]), None);
    }

    #[test]
    fn hostile_branch_keys_are_refused() {
        assert!(BranchKey::new("").is_err());
        assert!(BranchKey::new("a\0b").is_err());
        assert!(BranchKey::new("k".repeat(129)).is_err());
        assert!(BranchKey::new("k".repeat(128)).is_ok());
    }
}
