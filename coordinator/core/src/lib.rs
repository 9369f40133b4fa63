//! The protocol as one deterministic state machine: no I/O, no clock, no randomness, no async.
//!
//! ```text
//!              decide(state, command, context)              apply(state, event)
//!   command ───────────────▶ events + answer ──────────────▶ new state + effects
//!                            (or a refusal)
//! ```
//!
//! [`decide()`] looks and never changes; [`apply()`] changes and never judges. The same `apply` runs live
//! and in recovery: a transaction's state is the fold of its events. Effects are data: whoever drives
//! the core lets them out when the block with their event is durable, and drops those of replayed
//! events; afterwards [`pending()`] yields what is owed (protocol M7).
//!
//! # Invariants
//! - A decision never changes (I3): `apply` refuses a second one.
//! - No branch registers after the decision (I8), or while a commit waits for named branches.
//! - Only after the decision is an operation dispatched that makes a branch's effect final, so I1 and I2
//!   hold for whoever lets effects out in order. What goes forward without one (an action, a prepare, a
//!   check-back) can be undone, or is the decision.
//! - The events of one verdict go into one block: half of them (the last branch settled, not
//!   finished) is a state that nothing leads out of.
//! - What is not durable ([`Persistence::Volatile`]) never changes an outcome: losing it costs an
//!   attempt or a wait.

mod answer;
mod apply;
mod command;
mod decide;
mod effect;
mod event;
mod locks;
mod message;
mod owed;
mod pending;
mod plan;
mod retry;
mod saga;
mod tcc;
mod timeline;
mod transaction;
mod two_phase;

pub use answer::{Answer, Refusal, Verdict};
pub use apply::{IllegalEvent, apply};
pub use command::{
    BeginSpec, Command, Context, OperatorAction, Registration, ResultOutcome, Timer, TwoPhase,
};
pub use decide::decide;
pub use effect::Effect;
pub use event::{BranchTraits, Event, Persistence};
pub use locks::{Acquire, IllegalLock, Lock, LockEvent, LockTable};
pub use pending::pending;
pub use retry::RetryPolicy;
pub use timeline::{TIMELINE_MAX, TimelineEntry, TimelineKind};
pub use transaction::{
    Attention, AttentionCode, Branch, BranchView, CommitAsked, DecisionRecord, Resolution, Step, StepView,
    Transaction,
};
