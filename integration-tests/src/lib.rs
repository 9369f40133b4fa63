//! What the tests against real databases, containers and processes share. The tests themselves are one binary,
//! `tests/suite`: a second binary would link everything once more.

pub mod banks;
pub mod coordinator;
pub mod output;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod shop;
pub mod wait;

// The servers are a crate of their own, since examples need them too.
pub use unanimity_test_databases::{RUN_VARIABLE, mariadb, pgbouncer, ports, postgres};
