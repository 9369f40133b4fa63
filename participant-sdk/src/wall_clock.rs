//! The wall clock of this machine. Nothing but what people read, and ages, may hang on it: another machine's may be
//! minutes away. Tests let it be so (`unanimity_failpoints::CLOCK_VARIABLE`), in builds with the feature `failpoints`.

use std::time::UNIX_EPOCH;

/// Now.
#[cfg(feature = "failpoints")]
pub(crate) use unanimity_failpoints::wall_clock as now;

/// Now.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

/// Milliseconds since the Unix epoch: for ages, never for safety.
pub(crate) fn now_ms() -> i64 {
    let since = now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
