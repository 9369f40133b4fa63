//! Errors as RFC 9457 problem documents.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use unanimity_types::ErrorCode;
use utoipa::ToSchema;

use crate::engine::Error;

/// Where the documentation of a code is, relative to the project's documentation.
const DOCS: &str = "/docs/errors/";

/// An error (RFC 9457).
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// The page that explains the code.
    #[serde(rename = "type")]
    #[schema(example = "/docs/errors/already_decided.md")]
    pub(crate) kind: String,
    /// The code in words.
    #[schema(example = "already decided")]
    pub(crate) title: String,
    /// The HTTP status.
    #[schema(example = 409)]
    pub(crate) status: u16,
    /// What happened here, and what to do.
    pub(crate) detail: String,
    /// The stable code.
    #[schema(example = "already_decided")]
    pub(crate) code: String,
    /// The transaction that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) xid: Option<String>,
    /// The transaction's true status, where that is the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) transaction_status: Option<String>,
    /// Why the transaction was aborted, where that is the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) abort_reason: Option<String>,
    /// When to try again, in seconds, rounded up; also in the header `Retry-After`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retry_after: Option<u64>,
    /// `lock_conflict`: the xid of the transaction that holds the lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) holder: Option<String>,
    /// Where the partition's owner is, if that is another node: go there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "http://10.0.0.5:7460")]
    pub(crate) owner: Option<String>,
}

impl Problem {
    pub(crate) fn new(error: &Error) -> Self {
        Self {
            kind: format!("{DOCS}{}.md", error.code),
            title: error.code.as_str().replace('_', " "),
            status: error.code.http_status(),
            detail: error.message.clone(),
            code: error.code.to_string(),
            xid: error.xid.map(|xid| xid.to_string()),
            transaction_status: error.status.map(|status| status.to_string()),
            abort_reason: error.abort_reason.map(|reason| reason.to_string()),
            retry_after: error.retry_after.map(whole_seconds),
            holder: error.holder.map(|xid| xid.to_string()),
            owner: error.owner.clone(),
        }
    }
}

/// `Retry-After` knows whole seconds only; a second too late is better than too early.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// An error on its way out of a handler.
#[derive(Debug)]
pub(super) struct Failure(Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<unanimity_proto::InvalidWire> for Failure {
    fn from(invalid: unanimity_proto::InvalidWire) -> Self {
        Self(invalid.into())
    }
}

impl Failure {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(Error::new(code, message))
    }

    /// The same where the request has no plan that could be invalid.
    pub(super) fn without_plan(mut self) -> Self {
        if self.0.code == ErrorCode::InvalidPlan {
            self.0.code = ErrorCode::InvalidRequest;
        }
        self
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = Problem::new(&self.0).into_response();
        // For whoever decides whether another node is asked.
        response.extensions_mut().insert(self.0);
        response
    }
}
