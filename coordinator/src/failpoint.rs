//! Where a test may let this process die. Without the feature `failpoints` nothing here does anything, and there is
//! nothing to switch on.
//!
//! Names and meaning: `unanimity_failpoints::COORDINATOR`.

use unanimity_types::Operation;

use crate::engine::BranchCall;
use crate::log::Block;

#[cfg(feature = "failpoints")]
pub(crate) use unanimity_failpoints::reach;

/// Comes to a point of this name.
#[cfg(not(feature = "failpoints"))]
pub(crate) const fn reach(_point: &str) {}

/// Comes to a point of an operation: `WHERE.OPERATION`.
#[cfg(feature = "failpoints")]
pub(crate) fn operation(place: &str, operation: Operation) {
    // The coordinator never asks for a try.
    if operation != Operation::Try {
        reach(&format!("{place}.{operation}"));
    }
}

#[cfg(not(feature = "failpoints"))]
pub(crate) const fn operation(_place: &str, _operation: Operation) {}

/// The operations of calls: known before the calls are given away, needed after.
#[cfg(feature = "failpoints")]
pub(crate) fn operations(calls: &[BranchCall]) -> Vec<Operation> {
    calls.iter().map(|call| call.operation).collect()
}

/// Nobody asks.
#[cfg(not(feature = "failpoints"))]
pub(crate) const fn operations(_calls: &[BranchCall]) -> [Operation; 0] {
    []
}

/// The kinds of events in a block: known before the block is given away, needed after.
#[derive(Debug)]
pub(crate) struct Kinds {
    #[cfg(feature = "failpoints")]
    kinds: Vec<&'static str>,
}

impl Kinds {
    #[cfg(not(feature = "failpoints"))]
    pub(crate) const fn of(_block: &Block) -> Self {
        Self {}
    }

    #[cfg(not(feature = "failpoints"))]
    #[allow(clippy::unused_self, reason = "the same shape as with the feature")]
    pub(crate) const fn reach(&self, _place: &str) {}

    #[cfg(feature = "failpoints")]
    pub(crate) fn of(block: &Block) -> Self {
        use crate::engine::{LoggedEvent, PartitionEvent, decode};
        use unanimity_core::{Event, LockEvent};
        if block.kind != crate::log::BlockKind::Data {
            return Self { kinds: Vec::new() };
        }
        // What we sealed a moment ago can be read.
        let logged = decode(block).unwrap_or_default();
        let kind = |what: &LoggedEvent| {
            Some(match what {
                LoggedEvent::Transaction(_, event) => match event {
                    Event::Begun { .. } => "begun",
                    Event::Registered { .. } => "registered",
                    Event::PlanAccepted { .. } => "plan_accepted",
                    Event::Voted { .. } => "voted",
                    Event::PreparesAsked { .. } => "prepares_asked",
                    Event::CheckBackAsked { .. } => "check_back_asked",
                    Event::Delegated { .. } => "delegated",
                    Event::ActionDone { .. } => "action_done",
                    Event::ActionRefused { .. } => "action_refused",
                    Event::Parked { .. } => "parked",
                    Event::Presumed => "presumed",
                    Event::Decided { .. } => "decided",
                    Event::BranchSettled { .. } => "branch_settled",
                    Event::Finished => "finished",
                    // Nothing but a look or a repetition hangs on them.
                    _ => return None,
                },
                LoggedEvent::Partition(PartitionEvent::Lock(LockEvent::Acquired { .. })) => "lock_acquired",
                LoggedEvent::Partition(PartitionEvent::Lock(LockEvent::Released { .. })) => "lock_released",
                LoggedEvent::Partition(_) => return None,
            })
        };
        let mut kinds: Vec<_> = logged.iter().filter_map(|logged| kind(&logged.what)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        Self { kinds }
    }

    /// Comes to the points of all these kinds: `append.WHEN.KIND`.
    #[cfg(feature = "failpoints")]
    pub(crate) fn reach(&self, place: &str) {
        for kind in &self.kinds {
            reach(&format!("{place}.{kind}"));
        }
    }
}
