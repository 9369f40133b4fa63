//! Begin without a call: an xid minted here, stamped with its partition's ticket (protocol 1.2).
//!
//! ```text
//!   mint xid ── ticket of its partition, hash of a secret ──► the context of every call
//!   first registration or commit ──► the coordinator learns of it
//! ```
//! Nothing waits for a begin. The price: a coordinator that is killed aborts what was undecided of it
//! (`owner_changed`); such a transaction is repeated with a new xid.

use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use unanimity_proto::v1;
use unanimity_types::{Birth, DecideHash, Limits, Mode, Name, TICKETED_TIMEOUT_MAX, Xid};

use crate::client::Client;

/// What a process shows to decide a transaction that it began; empty for one begun by call.
#[derive(Clone, Default)]
pub(crate) struct Claim {
    pub(crate) birth: Option<v1::Birth>,
    /// Never leaves this process but in a commit or an abort.
    pub(crate) secret: Bytes,
}

/// A transaction as it is born.
pub(super) struct Born {
    pub(super) birth: Birth,
    pub(super) secret: Bytes,
}

impl Client {
    /// Mints a transaction without a call, if the coordinator's tickets are known and it may be one:
    /// otherwise it begins by call.
    pub(super) fn born(&self, mode: Mode, name: &str, timeout: Option<Duration>) -> Option<(Xid, Born)> {
        if timeout.unwrap_or(Limits::TIMEOUT_DEFAULT) > TICKETED_TIMEOUT_MAX {
            return None;
        }
        let (xid, ticket) = self.mint();
        let (log_id, ticket) = ticket?;
        // 244 random bits.
        let secret = [uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()].concat();
        let birth = Birth {
            log_id,
            ticket,
            decide_hash: DecideHash(Sha256::digest(&secret).into()),
            timeout,
            name: Name::new(name).ok(),
            mode,
        };
        Some((xid, Born { birth, secret: secret.into() }))
    }
}
