//! What the tests against real databases, containers and processes share. The tests themselves are one binary,
//! `tests/suite`: a second binary would link everything once more.

pub mod postgres;
