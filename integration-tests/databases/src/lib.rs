//! PostgreSQL and MariaDB servers that can be killed, frozen and started again: found or started wherever there is one,
//! for tests and for examples that need real databases. See [`postgres`] and [`mariadb`] for the order in which is looked.

mod cleanup;
mod container;
mod kind;
pub mod mariadb;
pub mod pgbouncer;
pub mod ports;
pub mod postgres;
pub mod system;

use std::io::Write as _;

pub use kind::Kind;

/// The id of the test run, by which `cargo xtask test` finds what a killed test left behind.
pub const RUN_VARIABLE: &str = "UNANIMITY_TEST_RUN";

/// Says a line on the run's output, also where the test passes: unlike `eprintln!` it is not captured.
pub fn say(line: &str) {
    // Nobody to listen is no reason to fail.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
