//! The Unanimity coordinator as a library.

pub mod delivery;
pub mod engine;
pub mod log;
