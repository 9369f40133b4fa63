//! Where a test may let this process die. Without the feature `failpoints` nothing here does anything, and there is
//! nothing to switch on.
//!
//! Names and meaning: `unanimity_failpoints::COORDINATOR`.

use unanimity_types::Operation;

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
        use prost::Message as _;
        use unanimity_proto::log::{Body, record::Event};
        if block.kind != crate::log::BlockKind::Data {
            return Self { kinds: Vec::new() };
        }
        // What we sealed a moment ago can be read.
        let body = Body::decode(block.body.clone()).unwrap_or_default();
        let kind = |event: &Event| {
            Some(match event {
                Event::Begun(_) => "begun",
                Event::Registered(_) => "registered",
                Event::PlanAccepted(_) => "plan_accepted",
                Event::Voted(_) => "voted",
                Event::PreparesAsked(_) => "prepares_asked",
                Event::CheckBackAsked(_) => "check_back_asked",
                Event::Delegated(_) => "delegated",
                Event::ActionDone(_) => "action_done",
                Event::ActionRefused(_) => "action_refused",
                Event::Parked(_) => "parked",
                Event::Presumed(_) => "presumed",
                Event::Decided(_) => "decided",
                Event::BranchSettled(_) => "branch_settled",
                Event::Finished(_) => "finished",
                Event::LockAcquired(_) => "lock_acquired",
                Event::LockReleased(_) => "lock_released",
                // Nothing but a look or a repetition hangs on them.
                _ => return None,
            })
        };
        let mut kinds: Vec<_> =
            body.records.iter().filter_map(|record| record.event.as_ref().and_then(kind)).collect();
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
