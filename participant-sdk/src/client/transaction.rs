//! A transaction in hand.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use unanimity_proto::{birth_to_wire, v1};
use unanimity_types::{LogId, Status, Xid};

use crate::client::Client;
use crate::client::birth::{Born, Claim};
use crate::client::calls::Decided;
use crate::client::error::{AbortCause, CommitError, TransactionError};
use crate::context::Context;
use crate::error::ClientError;
use crate::wire::{CallId, WireContext};

/// How long an abort in the background is repeated: its deadline aborts the transaction anyway.
const ABORT_RETRY_FOR: Duration = Duration::from_secs(10);

/// How long [`crate::TransactionBuilder::wait_finished`] waits.
const FINISHED_WITHIN: Duration = Duration::from_secs(30);

/// A global transaction that this process began. Clones are the same transaction.
///
/// ```no_run
/// # async fn f(client: unanimity_sdk::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let tx = client.begin("place-order").await?;
/// tx.scope(async {
///     // calls made here carry the context
/// })
/// .await;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
///
/// When the last clone is dropped and neither commit nor abort was called, the transaction is
/// aborted in the background. After a commit was sent nothing but an explicit
/// [`GlobalTransaction::abort`] sends an abort (protocol M20).
#[derive(Clone)]
pub struct GlobalTransaction {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    context: Context,
    /// What makes this process the one that may decide.
    claim: Claim,
    finished: bool,
    phase: Mutex<Phase>,
    /// Drop may happen outside of the runtime.
    runtime: Handle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Active,
    /// A commit was sent, or is about to be; from here on no abort goes out by itself.
    Committing,
    Committed,
    Aborted,
}

impl GlobalTransaction {
    pub(super) fn new(
        client: Client,
        xid: Xid,
        log_id: Option<LogId>,
        timeout: Option<Duration>,
        finished: bool,
    ) -> Self {
        let wire =
            WireContext { xid, call: Some(CallId::mint()), timeout, log_id, birth: None, others: Vec::new() };
        Self::of(client, wire, Claim::default(), finished)
    }

    /// A transaction begun without a call: it exists as soon as somebody registers for it (protocol 1.2).
    pub(super) fn born(client: Client, xid: Xid, born: Born, finished: bool) -> Self {
        let Born { birth, secret } = born;
        let claim = Claim { birth: Some(birth_to_wire(&birth)), secret };
        let wire = WireContext {
            xid,
            call: Some(CallId::mint()),
            timeout: birth.timeout,
            log_id: Some(birth.log_id),
            birth: Some(birth),
            others: Vec::new(),
        };
        Self::of(client, wire, claim, finished)
    }

    fn of(client: Client, wire: WireContext, claim: Claim, finished: bool) -> Self {
        let context = Context::from_wire(wire);
        let (phase, runtime) = (Mutex::new(Phase::Active), Handle::current());
        Self { inner: Arc::new(Inner { client, context, claim, finished, phase, runtime }) }
    }

    /// The transaction's id.
    #[must_use]
    pub fn xid(&self) -> Xid {
        self.inner.context.xid()
    }

    pub(crate) fn client(&self) -> &Client {
        &self.inner.client
    }

    /// Its context, to pass on by means of your own.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.inner.context
    }

    /// Runs a future with this transaction as the current one.
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> {
        self.inner.context.scope(future)
    }

    /// Lets the transaction commit although calls that carried its context had no well-formed
    /// answer: see [`Context::tolerate_failed_calls`].
    pub fn tolerate_failed_calls(&self) {
        self.inner.context.tolerate_failed_calls();
    }

    /// Commits, naming the votes that came back. May be called again after
    /// [`TransactionError::OutcomeUnknown`].
    ///
    /// Goes on in the background when the future is dropped, and is never followed by an abort.
    ///
    /// # Errors
    /// [`TransactionError::Aborted`] or [`TransactionError::OutcomeUnknown`].
    pub async fn commit(&self) -> Result<(), CommitError> {
        let xid = self.xid();
        if let Some(why) = self.inner.context.must_abort()
            && self.phase() == Phase::Active
        {
            // Without an answer the outcome is certain too: nobody will ever commit it. Unless
            // somebody else with the same xid has: that is the truth then.
            return match self.abort().await {
                Err(error) if error.is_committed() => Ok(()),
                _ => Err(TransactionError::Aborted { xid, reason: AbortCause::CallWithoutAnswer(why) }),
            };
        }
        let before = self.change(|phase| match phase {
            Phase::Active => Phase::Committing,
            other => other,
        });
        match before {
            Phase::Active | Phase::Committing => {}
            Phase::Committed => return Ok(()),
            Phase::Aborted => return Err(TransactionError::Aborted { xid, reason: AbortCause::Requested }),
        }
        let mut waiting = Waiting { xid, answered: false };
        let this = self.clone();
        // A task of its own: whoever stops waiting must not cut a decision off half-way.
        let result = tokio::spawn(async move { this.send_commit().await }).await;
        waiting.answered = true;
        result.unwrap_or_else(|error| {
            let error = ClientError::no_answer(format!("the commit's task ended: {error}"));
            Err(TransactionError::OutcomeUnknown { xid, error })
        })
    }

    async fn send_commit(&self) -> Result<(), CommitError> {
        let xid = self.xid();
        let votes = self.inner.context.votes();
        let decided = match self.inner.client.commit_call(xid, Some(&votes), &self.inner.claim).await {
            Ok(decided) => decided,
            // "Already decided" is an answer: it brings the true status.
            Err(ClientError::Refused { status: Some(status), abort_reason, .. })
                if status.decision().is_some() =>
            {
                Decided { status, abort_reason }
            }
            Err(error) => {
                tracing::warn!(%xid, %error, "the outcome of a commit is not known");
                return Err(TransactionError::OutcomeUnknown { xid, error });
            }
        };
        match decided.status {
            Status::Committing | Status::Committed => {
                self.change(|_| Phase::Committed);
                if self.inner.finished {
                    self.wait_for_branches().await;
                }
                Ok(())
            }
            Status::Aborting | Status::Aborted => {
                self.change(|_| Phase::Aborted);
                let reason = decided.abort_reason.map_or(AbortCause::Unknown, AbortCause::Coordinator);
                Err(TransactionError::Aborted { xid, reason })
            }
            Status::Active | Status::Preparing => {
                let error = ClientError::protocol(format!("answered {} to a commit", decided.status));
                Err(TransactionError::OutcomeUnknown { xid, error })
            }
        }
    }

    /// A call of its own after the decision: that branches take long must not make the outcome
    /// unknown.
    async fn wait_for_branches(&self) {
        let xid = self.xid();
        match self.inner.client.wait_finished(xid, FINISHED_WITHIN).await {
            Ok(info) if info.status.is_terminal() => {}
            Ok(info) => tracing::warn!(%xid, status = %info.status, "committed; its branches take long"),
            Err(error) => tracing::warn!(%xid, %error, "committed; its branches could not be waited for"),
        }
    }

    /// Aborts. If no commit was sent before, the transaction is as good as aborted even when this
    /// fails: its deadline does it.
    ///
    /// # Errors
    /// [`ClientError`]; `already_decided` with the true status if it was committed before.
    pub async fn abort(&self) -> Result<(), ClientError> {
        let before = self.change(|phase| match phase {
            Phase::Active => Phase::Aborted,
            other => other,
        });
        let this = self.clone();
        let task = tokio::spawn(async move {
            let Inner { client, claim, .. } = &*this.inner;
            // Who never sent a commit need not wait for the abort's block (protocol 1.1).
            let wait = if before == Phase::Active { v1::Wait::Accepted } else { v1::Wait::Decided };
            let result = client.abort_for(this.xid(), ABORT_RETRY_FOR, claim, wait).await;
            match &result {
                Ok(()) => {
                    this.change(|_| Phase::Aborted);
                }
                Err(error) if error.is_committed() => {
                    this.change(|_| Phase::Committed);
                }
                Err(_) => {}
            }
            result
        });
        // Who never sent a commit need not wait for an abort that has no answer (protocol 1.1).
        let patience = if before == Phase::Active { Duration::from_secs(2) } else { ABORT_RETRY_FOR * 2 };
        match tokio::time::timeout(patience, task).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(ClientError::no_answer(format!("the abort's task ended: {error}"))),
            Err(_) => Err(ClientError::no_answer("the abort goes on in the background")),
        }
    }

    /// Aborts in the background if nothing was decided.
    pub(super) fn abandon(&self) {
        self.inner.abandon();
    }

    fn phase(&self) -> Phase {
        self.change(|phase| phase)
    }

    /// Changes the phase; answers the one before.
    fn change(&self, next: impl FnOnce(Phase) -> Phase) -> Phase {
        self.inner.change(next)
    }
}

impl Inner {
    fn change(&self, next: impl FnOnce(Phase) -> Phase) -> Phase {
        // A Copy value: sound even if a panic poisoned the lock.
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *phase;
        *phase = next(before);
        before
    }

    fn abandon(&self) {
        let before = self.change(|phase| match phase {
            Phase::Active => Phase::Aborted,
            other => other,
        });
        if before != Phase::Active {
            return;
        }
        let (client, claim, xid) = (self.client.clone(), self.claim.clone(), self.context.xid());
        tracing::debug!(%xid, "dropped undecided: aborting");
        self.runtime.spawn(async move {
            if let Err(error) = client.abort_for(xid, ABORT_RETRY_FOR, &claim, v1::Wait::Accepted).await {
                tracing::warn!(%xid, %error, "abort could not be told; the deadline does it");
            }
        });
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl AsRef<Context> for GlobalTransaction {
    fn as_ref(&self) -> &Context {
        self.context()
    }
}

impl fmt::Debug for GlobalTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GlobalTransaction")
            .field("xid", &self.xid())
            .field("phase", &self.phase())
            .finish_non_exhaustive()
    }
}

/// Says in the log that somebody stopped waiting for a commit.
struct Waiting {
    xid: Xid,
    answered: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.answered {
            tracing::warn!(xid = %self.xid, "the caller stopped waiting for a commit; it goes on in the background");
        }
    }
}
