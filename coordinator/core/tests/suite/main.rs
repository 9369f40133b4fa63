//! The core's tests: tables of every pair, rules by name, and random histories with crashes.
#![allow(clippy::print_stdout, reason = "figures of the random histories")]

mod fixture;
mod histories;
mod model;
mod modes;
mod modes_histories;
mod rules;
mod snapshots;
mod tables;
