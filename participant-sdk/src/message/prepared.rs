//! A message that is prepared: its local transaction, and the submit.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use unanimity_types::{LogId, LogPosition, Status, Xid};

use crate::client::{AbortCause, Begun, Claim, Client, CommitError, Decided, TransactionError};
use crate::error::ClientError;

/// A message that the coordinator keeps until it knows how the local transaction ended.
///
/// Dropped without a submit it is settled by a check-back after its timeout.
pub struct PreparedMessage {
    client: Client,
    xid: Xid,
    log_id: Option<LogId>,
    position: Option<LogPosition>,
    participant: String,
    operation: String,
    started: (Instant, SystemTime),
    timeout: Duration,
}

impl PreparedMessage {
    pub(super) fn new(
        client: Client,
        xid: Xid,
        begun: Begun,
        participant: String,
        operation: String,
        started: (Instant, SystemTime),
        timeout: Duration,
    ) -> Self {
        let Begun { log_id, position, .. } = begun;
        Self { client, xid, log_id, position, participant, operation, started, timeout }
    }

    /// The message's transaction.
    #[must_use]
    pub fn xid(&self) -> Xid {
        self.xid
    }

    /// Submits the message, after its local transaction has committed: it is delivered. Says so when
    /// that is durable; may be repeated.
    ///
    /// # Errors
    /// [`TransactionError::Aborted`] if it was given up before: by an operator, by
    /// [`PreparedMessage::abort`], or by a check-back that found no local transaction (which can have
    /// none then, if it wrote its fence row). [`TransactionError::OutcomeUnknown`] if nobody answers:
    /// the check-back settles it.
    pub async fn submit(&self) -> Result<(), CommitError> {
        let xid = self.xid;
        let unknown = |error| TransactionError::OutcomeUnknown { xid, error };
        let decided = match self.client.commit_call(xid, None, &Claim::default()).await {
            Ok(decided) => decided,
            // "Already decided" is an answer: it brings the true status.
            Err(ClientError::Refused { status: Some(status), abort_reason, .. })
                if status.decision().is_some() =>
            {
                Decided { status, abort_reason }
            }
            Err(error) => return Err(unknown(error)),
        };
        match decided.status {
            Status::Committing | Status::Committed => Ok(()),
            Status::Aborting | Status::Aborted => {
                let reason = decided.abort_reason.map_or(AbortCause::Unknown, AbortCause::Coordinator);
                Err(TransactionError::Aborted { xid, reason })
            }
            Status::Active | Status::Preparing => {
                Err(unknown(ClientError::protocol(format!("answered {} to a submit", decided.status))))
            }
        }
    }

    /// Gives the message up. Only if its local transaction did not and will not commit.
    ///
    /// # Errors
    /// [`ClientError`]: then the check-back settles it.
    pub async fn abort(self) -> Result<(), ClientError> {
        self.client.abort(self.xid).await
    }
}

impl fmt::Debug for PreparedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedMessage").field("xid", &self.xid).finish_non_exhaustive()
    }
}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use local::LocalError;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod local {
    use std::future::Future;

    use futures::future::BoxFuture;
    use unanimity_types::{BranchKey, BranchKind, Xid};

    use super::PreparedMessage;
    use crate::client::{CommitError, TransactionError};
    use crate::fence::{
        Fence, FenceDatabase, FenceError, LocalTransaction, NewRow, SenderSays, check_back, mark_open,
        mark_sent,
    };

    /// How [`PreparedMessage::in_local_transaction`] may fail.
    #[derive(Debug, thiserror::Error)]
    #[non_exhaustive]
    pub enum LocalError<E> {
        /// The closure failed: the local transaction is rolled back, the message given up.
        #[error("the local transaction failed: {0}")]
        User(E),
        /// The local transaction could not be begun, or did not survive the closure: it is rolled back,
        /// and the message is not delivered unless an earlier one committed
        /// ([`FenceError::MessageAlreadySent`]).
        #[error(transparent)]
        Fence(#[from] FenceError),
        /// Whether the local transaction committed is not known: its commit was not answered. The
        /// message goes with it either way, by a check-back; find out which from your own tables.
        #[error("whether the local transaction of message {xid} committed is not known: {error}")]
        CommitUnknown {
            /// The message.
            xid: Xid,
            /// What the database said.
            error: FenceError,
        },
        /// The local transaction committed and the coordinator had given the message up: by an
        /// operator's abort. It is not delivered.
        #[error("the local transaction committed, and its message is not delivered: {0}")]
        NotSent(CommitError),
    }

    impl PreparedMessage {
        /// Runs your local transaction with the message's row in it, commits it, and submits the
        /// message. `Ok` says that the local transaction committed and the message will be delivered,
        /// also where the submit was not answered: the check-back finds the row.
        ///
        /// The work is a boxed future, so that the whole can run in a spawned task: with an async closure
        /// over a borrowed transaction the compiler cannot see that it may.
        ///
        /// # Errors
        /// [`LocalError`].
        pub async fn in_local_transaction<DB, T, E, F>(
            self,
            fence: &Fence<DB>,
            work: F,
        ) -> Result<T, LocalError<E>>
        where
            DB: FenceDatabase,
            F: for<'t> FnOnce(&'t mut LocalTransaction<'static, DB>) -> BoxFuture<'t, Result<T, E>>,
        {
            let result = self.locally(fence, work).await;
            match &result {
                Ok(_) => match self.submit().await {
                    Ok(()) => {}
                    Err(error @ TransactionError::Aborted { .. }) => return Err(LocalError::NotSent(error)),
                    Err(error) => {
                        tracing::warn!(xid = %self.xid, %error, "committed; the message's submit had no answer, a check-back will settle it");
                    }
                },
                // No need to wait for the check-back: the row tells how it ended.
                Err(_) => self.give_up(fence.clone()),
            }
            result
        }

        async fn locally<DB, T, E, F>(&self, fence: &Fence<DB>, work: F) -> Result<T, LocalError<E>>
        where
            DB: FenceDatabase,
            F: for<'t> FnOnce(&'t mut LocalTransaction<'static, DB>) -> BoxFuture<'t, Result<T, E>>,
        {
            let row = self.row()?;
            // Begin and commit in tasks of their own: dropped half-way they would give a connection
            // with an open transaction back to its pool.
            let (begun, marked) = (fence.clone(), row.clone());
            let mut tx = apart(async move {
                let mut tx = begun.begin().await?;
                mark_open::<DB>(&mut tx, &marked).await?;
                Ok::<_, FenceError>(tx)
            })
            .await??;
            let value = match work(&mut tx).await {
                Ok(value) => value,
                Err(error) => {
                    let _ = tx.rollback().await;
                    return Err(LocalError::User(error));
                }
            };
            let committed = apart(async move {
                // The last statement is ours: the transaction is still the one that began.
                mark_sent::<DB>(&mut tx, &row).await?;
                Ok::<_, FenceError>(tx.commit().await.map_err(FenceError::from))
            });
            match committed.await.unwrap_or_else(|ended| Ok(Err(ended)))? {
                Ok(()) => Ok(value),
                Err(error) => Err(LocalError::CommitUnknown { xid: self.xid, error }),
            }
        }

        /// Says no, after having written it: a local transaction that somebody else began for the same
        /// xid can then commit no more, or has committed, and nothing is said.
        fn give_up<DB: FenceDatabase>(self, fence: Fence<DB>) {
            tokio::spawn(async move {
                let said = async {
                    let row = self.row()?;
                    let mut tx = fence.begin().await?;
                    let says = check_back::<DB>(&mut tx, &row).await?;
                    tx.commit().await?;
                    Ok::<_, FenceError>(says)
                };
                let xid = self.xid;
                match said.await {
                    Ok(SenderSays::No) => {
                        if let Err(error) = self.client.abort(xid).await {
                            tracing::debug!(%xid, %error, "a message could not be given up; a check-back does it");
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%xid, %error, "a message could not be given up; a check-back does it");
                    }
                }
            });
        }

        /// The row of its sender.
        pub(crate) fn row(&self) -> Result<NewRow, FenceError> {
            // Later the coordinator may have asked, and the answer may be collected already. Two
            // clocks: one of them stands still while the machine sleeps.
            let (ticked, wall) = (
                self.started.0.elapsed(),
                crate::wall_clock::now().duration_since(self.started.1).unwrap_or_default(),
            );
            if ticked.max(wall) >= self.timeout {
                return Err(FenceError::MessageTooLate);
            }
            let key = BranchKey::new(BranchKey::SENDER)
                .map_err(|_| FenceError::Unreadable("the sender's key".into()))?;
            Ok(NewRow {
                kind: BranchKind::Sender,
                xid: self.xid,
                key,
                participant: self.participant.clone(),
                operation: self.operation.clone(),
                log_id: self.log_id,
                payload: Vec::new(),
                witness: self.position,
            })
        }
    }

    async fn apart<T: Send + 'static>(
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, FenceError> {
        // It cannot panic, so only a runtime that shuts down ends it.
        tokio::spawn(work).await.map_err(|_| FenceError::TransactionLost)
    }
}
