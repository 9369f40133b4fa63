//! Two-phase branches end to end: the real coordinator, participants, PostgreSQL and MariaDB. C8, H4,
//! H9, H11, I8 and M11 are rules of the protocol, P1 to P6 rows of the crash matrix.
//!
//! The servers are throw-away ones of this machine's programs: they must be able to prepare
//! transactions, and to be killed.
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs, reason = "tests")]

mod crashes;
mod late;
mod mixed;
mod own;
#[path = "../../../tests/sdk/xa/proxy.rs"]
mod proxy;
#[path = "../../../tests/sdk/xa/servers.rs"]
mod servers;
mod service;
mod start;
#[path = "../../../tests/sdk/xa/support.rs"]
#[allow(dead_code, reason = "shared with the resource manager's own tests")]
mod support;
mod transfers;
