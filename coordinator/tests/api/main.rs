//! The coordinator's interfaces over real connections: HTTP, gRPC, the command line.

mod bad_input;
mod cli;
mod docs;
mod grpc;
mod health;
mod http;
mod limits;
mod shutdown;
mod support;
