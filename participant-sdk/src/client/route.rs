//! A call from its first attempt to its answer: at the owner, at another node when that one has none, where a hint points
//! to, and again after a pause when nobody had one. Every attempt has the same words (protocol M3).

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Response, Status};
use unanimity_proto::{error_from_status, v1};
use unanimity_types::{ErrorCode, PartitionId, Xid};

use crate::backoff::Backoff;
use crate::client::Client;
use crate::client::nodes::Door;
use crate::error::ClientError;

/// Hints that one call follows: more are nodes that send it in a circle.
const HINTS_MAX: usize = 3;
/// For how long a node that had no answer is asked last.
const AVOID_FOR: Duration = Duration::from_secs(2);
/// Where a node says that a call was answered by another one: the owner's address.
const OWNER: &str = "unanimity-owner";

/// An attempt without the answer that it was made for.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: ClientError,
    /// Where the partition's owner is, if the node said so.
    owner: Option<String>,
    /// The node is well: whoever else is asked now says the same.
    is_everywhere: bool,
    /// There was no connection to send it on.
    was_not_sent: bool,
}

impl Failed {
    /// An error as a node tells it: in a status, or on a command stream.
    pub(crate) fn told(code: Code, message: &str, detail: Option<v1::ErrorDetail>) -> Self {
        let owner =
            detail.as_ref().map(|detail| detail.owner_address.clone()).filter(|owner| !owner.is_empty());
        Self { owner, ..ClientError::told(code, message, detail).into() }
    }

    /// The call is under way already: it is made again after a pause.
    pub(crate) fn under_way(message: &str) -> Self {
        Self { is_everywhere: true, ..ClientError::no_answer(message).into() }
    }

    pub(crate) fn code(&self) -> Option<ErrorCode> {
        self.error.code()
    }

    /// Whether it was surely not carried out: nothing was sent, or whoever was asked knows that it is another node's.
    /// The rule that nodes have among themselves.
    fn was_not_taken(&self) -> bool {
        self.was_not_sent
            || match self.code() {
                Some(ErrorCode::NotOwner) => true,
                // Without an owner's address it is the owner whose log is away.
                Some(ErrorCode::Unavailable) => self.owner.is_some(),
                _ => false,
            }
    }

    /// Whether the call may be answered if it is made again, unchanged. A lock was waited for by the coordinator
    /// already, for as long as the caller allows.
    fn is_worth_another(&self) -> bool {
        self.error.is_retryable() && !matches!(self.error, ClientError::LockConflict { .. })
    }

    /// Whether it is this node that has no answer: another one may have it at once.
    fn is_of_this_node(&self) -> bool {
        match &self.error {
            ClientError::NoAnswer { .. } => !self.is_everywhere,
            ClientError::Refused { code, .. } => {
                matches!(code, ErrorCode::Unavailable | ErrorCode::NotOwner | ErrorCode::OutcomeUnknown)
            }
            _ => false,
        }
    }
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        Self { error, owner: None, is_everywhere: false, was_not_sent: false }
    }
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        let mut failed = Self::told(status.code(), status.message(), error_from_status(&status));
        failed.owner = failed.owner.or_else(|| owner_in(status.metadata()));
        let mut cause = status.source();
        while let Some(error) = cause {
            failed.was_not_sent |= error.is::<tonic::ConnectError>();
            cause = error.source();
        }
        failed
    }
}

/// What may be done when nobody knows whether a call was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// The same again is the same (protocol M3).
    Same,
    /// The same again is a second action, on record as such: only what was surely not taken is repeated.
    Second,
}

fn owner_in(metadata: &tonic::metadata::MetadataMap) -> Option<String> {
    let owner = metadata.get(OWNER)?.to_str().ok()?;
    (!owner.is_empty()).then(|| owner.to_owned())
}

impl Client {
    /// Makes a call until it has an answer, or an error that stays, for at most `bound` from now. Each attempt has
    /// `per_call` to answer, or less where another node can be asked; it is told its limit. The call must be idempotent.
    pub(crate) async fn routed<T, F, Fut>(
        &self,
        xid: Option<Xid>,
        bound: Duration,
        per_call: Duration,
        call: F,
    ) -> Result<T, ClientError>
    where
        F: FnMut(Arc<Door>, Duration) -> Fut,
        Fut: Future<Output = Result<T, Failed>>,
    {
        self.routed_as(Again::Same, xid, (bound, per_call), call).await
    }

    /// The same for a call of either kind.
    pub(crate) async fn routed_as<T, F, Fut>(
        &self,
        again: Again,
        xid: Option<Xid>,
        (bound, per_call): (Duration, Duration),
        mut call: F,
    ) -> Result<T, ClientError>
    where
        F: FnMut(Arc<Door>, Duration) -> Fut,
        Fut: Future<Output = Result<T, Failed>>,
    {
        let end = Instant::now() + bound;
        let mut way = Way::new(self, xid.and_then(|xid| self.tickets().partition(xid)));
        loop {
            let door = way.next()?;
            let left = end.saturating_duration_since(Instant::now());
            let limit = self.attempt_limit(per_call).min(left);
            let failed = match tokio::time::timeout(limit, call(Arc::clone(&door), limit)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failed)) => failed,
                Err(_) => ClientError::no_answer(format!("none within {limit:?}")).into(),
            };
            if !failed.is_worth_another() || (again == Again::Second && !failed.was_not_taken()) {
                return Err(failed.error);
            }
            let pause = way.after(&door, &failed);
            let error = failed.error;
            if Instant::now() + pause >= end {
                return Err(error);
            }
            tracing::debug!(%error, address = %door.address, ?pause, "call to the coordinator failed, trying again");
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// The answer to a call; a hint that came with it is kept.
    pub(crate) fn answered<T>(&self, xid: Option<Xid>, response: Response<T>) -> T {
        if let (Some(xid), Some(owner)) = (xid, owner_in(response.metadata())) {
            self.nodes().hinted(self.tickets().partition(xid), &owner);
        }
        response.into_inner()
    }

    /// How long one attempt may take: where another node can be asked, one that was stopped with its connections open,
    /// or that waits for an owner whom it alone cannot reach, is not to take all of the time. What is waited for on
    /// purpose is cut short by the call's own end alone.
    fn attempt_limit(&self, per_call: Duration) -> Duration {
        if self.nodes().alone() {
            return per_call;
        }
        per_call.saturating_sub(self.options().call_timeout.min(per_call) / 2)
    }
}

/// The way of a call through the nodes.
struct Way<'a> {
    client: &'a Client,
    partition: Option<PartitionId>,
    /// Since the last pause.
    tried: Vec<Arc<str>>,
    hints: usize,
    hinted: Option<Arc<Door>>,
    backoff: Backoff,
}

impl<'a> Way<'a> {
    fn new(client: &'a Client, partition: Option<PartitionId>) -> Self {
        let backoff = Backoff::for_calls();
        Self { client, partition, tried: Vec::new(), hints: 0, hinted: None, backoff }
    }

    fn next(&mut self) -> Result<Arc<Door>, ClientError> {
        let nodes = self.client.nodes();
        let next = self.hinted.take().or_else(|| nodes.pick(self.partition, &self.tried));
        // All were tried: one that came meanwhile may have gone again.
        let next = next.or_else(|| nodes.pick(self.partition, &[]));
        next.ok_or_else(|| ClientError::no_answer("no node of the coordinator is known"))
    }

    /// How long to wait before the next attempt: not at all where a hint leads elsewhere, or another node has not been
    /// asked yet.
    fn after(&mut self, door: &Door, failed: &Failed) -> Duration {
        let nodes = self.client.nodes();
        self.tried.push(Arc::clone(&door.address));
        if failed.is_of_this_node() {
            // What it says about one partition is no reason to ask it about no other.
            if failed.code().is_none() {
                nodes.avoid(door, AVOID_FOR);
            }
            let hint = failed.owner.as_deref().and_then(|owner| nodes.hinted(self.partition, owner));
            if let Some(hinted) = hint
                && self.hints < HINTS_MAX
                && !self.tried.contains(&hinted.address)
            {
                self.hints += 1;
                self.hinted = Some(hinted);
                return Duration::ZERO;
            }
            if nodes.pick(self.partition, &self.tried).is_some() {
                return Duration::ZERO;
            }
        }
        self.tried.clear();
        self.backoff.next().max(failed.error.retry_after().unwrap_or_default())
    }
}
