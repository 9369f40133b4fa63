//! The engine: one loop per partition that decides in memory, writes to the log in groups and lets
//! nothing out before it is durable.
//!
//! ```text
//!  callers ──mail──▶ partition loop ──block──▶ TransactionLog
//!     ▲                │  ▲   decide/apply         │
//!     │                │  └────────durable─────────┘
//!     └──replies───────┤ released by their block
//!                      └──effects──▶ Dispatcher ──▶ participants
//! ```

mod ask;
mod assignment;
mod clock;
mod codec;
mod config;
mod detail;
mod digest;
mod dispatch;
mod error;
mod handle;
mod inquire;
mod list;
mod locks;
mod mailbox;
mod open_row;
mod operate;
mod ownership;
mod partition;
mod peers;
mod plan;
mod refuse;
mod request;
mod retention;
mod start;

pub use unanimity_core::TwoPhase;

pub use assignment::{Assignment, Assignments, Heir};
pub use codec::{BodyWriter, CodecError, Logged, LoggedEvent, PartitionEvent, decode};
pub use config::EngineConfig;
pub use dispatch::{BranchCall, BranchReply, Dispatcher, ResultSink};
pub use error::Error;
pub use handle::Coordinator;
pub use peers::{Elsewhere, Peers};
pub use request::{
    Asked, Begin, Begun, Claim, Commit, Info, Inquiry, ListFilter, OperatorAction, Page, PartitionCounters,
    PartitionInfo, PartitionState, Register, Registered, Resolve, Standing, StopReason, TransactionView,
    Turn, Wait,
};
pub use start::Engine;
