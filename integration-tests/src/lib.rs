//! What the tests against real databases, containers and processes share. The tests themselves are one binary,
//! `tests/suite`: a second binary would link everything once more.

mod cleanup;
mod container;
pub mod coordinator;
mod kind;
pub mod mariadb;
pub mod output;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod programs;
pub mod shop;
mod system;
pub mod wait;

/// The id of the test run, by which `cargo xtask test` finds what a killed test left behind.
pub const RUN_VARIABLE: &str = "UNANIMITY_TEST_RUN";
