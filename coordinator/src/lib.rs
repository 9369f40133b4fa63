//! The Unanimity coordinator as a library.

pub mod log;
