//! Ports for servers that die and come back at the same address.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::Context;

/// A port of the loopback interface on which nothing listens, below the range from which the kernel takes ports of
/// outgoing connections: one of those could take it while the server is down.
///
/// # Errors
/// There is none, which no machine has shown yet.
pub fn free_port() -> anyhow::Result<u16> {
    (0..1000)
        .map(|_| fastrand::u16(15_000..32_000))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .context("no free port between 15000 and 32000")
}

/// The loopback interface with a free port.
///
/// # Errors
/// See [`free_port`].
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)))
}
