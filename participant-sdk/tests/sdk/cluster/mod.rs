//! The SDK and a coordinator of several nodes: whom it asks, whom it asks next, and with whom participants keep sessions.

mod failover;
mod routing;
mod sessions;
