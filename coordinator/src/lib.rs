//! The Unanimity coordinator as a library.

pub mod engine;
pub mod log;
