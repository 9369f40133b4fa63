//! Errors of handlers.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// Something of ours failed: 503. What it was stays in our log.
#[derive(Debug)]
pub struct Failure;

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error: anyhow::Error = error.into();
        tracing::error!(error = format!("{error:#}"), "a request failed");
        Self
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, "it failed here; send it again").into_response()
    }
}
