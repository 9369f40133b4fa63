//! The wall clock of this machine. Nothing but what people read, and ages, may hang on it: another machine's may be
//! minutes away. Tests let it be so (`unanimity_failpoints::CLOCK_VARIABLE`), in builds with the feature `failpoints`.

use std::time::{Duration, UNIX_EPOCH};

use uuid::Uuid;

/// Now.
#[cfg(feature = "failpoints")]
pub(crate) use unanimity_failpoints::wall_clock as now;

/// Now.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

/// Since the Unix epoch.
pub(crate) fn since_epoch() -> Duration {
    now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A new id of version 7: what is minted together lies together.
#[cfg(feature = "failpoints")]
pub(crate) fn mint() -> Uuid {
    let now = since_epoch();
    Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, now.as_secs(), now.subsec_nanos()))
}

/// A new id of version 7: what is minted together lies together.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn mint() -> Uuid {
    Uuid::now_v7()
}
