//! Sagas, messages, the outbox and locks end to end: the real coordinator, participants in SQLite.
//! H3, H7, H13, I7, I10, M6 are rules of the protocol, O, S and K rows of the crash matrix.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod mixed;
mod outbox;
mod sagas;
mod senders;
mod service;
