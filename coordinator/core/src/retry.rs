//! When to try again.

use std::time::Duration;

use unanimity_types::{BranchId, CallPolicy, Xid};

/// How long a participant may ask us to stay away. Whoever says "in ten years", by mistake or not,
/// would keep its transaction open unseen: without attempts there is no attention either.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// Capped exponential back-off with full jitter, and when to call for people.
///
/// Full jitter: Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015). The jitter
/// comes from a hash of xid, branch and attempt: the core has no randomness, and a simulation that
/// repeats a seed repeats its waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The upper end of the first wait.
    pub initial: Duration,
    /// The upper end of every later wait.
    pub cap: Duration,
    /// After so many failed attempts of one branch somebody should look. Trying goes on for ever.
    pub attention_after: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        // A participant that restarts is back within seconds; one that is called and down for hours is
        // asked four times a minute; five attempts are a few seconds of trouble: no blip, worth a look.
        Self { initial: Duration::from_millis(200), cap: Duration::from_secs(30), attention_after: 5 }
    }
}

impl RetryPolicy {
    /// With what a branch says otherwise.
    #[must_use]
    pub fn with(self, policy: &CallPolicy) -> Self {
        let initial = policy.initial.unwrap_or(self.initial);
        Self { initial, cap: policy.cap.unwrap_or(self.cap).max(initial), ..self }
    }

    /// How long to wait after `attempts` failed ones: between 1 ms and the bound of that attempt.
    #[must_use]
    pub fn wait(&self, xid: Xid, branch_id: BranchId, attempts: u32) -> Duration {
        let bound = self.bound(attempts).as_millis();
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(1 + hash(xid, branch_id, attempts) % bound)
    }

    /// The upper end of the wait after `attempts` failed ones.
    #[must_use]
    pub fn bound(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        self.initial.saturating_mul(1 << doublings).min(self.cap)
    }
}

/// `SplitMix64`'s finalizer over what identifies the attempt.
fn hash(xid: Xid, branch_id: BranchId, attempts: u32) -> u64 {
    let (high, low) = xid.uuid().as_u64_pair();
    let place = (u64::from(branch_id.0) << 32) | u64::from(attempts);
    mix(high ^ mix(low ^ mix(place.wrapping_add(0x9e37_79b9_7f4a_7c15))))
}

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimity_types::Xid;

    fn xid(n: u64) -> Xid {
        let mut bytes = [1; 16];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        Xid::from_slice(&bytes).expect("not nil")
    }

    #[test]
    fn waits_grow_to_the_cap_and_no_further() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.bound(1), Duration::from_millis(200));
        assert_eq!(policy.bound(2), Duration::from_millis(400));
        assert_eq!(policy.bound(8), Duration::from_millis(25_600));
        assert_eq!(policy.bound(9), policy.cap);
        assert_eq!(policy.bound(u32::MAX), policy.cap);
    }

    #[test]
    fn jitter_is_full_and_repeatable() {
        let policy = RetryPolicy::default();
        let waits: Vec<_> = (0..1_000).map(|n| policy.wait(xid(n), BranchId(1), 4)).collect();
        assert_eq!(waits, (0..1_000).map(|n| policy.wait(xid(n), BranchId(1), 4)).collect::<Vec<_>>());
        let bound = policy.bound(4);
        assert!(waits.iter().all(|wait| *wait > Duration::ZERO && *wait <= bound));
        let low = waits.iter().filter(|wait| **wait < bound / 2).count();
        assert!((400..600).contains(&low), "half of the waits lie in the lower half: {low}");
    }
}
