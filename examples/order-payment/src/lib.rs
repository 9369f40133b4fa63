//! A shop in three services with a database each, kept together by Unanimity.
//!
//! ```text
//!                       POST /orders
//!                            │
//!                    ┌───────▼───────┐  begin, commit   ┌─────────────┐
//!                    │ order         ├─────────────────►│             │
//!                    │ orders        │◄─────────────────┤ coordinator │
//!                    └──┬─────────┬──┘  confirm/cancel  │             │
//!             /reserve  │         │  /hold              └──┬───────┬──┘
//!               ┌───────▼───┐ ┌───▼───────┐                │       │
//!               │ inventory │ │ payment   │◄───────────────┘       │
//!               │ stock     │ │ accounts  │    confirm/cancel      │
//!               └───────────┘ └───────────┘                        │
//!                     ▲────────────────────────────────────────────┘
//! ```
//!
//! Read [`order`] first: it begins the transaction and owns a branch of it. [`inventory`] and
//! [`payment`] only own branches. Each has the same four files: `schema.sql`, `hooks.rs` (try,
//! confirm, cancel: the business), `routes.rs` (HTTP) and its part of the invariants.
//! [`story`] runs all of it, breaks something in the middle, and counts.

pub mod database;
pub mod demo;
pub mod invariants;
pub mod inventory;
pub mod order;
pub mod payment;
pub mod services;
pub mod story;

pub use invariants::{Report, check_invariants};
