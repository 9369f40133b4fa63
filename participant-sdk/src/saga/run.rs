//! Submitting a saga and learning how it ended.

use std::time::Duration;

use tokio::time::Instant;
use unanimity_proto::{plan_to_wire, v1};
use unanimity_types::{Decision, Limits, Plan, Status, Xid};

use crate::client::{AbortCause, Client, CommitError, TransactionError, TransactionInfo, check_begin};
use crate::error::ClientError;
use crate::saga::builder::Saga;

/// How much longer than its timeout a saga is waited for: longer than a coordinator's restart.
const GRACE: Duration = Duration::from_secs(30);

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitFor {
    /// All steps are done, or the saga turned back: its compensations may still run.
    #[default]
    Decided,
    /// Every step is done or compensated.
    Finished,
}

/// A saga that the coordinator has accepted: it goes on without us.
#[derive(Debug, Clone)]
pub struct SubmittedSaga {
    client: Client,
    xid: Xid,
    status: Status,
}

impl Saga {
    /// Submits the saga. Returns when it is durable; it may be repeated with the same xid.
    ///
    /// # Errors
    /// [`TransactionError::Begin`]: it was not accepted, for the reason given, and does not run.
    /// [`TransactionError::OutcomeUnknown`]: nobody answered, so it may run;
    /// submit it again with the xid in the error, or ask [`Client::status`] about it.
    pub async fn submit(&self, client: &Client) -> Result<SubmittedSaga, CommitError> {
        let plan = self.plan().map_err(TransactionError::Begin)?;
        check_begin(&self.name, self.timeout).map_err(TransactionError::Begin)?;
        let (xid, ticket) = client.xid_for_begin(self.xid);
        let (saga, message) = plan_to_wire(&Plan::Saga(plan));
        let request = v1::BeginRequest {
            mode: v1::Mode::Saga.into(),
            name: self.name.clone(),
            xid: xid.to_string(),
            timeout_ms: self.timeout.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
            saga,
            message,
            wait: v1::Wait::Accepted.into(),
            ticket,
        };
        match client.begin_plan(request).await {
            Ok(begun) => Ok(SubmittedSaga { client: client.clone(), xid, status: begun.status }),
            // An attempt before this one may have arrived, and only what would be said of it as well
            // says that none has.
            Err(error) if error.code().is_some_and(|code| !code.is_retryable()) => {
                Err(TransactionError::Begin(error))
            }
            Err(error) => Err(TransactionError::OutcomeUnknown { xid, error }),
        }
    }

    /// Submits the saga and waits for its end: `Ok` says that every step is done, and brings the steps'
    /// results ([`TransactionInfo::result_of`]).
    ///
    /// Dropping the future ends the waiting, not the saga.
    ///
    /// # Errors
    /// [`TransactionError`]: `Begin` if it does not run, `Aborted` with the reason if it turned back,
    /// `OutcomeUnknown` if it is not known yet, because nobody answers or because it is still running.
    pub async fn run(&self, client: &Client) -> Result<TransactionInfo, CommitError> {
        let saga = self.submit(client).await?;
        let limit = self.patience.unwrap_or_else(|| self.timeout.unwrap_or(Limits::TIMEOUT_DEFAULT) + GRACE);
        saga.wait(self.wait, limit).await
    }
}

impl SubmittedSaga {
    /// The saga's transaction.
    #[must_use]
    pub fn xid(&self) -> Xid {
        self.xid
    }

    /// Its status when it was accepted: `active`, or how far it has come if it was submitted before.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status
    }

    /// Waits for its end: see [`Saga::run`].
    ///
    /// # Errors
    /// [`TransactionError::Aborted`], [`TransactionError::OutcomeUnknown`].
    pub async fn wait(&self, wait: WaitFor, limit: Duration) -> Result<TransactionInfo, CommitError> {
        let xid = self.xid;
        let end = Instant::now() + limit;
        let unknown = |error| TransactionError::OutcomeUnknown { xid, error };
        let info = loop {
            let left = end.saturating_duration_since(Instant::now());
            let asked = match wait {
                WaitFor::Decided => self.client.wait_decided(xid, left).await,
                WaitFor::Finished => self.client.wait_finished(xid, left).await,
            };
            match asked {
                Ok(info) => break info,
                // Accepted, so it exists: a node that is away comes back.
                Err(error) if error.is_retryable() && Instant::now() < end => {
                    tracing::debug!(%xid, %error, "could not ask how a saga ended, asking again");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(unknown(error)),
            }
        };
        match info.decision() {
            Some(Decision::Commit) => Ok(info),
            Some(Decision::Abort) => {
                let reason = info.abort_reason.map_or(AbortCause::Unknown, AbortCause::Coordinator);
                Err(TransactionError::Aborted { xid, reason })
            }
            None => {
                Err(unknown(ClientError::no_answer(format!("it is still {} after {limit:?}", info.status))))
            }
        }
    }
}

impl Client {
    /// Submits a saga and waits for its end: see [`Saga::run`].
    ///
    /// # Errors
    /// As [`Saga::run`].
    pub async fn run_saga(&self, saga: &Saga) -> Result<TransactionInfo, CommitError> {
        saga.run(self).await
    }
}
