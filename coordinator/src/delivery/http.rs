//! HTTP callbacks: `POST url` with a JSON body; the status is the answer.
//!
//! | answer | outcome |
//! | --- | --- |
//! | 2xx with its whole body | done; the body of an action's answer is its result, of a prepare's it may be the vote |
//! | 409 | refused, with the body's text; to an action `{"sealed": true}` refuses all its attempts |
//! | 425 | not yet |
//! | 408, 429, 5xx, no answer, half an answer | unknown (with `Retry-After`) |
//! | 3xx, other 4xx | unusable: the address looks wrong |
//!
//! One call is one request on the wire, never two: a refusal of the first attempt means "did nothing"
//! (protocol H2) only if nobody below us sent it twice.

pub(super) mod answer;
pub(super) mod request;

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use time::OffsetDateTime;
use unanimity_core::ResultOutcome;
use unanimity_proto::CONTEXT_HEADER;
use unanimity_types::{Operation, Xid};

use super::config::DeliveryConfig;
use super::retry_after;
use super::text::{chain, printable, printable_bytes};
use crate::engine::BranchCall;
use crate::wall_clock;

/// Calls URLs. One pool of connections for all of them.
#[derive(Debug)]
pub(super) struct HttpCaller {
    client: Result<Client, Box<str>>,
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
        Self { client: client.map_err(|error| chain(&error)), retry_after_max: config.retry_after_max }
    }

    /// Brings one operation to a URL that the allow list has passed, within `timeout`.
    pub(super) async fn call(
        &self,
        url: &Url,
        call: &BranchCall,
        log_id: &str,
        timeout: Duration,
    ) -> ResultOutcome {
        let client = match &self.client {
            Ok(client) => client,
            Err(error) => return unknown(error.clone()),
        };
        let body = match request::body(call, log_id, timeout) {
            Ok(body) => body,
            Err(error) => return unknown(chain(&error)),
        };
        let xid = xid_header(call.xid);
        let request = client
            .post(url.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(CONTEXT_HEADER, xid)
            .body(body);
        // The connection, the answer and its body: one timer for all.
        let answered = async { self.answer(call.operation, request.send().await?).await };
        match tokio::time::timeout(timeout, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => unknown(chain(&error.without_url())),
            Err(_) => unknown(printable(&format!("no answer within {timeout:?}"))),
        }
    }

    async fn answer(
        &self,
        operation: Operation,
        response: Response,
    ) -> Result<ResultOutcome, reqwest::Error> {
        let status = response.status();
        if status.is_success() {
            // The status alone is not an answer: a body that breaks off says that the participant, or
            // what stands before it, broke too.
            let body = match answer::bytes_max(operation) {
                Some(bytes_max) => answer::read(response, bytes_max).await?,
                None => answer::skip(response).await?,
            };
            return Ok(answer::accepted(operation, body));
        }
        let retry_after = self.retry_after(response.headers());
        // The status stands whatever becomes of the body; its text only explains.
        let body = answer::read(response, answer::TEXT_BYTES_MAX).await.unwrap_or_default();
        let text = printable_bytes(&body);
        let error = if text.is_empty() {
            printable(&format!("HTTP {status}"))
        } else {
            printable(&format!("HTTP {status}: {text}"))
        };
        Ok(match status {
            StatusCode::CONFLICT => {
                let error = if text.is_empty() { error } else { text };
                if operation == Operation::Action && answer::is_sealed(&body) {
                    ResultOutcome::Sealed { error }
                } else {
                    ResultOutcome::Refused { error }
                }
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
        retry_after::parse(value, OffsetDateTime::from(wall_clock::now()), self.retry_after_max)
    }
}

/// HTTP/2 where a server offers it in the TLS handshake; plain http stays with HTTP/1.1.
fn builder(config: &DeliveryConfig) -> reqwest::ClientBuilder {
    Client::builder()
        // A redirect or a proxy from the environment would call what the allow list never saw.
        .redirect(Policy::none())
        .no_proxy()
        .referer(false)
        .connect_timeout(config.connect_timeout)
        // A call is a few hundred bytes and somebody waits for it.
        .tcp_nodelay(true)
        // Nothing is sent a second time behind our back (protocol H2).
        .retry(reqwest::retry::never())
        // As many as the bulkhead can have out: none is opened anew while there is work.
        .pool_max_idle_per_host(config.callback_concurrency)
        .pool_idle_timeout(Duration::from_secs(30))
        .user_agent(concat!("unanimity/", env!("CARGO_PKG_VERSION")))
}

/// The context's header: a uuid's text always fits.
fn xid_header(xid: Xid) -> HeaderValue {
    HeaderValue::try_from(xid.to_string()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn unknown(error: Box<str>) -> ResultOutcome {
    ResultOutcome::Unknown { error, retry_after: None }
}
