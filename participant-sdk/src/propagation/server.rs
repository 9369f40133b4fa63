//! The server's layer: for axum, tonic and every other tower server of HTTP requests.

use std::task::{self, Poll};

use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tower::{Layer, Service};
use unanimity_proto::{CONTEXT_HEADER, VOTES_HEADER};

use crate::context::Context;
use crate::propagation::call::TRACEPARENT;
use crate::wire::InvalidContext;

/// Makes the transaction of a request the current one while its handler runs, and puts the votes
/// of the branches that tried into the answer. Requests without a context pass unchanged; one
/// whose context cannot be read is refused, since its work must not happen outside of its
/// transaction.
///
/// ```
/// # #[cfg(feature = "axum")] {
/// use axum::{Router, routing::post};
/// use unanimity_sdk::{Context, ServerLayer};
///
/// let app: Router = Router::new()
///     .route("/reserve", post(async || format!("{:?}", Context::current().map(|c| c.xid()))))
///     .layer(ServerLayer::new());
/// # }
/// ```
///
/// For tonic: `Server::builder().layer(ServerLayer::new())`. The votes go with the head of the
/// answer, so branches must have tried when the handler returns: a streaming answer carries only
/// the votes of what was tried before it began.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServerLayer {
    _private: (),
}

impl ServerLayer {
    /// The layer.
    #[must_use]
    pub const fn new() -> Self {
        Self { _private: () }
    }
}

impl<S> Layer<S> for ServerLayer {
    type Service = ServerService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ServerService { inner }
    }
}

/// What [`ServerLayer`] makes of a service.
#[derive(Debug, Clone)]
pub struct ServerService<S> {
    inner: S,
}

impl<S, B, R> Service<http::Request<B>> for ServerService<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let context = match context_of(request.headers()) {
            Ok(None) => return Box::pin(self.inner.call(request)),
            Ok(Some(context)) => context,
            Err(error) => {
                tracing::warn!(%error, "refused a request whose transaction context cannot be read");
                let answer = refusal(request.headers(), &error);
                return Box::pin(async move { Ok(answer) });
            }
        };
        request.extensions_mut().insert(context.clone());
        // The handler's future may be made inside `call`, so that runs within the scope as well.
        let handler = context.sync_scope(|| self.inner.call(request));
        Box::pin(async move {
            let mut answer = context.scope(handler).await?;
            // Percent-encoded text is always a header value; without it the transaction aborts.
            if let Ok(votes) = HeaderValue::from_str(&context.votes_header()) {
                answer.headers_mut().insert(VOTES_HEADER, votes);
            }
            Ok(answer)
        })
    }
}

/// The context in a request's headers.
fn context_of(headers: &HeaderMap) -> Result<Option<Context>, InvalidContext> {
    let mut values = headers.get_all(CONTEXT_HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(InvalidContext::Malformed);
    }
    let text = value.to_str().map_err(|_| InvalidContext::Characters)?;
    // A W3C traceparent has 55 bytes; anything much longer is not one.
    let trace = headers.get(TRACEPARENT).filter(|value| value.len() <= 128).cloned();
    Ok(Some(Context::with_traceparent(text.parse()?, trace)))
}

/// 400 for HTTP, `INVALID_ARGUMENT` for gRPC.
fn refusal<R: Default>(headers: &HeaderMap, error: &InvalidContext) -> http::Response<R> {
    let mut answer = http::Response::new(R::default());
    let grpc = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        let answer = answer.headers_mut();
        answer.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        answer.insert("grpc-status", HeaderValue::from_static("3"));
        // The errors' texts are printable ASCII.
        if let Ok(message) = HeaderValue::from_str(&error.to_string()) {
            answer.insert("grpc-message", message);
        }
    } else {
        *answer.status_mut() = StatusCode::BAD_REQUEST;
    }
    answer
}
