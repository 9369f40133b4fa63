//! Errors of handlers.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// Why a request fails: a status and a text for the caller.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    message: String,
}

impl Failure {
    /// The caller's mistake.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    /// Nothing there.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, message: message.into() }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        // What a database says stays in our log.
        let error: anyhow::Error = error.into();
        tracing::error!(error = format!("{error:#}"), "a request failed");
        Self { status: StatusCode::SERVICE_UNAVAILABLE, message: "the service's database failed".to_owned() }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, self.message).into_response()
    }
}
