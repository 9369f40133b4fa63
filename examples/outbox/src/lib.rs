//! A shop that writes its messages beside its orders, and a warehouse that hears each of them once.
//!
//! ```text
//!   POST /orders
//!        │
//!   ┌────▼─────┐ one local transaction: orders, lines, outbox
//!   │ shop     ├──────────────► shop's database
//!   └────┬─────┘                      │ rows by state
//!        │ vouchers: prepared    ┌────▼────┐
//!        │ messages,             │ relay   │ (two of them)
//!        │ check-backs           └────┬────┘
//!        │       ┌─────────────┐      │ hand over: the row's id is the xid
//!        └──────►│ coordinator │◄─────┘
//!                └──────┬──────┘
//!                       │ deliver, at least once
//!                 ┌─────▼─────┐ one local transaction: fence row, pick, shelf
//!                 │ warehouse ├──────────────► warehouse's database
//!                 └───────────┘
//! ```
//!
//! Read [`shop`] first: `place.rs` writes an order and its messages in one transaction, `vouchers.rs`
//! does the same with a prepared message. [`relay`] brings the messages to the coordinator, and shows
//! and replays dead letters. [`warehouse`] receives. [`check`] compares the two databases. [`story`]
//! runs all of it, breaks something in the middle, and counts.

pub mod check;
pub mod database;
pub mod demo;
pub mod relay;
pub mod services;
pub mod shop;
pub mod story;
pub mod warehouse;
