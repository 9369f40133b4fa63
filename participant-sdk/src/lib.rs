//! Unanimity's SDK: begin and decide global transactions, own branches of them.
//!
//! A global transaction either takes effect in every service that takes part in it, or in none.
//! This crate has the things that a service needs for that:
//!
//! * **The transaction manager's side.** [`Client::transaction`] runs a closure; its `Ok` commits,
//!   its `Err` aborts, and [`TransactionError::OutcomeUnknown`] says honestly when nobody knows yet.
//! * **The participant's side.** [`Participant`] owns branches: [`TccHooks`] reserve, confirm and
//!   cancel in the service's own database, and a [`Fence`] in that database makes each of them
//!   happen at most once and in a legal order, whatever is repeated, late or lost.
//! * **Sagas and messages.** [`Saga`] is a plan of steps that the coordinator carries out with
//!   [`StepHooks`]; [`Client::message`] prepares a message that is delivered to [`MessageHooks`] exactly
//!   if the sender's local transaction commits, [`GlobalTransaction::send_on_commit`] one that goes with
//!   a global transaction.
//! * **Propagation.** [`ClientLayer`], [`ServerLayer`] and [`SendInTransaction`] carry the context
//!   along with calls and the votes back.
//!
//! ```text
//!   your handler ── client.transaction(…).run ──┐ begin, commit
//!        │ ClientLayer                           ▼
//!        ▼                                  coordinator
//!   another service: ServerLayer ─► handler ─► try_branch ── register ──►┘ │
//!                                              hook + fence row            │ confirm / cancel
//!                                              in one local transaction ◄──┘ (attached session)
//! ```
//!
//! Features, all on by default: `postgres` and `sqlite` (the fence), `axum`, `reqwest`.

// The participant's half of the client has no user then.
#![cfg_attr(not(any(feature = "postgres", feature = "sqlite")), allow(dead_code, unused_imports))]

mod backoff;
mod client;
mod context;
#[cfg(any(feature = "postgres", feature = "sqlite", feature = "mysql"))]
mod durability;
mod error;
#[cfg(any(feature = "postgres", feature = "sqlite", feature = "mysql"))]
mod failpoint;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod fence;
mod message;
#[cfg(any(feature = "postgres", feature = "sqlite", feature = "mysql"))]
mod outbox;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod participant;
mod propagation;
mod saga;
mod wall_clock;
mod wire;
mod witness;
#[cfg(any(feature = "postgres", feature = "sqlite", feature = "mysql"))]
// Resource managers of one's own need no database of ours.
#[cfg_attr(not(any(feature = "postgres", feature = "mysql")), allow(dead_code))]
pub mod xa;

pub use client::{
    AbortCause, Addresses, BranchInfo, Client, ClientBuilder, CommitError, GlobalTransaction, NewBranch,
    TransactionBuilder, TransactionError, TransactionInfo,
};
pub use context::Context;
#[cfg(any(feature = "postgres", feature = "sqlite", feature = "mysql"))]
pub use durability::Durability;
pub use error::ClientError;
#[cfg(feature = "sqlite")]
pub use fence::sqlite_pool;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use fence::{Fence, FenceDatabase, FenceError, LocalTransaction, NoFence};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use message::{LocalError, MessageHooks, ReceivedMessage};
pub use message::{MessageBuilder, OnCommit, PreparedMessage};
#[cfg(any(feature = "postgres", feature = "sqlite", feature = "mysql"))]
pub use outbox::{
    CallPolicy, DeadLetter, DeathCause, Handed, Handover, HandoverError, HandoverMessage, Message,
    MessageStatus, MessageTarget, Outbox, OutboxDatabase, OutboxError, Relay, RelayBuilder, RelayStats,
    ReplayError, STATUS_IDS_MAX, Target,
};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use participant::{
    Attention, Branch, BranchOptions, BuildError, Callback, Health, HookError, NodeHealth, Participant,
    ParticipantBuilder, Refused, TccHooks, TryError, TwoPhaseBranch, TwoPhaseHealth,
};
#[cfg(feature = "axum")]
pub use propagation::MissingTransaction;
#[cfg(feature = "reqwest")]
pub use propagation::SendInTransaction;
pub use propagation::{ClientLayer, ClientService, ServerLayer, ServerService};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use saga::{Inputs, Nested, StepCall, StepHooks, Undo, nested, nested_undo};
pub use saga::{Retry, Saga, StepTarget, SubmittedSaga, WaitFor};
pub use unanimity_proto::Connector;
pub use unanimity_types::{
    AbortReason, BranchKey, BranchKind, BranchStatus, Decision, ErrorCode, LogId, Status, Xid,
};
pub use wire::{CallId, InvalidContext, WireContext};
