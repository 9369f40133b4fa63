//! Lock keys as a caller meets them: taken at their homes before the branch is registered (protocol H7).
//!
//! ```text
//!   register ─▶ the xid's partition: known and undecided?
//!            ─▶ the home of key 1: taken, durably ─▶ the home of key 2 … ─▶ the xid's partition: registered
//! ```
//! Keys are taken in their own order and a wait has an end, so nobody waits in a circle for ever. A crash
//! in between leaves a lock without a branch; its home asks about old holders and frees it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use unanimity_core::Command;
use unanimity_types::{ErrorCode, InquiryAnswer, Limits, Name, PartitionId, SLOTS, Status, Xid};

use super::error::Error;
use super::handle::Coordinator;
use super::mailbox::{Outcome, Unknown};
use super::request::{Claim, Register, Wait};

/// How long a home may take to write a lock, besides the wait for its holder.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// When a conflict may be worth another try: a holder is over within a few calls.
const CONFLICT_RETRY: Duration = Duration::from_millis(200);

/// The lock keys in the order in which they are taken, each once, if they are not too many.
pub(super) fn check(register: &mut Register) -> Result<(), Error> {
    register.lock_keys.sort_unstable();
    register.lock_keys.dedup();
    if register.lock_keys.len() > Limits::LOCK_KEYS_MAX {
        let message = format!(
            "a branch has at most {} lock keys, this one has {}",
            Limits::LOCK_KEYS_MAX,
            register.lock_keys.len()
        );
        return Err(Error::new(ErrorCode::InvalidRequest, message).about(register.xid));
    }
    if register.lock_wait > Limits::LOCK_WAIT_MAX {
        let message =
            format!("a registration waits at most {} ms for a lock", Limits::LOCK_WAIT_MAX.as_millis());
        return Err(Error::new(ErrorCode::InvalidTimeout, message).about(register.xid));
    }
    Ok(())
}

/// Takes every lock that the registration names, at least one, durably. Those that were taken when one is refused
/// stay with their transaction until it is over: another of its branches may count on them.
pub(super) async fn take(coordinator: &Coordinator, register: &Register, claim: &Claim) -> Result<(), Error> {
    let xid = register.xid;
    if !is_active(coordinator, xid, claim).await? {
        // What is over takes no locks: its registration is refused with its true status.
        return Ok(());
    }
    let until = Instant::now() + register.lock_wait;
    for key in &register.lock_keys {
        let home = home(key, coordinator.shared.log.identity().partitions);
        let wait = until.saturating_duration_since(Instant::now());
        match coordinator.peers() {
            Some(peers) if !coordinator.is_here(home) => peers.lock(home, key, xid, wait).await?,
            _ => coordinator.lock_here(home, key.clone(), xid, wait).await?,
        }
    }
    Ok(())
}

/// Whether the transaction is known and undecided, durably: the homes of its locks will ask about it. An
/// unknown one begins, if it comes with a birth, else it is aborted by asking (protocol C2).
async fn is_active(coordinator: &Coordinator, xid: Xid, claim: &Claim) -> Result<bool, Error> {
    if claim.birth.is_some() {
        let (inquire, claim) = (Command::Inquire, claim.clone());
        let outcome =
            coordinator.command_as(xid, inquire, claim, Wait::Accepted, Unknown::AskHistory).await?;
        return Ok(matches!(outcome, Outcome::Done(done) if done.status == Status::Active));
    }
    let answers = super::inquire::inquire(coordinator, vec![xid.into()], ANSWER_WAIT).await?;
    Ok(answers.iter().any(|inquiry| inquiry.xid == xid && inquiry.answer == InquiryAnswer::Active))
}

/// Tells the homes that the holder is over. A home that does not hear it asks by itself.
pub(super) fn tell_homes(coordinator: &Coordinator, xid: Xid, keys: BTreeSet<Name>) {
    let mut by_home: BTreeMap<PartitionId, Vec<Name>> = BTreeMap::new();
    for key in keys {
        by_home.entry(home(&key, coordinator.shared.log.identity().partitions)).or_default().push(key);
    }
    for (home, keys) in by_home {
        match coordinator.peers() {
            // Beside the partition's loop, which waits for nobody. The other node ends it soon, whatever happens.
            Some(peers) if !coordinator.is_here(home) => {
                crate::task::spawn(async move { peers.unlock(home, xid, keys).await });
            }
            _ => drop(coordinator.unlock_here(home, xid, keys)),
        }
    }
}

/// What the second comer is told.
pub(super) fn conflict(key: &Name, holder: Xid, xid: Xid) -> Error {
    let message = format!(
        "the lock {key} is held by transaction {holder}; try again, or abort so that others do not wait for you"
    );
    let mut error = Error::new(ErrorCode::LockConflict, message).about(xid).retry_after(CONFLICT_RETRY);
    error.holder = Some(holder);
    error
}

/// The partition where a key lives: by the first 12 bits of its SHA-256, as slots of xids are spread
/// (protocol M17). Never changes for a log: locks would be looked for in the wrong place.
fn home(key: &Name, partitions: u16) -> PartitionId {
    let hash = Sha256::digest(key.as_str().as_bytes());
    let slot = u32::from(u16::from_be_bytes([hash[0], hash[1]]) >> 4);
    // Smaller than `partitions`, since the slot is smaller than `SLOTS`.
    PartitionId((slot * u32::from(partitions) / u32::from(SLOTS)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).expect("valid")
    }

    #[test]
    fn m17_homes_are_fixed_for_ever() {
        // sha256("inventory:sku-7") and sha256("a"): a change would look for locks in the wrong place.
        let homes: Vec<u16> = ["inventory:sku-7", "a"].map(|key| home(&name(key), 4_096).0).to_vec();
        assert_eq!(homes, HOMES);
        assert_eq!(home(&name("a"), 1), PartitionId(0));
    }

    /// Worked out with `printf %s KEY | sha256sum | cut -c1-3`.
    const HOMES: [u16; 2] = [0x714, 0xca9];

    #[test]
    fn every_partition_is_the_home_of_some() {
        let homes: BTreeSet<_> = (0..500).map(|n| home(&name(&format!("key-{n}")), 16)).collect();
        assert_eq!(homes.len(), 16);
    }
}
