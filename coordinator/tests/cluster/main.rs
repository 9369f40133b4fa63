//! Several nodes over one log: who owns what, and how it changes hands.
//!
//! Tests carry the names of the protocol's rules and of the matrix's rows that they show.
#![allow(clippy::print_stderr, reason = "figures and the choice of the server belong to the output")]
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]
#![allow(unreachable_pub, reason = "one binary, many modules")]

mod crash;
mod hand_over;
mod join_leave;
mod lost;
mod nodes;
mod on_postgres;
#[allow(dead_code, reason = "shared with the log's tests")]
#[path = "../log/postgres.rs"]
mod postgres;
mod rolling;
mod routes;
mod served;
mod servers;
#[allow(dead_code, reason = "shared with the engine's tests")]
#[path = "../engine/support.rs"]
mod support;
mod told;
