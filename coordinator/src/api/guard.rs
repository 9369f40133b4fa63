//! What every call passes: a bounded number in hand, a deadline, a metric.
//!
//! It stands before the body is read, so that calls beyond the bound cost nothing but their header.
//! Streams without an end of their own (attached sessions, commands, health watches, reflection) and the
//! pages that tell how the node is pass freely: they must work when nothing else does, and have bounds of
//! their own. Each command of a stream counts as a call in hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue};
use tokio::sync::{Semaphore, TryAcquireError};
use tokio::time::Instant;
use tonic::Code;
use unanimity_proto::HOPS_HEADER;
use unanimity_types::ErrorCode;

use super::{grpc, http as web};
use crate::config::Config;
use crate::engine::Error;
use crate::telemetry::Metrics;

/// What a client that met a full node should wait: long enough to spread, short enough to notice.
const TOO_BUSY_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Until when the caller wants its answer; in every request's extensions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(pub(super) Instant);

/// The calls in hand.
#[derive(Debug, Clone)]
pub struct Calls {
    permits: Arc<Semaphore>,
    max: u32,
    /// No more are taken: the node stops.
    over: Arc<AtomicBool>,
}

impl Calls {
    /// Resolves when no call is in hand; none is taken afterwards.
    pub async fn idle(self) {
        self.over.store(true, Ordering::Relaxed);
        // All permits at once: every call gave its own back. Held for ever, since nothing comes after.
        if let Ok(permits) = self.permits.acquire_many(self.max).await {
            permits.forget();
        }
    }

    /// What a stream of commands counts its own with.
    pub(super) fn hand(&self) -> Hand {
        Hand { calls: self.clone(), taken: 0 }
    }

    /// Why a call was not taken. A node that passed it on is told that it may go on asking.
    fn refusal(&self, was_passed_on: bool) -> Error {
        if !self.over.load(Ordering::Relaxed) {
            return too_busy();
        }
        let code = if was_passed_on { ErrorCode::NotOwner } else { ErrorCode::Unavailable };
        Error::new(code, "this node is shutting down; try another one").retry_after(TOO_BUSY_RETRY_AFTER)
    }
}

/// The commands of one stream among the calls in hand: each counts as a call, without the stream counting as one.
#[derive(Debug)]
pub(super) struct Hand {
    calls: Calls,
    taken: usize,
}

impl Hand {
    /// Takes one more; not if the node has as many as it takes.
    pub(super) fn take(&mut self) -> bool {
        let Ok(permit) = self.calls.permits.try_acquire() else { return false };
        permit.forget();
        self.taken += 1;
        true
    }

    /// Gives so many back.
    pub(super) fn give(&mut self, count: usize) {
        let count = count.min(self.taken);
        self.taken -= count;
        self.calls.permits.add_permits(count);
    }

    /// Why it took none.
    pub(super) fn refusal(&self) -> Error {
        self.calls.refusal(false)
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.give(self.taken);
    }
}

/// The guard's state.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    calls: Calls,
    request_timeout: Duration,
    metrics: Arc<Metrics>,
}

impl Guard {
    pub(super) fn new(config: &Config, metrics: Arc<Metrics>) -> Self {
        // Validated to be at most 1,000,000.
        let max = u32::try_from(config.limits.in_flight_max).unwrap_or(u32::MAX);
        let permits = Arc::new(Semaphore::new(config.limits.in_flight_max));
        Self {
            calls: Calls { permits, max, over: Arc::default() },
            request_timeout: config.timeouts.request(),
            metrics,
        }
    }

    pub(super) fn calls(&self) -> Calls {
        self.calls.clone()
    }
}

/// The middleware.
pub(super) async fn pass(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let is_grpc = grpc::is_grpc(request.headers());
    let route = route_of(&request);
    let response = if is_free(request.uri().path()) {
        next.run(request).await
    } else {
        match guard.calls.permits.try_acquire() {
            Ok(_permit) => {
                let timeout = requested_timeout(request.headers())
                    .map_or(guard.request_timeout, |wanted| wanted.min(guard.request_timeout));
                let deadline = started + timeout;
                request.extensions_mut().insert(Deadline(deadline));
                match tokio::time::timeout_at(deadline, next.run(request)).await {
                    Ok(response) => response,
                    Err(_) => answer(is_grpc, &deadline_exceeded(timeout)),
                }
            }
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                let was_passed_on = request.headers().contains_key(HOPS_HEADER);
                answer(is_grpc, &guard.calls.refusal(was_passed_on))
            }
        }
    };
    let response = if is_grpc { explain(response) } else { response };
    guard.metrics.request(&route, &code_of(&response, is_grpc), started.elapsed());
    response
}

/// An error in the caller's language.
fn answer(is_grpc: bool, error: &Error) -> Response {
    if is_grpc { grpc::status(error).into_http() } else { web::problem(error).into_response() }
}

fn too_busy() -> Error {
    Error::new(ErrorCode::TooBusy, "this node has as many calls in hand as it takes; try again")
        .retry_after(TOO_BUSY_RETRY_AFTER)
}

pub(super) fn deadline_exceeded(timeout: Duration) -> Error {
    let message = format!(
        "no answer within {} ms; a command that was sent may still take effect: ask, or repeat it with the same xid",
        timeout.as_millis()
    );
    Error::new(ErrorCode::DeadlineExceeded, message)
}

/// What passes freely, see the module's text.
fn is_free(path: &str) -> bool {
    matches!(path, "/" | "/healthz" | "/readyz" | "/metrics" | "/openapi.json")
        || path == grpc::COMMANDS
        || path.starts_with("/unanimity.v1.Participants/")
        || path.starts_with("/grpc.health.v1.")
        || path.starts_with("/grpc.reflection.v1.")
}

/// The route's pattern: few values, no xids. Of gRPC the method, if it is one of ours.
fn route_of(request: &Request) -> String {
    let path = request.uri().path();
    if grpc::METHODS.contains(&path) {
        return path.to_owned();
    }
    let matched = request.extensions().get::<MatchedPath>();
    let pattern = matched.map_or("unmatched", MatchedPath::as_str);
    format!("{} {pattern}", method_of(request))
}

/// The method, if it is a common one: others are the client's invention.
fn method_of(request: &Request) -> &'static str {
    match request.method().as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "OTHER",
    }
}

/// The code for the metric: the HTTP status, or gRPC's if it is in the header (a streaming answer's
/// own end is in its trailers, which have not come yet).
fn code_of(response: &Response, is_grpc: bool) -> String {
    if !is_grpc {
        return response.status().as_u16().to_string();
    }
    let code = response
        .headers()
        .get(tonic::Status::GRPC_STATUS)
        .map_or(Code::Ok, |v| Code::from_bytes(v.as_bytes()));
    format!("grpc_{}", code as i32)
}

/// tonic refuses messages over the limit by itself, before any handler: the stable code is added here.
fn explain(response: Response) -> Response {
    let too_large = response.headers().get(tonic::Status::GRPC_STATUS)
        == Some(&HeaderValue::from_static("11"))
        && response.headers().get("grpc-status-details-bin").is_none();
    if !too_large {
        return response;
    }
    let error = Error::new(
        ErrorCode::MessageTooLarge,
        "the message is larger than the coordinator takes; keep large data in your database and pass its key",
    );
    grpc::status(&error).into_http()
}

/// The deadline that a gRPC client sends: up to eight digits and a unit.
fn requested_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_str(text).expect("a header"));
            requested_timeout(&headers)
        };
        assert_eq!(read("200m"), Some(Duration::from_millis(200)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for text in ["", "m", "200", "200x", "-1m", "999999999m", "1 m"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}
