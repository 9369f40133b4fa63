//! Capped exponential backoff with full jitter, and calls that are repeated within a bound.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::ClientError;

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

/// Repeats a call while its error is retryable, for at most `bound` from now. Each attempt has
/// `per_call` to answer. The call must be idempotent.
pub(crate) async fn retried<T, F, Fut>(
    bound: Duration,
    per_call: Duration,
    mut call: F,
) -> Result<T, ClientError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, ClientError>>,
{
    let end = Instant::now() + bound;
    let mut backoff = Backoff::for_calls();
    loop {
        let error = match tokio::time::timeout(per_call, call()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error,
            Err(_) => ClientError::no_answer(format!("none within {per_call:?}")),
        };
        let pause = backoff.next().max(error.retry_after().unwrap_or_default());
        // A lock was waited for by the coordinator already, for as long as the caller allows.
        let again = error.is_retryable() && !matches!(error, ClientError::LockConflict { .. });
        if !again || Instant::now() + pause >= end {
            return Err(error);
        }
        tracing::debug!(%error, ?pause, "call to the coordinator failed, trying again");
        tokio::time::sleep(pause).await;
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

    #[tokio::test(start_paused = true)]
    async fn a_retryable_error_is_retried_until_the_bound() {
        let started = Instant::now();
        let mut calls = 0;
        let result: Result<(), _> = retried(Duration::from_secs(5), Duration::from_secs(1), || {
            calls += 1;
            async { Err(ClientError::no_answer("down")) }
        })
        .await;
        assert!(result.is_err());
        assert!(calls > 2);
        assert!(started.elapsed() <= Duration::from_secs(7));
    }
}
