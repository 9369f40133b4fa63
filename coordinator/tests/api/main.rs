//! The coordinator's interfaces over real connections: HTTP, gRPC, the command line.

mod bad_branches;
mod bad_input;
mod bad_plans;
mod check_database;
mod cli;
mod commands;
mod docs;
mod grpc;
mod health;
mod hostile;
mod http;
mod limits;
mod lost_tail;
mod modes;
#[path = "../log/postgres.rs"]
#[allow(
    dead_code,
    clippy::print_stderr,
    reason = "the log's tests use more of it, and say which server they chose"
)]
mod postgres;
mod shutdown;
mod support;
mod walkthrough;
