//! Delivery against real participants: HTTP servers, gRPC servers, attached sessions, all misbehaving.
// The random test prints its seed.
#![allow(clippy::print_stdout)]

mod allow;
mod engine;
mod growth;
mod grpc;
mod http;
mod isolation;
mod modes;
mod pinned;
mod random;
mod sessions;
mod sessions_bad;
mod shutdown;
mod support;
