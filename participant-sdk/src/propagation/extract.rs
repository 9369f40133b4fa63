//! The context as an axum extractor.

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use crate::context::Context;

/// A handler that must run inside a transaction was called outside of one, or without
/// [`crate::ServerLayer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this request must be part of a transaction: send the header unanimity-xid")]
pub struct MissingTransaction;

impl IntoResponse for MissingTransaction {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, self.to_string()).into_response()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Context {
    type Rejection = MissingTransaction;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingTransaction> {
        parts.extensions.get::<Self>().cloned().ok_or(MissingTransaction)
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for Context {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}
