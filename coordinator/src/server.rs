//! One port for everything: gRPC, HTTP/JSON, health, metrics; HTTP/1.1 and HTTP/2 without TLS.
//!
//! `axum::serve` and `tonic::transport::Server` each leave limits unset that we need on one port, so
//! the accept loop is ours. What it bounds:
//! - connections at once, and how long one may stay without a first request or a complete header;
//! - HTTP/2 streams of one connection, bytes of headers, silence (keepalive);
//! - the end: see [`serve`].

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use unanimity_proto::Connection as BothWays;

use crate::config::Limits;

/// How long a client may take for the header of an HTTP/1 request.
const HEADER_READ_MAX: Duration = Duration::from_secs(10);
/// How long a connection may stay without any request: clients that connect ahead come back.
const FIRST_REQUEST_MAX: Duration = Duration::from_secs(60);
/// A ping after so much silence finds peers that went without a word; well below the 60 s after which
/// common load balancers drop silent connections.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long the answer to a ping may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// After the last call was answered: for its bytes to leave. What is still open then are streams
/// without an end of their own.
const LAST_BYTES: Duration = Duration::from_millis(500);
/// After a failed accept (out of file descriptors): neither spin nor give up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How the server stops.
#[derive(Debug)]
pub struct Stop<S, I> {
    /// Resolves when it shall stop.
    pub signal: S,
    /// Resolves when no call is in hand any more. Asked only after `signal`.
    pub idle: I,
    /// The longest wait for `idle`.
    pub limit: Duration,
}

/// Where connections come in.
pub trait Accept: Send + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next one. May be dropped and asked again without losing any.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

impl Accept for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        let (stream, _) = Self::accept(self).await?;
        // Small answers must not wait for the next one.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

/// Connections that somebody else accepts: see [`crate::node::NodeBuilder::incoming`].
pub struct Incoming(BoxStream<'static, io::Result<Box<dyn BothWays>>>);

impl Incoming {
    /// The connections of this stream.
    pub fn new<S, IO>(connections: S) -> Self
    where
        S: Stream<Item = io::Result<IO>> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self(Box::pin(connections.map(|accepted| accepted.map(|io| Box::new(io) as Box<dyn BothWays>))))
    }
}

impl Accept for Incoming {
    type Io = Box<dyn BothWays>;

    async fn accept(&mut self) -> io::Result<Self::Io> {
        match self.0.next().await {
            Some(accepted) => accepted,
            // No more come; those that are open are served.
            None => std::future::pending().await,
        }
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").finish_non_exhaustive()
    }
}

/// Serves connections until told to stop.
///
/// Then it stops accepting, asks every connection to finish (HTTP/2 GOAWAY, `connection: close`),
/// waits until all are gone or no call is in hand, at most `limit`, and closes what is left: streams
/// that have no end of their own (attached sessions, health watches). So it always returns within
/// `limit` and half a second.
pub async fn serve<A, S, I>(mut doors: A, routes: Router, limits: &Limits, stop: Stop<S, I>)
where
    A: Accept,
    S: Future<Output = ()> + Send,
    I: Future<Output = ()> + Send,
{
    let builder = Arc::new(connection_builder(limits));
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    let closing = CancellationToken::new();
    let mut connections = JoinSet::new();
    let mut signal = std::pin::pin!(stop.signal);

    loop {
        // Reap finished connections, so that the set holds only live ones.
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            biased;
            () = &mut signal => break,
            accepted = accept(&mut doors, &slots) => accepted,
        };
        if let Some((stream, slot)) = accepted {
            let connection = Connection {
                builder: Arc::clone(&builder),
                routes: routes.clone(),
                closing: closing.clone(),
            };
            connections.spawn(async move {
                connection.run(stream).await;
                drop(slot);
            });
        }
    }

    drop(doors);
    closing.cancel();
    let all_gone = async { while connections.join_next().await.is_some() {} };
    let calls_answered = async {
        if tokio::time::timeout(stop.limit, stop.idle).await.is_err() {
            tracing::warn!(limit = ?stop.limit, "calls are still in hand at the end of the time to stop");
        }
        tokio::time::sleep(LAST_BYTES).await;
    };
    tokio::select! {
        () = all_gone => {}
        () = calls_answered => {}
    }
    connections.shutdown().await;
}

/// The next connection with its slot. `None` after a failed accept.
async fn accept<A: Accept>(
    doors: &mut A,
    slots: &Arc<Semaphore>,
) -> Option<(A::Io, tokio::sync::OwnedSemaphorePermit)> {
    // A slot first: connections beyond the limit wait in the listener's queue, at no cost to us.
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match doors.accept().await {
        Ok(stream) => Some((stream, slot)),
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

struct Connection {
    builder: Arc<Builder<TokioExecutor>>,
    routes: Router,
    closing: CancellationToken,
}

impl Connection {
    async fn run(self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let used = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&used);
        let service = self.routes.map_request(move |request: http::Request<hyper::body::Incoming>| {
            seen.store(true, Ordering::Relaxed);
            request.map(axum::body::Body::new)
        });
        let connection =
            self.builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let mut connection = std::pin::pin!(connection);
        let mut closing = std::pin::pin!(self.closing.cancelled_owned());
        let mut first_request = std::pin::pin!(tokio::time::sleep(FIRST_REQUEST_MAX));
        let (mut is_closing, mut is_checked) = (false, false);
        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "a connection ended");
                    }
                    return;
                }
                () = &mut closing, if !is_closing => {
                    is_closing = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = &mut first_request, if !is_checked => {
                    is_checked = true;
                    if !used.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        }
    }
}

fn connection_builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_MAX)
        .max_buf_size(usize::try_from(limits.header_bytes_max).unwrap_or(usize::MAX));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.concurrent_streams_max)
        .max_header_list_size(limits.header_bytes_max)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
}
