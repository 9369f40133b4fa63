//! What the tests against real databases, containers and processes share. The tests themselves are one binary,
//! `tests/suite`: a second binary would link everything once more.

pub mod coordinator;
pub mod output;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod programs;
pub mod shop;
pub mod wait;
