//! Calls as the coordinator sends them, and their answers: the bodies and what a good answer means are delivery's own.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::value::RawValue;
use unanimity_core::ResultOutcome;
use unanimity_proto::CONTEXT_HEADER;
use unanimity_types::{
    BranchId, BranchKey, BranchKind, Epoch, Limits, LogPosition, Name, Operation, PartitionId, Seq, StepRole,
    Target, Vote, Xid,
};
use uuid::Uuid;

use super::urls::Urls;
use crate::delivery::{http_accepted, http_body};
use crate::engine::BranchCall;

/// What is read of an answer: the longest result that the coordinator takes, and one byte that shows it is longer.
const BODY_BYTES_MAX: usize = Limits::RESULT_BYTES_MAX + 1;
/// What is shown of an answer's body.
const SHOWN_CHARS_MAX: usize = 120;

/// One branch of one transaction: a participant must take it for another one if either of the two differs.
#[derive(Debug, Clone)]
pub(super) struct Branch {
    pub(super) xid: Xid,
    pub(super) key: BranchKey,
}

/// What an answer means to the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// 2xx.
    Done,
    /// 409.
    Refused,
    /// 425.
    NotYet,
    /// 408, 429, 5xx, or no whole answer: asked again.
    Unknown,
    /// 3xx and other 4xx: the address looks wrong.
    Unusable,
}

/// An answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) meaning: Meaning,
    /// The status, or why there was none.
    status: String,
    body: Vec<u8>,
}

impl Answer {
    /// The body byte by byte, if it is JSON.
    pub(super) fn json(&self) -> Option<Box<RawValue>> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The vote that the answer to a prepare names; one that names none is the vote `prepared`.
    pub(super) fn vote(&self) -> Option<Vote> {
        named_vote(&self.body)?.parse().ok()
    }

    /// The body as it came.
    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Whether the coordinator would take it as a result.
    pub(super) fn is_too_long(&self) -> bool {
        self.body.len() >= BODY_BYTES_MAX
    }

    /// For a report: the status and the begin of the body.
    pub(super) fn shown(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        let body: String = body.trim().chars().take(SHOWN_CHARS_MAX).collect();
        if body.is_empty() { self.status.clone() } else { format!("{} {body}", self.status) }
    }
}

/// Calls the participant.
#[derive(Debug)]
pub(super) struct Caller {
    client: Client,
    kind: BranchKind,
    urls: Urls,
    payload: Bytes,
    name: Name,
    /// Two branches of one transaction.
    keys: [BranchKey; 2],
    timeout: Duration,
    /// Stands for a coordinator's log, which lives longer than a transaction.
    log_id: String,
}

impl Caller {
    /// # Errors
    /// The system gives no HTTP client.
    pub(super) fn new(
        kind: BranchKind,
        urls: Urls,
        payload: &RawValue,
        timeout: Duration,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            client: client(timeout)?,
            kind,
            urls,
            payload: Bytes::copy_from_slice(payload.get().as_bytes()),
            name: Name::new("conformance")?,
            keys: [BranchKey::new("check-1")?, BranchKey::new("check-2")?],
            timeout,
            log_id: Uuid::new_v4().to_string(),
        })
    }

    /// The key of the first branch, or of the second one.
    pub(super) fn key(&self, place: usize) -> BranchKey {
        self.keys[place.min(1)].clone()
    }

    /// Calls and reads the whole answer.
    pub(super) async fn call(
        &self,
        operation: Operation,
        branch: &Branch,
        attempt: u32,
        result: Option<&RawValue>,
    ) -> Answer {
        let request = self.request(operation, branch, attempt, result);
        // The client's own timeout covers the same span; this one also holds if that has a gap.
        match tokio::time::timeout(self.timeout, async { read(operation, request.send().await?).await }).await
        {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => unanswered(format!("no whole answer: {}", chain(&error.without_url()))),
            Err(_) => unanswered(format!("no answer within {:?}", self.timeout)),
        }
    }

    /// Calls and hangs up: after `wait`, or, without one, as soon as the answer begins to come in. Nothing of it is read
    /// to its end, as if the coordinator had died then.
    pub(super) async fn hang_up(
        &self,
        operation: Operation,
        branch: &Branch,
        attempt: u32,
        result: Option<&RawValue>,
        wait: Option<Duration>,
    ) {
        let request = self.request(operation, branch, attempt, result);
        // Whatever becomes of it, the call after it judges.
        let _ = tokio::time::timeout(wait.unwrap_or(self.timeout), request.send()).await;
    }

    fn request(
        &self,
        operation: Operation,
        branch: &Branch,
        attempt: u32,
        result: Option<&RawValue>,
    ) -> RequestBuilder {
        let url = self.urls.of(operation);
        let call = BranchCall {
            xid: branch.xid,
            transaction_name: Some(self.name.clone()),
            branch_id: BranchId(1),
            key: branch.key.clone(),
            operation,
            target: Target::Http(url.as_str().into()),
            payload: self.payload.clone(),
            attempt,
            position: LogPosition { partition: PartitionId(0), epoch: Epoch(1), epoch_tag: 0, seq: Seq(1) },
            kind: self.kind,
            role: (self.kind == BranchKind::Step).then_some(StepRole::Compensatable),
            // The kit's saga has no earlier steps.
            inputs: Vec::new(),
            result: result.map(|json| Bytes::copy_from_slice(json.get().as_bytes())),
            timeout: None,
            own_pace: false,
            instance: None,
        };
        self.client
            .post(url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(CONTEXT_HEADER, branch.xid.to_string())
            .body(http_body(&call, &self.log_id, self.timeout).expect("texts and JSON always serialize"))
    }
}

/// A client that keeps no connection: one that is hung up on must close.
pub(super) fn client(timeout: Duration) -> anyhow::Result<Client> {
    // `reqwest` is built without a provider of its own. Err means that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            // As delivery has it (protocol H2): what the kit sends once arrives once at most.
            .retry(reqwest::retry::never())
            .timeout(timeout)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("unanimity/", env!("CARGO_PKG_VERSION")))
    };
    // A small container may have no certificates at all, which fails the whole client; plain HTTP needs none.
    Ok(builder().build().or_else(|_| builder().tls_certs_only(std::iter::empty()).build())?)
}

async fn read(operation: Operation, mut response: Response) -> Result<Answer, reqwest::Error> {
    let status = response.status();
    let meaning = match status {
        status if status.is_success() => Meaning::Done,
        StatusCode::CONFLICT => Meaning::Refused,
        StatusCode::TOO_EARLY => Meaning::NotYet,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Meaning::Unknown,
        status if status.is_client_error() || status.is_redirection() => Meaning::Unusable,
        _ => Meaning::Unknown,
    };
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = BODY_BYTES_MAX - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() >= room {
            break;
        }
    }
    let meaning = match meaning {
        Meaning::Done => accepted(operation, &body),
        meaning => meaning,
    };
    Ok(Answer { meaning, status: status.as_u16().to_string(), body })
}

/// What a 2xx means with this body.
fn accepted(operation: Operation, body: &[u8]) -> Meaning {
    match http_accepted(operation, body.to_vec().into()) {
        ResultOutcome::Refused { .. } | ResultOutcome::Sealed { .. } => Meaning::Refused,
        ResultOutcome::Unknown { .. } => Meaning::Unknown,
        _ => Meaning::Done,
    }
}

/// The word that stands for the vote; what is no text is a word that nobody knows.
fn named_vote(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let vote = body.get("vote")?;
    Some(vote.as_str().map_or_else(|| vote.to_string(), str::to_owned))
}

fn unanswered(why: String) -> Answer {
    Answer { meaning: Meaning::Unknown, status: why, body: Vec::new() }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m11_a_prepare_means_what_its_vote_says() {
        for (body, meaning) in [
            ("", Meaning::Done),
            ("OK", Meaning::Done),
            ("{}", Meaning::Done),
            (r#"{"vote": "prepared"}"#, Meaning::Done),
            (r#"{"vote": "read_only"}"#, Meaning::Done),
            (r#"{"vote": "refused"}"#, Meaning::Refused),
            (r#"{"vote": "yes"}"#, Meaning::Unknown),
            (r#"{"vote": null}"#, Meaning::Unknown),
            (r#"{"vote": "refused""#, Meaning::Unknown),
        ] {
            assert_eq!(accepted(Operation::Prepare, body.as_bytes()), meaning, "{body}");
            assert_eq!(accepted(Operation::Confirm, body.as_bytes()), Meaning::Done, "{body}");
        }
    }
}
