//! Tests of the example and its story.
#![allow(clippy::unwrap_used, reason = "tests")]

mod services;
mod story;
