//! The SDK against real databases and a scripted coordinator that speaks the real wire.
//!
//! SQLite always; PostgreSQL when `UNANIMITY_TEST_DATABASE_URL` names a server or its programs are
//! on this machine.

#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs, reason = "tests")]

mod client;
mod cluster;
mod commands;
mod fence;
mod messages;
mod outbox;
mod participant;
mod propagation;
mod registration;
mod round_trips;
mod sagas;
mod steps;
mod support;
mod two_phase;
mod xa;
