//! What can be set, with the reason of each default.

use std::time::Duration;

use unanimity_types::{Limits, LogId};

use super::allow::AllowList;
use crate::engine::BranchCall;

/// Settings of delivery. Every number is a bound; none may be zero.
#[derive(Debug, Clone)]
pub struct DeliveryConfig {
    /// Which callback addresses may be called. Default: none.
    pub allow: AllowList,
    /// The log's identity, carried by every operation so that a participant notices a foreign log.
    /// `None`: taken from the service for sessions when it is made.
    pub log_id: Option<LogId>,
    /// Calls that wait in one bulkhead. Beyond, a call is handed back as not sent: the engine holds it
    /// anyway, so a longer queue would only hide how far behind a participant is.
    pub queue_max: usize,
    /// How long a call may wait in a queue before it is handed back, so that what is sent was decided
    /// not long ago and the engine may change its mind (an operator settled the branch).
    pub queue_wait_max: Duration,
    /// Calls in flight to one callback origin: enough to hide a network's latency, little enough not
    /// to be an attack on a small service.
    pub callback_concurrency: usize,
    /// Bulkheads of callbacks that exist at once: origins come with registrations, so they need a bound.
    /// As many of participants; there, only idle ones give way, as sessions have their own bound.
    pub bulkheads_max: usize,
    /// How long an idle bulkhead keeps its counters.
    pub bulkhead_idle: Duration,
    /// How long a connection to a callback may take, name resolution included.
    pub connect_timeout: Duration,
    /// How long one operation may take, connection included, if its branch does not say otherwise; then
    /// its outcome is unknown. The engine's `call_timeout` must be the same: it is what a new owner
    /// waits for before it turns a saga back (protocol H3).
    pub request_timeout: Duration,
    /// The longest `Retry-After` that is honoured: a participant must not park a decision for a day.
    pub retry_after_max: Duration,
    /// Cached connections to gRPC callbacks.
    pub grpc_channels_max: usize,
    /// Sessions of attached instances, all participants together.
    pub sessions_max: usize,
    /// Operations in hand of an instance that asks for no number of its own.
    pub session_concurrency: usize,
    /// Operations in hand of an instance at most, whatever it asks for.
    pub session_concurrency_max: usize,
    /// How long a new session may take to say hello.
    pub hello_timeout: Duration,
    /// How often each side of a session says something at least; three silent intervals end it.
    pub heartbeat_interval: Duration,
    /// How long a session may refuse to take what is sent to it before it is ended.
    pub write_timeout: Duration,
    /// How long a call waits for the one instance that can take it to come back (protocol H11): long
    /// enough for a connection that broke, short enough for the locks that others hold meanwhile.
    pub instance_grace: Duration,
}

impl DeliveryConfig {
    /// How long this call may take.
    pub(super) fn timeout_of(&self, call: &BranchCall) -> Duration {
        call.timeout.map_or(self.request_timeout, |timeout| timeout.min(Limits::CALL_TIMEOUT_MAX))
    }
}

impl Default for DeliveryConfig {
    fn default() -> Self {
        Self {
            allow: AllowList::none(),
            log_id: None,
            queue_max: 10_000,
            queue_wait_max: Duration::from_secs(60),
            callback_concurrency: 32,
            bulkheads_max: 4_096,
            bulkhead_idle: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(10),
            retry_after_max: Duration::from_secs(300),
            grpc_channels_max: 256,
            sessions_max: 1_024,
            session_concurrency: 64,
            session_concurrency_max: 1_024,
            hello_timeout: Duration::from_secs(10),
            heartbeat_interval: Duration::from_secs(5),
            write_timeout: Duration::from_secs(10),
            instance_grace: Duration::from_secs(2),
        }
    }
}
