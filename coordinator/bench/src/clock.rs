//! Time that several processes of one machine agree on.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Microseconds since the epoch: what [`Shot`](crate::Shot) and [`Outcome`](crate::Outcome) are timed in. Counted on the monotonic clock from one look at the machine's time, so
/// that a correction of it while a process runs bends no latency.
pub fn now_us() -> u64 {
    static START: LazyLock<(u64, Instant)> = LazyLock::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (micros(since), Instant::now())
    });
    let (wall, instant) = *START;
    wall + micros(instant.elapsed())
}

/// A span in microseconds.
pub(crate) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// How long it is until a moment; nothing if it has passed.
pub(crate) fn until(moment_us: u64) -> Duration {
    Duration::from_micros(moment_us.saturating_sub(now_us()))
}
