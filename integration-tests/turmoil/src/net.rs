//! The product's connections, made over turmoil's network: what a user would give it for another transport.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures::Stream;
use http::Uri;
use turmoil::net::{TcpListener, TcpStream};
use unanimity_sdk::Connector;

use crate::hits::Hit;
use crate::record::Record;

/// Where coordinators listen.
pub(crate) const COORDINATOR_PORT: u16 = 7_460;
/// The name that stands for all coordinators.
pub(crate) const ALL_NODES: &str = "coordinators";
/// How many there are.
pub(crate) const NODES: usize = 3;

/// The name of a node, and of its host.
pub(crate) fn node_name(place: usize) -> String {
    format!("node-{place}")
}

/// A connector to hosts by their names, and to [`ALL_NODES`] by its several addresses.
pub(crate) fn connector(record: &Arc<Record>) -> Connector {
    let record = Arc::clone(record);
    Connector::new(connect).resolving(move |name, port| {
        let found = addresses(&name, port);
        if found.len() > 1 {
            record.hit(Hit::NameOfSeveral);
        }
        async move { Ok(found) }
    })
}

async fn connect(uri: Uri) -> io::Result<TcpStream> {
    let port = uri.port_u16().unwrap_or(80);
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    // One after the other, as a connector by TCP does with the addresses of a name.
    for address in addresses(uri.host().unwrap_or_default(), port) {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn addresses(name: &str, port: u16) -> Vec<SocketAddr> {
    if name == ALL_NODES {
        return (0..NODES).map(|place| (turmoil::lookup(node_name(place)), port).into()).collect();
    }
    let address = name.parse::<IpAddr>().unwrap_or_else(|_| turmoil::lookup(name));
    vec![(address, port).into()]
}

/// The connections that come to this host.
pub(crate) async fn incoming(port: u16) -> io::Result<impl Stream<Item = io::Result<TcpStream>> + Send> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    Ok(futures::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    }))
}

/// A host's listener, for axum.
pub(crate) struct Door(pub(crate) TcpListener);

impl axum::serve::Listener for Door {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            if let Ok(accepted) = self.0.accept().await {
                return accepted;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}
