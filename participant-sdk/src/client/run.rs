//! A transaction as a closure.

use std::time::Duration;

use unanimity_types::{ErrorCode, Limits, Mode, Name, Xid};

use crate::client::Client;
use crate::client::error::TransactionError;
use crate::client::transaction::GlobalTransaction;
use crate::error::ClientError;

/// A transaction that is about to begin: see [`Client::transaction`].
#[derive(Debug, Clone)]
#[must_use = "nothing happens before `run` or `begin`"]
pub struct TransactionBuilder {
    client: Client,
    mode: Mode,
    name: String,
    timeout: Option<Duration>,
    xid: Option<Xid>,
    durable: bool,
    finished: bool,
}

impl TransactionBuilder {
    pub(super) fn new(client: Client, mode: Mode, name: String) -> Self {
        Self { client, mode, name, timeout: None, xid: None, durable: false, finished: false }
    }

    /// Until when it must be decided, counted from its begin; the coordinator's default (60 s) if
    /// not set. Undecided then, it aborts.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The xid to use, for example one that was stored with the order before; minted if not set.
    /// The same work under the same xid takes effect at most once.
    pub fn xid(mut self, xid: Xid) -> Self {
        self.xid = Some(xid);
        self
    }

    /// Makes the transaction durable from its birth: a begin by call, and registrations that wait for their
    /// block.
    ///
    /// Without it a transaction begins without a call, and its first durable word is its decision: nothing
    /// waits before that. The price is that a coordinator which is killed aborts what was undecided
    /// (`owner_changed`), to be repeated from the start. Durable from birth are also transactions with an
    /// [`TransactionBuilder::xid`] of one's own, with a timeout of more than 5 minutes, and those that begin
    /// before the coordinator was heard of.
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// Makes the commit wait until every branch has confirmed, for at most 30 s, not only for the
    /// decision. What was decided happens in any case, so a commit whose branches take longer is
    /// `Ok` as well; this is for callers that read it right after.
    pub fn wait_finished(mut self) -> Self {
        self.finished = true;
        self
    }

    /// Begins the transaction, to be decided by hand.
    ///
    /// # Errors
    /// [`ClientError`]; then nothing was begun, or it ends by its deadline without an effect.
    pub async fn begin(self) -> Result<GlobalTransaction, ClientError> {
        check_begin(&self.name, self.timeout)?;
        // An xid of one's own may have been used before: only the coordinator can tell.
        if self.xid.is_none()
            && !self.durable
            && let Some((xid, born)) = self.client.born(self.mode, &self.name, self.timeout)
        {
            return Ok(GlobalTransaction::born(self.client, xid, born, self.finished));
        }
        let (xid, ticket) = self.client.xid_for_begin(self.xid);
        let log_id = self.client.begin_call((xid, ticket), self.mode, &self.name, self.timeout).await?;
        // The coordinator's own default is a matter of its configuration: nothing is told of it.
        Ok(GlobalTransaction::new(self.client, xid, log_id, self.timeout, self.finished))
    }

    /// Begins the transaction, runs the closure with it, and decides: `Ok` commits, naming the
    /// votes that came back with the answers, `Err` aborts.
    ///
    /// The transaction is the current one while the closure runs, so the layers of this crate find
    /// it by themselves; tasks that the closure spawns need [`GlobalTransaction::scope`].
    ///
    /// # Dropping the future
    /// Before the closure ended: the transaction is aborted in the background. After it ended with
    /// `Ok`, when the commit may have been sent: **nothing is aborted**, the commit goes on in the
    /// background, and its xid is logged. So an elapsed `tokio::time::timeout(…, run(…))` does not
    /// mean "aborted" (protocol M20): give the transaction its [`TransactionBuilder::timeout`]
    /// instead, or mint the xid yourself ([`TransactionBuilder::xid`]) and ask
    /// [`Client::wait_decided`] about it.
    ///
    /// # Errors
    /// [`TransactionError`] says what is known of the outcome.
    pub async fn run<T, E, F>(self, body: F) -> Result<T, TransactionError<E>>
    where
        F: AsyncFnOnce(GlobalTransaction) -> Result<T, E>,
    {
        let tx = self.begin().await.map_err(TransactionError::Begin)?;
        let guard = Abandon(tx.clone());
        let result = tx.context().scope(body(tx.clone())).await;
        let ended = match result {
            Ok(value) => tx.commit().await.map(|()| value).map_err(TransactionError::widen),
            Err(error) => match tx.abort().await {
                Ok(()) => Err(TransactionError::User { xid: tx.xid(), error }),
                // By somebody else with the same xid, or by the closure itself: it is not aborted.
                Err(failure) if failure.is_committed() => {
                    Err(TransactionError::OutcomeUnknown { xid: tx.xid(), error: failure })
                }
                // Its deadline aborts it if the coordinator cannot be told.
                Err(failure) => {
                    tracing::warn!(xid = %tx.xid(), error = %failure, "abort could not be told; the deadline does it");
                    Err(TransactionError::User { xid: tx.xid(), error })
                }
            },
        };
        drop(guard);
        ended
    }
}

/// What the coordinator would refuse.
pub(crate) fn check_begin(name: &str, timeout: Option<Duration>) -> Result<(), ClientError> {
    if !name.is_empty() {
        Name::new(name).map_err(|error| ClientError::Invalid {
            code: ErrorCode::InvalidName,
            message: error.to_string(),
        })?;
    }
    if timeout.is_some_and(|timeout| timeout.as_millis() == 0 || timeout > Limits::TIMEOUT_MAX) {
        return Err(ClientError::Invalid {
            code: ErrorCode::InvalidTimeout,
            message: "a timeout is at least a millisecond and at most 31 days".into(),
        });
    }
    Ok(())
}

/// Aborts on the way out, unless something was decided or may have been: clones of the handle may
/// live on in spawned tasks.
struct Abandon(GlobalTransaction);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.abandon();
    }
}
