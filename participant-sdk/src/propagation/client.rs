//! The client's layer: for tonic channels and every other tower client of HTTP requests.

use std::task::{self, Poll};

use futures::future::BoxFuture;
use tower::{Layer, Service};

use crate::context::Context;
use crate::propagation::call::OutgoingCall;

/// Sends the current transaction's context along with each request, and takes the votes out of
/// the answers. Outside of a transaction it does nothing.
///
/// ```no_run
/// use tower::ServiceBuilder;
/// use unanimity_sdk::ClientLayer;
///
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let channel = tonic::transport::Endpoint::from_static("http://inventory:9000").connect_lazy();
/// let channel = ServiceBuilder::new().layer(ClientLayer::new()).service(channel);
/// // let inventory = InventoryClient::new(channel);
/// # Ok(()) }
/// ```
///
/// Put a layer that retries *below* this one: then all its attempts are one call, with one id,
/// and the callee makes one branch of them (protocol H8).
#[derive(Debug, Clone, Copy, Default)]
pub struct ClientLayer {
    _private: (),
}

impl ClientLayer {
    /// The layer.
    #[must_use]
    pub const fn new() -> Self {
        Self { _private: () }
    }
}

impl<S> Layer<S> for ClientLayer {
    type Service = ClientService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ClientService { inner }
    }
}

/// What [`ClientLayer`] makes of a service.
#[derive(Debug, Clone)]
pub struct ClientService<S> {
    inner: S,
}

impl<S, B, R> Service<http::Request<B>> for ClientService<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    S::Error: std::fmt::Display,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let Some(context) = Context::current() else {
            return Box::pin(self.inner.call(request));
        };
        let call = OutgoingCall::new(context);
        call.write_to(request.headers_mut());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            match &answer {
                Ok(response) => call.answered(response.status(), response.headers()),
                Err(error) => call.failed(error),
            }
            answer
        })
    }
}
