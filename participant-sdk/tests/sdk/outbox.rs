//! The outbox and its relay against real databases and a coordinator whose answers get lost.
//!
//! O1 to O4 are the rows of the crash matrix (reliability.md, section 6), H13 the protocol's rule
//! about the order of a key.

mod coordinator;
mod databases;
mod histories;
mod rules;
mod wire;
