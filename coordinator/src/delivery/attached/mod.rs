//! Attached participants: each instance holds one stream open to this node, receives operations on it
//! and answers on it.
//!
//! ```text
//!  instance                     session (one task)               Participant (the bulkhead)
//!  Hello ─────────────────────▶ checked, witnesses shown
//!        ◀───────────── Welcome attached ──────────────────────▶ queue ─▶ least loaded instance
//!        ◀────────── Operations taken in batches ◀────────────── outbox, bounded by concurrency
//!  Results ───────────────────▶ matched by call id ────────────▶ reply to the engine, next from queue
//!  Heartbeat ◀────────────────▶ every interval; three silent ones end the session
//!  Goodbye ───────────────────▶ gets nothing more ─────────────▶ what was not sent goes to others
//! ```

mod hello;
mod home;
mod instance;
#[cfg(test)]
mod instance_tests;
mod participant;
mod pinned;
mod service;
mod session;

pub use home::Home;
pub(super) use instance::NewInstance;
pub(super) use participant::{Attachment, Participant};
pub use service::ParticipantsService;
