//! The work of a branch, up to the moment when it is prepared or given up.
//!
//! The branch's row of the ledger is inserted **first**: a rollback that comes meanwhile waits for it,
//! or is there before it, in which case the work does not begin. It is marked as committed **last**,
//! in the same transaction: work that ended its transaction by itself, or swallowed the error that
//! ended it, is found there. What follows is the prepare alone.
//!
//! Whoever waits for the outcome is answered after the connection is given back or closed: in MariaDB
//! and MySQL others can finish a prepared branch only then.

use std::error::Error;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sqlx::Transaction;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::failpoint;
use crate::xa::backend::{Lease, LedgerState, XaBranch, XaDatabase};
use crate::xa::error::{OnePhase, Prepared, WorkError, Worked, XaError};
use crate::xa::gid::Gid;
use crate::xa::registry::{Entry, Order, is_sibling};
use crate::xa::resource::Inner;

/// How long to wait before each look whether a prepare without an answer took place: the server may
/// still be at it, or be starting again, when we are back.
const LOOK_PAUSES_MS: [u64; 5] = [0, 50, 150, 400, 1_000];

/// One attempt at a branch.
pub(super) struct Attempt<T> {
    pub(super) branch: XaBranch,
    pub(super) entry: Entry,
    /// There if the branch is to be held until its prepare.
    pub(super) permit: Option<OwnedSemaphorePermit>,
    /// Taken when it is answered.
    pub(super) answer: Option<oneshot::Sender<Result<Worked<T>, XaError>>>,
}

impl<T> Attempt<T> {
    /// The attempt is over: the branch leaves the registry and its permit is free before anybody is
    /// told, who may come with the next operation at once.
    fn end(self) -> impl FnOnce(Result<Worked<T>, XaError>) {
        let Self { entry, permit, answer, .. } = self;
        drop((entry, permit));
        move |worked| {
            if let Some(answer) = answer {
                // Who asked may have gone: the database knows what became of the branch.
                let _ = answer.send(worked);
            }
        }
    }

    fn answer(&mut self, worked: Result<Worked<T>, XaError>) {
        // Who asked may have gone: the registry and the database know what became of the branch.
        if let Some(answer) = self.answer.take() {
            let _ = answer.send(worked);
        }
    }
}

/// How a branch's transaction ended.
enum Ending<T> {
    /// Without effect.
    Failed(XaError),
    /// The branch has worked before.
    Before,
    /// With a prepare, of the early form.
    Early(T, Result<(), XaError>),
    /// With an order to the branch that was held.
    Prepare(oneshot::Sender<Prepared>, Result<(), XaError>),
    CommitOnePhase(oneshot::Sender<OnePhase>, Result<(), XaError>),
    /// Held, and rolled back.
    LetGo,
}

impl<DB: XaDatabase> Inner<DB> {
    /// The whole life of a branch's connection.
    pub(super) async fn perform<T, F>(&self, mut attempt: Attempt<T>, hook: F)
    where
        F: for<'c> FnOnce(&'c mut DB::Connection) -> BoxFuture<'c, Result<T, WorkError>> + Send,
        T: Send,
    {
        let gid = attempt.branch.gid();
        let mut lease = match Lease::take(&self.pool).await {
            Ok(lease) => lease,
            Err(error) => return attempt.end()(Err(error.into())),
        };
        let (ending, is_clean) = self.run(lease.connection(), &gid, &mut attempt, hook).await;
        if is_clean && DB::REUSABLE {
            lease.give_back();
        } else {
            lease.close().await;
        }
        match ending {
            Ending::LetGo => {}
            Ending::Before => attempt.end()(Ok(Worked::Before)),
            Ending::Failed(error) => {
                let error = self.explain(&gid, error).await;
                attempt.end()(Err(error));
            }
            Ending::Early(value, prepared) => {
                let prepared = self.look_again(&gid, prepared).await;
                attempt.end()(prepared.map(|()| Worked::Prepared(value)));
            }
            Ending::Prepare(reply, prepared) => {
                let prepared = match self.look_again(&gid, prepared).await {
                    Ok(()) => Prepared::Yes,
                    Err(error) if error.is_refusal() => Prepared::Refused(error.to_string()),
                    Err(error) => Prepared::Unknown(error),
                };
                drop(attempt);
                let _ = reply.send(prepared);
            }
            Ending::CommitOnePhase(reply, committed) => {
                let outcome = match committed {
                    Ok(()) => OnePhase::Committed,
                    // Whatever went wrong: the branch's row says what became of it.
                    Err(error) => self.decide_one_phase(&gid, &error.to_string()).await,
                };
                drop(attempt);
                let _ = reply.send(outcome);
            }
        }
    }

    /// What is done on the connection, and whether it is clean after that.
    async fn run<T, F>(
        &self,
        connection: &mut DB::Connection,
        gid: &Gid,
        attempt: &mut Attempt<T>,
        hook: F,
    ) -> (Ending<T>, bool)
    where
        F: for<'c> FnOnce(&'c mut DB::Connection) -> BoxFuture<'c, Result<T, WorkError>> + Send,
        T: Send,
    {
        match DB::is_prepared(connection, gid).await {
            Ok(false) => {}
            Ok(true) => return (Ending::Before, true),
            Err(error) => return (Ending::Failed(error.into()), false),
        }
        let mut tx = match DB::begin(connection, gid, self.settings.lock_timeout).await {
            Ok(tx) => tx,
            Err(error) => return (self.not_begun(gid, error).await, false),
        };
        let mark = match DB::insert_working(&mut tx, gid, &attempt.branch).await {
            Ok(Some(mark)) => mark,
            Ok(None) => return Self::worked_before(tx, gid).await,
            Err(error) => {
                drop(tx);
                return (self.not_begun(gid, error).await, false);
            }
        };
        match self.work(&mut tx, &attempt.entry, hook).await {
            Ok(value) if attempt.permit.is_none() => {
                let prepared = Self::prepare_now(tx, gid, mark).await;
                let is_clean = prepared.is_ok();
                (Ending::Early(value, prepared), is_clean)
            }
            Ok(value) => self.hold(tx, gid, mark, attempt, value).await,
            Err(error) => {
                // A hook that answered has no statement under way; one that was ended may have.
                let answered = matches!(error, XaError::Work(_));
                let is_clean = answered && DB::rollback_local(tx, gid).await.is_ok();
                (Ending::Failed(error), is_clean)
            }
        }
    }

    /// The branch's transaction could not be begun, or its row not be inserted.
    async fn not_begun<T>(&self, gid: &Gid, error: sqlx::Error) -> Ending<T> {
        if !DB::is_lock_wait(&error) {
            return Ending::Failed(error.into());
        }
        // Another attempt has the row: one that works, or one that prepared since we looked.
        match self.is_prepared(gid).await {
            Ok(true) => Ending::Before,
            Ok(false) => Ending::Failed(XaError::Busy),
            Err(error) => Ending::Failed(error.into()),
        }
    }

    /// The branch has a row: what does it mean for work that comes now?
    async fn worked_before<T>(mut tx: Transaction<'_, DB>, gid: &Gid) -> (Ending<T>, bool) {
        let state = DB::read_state(&mut tx, gid).await;
        let is_clean = DB::rollback_local(tx, gid).await.is_ok();
        let ending = match state {
            Ok(Some(LedgerState::Committed)) => Ending::Before,
            Ok(Some(LedgerState::RolledBack)) => Ending::Failed(XaError::RolledBack),
            Ok(Some(LedgerState::Working)) => Ending::Failed(XaError::TransactionLost),
            Ok(None) => Ending::Failed(XaError::Busy),
            Err(error) => Ending::Failed(error.into()),
        };
        (ending, is_clean)
    }

    async fn work<T, F>(&self, connection: &mut DB::Connection, entry: &Entry, hook: F) -> Result<T, XaError>
    where
        F: for<'c> FnOnce(&'c mut DB::Connection) -> BoxFuture<'c, Result<T, WorkError>> + Send,
        T: Send,
    {
        let time = self.settings.work_timeout;
        // The first poll calls the hook, so that a panic of either is caught.
        let work = AssertUnwindSafe(async move { hook(connection).await }).catch_unwind();
        tokio::select! {
            biased;
            () = entry.stopped() => Err(XaError::RolledBack),
            outcome = tokio::time::timeout(time, work) => match outcome {
                Ok(Ok(Ok(value))) => Ok(value),
                Ok(Ok(Err(error))) => Err(XaError::Work(error)),
                Ok(Err(_)) => Err(XaError::WorkPanicked),
                Err(_) => Err(XaError::WorkTimeout(time)),
            },
        }
    }

    /// Keeps the open transaction until an order comes, a rollback, or the end of its time.
    async fn hold<T>(
        &self,
        tx: Transaction<'_, DB>,
        gid: &Gid,
        mark: i64,
        attempt: &mut Attempt<T>,
        value: T,
    ) -> (Ending<T>, bool) {
        let mut orders = attempt.entry.hold();
        attempt.answer(Ok(Worked::Held(value)));
        let order = tokio::select! {
            biased;
            () = attempt.entry.stopped() => None,
            order = orders.recv() => order,
            () = tokio::time::sleep(self.settings.hold_timeout) => {
                tracing::warn!(%gid, "held for its prepare for too long: rolled back");
                None
            }
        };
        // Whoever comes from here on is told to come again, and then finds the outcome.
        attempt.entry.close();
        match order {
            None => (Ending::LetGo, DB::rollback_local(tx, gid).await.is_ok()),
            Some(Order::Prepare(reply)) => {
                let prepared = Self::prepare_now(tx, gid, mark).await;
                let is_clean = prepared.is_ok();
                (Ending::Prepare(reply, prepared), is_clean)
            }
            Some(Order::CommitOnePhase(reply)) => {
                let committed = Self::commit_now(tx, gid, mark).await;
                let is_clean = committed.is_ok();
                (Ending::CommitOnePhase(reply, committed), is_clean)
            }
        }
    }

    /// Marks the row and prepares. After `Ok` the branch is durable and can go either way. After an
    /// error other than [`XaError::PrepareUnknown`] it is rolled back as soon as the connection is
    /// closed; if this never returns it is either, and the database's list of prepared ones tells.
    async fn prepare_now(mut tx: Transaction<'_, DB>, gid: &Gid, mark: i64) -> Result<(), XaError> {
        Self::mark(&mut tx, gid, mark).await?;
        failpoint::reach("xa.before_prepare");
        let prepared = DB::prepare(tx, gid).await;
        failpoint::reach("xa.after_prepare");
        match prepared {
            Ok(true) => Ok(()),
            Ok(false) => Err(XaError::NotPrepared),
            Err(error) if DB::is_lost(&error) => Err(XaError::TransactionLost),
            Err(error) if DB::is_definite(&error) => Err(XaError::PrepareRefused(error)),
            Err(error) => Err(XaError::PrepareUnknown(error)),
        }
    }

    /// Marks the row and commits without a prepare (protocol H4).
    async fn commit_now(mut tx: Transaction<'_, DB>, gid: &Gid, mark: i64) -> Result<(), XaError> {
        Self::mark(&mut tx, gid, mark).await?;
        Ok(DB::commit_local(tx, gid).await?)
    }

    async fn mark(connection: &mut DB::Connection, gid: &Gid, mark: i64) -> Result<(), XaError> {
        match DB::mark_committed(connection, gid, mark).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(XaError::TransactionLost),
            Err(error) if DB::is_lost(&error) => Err(XaError::TransactionLost),
            Err(error) => Err(error.into()),
        }
    }

    /// A prepare without an answer: is it there (reliability, row P2)?
    async fn look_again(&self, gid: &Gid, prepared: Result<(), XaError>) -> Result<(), XaError> {
        if !matches!(prepared, Err(XaError::PrepareUnknown(_))) {
            return prepared;
        }
        for pause in LOOK_PAUSES_MS {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            match self.is_prepared(gid).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => tracing::debug!(%gid, %error, "cannot look whether it is prepared"),
            }
        }
        prepared
    }

    /// Work that waited for a lock in vain: did it wait for its own global transaction (H11)?
    async fn explain(&self, gid: &Gid, error: XaError) -> XaError {
        let source = match error {
            XaError::Work(source) if waited_for_lock::<DB>(&*source) => source,
            error => return error,
        };
        let sibling = match self.registry.sibling(gid) {
            Some(sibling) => Some(sibling),
            None => self.prepared_sibling(gid).await.unwrap_or_default(),
        };
        match sibling {
            Some(sibling) => XaError::SiblingHoldsLock { sibling, source },
            None => XaError::Work(source),
        }
    }

    async fn prepared_sibling(&self, gid: &Gid) -> Result<Option<Gid>, sqlx::Error> {
        let mut lease = Lease::take(&self.pool).await?;
        let listed = DB::prepared(lease.connection()).await?;
        lease.give_back();
        let here = listed.into_iter().filter(|listed| listed.here);
        Ok(here.filter_map(|listed| listed.gid.ok()).find(|other| is_sibling(gid, other)))
    }
}

/// Whether somewhere in an error's chain a statement of this database waited for a lock in vain.
fn waited_for_lock<DB: XaDatabase>(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<sqlx::Error>().is_some_and(DB::is_lock_wait) {
            return true;
        }
        next = error.source();
    }
    false
}
