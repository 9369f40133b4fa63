//! Partition time: starts from the database's clock, goes on by the node's monotonic one, and never
//! goes backwards (protocol M2). Wall clocks of nodes play no part.

use tokio::time::Instant;
use unanimity_types::Timestamp;

#[derive(Debug, Clone, Copy)]
pub(super) struct PartitionClock {
    base: Timestamp,
    started: Instant,
}

impl PartitionClock {
    /// A clock that shows at least `floor` now.
    pub(super) fn starting_at(floor: Timestamp) -> Self {
        Self { base: floor, started: Instant::now() }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.base.after(self.started.elapsed())
    }

    /// When the clock will show `at`.
    pub(super) fn instant_of(&self, at: Timestamp) -> Instant {
        self.started + at.since(self.base)
    }
}
