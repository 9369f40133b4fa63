//! Tests of the shop and its story.
#![allow(clippy::unwrap_used, reason = "tests")]

mod shop;
mod story;
