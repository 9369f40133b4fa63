//! The engine on the memory log: every answer and effect behind its block, whatever goes wrong.
//!
//! Tests carry the names of the protocol's rules that they show.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]
#![allow(unreachable_pub, reason = "one binary, many modules")]

mod cleaning;
mod durability;
mod faults;
mod forgotten;
mod forward;
mod history;
mod locks;
mod lost_rows;
mod ownership;
mod plans;
mod recovery;
mod restored;
mod saga;
mod support;
mod tcc;
mod tickets;
mod two_owners;
mod upgrade;
mod witness;
