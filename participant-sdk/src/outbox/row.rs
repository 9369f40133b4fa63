//! Rows of the outbox, and which shard they are in.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use unanimity_types::Xid;

use super::OutboxError;

/// Into how many shards the messages are divided by the hash of their key. Each has its own lease,
/// so this is how many relays can work at once. Stored in the rows: never to be changed.
pub(crate) const SHARDS: i16 = 16;

/// The shard of a message: of its key, so that one relay at a time works on a key; of its id where
/// there is no key.
pub(crate) fn shard_of(key: Option<&str>, id: Xid) -> i16 {
    let hash = match key {
        Some(key) => Sha256::digest(key.as_bytes()),
        None => Sha256::digest(id.as_bytes()),
    };
    i16::from(hash[0]) % SHARDS
}

/// What a message's row says.
///
/// ```text
///   pending ──► handed ──► delivered
///      ▲          │ ▲
///      │ replay   ▼ │ replay
///      └──────── dead
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowState {
    /// Nobody has it.
    Pending,
    /// The coordinator may have it: written **before** the first call, so that whoever comes next
    /// knows that nothing else of this key may go.
    Handed,
    /// Every receiver has it.
    Delivered,
    /// It will not be delivered unless somebody replays it.
    Dead,
}

impl RowState {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Handed => "handed",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }

    pub(crate) fn parse(word: &str) -> Result<Self, OutboxError> {
        match word {
            "pending" => Ok(Self::Pending),
            "handed" => Ok(Self::Handed),
            "delivered" => Ok(Self::Delivered),
            "dead" => Ok(Self::Dead),
            _ => Err(OutboxError::Unreadable(format!("state {word:?}"))),
        }
    }
}

/// Why a message is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeathCause {
    /// The coordinator does not take it: its target is not allowed, it is too large, it cannot be
    /// read. A replay hands it over once more.
    Refused,
    /// A receiver refused it, or its attempts ran out. A replay tries the delivery again.
    Parked,
    /// Its transaction was aborted; it cannot be replayed. Send it anew.
    Aborted,
}

impl DeathCause {
    /// The cause's one word, as it stands in the table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Parked => "parked",
            Self::Aborted => "aborted",
        }
    }

    pub(crate) fn parse(word: &str) -> Result<Self, OutboxError> {
        match word {
            "refused" => Ok(Self::Refused),
            "parked" => Ok(Self::Parked),
            "aborted" => Ok(Self::Aborted),
            _ => Err(OutboxError::Unreadable(format!("cause {word:?}"))),
        }
    }
}

/// A message that will not be delivered unless somebody replays it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The message's id.
    pub id: Xid,
    /// Its place in the order of sends: where a list goes on.
    pub n: i64,
    /// Its name or topic.
    pub name: String,
    /// Its key, if it has one.
    pub key: Option<String>,
    /// Why it is dead.
    pub cause: DeathCause,
    /// The same in a sentence.
    pub reason: String,
}

/// How much the outbox holds that is not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RelayStats {
    /// Messages that nobody took yet.
    pub pending: u64,
    /// Messages that the coordinator may have and that are not known to be delivered.
    pub handed: u64,
    /// Dead letters.
    pub dead: u64,
    /// How long the oldest pending message has waited: the relay's lag.
    pub oldest_pending_age: Option<Duration>,
}

/// A row to insert.
#[derive(Debug)]
pub struct NewRow<'a> {
    pub(crate) id: Xid,
    pub(crate) shard: i16,
    pub(crate) name: &'a str,
    pub(crate) key: &'a str,
    pub(crate) plan: &'a str,
    pub(crate) payload: &'a [u8],
}

/// What a relay keeps of a row.
#[derive(Debug, Clone)]
pub struct Header {
    pub(crate) n: i64,
    pub(crate) id: Xid,
    /// Empty: no key.
    pub(crate) key: String,
}

/// A row with everything that is handed over.
#[derive(Debug)]
pub struct FullRow {
    pub(crate) name: String,
    pub(crate) plan: String,
    pub(crate) payload: Vec<u8>,
}

/// A row as a replay looks at it.
#[derive(Debug, Clone)]
pub struct Found {
    pub(crate) n: i64,
    pub(crate) shard: i16,
    pub(crate) state: RowState,
    pub(crate) cause: Option<DeathCause>,
}

/// A change of rows' states.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    pub(crate) from: RowState,
    pub(crate) to: RowState,
    /// The epoch of the lease under which it happens.
    pub(crate) epoch: i64,
    /// Why it is dead, if it is.
    pub(crate) death: Option<(DeathCause, &'a str)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_shard_and_keys_spread() {
        let id = |n: u128| Xid::new(uuid::Uuid::from_u128(n));
        let used: std::collections::BTreeSet<_> =
            (0..200_u32).map(|n| shard_of(Some(&format!("order-{n}")), id(1))).collect();
        assert_eq!(used.len(), usize::from(SHARDS.unsigned_abs()));
        assert_eq!(shard_of(Some("order-7"), id(1)), shard_of(Some("order-7"), id(2)));
        // Rows hold it: another hash would put a key's messages into two shards.
        assert_eq!(shard_of(Some("order-7"), id(1)), 15);
    }
}
