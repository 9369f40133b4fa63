//! How connections are made where that is not to be by TCP and the system's name service: through a tunnel, over a Unix
//! socket, with a service discovery of one's own, over a simulated network.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint};
use tower::util::BoxCloneSyncService;

/// Both directions of a connection.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<IO: AsyncRead + AsyncWrite + Send + Unpin> Connection for IO {}

type Io = TokioIo<Box<dyn Connection>>;
type Boxed<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;
type Resolve = dyn Fn(String, u16) -> Boxed<Vec<SocketAddr>> + Send + Sync;

/// Makes the connections to coordinators, instead of TCP.
///
/// It is asked for a connection whenever one is needed, by the URI that is called: of an address that was given, or that
/// a node advertises. Where a name is resolved first (`resolving`), it is called with each of its addresses instead. How long
/// that may take is up to whoever asks.
#[derive(Clone)]
pub struct Connector {
    service: BoxCloneSyncService<Uri, Io, io::Error>,
    resolve: Option<Arc<Resolve>>,
}

impl Connector {
    /// Connects by this function.
    pub fn new<F, Fut, IO>(connect: F) -> Self
    where
        F: Fn(Uri) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = io::Result<IO>> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = tower::service_fn(move |uri| {
            let connecting = connect(uri);
            let connecting: Boxed<Io> =
                Box::pin(async move { Ok(TokioIo::new(Box::new(connecting.await?) as Box<dyn Connection>)) });
            connecting
        });
        Self { service: BoxCloneSyncService::new(service), resolve: None }
    }

    /// Looks up by this function for which addresses a name and port stand, where one name may stand for several
    /// coordinators. Without it no name does: what it means is the connecting function's matter alone.
    #[must_use]
    pub fn resolving<F, Fut>(mut self, resolve: F) -> Self
    where
        F: Fn(String, u16) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        self.resolve = Some(Arc::new(move |name, port| Box::pin(resolve(name, port))));
        self
    }

    /// A channel that connects when it is first used.
    #[must_use]
    pub fn lazily(&self, endpoint: &Endpoint) -> Channel {
        endpoint.connect_with_connector_lazy(self.service.clone())
    }

    /// The addresses that a name and port stand for now.
    ///
    /// # Errors
    /// What the function says that looks it up.
    pub async fn resolve(&self, name: String, port: u16) -> io::Result<Vec<SocketAddr>> {
        match &self.resolve {
            Some(resolve) => resolve(name, port).await,
            None => Ok(Vec::new()),
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("resolves", &self.resolve.is_some()).finish_non_exhaustive()
    }
}
