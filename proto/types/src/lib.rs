//! The words of Unanimity as types: ids, modes, statuses, votes, decisions, limits.
//!
//! Everything here is plain data without I/O, so that the pure core, the wire formats, the
//! coordinator and the SDK share one vocabulary (`docs/glossary.md`).

mod branch;
mod code;
mod id;
mod limits;
#[doc(hidden)]
pub mod mutant;
mod name;
mod outcome;
mod plan;
mod position;
mod slot;
mod ticket;
mod time;

pub use branch::{BranchTargets, CallPolicy, Operation, Target, Vote};
pub use code::ErrorCode;
pub use id::{BranchId, BranchKey, Digest, LogId, ParseXidError, Xid};
pub use limits::Limits;
pub use name::{Name, NameError};
pub use outcome::{
    AbortReason, BranchKind, BranchStatus, Decision, InquiryAnswer, Mode, ResolveAs, Status, StepRole,
    UnknownWord,
};
pub use plan::{Delivery, MessagePlan, Plan, SagaPlan, SagaStep};
pub use position::{Epoch, LogPosition, PartitionId, Seq};
pub use slot::{SLOTS, partition_of, slot_of};
pub use ticket::{Birth, DecideHash, GENERATION, ParseTicketError, TICKETED_TIMEOUT_MAX, Ticket};
pub use time::Timestamp;
