//! The tests against real databases, containers and processes: one binary.
#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod postgres_finder;
