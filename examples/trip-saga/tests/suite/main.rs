//! Tests of the agency, its services and the story.
#![allow(clippy::unwrap_used, reason = "tests")]

mod agency;
mod story;
