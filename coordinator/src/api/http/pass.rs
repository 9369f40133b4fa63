//! HTTP calls about one partition, on their way to its owner: passed on as they are, so that the owner's own answer
//! comes back, whatever it says.
//!
//! What a caller may leave to the coordinator (the xid of a begin, a branch's key) is minted where the call came in and
//! travels in a header: the call stays the same command wherever it goes.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest as _, Request, State as Shared};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::{Service as _, ServiceExt as _};
use unanimity_proto::{HOPS_HEADER, OWNER_HEADER};
use unanimity_types::{ErrorCode, PartitionId, Ticket, Xid};
use uuid::Uuid;

use super::State;
use super::extract::unread;
use super::problem::Problem;
use crate::api::guard;
use crate::cluster::{By, Call, Carried, Failure, Lane, Router, closing};
use crate::engine::Error;

/// What the node where a call came in minted for it: a UUID.
const MINTED_HEADER: &str = "unanimity-minted";
/// The longest answer that is passed on: a transaction with all branches that it may have.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What is between two nodes only, or said anew for the next one.
const NOT_PASSED: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What a call's body does not name, as the node where it came in minted it; in the request's extensions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Minted {
    /// A begin's xid, a branch's key.
    pub(super) uuid: Uuid,
    /// The xid's ticket, if its partition is this node's.
    pub(super) ticket: Option<Ticket>,
}

/// The middleware.
pub(super) async fn pass(Shared(state): Shared<State>, request: Request, next: Next) -> Response {
    let Some(router) = state.handlers.router() else { return next.run(request).await };
    let path = request.uri().path().to_owned();
    let Some(about) = About::of(request.method(), &path) else {
        return next.run(request).await;
    };
    let (mut parts, body) = request.into_parts();
    // As the handlers read it, so that a body that cannot be read is answered as they would.
    let limited = Request::from_parts(parts.clone(), body);
    let body = match Bytes::from_request(limited, &()).await {
        Ok(body) => body,
        Err(rejection) => return unread(&rejection).into_response(),
    };
    let minted = about.mint(&parts.headers, &body, router);
    let Some(to) = about.partition(&body, minted, router) else {
        // What the handlers refuse needs no owner.
        return next.run(Request::from_parts(parts, Body::from(body))).await;
    };
    if let Some(minted) = minted {
        parts.extensions.insert(minted);
    }
    let deadline = parts.extensions.get::<guard::Deadline>().map(|deadline| deadline.0);
    let by = By {
        deadline: deadline.unwrap_or_else(|| Instant::now() + std::time::Duration::from_secs(1)),
        hops: hops(&parts.headers),
    };
    let is_repeatable = about.is_repeatable();
    let passed =
        Passed { parts, body, next, minted, is_repeatable, hops: by.hops, closing: state.closing.clone() };
    match router.carry(&passed, to, by).await {
        Ok(Carried { mut answer, owner }) => {
            if let Some(owner) = owner.and_then(|owner| HeaderValue::from_str(&owner).ok()) {
                answer.headers_mut().insert(OWNER_HEADER, owner);
            }
            answer
        }
        Err(error) => Problem::new(&error).into_response(),
    }
}

fn hops(headers: &HeaderMap) -> u32 {
    let hops = headers.get(HOPS_HEADER).and_then(|hops| hops.to_str().ok());
    hops.and_then(|hops| hops.parse().ok()).unwrap_or(0)
}

/// What a path is about, if that is one partition.
enum About<'a> {
    Begin,
    /// An xid, and what of it.
    Transaction(&'a str, &'a str),
    Partition(&'a str),
}

impl<'a> About<'a> {
    fn of(method: &Method, path: &'a str) -> Option<Self> {
        let path = path.strip_prefix("/v1/")?;
        match path.split_once('/') {
            None if path == "transactions" && method == Method::POST => Some(Self::Begin),
            Some(("transactions", rest)) => {
                let (xid, what) = rest.split_once('/').unwrap_or((rest, ""));
                Some(Self::Transaction(xid, what))
            }
            Some(("partitions", rest)) => rest.split_once('/').map(|(number, _)| Self::Partition(number)),
            _ => None,
        }
    }

    /// An operator's second try is a second action, on record as such.
    fn is_repeatable(&self) -> bool {
        match self {
            Self::Begin => true,
            Self::Transaction(_, what) => *what != "retry" && !what.ends_with("/resolve"),
            Self::Partition(_) => false,
        }
    }

    /// What the body leaves to us, or to the node that passed the call on.
    fn mint(&self, headers: &HeaderMap, body: &Bytes, router: &Router) -> Option<Minted> {
        let leaves_it_to_us = match self {
            Self::Begin => Names::of(body).xid.is_none(),
            Self::Transaction(_, "branches") => true,
            Self::Transaction(..) | Self::Partition(_) => false,
        };
        if !leaves_it_to_us {
            return None;
        }
        // Only what another node passed on: a client that sends the header would have two begins of one xid.
        let by_another = headers.get(MINTED_HEADER).filter(|_| hops(headers) > 0);
        let by_another = by_another.and_then(|minted| minted.to_str().ok()?.parse().ok());
        Some(match (by_another, self) {
            (Some(uuid), _) => Minted { uuid, ticket: None },
            (None, Self::Begin) => {
                let (xid, ticket) = router.mint();
                Minted { uuid: xid.uuid(), ticket }
            }
            (None, _) => Minted { uuid: Uuid::new_v4(), ticket: None },
        })
    }

    fn partition(&self, body: &Bytes, minted: Option<Minted>, router: &Router) -> Option<PartitionId> {
        match self {
            Self::Begin => {
                let xid = match Names::of(body).xid {
                    Some(xid) => xid.parse().ok()?,
                    None => Xid::new(minted?.uuid),
                };
                Some(router.partition_of(xid))
            }
            Self::Transaction(xid, _) => Some(router.partition_of(xid.parse().ok()?)),
            Self::Partition(number) => number.parse().ok().map(PartitionId),
        }
    }
}

/// What a body names, as far as it matters to where the call goes.
#[derive(Debug, Default, Deserialize)]
struct Names {
    xid: Option<String>,
}

impl Names {
    /// Of a body that is none of ours: nothing. The handler says what is wrong with it.
    fn of(body: &Bytes) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }
}

struct Passed {
    parts: http::request::Parts,
    body: Bytes,
    next: Next,
    minted: Option<Minted>,
    is_repeatable: bool,
    hops: u32,
    closing: CancellationToken,
}

impl Call for Passed {
    type Answer = Response;

    fn is_repeatable(&self) -> bool {
        self.is_repeatable
    }

    async fn here(&self) -> Result<Response, Error> {
        let request = Request::from_parts(self.parts.clone(), Body::from(self.body.clone()));
        let answered = self.next.clone().run(request);
        let mut response = if self.hops > 0 && self.parts.method == Method::GET {
            tokio::select! {
                biased;
                // Whoever passed the look on goes on waiting at the next owner.
                () = self.closing.cancelled() => return Err(closing()),
                response = answered => response,
            }
        } else {
            answered.await
        };
        // What only this node cannot do is tried elsewhere.
        match response.extensions_mut().remove::<Error>() {
            Some(error) if !matches!(Failure::of(error.clone()), Failure::Refused(_)) => Err(error),
            _ => Ok(response),
        }
    }

    async fn there(&self, lane: &Lane, hops: u32, until: Instant) -> Result<Carried<Response>, Failure> {
        let is_look = self.parts.method == Method::GET;
        let response = if is_look {
            // The node stops: the caller is told what is known and asks again elsewhere.
            tokio::select! {
                biased;
                () = self.closing.cancelled() => self.send(lane, hops, until, self.parts.uri.path()).await?,
                response = self.send(lane, hops, until, self.path()) => response?,
            }
        } else {
            self.send(lane, hops, until, self.path()).await?
        };
        let (mut parts, body) = response.into_parts();
        let body = to_bytes(Body::new(body), ANSWER_BYTES_MAX).await;
        let body = body.map_err(|_| Failure::broke(&lane.address))?;
        if let Some(failure) = refusal(parts.status, &body) {
            return Err(failure);
        }
        let owner = parts.headers.remove(OWNER_HEADER);
        let owner = owner.and_then(|owner| owner.to_str().ok().map(Into::into));
        for name in &NOT_PASSED {
            parts.headers.remove(name);
        }
        Ok(Carried { answer: Response::from_parts(parts, Body::from(body)), owner })
    }
}

impl Passed {
    fn path(&self) -> &str {
        self.parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
    }

    async fn send(
        &self,
        lane: &Lane,
        hops: u32,
        until: Instant,
        path: &str,
    ) -> Result<http::Response<tonic::body::Body>, Failure> {
        let left = until.saturating_duration_since(Instant::now());
        let request = self.request(path, hops, left).map_err(|error| {
            Failure::Refused(Error::new(
                ErrorCode::Internal,
                format!("the call cannot be passed on: {error}"),
            ))
        })?;
        let mut channel = lane.channel.clone();
        let broken = |error| Failure::of_transport(&error, &lane.address);
        channel.ready().await.map_err(broken)?.call(request).await.map_err(broken)
    }

    fn request(
        &self,
        path: &str,
        hops: u32,
        left: std::time::Duration,
    ) -> Result<http::Request<tonic::body::Body>, http::Error> {
        let mut request = http::Request::builder().method(self.parts.method.clone()).uri(path);
        if let Some(headers) = request.headers_mut() {
            *headers = self.parts.headers.clone();
            for name in &NOT_PASSED {
                headers.remove(name);
            }
            headers.insert(HOPS_HEADER, HeaderValue::from(hops));
            // The owner's answer is of no use later. At most eight digits, as gRPC has it.
            let millis = left.as_millis().min(99_999_999);
            headers.insert("grpc-timeout", HeaderValue::from_str(&format!("{millis}m"))?);
            if let Some(minted) = &self.minted {
                headers.insert(MINTED_HEADER, HeaderValue::from_str(&minted.uuid.to_string())?);
            }
        }
        request.body(tonic::body::Body::new(Body::from(self.body.clone())))
    }
}

/// An answer that is no answer of the partition's owner.
fn refusal(status: StatusCode, body: &Bytes) -> Option<Failure> {
    #[derive(Deserialize)]
    struct Said {
        code: String,
        detail: String,
        owner: Option<String>,
    }
    if status != StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    let said: Said = serde_json::from_slice(body).ok()?;
    let mut error = Error::new(said.code.parse().ok()?, said.detail);
    error.owner = said.owner;
    match Failure::of(error) {
        // The owner says so: word for word.
        Failure::Refused(_) => None,
        failure => Some(failure),
    }
}
