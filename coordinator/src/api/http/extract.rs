//! Reading requests: bodies, paths and queries whose errors are problem documents.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{FromRequest, FromRequestParts, Request};
use http::request::Parts;
use http::{HeaderMap, header};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use unanimity_types::{ErrorCode, Xid};

use super::problem::Failure;
use crate::api::guard;

/// A JSON body. An empty one is `{}`: calls whose every field is optional need no body.
///
/// The content type must be JSON: a form on somebody's web page can post any text to a local port, but
/// not with this type unless we allowed it.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let is_json = is_json(request.headers());
        let body = Bytes::from_request(request, state).await.map_err(|rejection| unread(&rejection))?;
        if body.is_empty() {
            return parse(b"{}").map(Self);
        }
        if !is_json {
            let message =
                "the body must be JSON: send the header content-type: application/json (curl: --json)";
            return Err(Failure::new(ErrorCode::InvalidRequest, message));
        }
        parse(&body).map(Self)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::new(ErrorCode::InvalidRequest, format!("body: {error}")))
}

pub(super) fn unread(rejection: &BytesRejection) -> Failure {
    match rejection {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => Failure::new(
            ErrorCode::MessageTooLarge,
            "the body is larger than the coordinator takes; keep large data in your database and pass its key",
        ),
        _ => Failure::new(ErrorCode::InvalidRequest, "the body could not be read to its end"),
    }
}

/// The xid in the path.
#[derive(Debug, Clone, Copy)]
pub(super) struct PathXid(pub(super) Xid);

/// An xid's text as an xid.
pub(super) fn xid(text: &str) -> Result<Xid, Failure> {
    text.parse().map_err(|error: unanimity_types::ParseXidError| {
        Failure::new(ErrorCode::InvalidXid, error.to_string())
    })
}

impl<S: Send + Sync> FromRequestParts<S> for PathXid {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        // A map, so that paths with more parameters work too.
        let path = axum::extract::Path::<std::collections::HashMap<String, String>>::from_request_parts(
            parts, state,
        )
        .await
        .map_err(|_| Failure::new(ErrorCode::InvalidXid, "the xid in the path is not valid text"))?;
        xid(path.get("xid").map_or("", String::as_str)).map(Self)
    }
}

/// The query, with unknown parameters refused.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        axum::extract::Query::<T>::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Query(query)| Self(query))
            .map_err(|rejection| {
                Failure::new(ErrorCode::InvalidRequest, format!("query: {}", reason(&rejection)))
            })
    }
}

/// The innermost error says it best.
fn reason(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), reason)
}

/// The deadline that the guard set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(pub(super) Instant);

impl<S: Send + Sync> FromRequestParts<S> for Deadline {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        // Always there behind the guard; without one a second is as good as any.
        let deadline = parts.extensions.get::<guard::Deadline>().map(|deadline| deadline.0);
        Ok(Self(deadline.unwrap_or_else(|| Instant::now() + std::time::Duration::from_secs(1))))
    }
}
