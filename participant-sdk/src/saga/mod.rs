//! Sagas: steps in an order, each undone by its compensation if the saga turns back.
//!
//! ```text
//!   Saga::new("trip")…submit ──► coordinator: the plan is durable
//!                                    │ action, when all steps before are done
//!                                    ▼
//!   Participant ─ StepHooks ─ fence row, effect and result in one local transaction
//!                                    ▲
//!                                    │ compensate, in reverse order, when the saga turned back
//! ```
//!
//! Who submits a saga builds it with [`Saga`]; who does a step of it writes [`StepHooks`]. A step that
//! is a transaction over several services itself: [`nested()`].

mod builder;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod hooks;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod nested;
mod run;
mod target;

pub use builder::{Retry, Saga};
pub(crate) use builder::{invalid, json, payload_fits, policy_fits};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) use hooks::{ErasedStep, RawCall, TypedStep, decode};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use hooks::{Inputs, StepCall, StepHooks};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use nested::{Nested, Undo, nested, nested_undo};
pub use run::{SubmittedSaga, WaitFor};
pub use target::StepTarget;
