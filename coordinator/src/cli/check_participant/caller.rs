//! Calls as the coordinator sends them (`src/delivery/http`), and their answers. A test compares the two.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;
use unanimity_proto::CONTEXT_HEADER;
use unanimity_types::{BranchKind, Limits, Operation, Vote};
use uuid::Uuid;

use super::urls::Urls;

/// What is read of an answer: the longest result that the coordinator takes, and one byte that shows it is longer.
const BODY_BYTES_MAX: usize = Limits::RESULT_BYTES_MAX + 1;
/// What is shown of an answer's body.
const SHOWN_CHARS_MAX: usize = 120;

/// One branch of one transaction: a participant must take it for another one if either of the two differs.
#[derive(Debug, Clone)]
pub(super) struct Branch {
    pub(super) xid: String,
    pub(super) key: String,
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

/// The body of a call.
#[derive(Serialize)]
struct Envelope<'a> {
    xid: &'a str,
    branch_id: u32,
    key: &'a str,
    operation: &'a str,
    name: &'a str,
    payload: &'a RawValue,
    attempt: u32,
    epoch: u64,
    kind: &'a str,
    log_id: &'a str,
    timeout_ms: u64,
    /// Results of earlier steps: the kit's saga has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    inputs: Option<serde_json::Map<String, serde_json::Value>>,
    /// For a compensation: what its own action answered, `null` if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
}

/// Calls the participant.
#[derive(Debug)]
pub(super) struct Caller {
    client: Client,
    kind: BranchKind,
    urls: Urls,
    payload: Box<RawValue>,
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
        payload: Box<RawValue>,
        timeout: Duration,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            client: client(timeout)?,
            kind,
            urls,
            payload,
            timeout,
            log_id: Uuid::new_v4().to_string(),
        })
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
        let envelope = Envelope {
            xid: &branch.xid,
            branch_id: 1,
            key: &branch.key,
            operation: operation.as_str(),
            name: "conformance",
            payload: &self.payload,
            attempt,
            epoch: 1,
            kind: self.kind.as_str(),
            log_id: &self.log_id,
            timeout_ms: u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX),
            inputs: (self.kind == BranchKind::Step).then(serde_json::Map::new),
            result: (operation == Operation::Compensate).then(|| result.unwrap_or(RawValue::NULL)),
        };
        self.client
            .post(self.urls.of(operation).clone())
            .header(CONTENT_TYPE, "application/json")
            .header(CONTEXT_HEADER, &branch.xid)
            .body(serde_json::to_vec(&envelope).expect("texts and JSON always serialize"))
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
        Meaning::Done if operation == Operation::Prepare => voted(&body),
        meaning => meaning,
    };
    Ok(Answer { meaning, status: status.as_u16().to_string(), body })
}

/// A 2xx to a prepare means what its vote says. Whoever writes a word that the coordinator does not know did not mean
/// "prepared".
fn voted(body: &[u8]) -> Meaning {
    match named_vote(body).map(|word| word.parse()) {
        None | Some(Ok(Vote::Prepared | Vote::ReadOnly)) => Meaning::Done,
        Some(Ok(Vote::Refused)) => Meaning::Refused,
        Some(Err(_)) => Meaning::Unknown,
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
        ] {
            assert_eq!(voted(body.as_bytes()), meaning, "{body}");
        }
    }
}
