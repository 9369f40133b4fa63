//! What tells one request from another under the same id.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use unanimity_types::{Digest, Mode, Name};

/// What tells one begin from another under the same xid (protocol M1).
pub(super) fn begin_digest(mode: Mode, name: Option<&Name>, timeout: Duration) -> Digest {
    let mut hash = Sha256::new();
    hash.update(mode.as_str());
    hash.update([0]);
    hash.update(name.map_or("", Name::as_str));
    hash.update([0]);
    hash.update(timeout.as_millis().to_be_bytes());
    first16(&hash.finalize())
}

/// What tells one registration from another under the same key (protocol H8).
pub(super) fn registration_digest(targets: &unanimity_types::BranchTargets, payload: &[u8]) -> Digest {
    let mut hash = Sha256::new();
    for target in targets.iter() {
        hash.update(target.to_string());
        hash.update([0]);
    }
    hash.update(payload);
    first16(&hash.finalize())
}

fn first16(bytes: &[u8]) -> Digest {
    let mut first = [0; 16];
    first.copy_from_slice(&bytes[..16]);
    Digest(first)
}
