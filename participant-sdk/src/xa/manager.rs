//! What can be a resource manager of two-phase commit: the ones of this module, and your own.

use std::any::Any;
use std::future::Future;

use futures::future::BoxFuture;
use unanimity_types::{BranchKey, LogId};

use crate::durability::Durability;
use crate::xa::backend::{LedgerRow, XaDatabase};
use crate::xa::error::{OnePhase, Prepared, Settled, XaError};
use crate::xa::gid::Gid;
use crate::xa::resource::{InDoubt, Resource};

/// What a resource manager is told of the branch that it is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TwoPhaseCall {
    /// The branch: log, global transaction, digest of the key.
    pub gid: Gid,
    /// The branch's key. `None` where the in-doubt loop asks about what [`ResourceManager::in_doubt`]
    /// listed.
    pub key: Option<BranchKey>,
    /// What the branch was registered with, as JSON. Empty where the in-doubt loop asks.
    pub payload: Vec<u8>,
}

impl TwoPhaseCall {
    pub(crate) fn new(gid: Gid, key: Option<BranchKey>, payload: Vec<u8>) -> Self {
        Self { gid, key, payload }
    }
}

/// A resource manager of two-phase commit: a queue, a file store, a database of another kind.
/// [`PostgresResource`](crate::xa::PostgresResource) and [`MySqlResource`](crate::xa::MySqlResource)
/// are ones.
///
/// Every operation may come more than once, in any order, late, and to any instance; the answer must be
/// the same each time. What was prepared is durable and stays so until `commit` or `rollback` comes.
pub trait ResourceManager: Send + Sync + 'static {
    /// Makes the branch's work durable, so that it can go either way, and votes.
    ///
    /// [`Prepared::ReadOnly`]: nothing was changed; neither commit nor rollback will come. Only the late
    /// form may say so (protocol M11). [`Prepared::Refused`] is for good.
    fn prepare(&self, call: &TwoPhaseCall) -> impl Future<Output = Prepared> + Send;

    /// Makes the prepared work effective. [`Settled::Done`] only if the effect is there: a branch of
    /// which nothing is known any more is done only if a record of it says so, else an alarm
    /// (reliability, row P5).
    fn commit(&self, call: &TwoPhaseCall) -> impl Future<Output = Settled> + Send;

    /// Undoes the work, prepared or not, and remembers that it may not be prepared any more: it may
    /// come before the work.
    fn rollback(&self, call: &TwoPhaseCall) -> impl Future<Output = Settled> + Send;

    /// Commits without a prepare (protocol H4). From now on the branch decides: the answer is written
    /// down and repeated. Comes only to branches of
    /// [`TwoPhaseBranch::one_phase`](crate::TwoPhaseBranch::one_phase).
    fn commit_one_phase(&self, call: &TwoPhaseCall) -> impl Future<Output = OnePhase> + Send;

    /// What is prepared: [`InDoubt::ours`] is what the coordinator is asked about when the participant
    /// starts, and whenever it is older than the in-doubt age. If not written: nothing is listed, and
    /// whoever is prepared waits for the coordinator to come.
    fn in_doubt(&self, log_id: LogId) -> impl Future<Output = Result<InDoubt, XaError>> + Send {
        let _ = log_id;
        async { Ok(InDoubt::default()) }
    }

    /// A page of settled branches of this log whose records were not changed since `before_ms`
    /// (milliseconds since the Unix epoch), after `after`, oldest first, at most `limit`: what
    /// [`ResourceManager::forget`] may be called with. If not written: none.
    fn settled(
        &self,
        log_id: LogId,
        before_ms: i64,
        after: Option<LedgerRow>,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<LedgerRow>, XaError>> + Send {
        let _ = (log_id, before_ms, after, limit);
        async { Ok(Vec::new()) }
    }

    /// Deletes the record of a branch, of which the coordinator has said that it is settled (protocol
    /// H9). Answers whether there was one.
    fn forget(&self, gid: &Gid) -> impl Future<Output = Result<bool, XaError>> + Send {
        let _ = gid;
        async { Ok(false) }
    }

    /// Settings that can lose a vote or a commit, looked at when the participant starts. An error keeps
    /// it from starting.
    fn check(&self) -> impl Future<Output = Result<Vec<Durability>, XaError>> + Send {
        async { Ok(Vec::new()) }
    }

    /// How many branches are at work or held in this process.
    fn open(&self) -> usize {
        0
    }
}

impl<DB: XaDatabase> ResourceManager for Resource<DB> {
    async fn prepare(&self, call: &TwoPhaseCall) -> Prepared {
        self.prepare(&call.gid).await
    }

    async fn commit(&self, call: &TwoPhaseCall) -> Settled {
        self.commit(&call.gid).await
    }

    async fn rollback(&self, call: &TwoPhaseCall) -> Settled {
        self.rollback(&call.gid).await
    }

    async fn commit_one_phase(&self, call: &TwoPhaseCall) -> OnePhase {
        self.commit_one_phase(&call.gid).await
    }

    async fn in_doubt(&self, log_id: LogId) -> Result<InDoubt, XaError> {
        self.in_doubt(log_id).await
    }

    async fn settled(
        &self,
        log_id: LogId,
        before_ms: i64,
        after: Option<LedgerRow>,
        limit: u32,
    ) -> Result<Vec<LedgerRow>, XaError> {
        self.settled(log_id, before_ms, after, limit).await
    }

    async fn forget(&self, gid: &Gid) -> Result<bool, XaError> {
        self.forget(gid).await
    }

    async fn check(&self) -> Result<Vec<Durability>, XaError> {
        self.check().await
    }

    fn open(&self) -> usize {
        self.open()
    }
}

/// A resource manager without its type, to keep in one map.
pub(crate) trait ErasedManager: Send + Sync {
    fn run_prepare<'a>(&'a self, call: &'a TwoPhaseCall) -> BoxFuture<'a, Prepared>;
    fn run_commit<'a>(&'a self, call: &'a TwoPhaseCall) -> BoxFuture<'a, Settled>;
    fn run_rollback<'a>(&'a self, call: &'a TwoPhaseCall) -> BoxFuture<'a, Settled>;
    fn run_commit_one_phase<'a>(&'a self, call: &'a TwoPhaseCall) -> BoxFuture<'a, OnePhase>;
    fn list_in_doubt(&self, log_id: LogId) -> BoxFuture<'_, Result<InDoubt, XaError>>;
    fn list_settled(
        &self,
        log_id: LogId,
        before_ms: i64,
        after: Option<LedgerRow>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<LedgerRow>, XaError>>;
    fn run_forget<'a>(&'a self, gid: &'a Gid) -> BoxFuture<'a, Result<bool, XaError>>;
    fn run_check(&self) -> BoxFuture<'_, Result<Vec<Durability>, XaError>>;
    fn count_open(&self) -> usize;
    /// Itself, to find its type again.
    fn as_any(&self) -> &dyn Any;
}

impl<M: ResourceManager> ErasedManager for M {
    fn run_prepare<'a>(&'a self, call: &'a TwoPhaseCall) -> BoxFuture<'a, Prepared> {
        Box::pin(ResourceManager::prepare(self, call))
    }

    fn run_commit<'a>(&'a self, call: &'a TwoPhaseCall) -> BoxFuture<'a, Settled> {
        Box::pin(ResourceManager::commit(self, call))
    }

    fn run_rollback<'a>(&'a self, call: &'a TwoPhaseCall) -> BoxFuture<'a, Settled> {
        Box::pin(ResourceManager::rollback(self, call))
    }

    fn run_commit_one_phase<'a>(&'a self, call: &'a TwoPhaseCall) -> BoxFuture<'a, OnePhase> {
        Box::pin(ResourceManager::commit_one_phase(self, call))
    }

    fn list_in_doubt(&self, log_id: LogId) -> BoxFuture<'_, Result<InDoubt, XaError>> {
        Box::pin(ResourceManager::in_doubt(self, log_id))
    }

    fn list_settled(
        &self,
        log_id: LogId,
        before_ms: i64,
        after: Option<LedgerRow>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<LedgerRow>, XaError>> {
        Box::pin(ResourceManager::settled(self, log_id, before_ms, after, limit))
    }

    fn run_forget<'a>(&'a self, gid: &'a Gid) -> BoxFuture<'a, Result<bool, XaError>> {
        Box::pin(ResourceManager::forget(self, gid))
    }

    fn run_check(&self) -> BoxFuture<'_, Result<Vec<Durability>, XaError>> {
        Box::pin(ResourceManager::check(self))
    }

    fn count_open(&self) -> usize {
        ResourceManager::open(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
