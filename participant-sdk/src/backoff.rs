//! Capped exponential backoff with full jitter.

use std::time::Duration;

/// How long to wait before the next attempt: a random part of a span that doubles up to a cap.
///
/// Full jitter, so that callers that failed together do not come back together.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    attempt: u32,
}

impl Backoff {
    pub(crate) const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, attempt: 0 }
    }

    /// For calls that somebody waits for.
    pub(crate) const fn for_calls() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(2))
    }

    /// For sessions: a coordinator that restarts is met again soon, one that is away costs little.
    pub(crate) const fn for_sessions() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(5))
    }

    pub(crate) fn next(&mut self) -> Duration {
        // 2^20 × base is beyond every cap that we use.
        let span = self.base.saturating_mul(1 << self.attempt.min(20)).min(self.cap);
        self.attempt = self.attempt.saturating_add(1);
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(fastrand::u64(1..=millis))
    }

    pub(crate) fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_under_the_cap() {
        let mut backoff = Backoff::for_calls();
        for _ in 0..100 {
            let pause = backoff.next();
            assert!(pause >= Duration::from_millis(1) && pause <= Duration::from_secs(2));
        }
    }
}
