//! Messages: delivered if, and only if, the sender's local transaction commits.
//!
//! ```text
//!   client.message(…).prepare ──► coordinator: durable, not delivered yet
//!   local transaction: your rows + the fence's row of the sender
//!   submit ────────────────────► coordinator: delivers, at least once ──► MessageHooks, deduped
//!                                    │ no submit in time
//!                                    └─ check_back ──► Participant: writes a "no" before it says it,
//!                                                      waits for a local transaction that is open
//! ```
//!
//! So a sender that dies between its commit and its submit loses nothing (protocol H5). Without a call
//! to the coordinator on the sender's path: the outbox. From a transaction that the coordinator decides:
//! [`crate::GlobalTransaction::send_on_commit`].

mod builder;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod hooks;
mod prepared;

pub use builder::{MessageBuilder, OnCommit};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) use hooks::{ErasedReceiver, RawMessage, TypedReceiver};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use hooks::{MessageHooks, ReceivedMessage};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use prepared::LocalError;
pub use prepared::PreparedMessage;
