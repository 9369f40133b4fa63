//! HTTP callbacks: `POST url` with a JSON body; the status is the answer.
//!
//! | answer | outcome |
//! | --- | --- |
//! | 2xx with its whole body | done |
//! | 409 | refused, with the body's text |
//! | 425 | not yet |
//! | 408, 429, 5xx, no answer, half an answer | unknown (with `Retry-After`) |
//! | 3xx, other 4xx | unusable: the address looks wrong |

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use serde::Serialize;
use time::OffsetDateTime;
use unanimity_core::ResultOutcome;
use unanimity_proto::CONTEXT_HEADER;

use super::config::DeliveryConfig;
use super::retry_after;
use super::text::{chain, printable, printable_bytes};
use crate::engine::BranchCall;

/// What is read of an answer's body: an error's text, never a document.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Calls URLs. One pool of connections for all of them.
#[derive(Debug)]
pub(super) struct HttpCaller {
    client: Result<Client, Box<str>>,
    request_timeout: Duration,
    retry_after_max: Duration,
}

impl HttpCaller {
    pub(super) fn new(config: &DeliveryConfig) -> Self {
        // `reqwest` is built without a provider of its own. Err means that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = builder(config).build().or_else(|error| {
            // A small container may have no certificates at all, which fails the whole client. Plain
            // HTTP needs none; without roots, https calls fail one by one and say why.
            tracing::warn!(error = %chain(&error), "no TLS roots for callbacks: https callbacks will fail");
            builder(config).tls_certs_only(std::iter::empty()).build()
        });
        Self {
            client: client.map_err(|error| chain(&error)),
            request_timeout: config.request_timeout,
            retry_after_max: config.retry_after_max,
        }
    }

    /// Brings one operation to a URL that the allow list has passed.
    pub(super) async fn call(&self, url: Url, call: &BranchCall) -> ResultOutcome {
        let client = match &self.client {
            Ok(client) => client,
            Err(error) => return unknown(error.clone()),
        };
        let body = match body(call) {
            Ok(body) => body,
            Err(error) => return unknown(chain(&error)),
        };
        let request = client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header(CONTEXT_HEADER, call.xid.to_string())
            .body(body);
        // The client's own timeout covers the same span; this one also holds if that has a gap.
        match tokio::time::timeout(self.request_timeout, async { self.answer(request.send().await?).await })
            .await
        {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => unknown(chain(&error.without_url())),
            Err(_) => unknown(printable(&format!("no answer within {:?}", self.request_timeout))),
        }
    }

    async fn answer(&self, response: Response) -> Result<ResultOutcome, reqwest::Error> {
        let status = response.status();
        let retry_after = self.retry_after(response.headers());
        if status.is_success() {
            // The status alone is not an answer: a body that breaks off says that the participant, or
            // what stands before it, broke too.
            read_body(response).await?;
            return Ok(ResultOutcome::Done);
        }
        // The status stands whatever becomes of the body; its text only explains.
        let text = printable_bytes(&read_body(response).await.unwrap_or_default());
        let error = if text.is_empty() {
            printable(&format!("HTTP {status}"))
        } else {
            printable(&format!("HTTP {status}: {text}"))
        };
        Ok(match status {
            StatusCode::CONFLICT => {
                ResultOutcome::Refused { error: if text.is_empty() { error } else { text } }
            }
            StatusCode::TOO_EARLY => ResultOutcome::NotYet { error },
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                ResultOutcome::Unknown { error, retry_after }
            }
            status if status.is_client_error() || status.is_redirection() => {
                ResultOutcome::Unusable { error }
            }
            _ => ResultOutcome::Unknown { error, retry_after },
        })
    }

    fn retry_after(&self, headers: &HeaderMap) -> Option<Duration> {
        let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
        retry_after::parse(value, OffsetDateTime::now_utc(), self.retry_after_max)
    }
}

fn builder(config: &DeliveryConfig) -> reqwest::ClientBuilder {
    Client::builder()
        // A redirect or a proxy from the environment would call what the allow list never saw.
        .redirect(Policy::none())
        .no_proxy()
        .referer(false)
        .connect_timeout(config.connect_timeout)
        .timeout(config.request_timeout)
        .pool_max_idle_per_host(config.callback_concurrency)
        .pool_idle_timeout(Duration::from_secs(30))
        .user_agent(concat!("unanimity/", env!("CARGO_PKG_VERSION")))
}

fn unknown(error: Box<str>) -> ResultOutcome {
    ResultOutcome::Unknown { error, retry_after: None }
}

/// The body's first bytes. Reads to the end if that is near; a longer body is left alone, and its
/// connection with it.
async fn read_body(mut response: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = BODY_BYTES_MAX - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() >= room {
            break;
        }
    }
    Ok(body)
}

/// The body without its payload.
#[derive(Serialize)]
struct Envelope<'a> {
    xid: String,
    branch_id: u32,
    key: &'a str,
    operation: &'a str,
    /// The transaction's name.
    name: Option<&'a str>,
    attempt: u32,
    epoch: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

/// The request's body. A payload that is JSON is put in as it is, byte by byte: parsing and writing
/// it anew would change numbers and the order of keys.
fn body(call: &BranchCall) -> Result<Bytes, serde_json::Error> {
    let json = payload_as_json(&call.payload);
    let envelope = Envelope {
        xid: call.xid.to_string(),
        branch_id: call.branch_id.0,
        key: call.key.as_str(),
        operation: call.operation.as_str(),
        name: call.transaction_name.as_ref().map(unanimity_types::Name::as_str),
        attempt: call.attempt,
        epoch: call.position.epoch.0,
        payload_base64: json.is_none().then(|| base64(&call.payload)),
    };
    let mut body = serde_json::to_vec(&envelope)?;
    // The envelope is an object with members: its last byte closes it.
    body.pop();
    body.extend_from_slice(b",\"payload\":");
    body.extend_from_slice(json.unwrap_or(b"null"));
    body.push(b'}');
    Ok(body.into())
}

/// The payload if it is JSON; `null` for none at all.
fn payload_as_json(payload: &[u8]) -> Option<&[u8]> {
    if payload.is_empty() {
        return Some(b"null");
    }
    // Skipping a value does not look at the UTF-8 of its strings, so that is looked at before.
    std::str::from_utf8(payload).ok()?;
    serde_json::from_slice::<serde::de::IgnoredAny>(payload).ok().map(|_| payload)
}

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let index = (group >> (18 - 6 * place)) & 63;
            let digit = if place <= chunk.len() { ALPHABET[index as usize] } else { b'=' };
            text.push(char::from(digit));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe]), "//4=");
    }

    #[test]
    fn only_whole_json_in_utf8_is_put_in_as_it_is() {
        for json in [&b"{\"a\":1.10,\"a\":2}"[..], b"7", b"\"x\"", b" [1] ", b"null"] {
            assert_eq!(payload_as_json(json), Some(json));
        }
        for other in [&b"{\"a\":1"[..], b"x", b"{} {}", b"\"\xff\"", b"\x00", b"1,\"xid\":2"] {
            assert_eq!(payload_as_json(other), None);
        }
    }
}
