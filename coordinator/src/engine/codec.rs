//! Events to blocks and back: the log's formats. Format 2 (`compact.rs`) is written where every node of the cluster reads
//! it, 1 until then; both are read.
//!
//! Unknown events stop a reader (protocol M18): a binary that skipped what it does not understand
//! would decide on half a state.

mod compact;
mod decode;
mod encode;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use decode::decode;
pub use write::BodyWriter;

use unanimity_core::{Event, LockEvent};
use unanimity_types::{Epoch, Seq, Timestamp, Xid};

/// One record of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub what: LoggedEvent,
    /// How many bytes it has in the block.
    pub bytes: usize,
}

/// What a record tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoggedEvent {
    /// Something happened to a transaction.
    Transaction(Xid, Event),
    /// Something happened to the partition.
    Partition(PartitionEvent),
}

/// An event of the partition itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionEvent {
    /// A witness knows of a place that this log cannot have had: it lost its tail (protocol H6).
    LostTailFound {
        /// The place's epoch.
        epoch: Epoch,
        /// Which epoch of that number.
        epoch_tag: u32,
        /// The place.
        seq: Seq,
    },
    /// An operator accepted the loss.
    LossAccepted {
        /// Witnesses of epochs up to this one are forgiven.
        epoch: Epoch,
        /// Who.
        operator: String,
        /// Why.
        reason: String,
    },
    /// The log was restored from a backup: what nobody knows from before is not presumed aborted (protocol C8).
    Restored {
        /// Epochs up to this one were before: witnesses of them are forgiven, tickets of them begin nothing.
        epoch: Epoch,
        /// When, by the database's clock.
        at: Timestamp,
        /// Who said so.
        operator: String,
        /// Why.
        reason: String,
    },
    /// Something happened to a lock whose home the partition is (protocol H7).
    Lock(LockEvent),
}

/// A block's body that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Not protobuf, or cut off.
    #[error("the body is not readable: {0}")]
    Malformed(String),
    /// Written by a version that knows more.
    #[error("{0}: it was written by a newer version; upgrade this binary")]
    Unknown(String),
    /// A value that cannot be.
    #[error("{0}")]
    Invalid(String),
}
