//! Where the engine's chance comes from: uuids, nonces, jitter and the order in which its tables are walked.
//!
//! One place, so that the simulation (feature `simulation`) can put a seed behind all of it. Without the
//! feature there is nothing between the caller and the system's own randomness.

use uuid::Uuid;

/// How the engine's tables hash: keyed by chance, because xids are their callers' choice.
#[cfg(not(feature = "simulation"))]
pub(crate) type HashState = foldhash::fast::RandomState;
#[cfg(feature = "simulation")]
pub(crate) use crate::simulation::HashState;

/// A uuid of 122 bits of chance.
pub(crate) fn uuid() -> Uuid {
    #[cfg(feature = "simulation")]
    if let Some(uuid) = crate::simulation::uuid() {
        return uuid;
    }
    Uuid::new_v4()
}

/// A uuid that begins with the node's clock.
pub(crate) fn time_uuid() -> Uuid {
    #[cfg(feature = "simulation")]
    if let Some(uuid) = crate::simulation::time_uuid() {
        return uuid;
    }
    crate::wall_clock::mint()
}

/// A number from 0 to 1.
pub(crate) fn fraction() -> f64 {
    #[cfg(feature = "simulation")]
    if let Some(fraction) = crate::simulation::fraction() {
        return fraction;
    }
    fastrand::f64()
}
