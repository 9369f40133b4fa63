//! What follows from events, as data.

use unanimity_types::{BranchId, Decision, Operation, Timestamp};

use crate::command::Timer;

/// Something for the driver to do when the event that caused it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Bring an operation to a branch's participant.
    Dispatch {
        /// Which branch.
        branch_id: BranchId,
        /// What.
        operation: Operation,
        /// Counted from 1.
        attempt: u32,
    },
    /// Come back with `Command::Timer` at this time. Need not wait for durability.
    SetTimer {
        /// When, in partition time.
        at: Timestamp,
        /// For what.
        timer: Timer,
    },
    /// The decision fell: whoever waits for it may be told.
    Decided(Decision),
    /// Every branch is settled: whoever waits for that may be told, and history written.
    Finished,
}
