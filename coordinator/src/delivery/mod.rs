//! Delivery: brings operations of branches to participants and their answers back.
//!
//! ```text
//!  engine ──dispatch──▶ Delivery ─┬─ participant "stock"  ─▶ attached instances (a stream each)
//!     ▲                           ├─ http://10.0.0.7:9000 ─▶ POST, a few at a time
//!     │                           └─ grpc http://10.0.0.8 ─▶ BranchCallback.Execute
//!     └────────ResultSink─────────── exactly one reply for each call
//! ```
//!
//! # Invariants
//! - Every call that is dispatched is answered exactly once, also after a panic, a timeout, a broken
//!   session and at shutdown: a `Flight` owns the call, and dropping it is an answer.
//! - A *bulkhead* per participant and per origin, each with a queue and a concurrency of its own, so a
//!   slow or dead participant holds up nobody else. Everything is bounded: bulkheads, queues,
//!   concurrency, sessions, batches, answers' bodies, waits.
//! - What is not known is never a "no": only an explicit answer refuses (design, section 2.6).
//! - Delivery decides nothing and retries nothing: the engine does, from its log.
//! - Only targets on the [`AllowList`] are called: what a registration was told is asked again when a call
//!   comes, and the answer for an address kept.

mod addresses;
mod allow;
mod attached;
mod callbacks;
mod config;
mod dispatcher;
mod flight;
mod grpc;
mod http;
#[cfg(test)]
mod lease_tests;
mod retry_after;
mod stats;
mod text;

pub use allow::{AllowList, AllowListError};
pub use attached::{Home, ParticipantsService};
pub use config::DeliveryConfig;
pub use dispatcher::{Delivery, Drained};
pub(crate) use http::{answer::accepted as http_accepted, request::body as http_body};
pub use stats::{BulkheadKind, BulkheadStats, InstanceStats};
