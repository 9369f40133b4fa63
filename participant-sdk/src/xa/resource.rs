//! The resource manager: what a participant calls.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use sqlx::Pool;
use tokio::sync::{Semaphore, oneshot};
use unanimity_types::LogId;

use crate::durability::Durability;
use crate::xa::backend::{Lease, LedgerRow, Listed, XaBranch, XaDatabase};
use crate::xa::error::{OnePhase, Prepared, Settled, WorkError, Worked, XaError};
use crate::xa::gid::Gid;
use crate::xa::registry::{Presence, Registry};
use crate::xa::work::Attempt;

/// A participant's database as a resource manager of two-phase commit.
///
/// [`Resource::work`] runs the user's code on a plain connection inside the branch's transaction and
/// prepares it; [`Resource::commit`] and [`Resource::rollback`] finish it on the coordinator's word,
/// from any instance, as often as they are told. See the module's page for the promises.
///
/// Cheap to clone. Every operation goes on in a task of its own when its future is dropped.
pub struct Resource<DB: XaDatabase> {
    inner: Arc<Inner<DB>>,
}

/// How branches work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) lock_timeout: Duration,
    pub(super) work_timeout: Duration,
    pub(super) hold_timeout: Duration,
    pub(super) held_max: usize,
}

pub(super) struct Inner<DB: XaDatabase> {
    pub(super) pool: Pool<DB>,
    pub(super) settings: Settings,
    pub(super) registry: Arc<Registry>,
    held: Arc<Semaphore>,
    /// When this process first saw a prepared transaction, where the database does not say.
    seen: Mutex<HashMap<String, Instant>>,
}

/// The prepared transactions of a database.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct InDoubt {
    /// Ours, in this log: ask the coordinator about them.
    pub ours: Vec<PreparedBranch>,
    /// Everybody else's: to be shown, never to be touched.
    pub others: Vec<OtherPrepared>,
}

/// A prepared branch of this log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PreparedBranch {
    /// The branch.
    pub gid: Gid,
    /// For how long it has been prepared. In MariaDB and MySQL, which do not say: for how long this
    /// process has seen it, at least.
    pub age: Duration,
}

impl PreparedBranch {
    /// A prepared branch, for resource managers of your own.
    #[must_use]
    pub fn new(gid: Gid, age: Duration) -> Self {
        Self { gid, age }
    }
}

/// A prepared transaction that is not to be touched.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtherPrepared {
    /// The database's name for it.
    pub name: String,
    /// Why it is not to be touched.
    pub owner: Owner,
    /// As [`PreparedBranch::age`].
    pub age: Duration,
}

/// Whose prepared transaction it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Owner {
    /// Of another coordinator of this kind (protocol C8).
    OtherLog(Gid),
    /// Of this log, in another database of the same server: that database's participants settle it.
    OtherDatabase(Gid),
    /// Not of this kind at all.
    Foreign,
}

impl<DB: XaDatabase> Resource<DB> {
    /// A resource manager for the database of this pool. It needs at least two connections: one that
    /// works and one that settles.
    #[must_use]
    pub fn new(pool: Pool<DB>) -> Self {
        // Each held branch pins a connection: half of them stay for everybody else.
        let held_max = (pool.options().get_max_connections() / 2).max(1) as usize;
        Self::with(
            pool,
            Settings {
                // Longer than an ordinary transaction holds a row, shorter than the coordinator waits.
                lock_timeout: Duration::from_secs(5),
                work_timeout: Duration::from_secs(30),
                // As long as the coordinator's deadline for a prepare, and the work of the others.
                hold_timeout: Duration::from_secs(60),
                held_max,
            },
        )
    }

    fn with(pool: Pool<DB>, settings: Settings) -> Self {
        let held = Arc::new(Semaphore::new(settings.held_max));
        let inner = Inner { pool, settings, registry: Arc::default(), held, seen: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// How long a statement of the work may wait for a lock; 5 s if not set, at least 1 ms (MariaDB and
    /// MySQL: whole seconds, at least one). Call it before the first branch.
    #[must_use]
    pub fn lock_timeout(self, timeout: Duration) -> Self {
        let timeout = timeout.max(Duration::from_millis(1));
        self.change(|settings| settings.lock_timeout = timeout)
    }

    /// How long work may take, 30 s if not set: then it is rolled back. Call it before the first branch.
    #[must_use]
    pub fn work_timeout(self, timeout: Duration) -> Self {
        self.change(|settings| settings.work_timeout = timeout)
    }

    /// How long a branch of [`Resource::work_and_hold`] is held, 60 s if not set, and how many at a
    /// time, half of the pool's connections if not set. Call it before the first branch.
    #[must_use]
    pub fn hold(self, timeout: Duration, at_most: usize) -> Self {
        self.change(|settings| {
            settings.hold_timeout = timeout;
            settings.held_max = at_most.min(Semaphore::MAX_PERMITS);
        })
    }

    fn change(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.inner.settings;
        change(&mut settings);
        Self::with(self.inner.pool.clone(), settings)
    }

    /// Makes the ledger's table, or brings it up to date. Keeps its own record
    /// (`unanimity_ledger_migrations`). May run at every start, in several processes at once.
    ///
    /// # Errors
    /// [`XaError::Migrate`], [`XaError::Database`].
    pub async fn migrate(&self) -> Result<(), XaError> {
        let inner = Arc::clone(&self.inner);
        run(async move { DB::migrate(&inner.pool).await }).await?
    }

    /// Settings of the database that can lose a vote or a commit after it was answered (protocol M13),
    /// or that will hurt. Empty: none found.
    ///
    /// # Errors
    /// [`XaError::PreparedTransactionsOff`] where no branch can ever be prepared; [`XaError::Database`].
    pub async fn check(&self) -> Result<Vec<Durability>, XaError> {
        let inner = Arc::clone(&self.inner);
        run(async move {
            let mut lease = Lease::take(&inner.pool).await?;
            let size = inner.pool.options().get_max_connections();
            let found = DB::check(lease.connection(), size).await?;
            lease.give_back();
            Ok(found)
        })
        .await?
    }

    /// Runs a branch's work in its transaction and prepares it: the early form. After
    /// [`Worked::Prepared`] the branch votes Prepared, and any instance can finish it.
    ///
    /// The work gets a plain connection inside of a transaction (`READ COMMITTED` in PostgreSQL) and
    /// must not end it; a `begin` in it makes a savepoint. It runs at most once with effect, however
    /// often it is called. In PostgreSQL it may not use temporary tables, `LISTEN`, `NOTIFY` or cursors
    /// `WITH HOLD`, which `PREPARE TRANSACTION` refuses.
    ///
    /// ```no_run
    /// # #[cfg(feature = "postgres")]
    /// # async fn f(branch: unanimity_sdk::xa::XaBranch, pool: sqlx::PgPool) -> Result<(), unanimity_sdk::xa::XaError> {
    /// let bank = unanimity_sdk::xa::PostgresResource::new(pool);
    /// bank.work(&branch, |tx| {
    ///     Box::pin(async move {
    ///         sqlx::query("UPDATE accounts SET cents = cents - 100 WHERE name = 'alice'").execute(tx).await?;
    ///         Ok(())
    ///     })
    /// })
    /// .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`XaError`]: except after [`XaError::PrepareUnknown`] nothing of the work is left. Do not vote.
    pub async fn work<T, F>(&self, branch: &XaBranch, work: F) -> Result<Worked<T>, XaError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut DB::Connection) -> BoxFuture<'c, Result<T, WorkError>> + Send + 'static,
    {
        self.begin(branch, work, false).await
    }

    /// Runs a branch's work and holds its transaction open in this process until
    /// [`Resource::prepare`], [`Resource::commit_one_phase`] or [`Resource::rollback`]: the late form,
    /// which binds the branch to this instance (protocol H11). Rolled back when its time is up.
    ///
    /// # Errors
    /// As [`Resource::work`], and [`XaError::TooManyHeld`].
    pub async fn work_and_hold<T, F>(&self, branch: &XaBranch, work: F) -> Result<Worked<T>, XaError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut DB::Connection) -> BoxFuture<'c, Result<T, WorkError>> + Send + 'static,
    {
        self.begin(branch, work, true).await
    }

    /// Either form.
    pub(crate) async fn begin<T, F>(
        &self,
        branch: &XaBranch,
        work: F,
        hold: bool,
    ) -> Result<Worked<T>, XaError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut DB::Connection) -> BoxFuture<'c, Result<T, WorkError>> + Send + 'static,
    {
        let gid = branch.gid();
        let Some(entry) = self.inner.registry.enter(gid) else {
            // A repeated call finds its work held.
            let is_held = matches!(self.inner.registry.presence(&gid), Presence::Held(_));
            return if hold && is_held { Ok(Worked::Before) } else { Err(XaError::Busy) };
        };
        let permit = match hold {
            false => None,
            true => match Arc::clone(&self.inner.held).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => return Err(XaError::TooManyHeld(self.inner.settings.held_max)),
            },
        };
        let (answer, receiver) = oneshot::channel();
        let inner = Arc::clone(&self.inner);
        let attempt = Attempt { branch: branch.clone(), entry, permit, answer: Some(answer) };
        tokio::spawn(async move { Box::pin(inner.perform(attempt, work)).await });
        receiver.await.map_err(|_| XaError::ShuttingDown)?
    }

    /// Prepares a branch that [`Resource::work_and_hold`] holds. Repeated, it answers the same; where
    /// nothing of the branch is left it is refused, for good.
    pub async fn prepare(&self, gid: &Gid) -> Prepared {
        let (inner, gid) = (Arc::clone(&self.inner), *gid);
        run(async move { inner.prepare(&gid).await }).await.unwrap_or_else(Prepared::Unknown)
    }

    /// Commits a prepared branch, on the coordinator's decision and never without it.
    ///
    /// [`Settled::Done`] only if the effect is there: a gid that is unknown to the database is
    /// committed if the ledger says so, else an alarm (reliability, row P5).
    pub async fn commit(&self, gid: &Gid) -> Settled {
        let (inner, gid) = (Arc::clone(&self.inner), *gid);
        run(async move { inner.commit(&gid).await }).await.unwrap_or_else(Settled::Unknown)
    }

    /// Rolls a branch back, wherever it is: prepared, at work, held, or not begun. After
    /// [`Settled::Done`] it is not there and never will be: late work is refused.
    pub async fn rollback(&self, gid: &Gid) -> Settled {
        let (inner, gid) = (Arc::clone(&self.inner), *gid);
        run(async move { inner.rollback(&gid).await }).await.unwrap_or_else(Settled::Unknown)
    }

    /// Commits a held branch without a prepare, by durable delegation (protocol H4): the branch
    /// decides, once and for all, and repeats its answer.
    pub async fn commit_one_phase(&self, gid: &Gid) -> OnePhase {
        let (inner, gid) = (Arc::clone(&self.inner), *gid);
        run(async move { inner.commit_one_phase(&gid).await }).await.unwrap_or_else(OnePhase::Unknown)
    }

    /// The database's prepared transactions: those of this log, to ask the coordinator about, and all
    /// others. Nothing here decides anything by itself.
    ///
    /// # Errors
    /// [`XaError::Database`].
    pub async fn in_doubt(&self, log_id: LogId) -> Result<InDoubt, XaError> {
        let inner = Arc::clone(&self.inner);
        let listed = run(async move {
            let mut lease = Lease::take(&inner.pool).await?;
            let listed = DB::prepared(lease.connection()).await?;
            lease.give_back();
            Ok::<_, XaError>(inner.with_ages(listed))
        })
        .await??;
        let mut found = InDoubt::default();
        for (listed, age) in listed {
            let owner = match listed.gid {
                Ok(gid) if gid.log_id() != log_id => Owner::OtherLog(gid),
                Ok(gid) if !listed.here => Owner::OtherDatabase(gid),
                Ok(gid) => {
                    found.ours.push(PreparedBranch { gid, age });
                    continue;
                }
                Err(_) => Owner::Foreign,
            };
            found.others.push(OtherPrepared { name: listed.name, owner, age });
        }
        Ok(found)
    }

    /// A page of the ledger: rows of this log not changed since `before_ms` (milliseconds since the
    /// Unix epoch), after `after`, oldest first.
    ///
    /// # Errors
    /// [`XaError::Database`].
    pub async fn settled(
        &self,
        log_id: LogId,
        before_ms: i64,
        after: Option<LedgerRow>,
        limit: u32,
    ) -> Result<Vec<LedgerRow>, XaError> {
        let inner = Arc::clone(&self.inner);
        run(async move {
            let mut lease = Lease::take(&inner.pool).await?;
            let rows = DB::settled(lease.connection(), log_id, before_ms, after.as_ref(), limit).await?;
            lease.give_back();
            Ok(rows)
        })
        .await?
    }

    /// Deletes a branch's row. Only when the coordinator has said that its transaction is settled and
    /// no late work of it can come any more (protocol H9).
    ///
    /// # Errors
    /// [`XaError::Database`].
    pub async fn forget(&self, gid: &Gid) -> Result<bool, XaError> {
        let (inner, gid) = (Arc::clone(&self.inner), *gid);
        run(async move {
            let mut lease = Lease::take(&inner.pool).await?;
            let was_there = DB::delete(lease.connection(), &gid).await?;
            lease.give_back();
            Ok(was_there)
        })
        .await?
    }

    /// How many branches are at work or held in this process.
    #[must_use]
    pub fn open(&self) -> usize {
        self.inner.registry.count()
    }

    /// The pool, for your own queries.
    #[must_use]
    pub fn pool(&self) -> &Pool<DB> {
        &self.inner.pool
    }
}

impl<DB: XaDatabase> Inner<DB> {
    fn with_ages(&self, listed: Vec<Listed>) -> Vec<(Listed, Duration)> {
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // As many as there are prepared transactions, and no more.
        seen.retain(|name, _| listed.iter().any(|listed| listed.name == *name));
        let age = |listed: &Listed, seen: &mut HashMap<String, Instant>| {
            listed.age.unwrap_or_else(|| now - *seen.entry(listed.name.clone()).or_insert(now))
        };
        listed
            .into_iter()
            .map(|listed| {
                let age = age(&listed, &mut seen);
                (listed, age)
            })
            .collect()
    }
}

/// Runs to its end whatever becomes of the caller: a dropped future must not leave a statement half
/// sent (sqlx #4385).
async fn run<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Result<T, XaError> {
    tokio::spawn(future).await.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => XaError::ShuttingDown,
    })
}

impl<DB: XaDatabase> Clone for Resource<DB> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<DB: XaDatabase> fmt::Debug for Resource<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}
