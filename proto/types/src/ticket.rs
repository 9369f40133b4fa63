//! Tickets: what makes a transaction begun without a call safe (protocol 1.2).
//!
//! ```text
//!   owner ── (epoch, generation) ──► SDK: mints an xid and stamps it
//!   first contact (registration, commit, abort) ── birth ──► owner: is the ticket still good?
//! ```
//! An owner creates a transaction that it does not hold only if its ticket is from an epoch that
//! reaches the present without an unclean end, and young enough. So what died in a crash needs no
//! tombstone, and a duplicate that comes late cannot bring it back.

use std::fmt;
use std::time::Duration;

use crate::id::LogId;
use crate::name::Name;
use crate::outcome::Mode;
use crate::position::Epoch;
use crate::time::Timestamp;

/// How long a generation of tickets lasts, in partition time.
pub const GENERATION: Duration = Duration::from_secs(10);

/// The longest timeout of a transaction begun without a call; longer ones begin by call.
pub const TICKETED_TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// Where and when an xid was minted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The epoch of the owner that gave it out.
    pub epoch: Epoch,
    /// Tells apart what two logs, or a log that lost its tail, call the same epoch.
    pub epoch_tag: u32,
    /// Partition time in units of [`GENERATION`]: grows over every change of owner.
    pub generation: u64,
}

impl Ticket {
    /// The generation of a moment of partition time.
    #[must_use]
    pub const fn generation_at(now: Timestamp) -> u64 {
        now.0 / (GENERATION.as_secs() * 1_000)
    }

    /// Whether the ticket is too old to be a first contact's: no transaction that carries it can be
    /// undecided any more.
    #[must_use]
    pub const fn is_expired(&self, now: Timestamp) -> bool {
        // One more generation than the timeout: it may have been given out at the end of its own.
        let oldest = TICKETED_TIMEOUT_MAX.as_secs() / GENERATION.as_secs() + 1;
        self.generation.saturating_add(oldest) < Self::generation_at(now)
    }
}

impl fmt::Display for Ticket {
    /// `epoch.tag.generation`: decimal, hexadecimal, decimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:08x}.{}", self.epoch.0, self.epoch_tag, self.generation)
    }
}

impl std::str::FromStr for Ticket {
    type Err = ParseTicketError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('.');
        let mut next = || parts.next().ok_or(ParseTicketError);
        let (epoch, tag, generation) = (next()?, next()?, next()?);
        if parts.next().is_some() || tag.len() != 8 {
            return Err(ParseTicketError);
        }
        Ok(Self {
            epoch: Epoch(epoch.parse().map_err(|_| ParseTicketError)?),
            epoch_tag: u32::from_str_radix(tag, 16).map_err(|_| ParseTicketError)?,
            generation: generation.parse().map_err(|_| ParseTicketError)?,
        })
    }
}

/// A text that is no ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a ticket is epoch.tag.generation, for example 3.0badcafe.175000000")]
pub struct ParseTicketError;

/// SHA-256 of the secret that a transaction's TM keeps: whoever shows the secret may decide
/// (protocol H15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecideHash(pub [u8; 32]);

/// What a transaction begun without a call is: travels with every call that may be the first one about
/// it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Birth {
    /// The log whose ticket it is: of another one it says nothing (protocol C8).
    pub log_id: LogId,
    /// Where and when its xid was minted.
    pub ticket: Ticket,
    /// Whose secret decides it.
    pub decide_hash: DecideHash,
    /// How long it may stay undecided, from the first contact on; the coordinator's default if it does not
    /// say.
    pub timeout: Option<Duration>,
    /// What it is for people.
    pub name: Option<Name>,
    /// `tcc` or `two_phase`.
    pub mode: Mode,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_reads_what_it_writes() {
        let ticket = Ticket { epoch: Epoch(3), epoch_tag: 0x00ba_dcaf, generation: 175_000_000 };
        assert_eq!(ticket.to_string(), "3.00badcaf.175000000");
        assert_eq!(ticket.to_string().parse(), Ok(ticket));
        for text in ["", "3", "3.0badcafe", "3.xx.1", "3.0badcafe.1.2", "-3.0badcafe.1", "3.badcafe.1"] {
            assert_eq!(text.parse::<Ticket>(), Err(ParseTicketError), "{text}");
        }
    }

    #[test]
    fn a_ticket_lives_as_long_as_what_it_may_begin() {
        let minted = Timestamp(1_000_009_999);
        let ticket = Ticket { epoch: Epoch(1), epoch_tag: 1, generation: Ticket::generation_at(minted) };
        assert!(!ticket.is_expired(minted.after(TICKETED_TIMEOUT_MAX)));
        assert!(ticket.is_expired(minted.after(TICKETED_TIMEOUT_MAX + 2 * GENERATION)));
    }
}
