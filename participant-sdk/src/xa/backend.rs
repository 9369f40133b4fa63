//! The seam between the rules of an XA branch and the database that it lives in.

use std::future::Future;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Database, Pool, Transaction};
use unanimity_types::{BranchKey, LogId, Xid};

use crate::durability::Durability;
use crate::xa::error::XaError;
use crate::xa::gid::{ForeignGid, Gid};

/// A database with XA branches: `sqlx::Postgres`, `sqlx::MySql`. Its methods are this crate's own; the
/// trait is sealed.
pub trait XaDatabase: Database + sealed::Backend {}

/// A branch, before it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XaBranch {
    /// The identity of the coordinator's log in which the branch is registered.
    pub log_id: LogId,
    /// The global transaction.
    pub xid: Xid,
    /// The branch's identity inside it.
    pub key: BranchKey,
    /// Whose branch it is.
    pub participant: String,
    /// The name under which the participant serves it.
    pub operation: String,
}

impl XaBranch {
    /// The name of its prepared transaction.
    #[must_use]
    pub fn gid(&self) -> Gid {
        Gid::new(self.log_id, self.xid, &self.key)
    }
}

/// What a row of the ledger says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LedgerState {
    /// Visible to others only if the work ended its own transaction.
    Working,
    /// The effect is there.
    Committed,
    /// It is not, and never will be.
    RolledBack,
}

impl LedgerState {
    pub(super) fn parse(word: &str) -> Result<Self, sqlx::Error> {
        match word {
            "working" => Ok(Self::Working),
            "committed" => Ok(Self::Committed),
            "rolled_back" => Ok(Self::RolledBack),
            _ => Err(sqlx::Error::Decode(format!("{word:?} is no state of the ledger").into())),
        }
    }
}

/// A prepared transaction, as the database lists it.
#[derive(Debug)]
pub struct Listed {
    /// The database's own name for it.
    pub(super) name: String,
    pub(super) gid: Result<Gid, ForeignGid>,
    /// Whether it can be finished from this database.
    pub(super) here: bool,
    /// How long ago it was prepared, where the database knows.
    pub(super) age: Option<Duration>,
}

/// A row of the ledger, for its collection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LedgerRow {
    /// The branch.
    pub gid: Gid,
    /// What became of it.
    pub state: LedgerState,
    /// When, in milliseconds since the Unix epoch by the service's clock.
    pub updated_at_ms: i64,
}

impl LedgerRow {
    /// A row, for resource managers of your own.
    #[must_use]
    pub fn new(gid: Gid, state: LedgerState, updated_at_ms: i64) -> Self {
        Self { gid, state, updated_at_ms }
    }

    pub(super) fn read((gid, state, updated_at_ms): (String, String, i64)) -> Result<Self, sqlx::Error> {
        let gid = gid.parse().map_err(|error: ForeignGid| sqlx::Error::Decode(error.into()))?;
        Ok(Self { gid, state: LedgerState::parse(&state)?, updated_at_ms })
    }
}

/// Why a prepared transaction could not be finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishFailure {
    /// Nothing is prepared under this name, or, in MariaDB and MySQL, it belongs to a session that
    /// still lives.
    Missing,
    /// Somebody else is finishing it.
    Busy,
    WrongRole,
    WrongDatabase,
    /// Nothing is known.
    Other,
}

pub(crate) mod sealed {
    #![allow(unreachable_pub)]

    use super::*;

    /// The statements.
    pub trait Backend: Database {
        /// Whether a connection may go back to its pool after a prepare. In MariaDB and MySQL before
        /// 8.0.29 no other session may finish the branch as long as its own lives.
        const REUSABLE: bool;

        fn migrate(pool: &Pool<Self>) -> impl Future<Output = Result<(), XaError>> + Send;
        fn check(
            connection: &mut Self::Connection,
            pool_size: u32,
        ) -> impl Future<Output = Result<Vec<Durability>, XaError>> + Send;

        /// Begins the branch's transaction, with bounded waits for locks.
        fn begin<'c>(
            connection: &'c mut Self::Connection,
            gid: &Gid,
            lock_timeout: Duration,
        ) -> impl Future<Output = Result<Transaction<'c, Self>, sqlx::Error>> + Send;
        /// Inserts the branch's row; `None` if there is one. Answers what tells this transaction from
        /// any later one on the same connection.
        fn insert_working(
            connection: &mut Self::Connection,
            gid: &Gid,
            branch: &XaBranch,
        ) -> impl Future<Output = Result<Option<i64>, sqlx::Error>> + Send;
        /// Marks the row as committed; `false` if this is not the transaction that inserted it.
        fn mark_committed(
            connection: &mut Self::Connection,
            gid: &Gid,
            mark: i64,
        ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;
        /// Prepares the transaction and looks whether it is; `false` if the database answered without
        /// an error and it is not. The connection is clean after `true`.
        fn prepare(
            tx: Transaction<'_, Self>,
            gid: &Gid,
        ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;
        /// Commits the transaction without a prepare.
        fn commit_local(
            tx: Transaction<'_, Self>,
            gid: &Gid,
        ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
        /// Rolls the transaction back.
        fn rollback_local(
            tx: Transaction<'_, Self>,
            gid: &Gid,
        ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

        fn commit_prepared(
            connection: &mut Self::Connection,
            gid: &Gid,
        ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
        fn rollback_prepared(
            connection: &mut Self::Connection,
            gid: &Gid,
        ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
        fn is_prepared(
            connection: &mut Self::Connection,
            gid: &Gid,
        ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;
        fn prepared(
            connection: &mut Self::Connection,
        ) -> impl Future<Output = Result<Vec<Listed>, sqlx::Error>> + Send;

        /// Writes that the branch is rolled back, unless it has a row; answers what its row says then.
        /// Waits at most `wait` for a transaction that holds it. `None` if the row went meanwhile.
        fn close_row(
            connection: &mut Self::Connection,
            gid: &Gid,
            wait: Duration,
        ) -> impl Future<Output = Result<Option<LedgerState>, sqlx::Error>> + Send;
        fn read_state(
            connection: &mut Self::Connection,
            gid: &Gid,
        ) -> impl Future<Output = Result<Option<LedgerState>, sqlx::Error>> + Send;
        /// Rows of a log not touched since `before_ms`, oldest first.
        fn settled(
            connection: &mut Self::Connection,
            log_id: LogId,
            before_ms: i64,
            after: Option<&LedgerRow>,
            limit: u32,
        ) -> impl Future<Output = Result<Vec<LedgerRow>, sqlx::Error>> + Send;
        fn delete(
            connection: &mut Self::Connection,
            gid: &Gid,
        ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

        /// Whether a statement waited for a lock in vain, or was a deadlock's victim.
        fn is_lock_wait(error: &sqlx::Error) -> bool;
        /// Whether an error of a prepare or a commit means that there was none, for certain.
        fn is_definite(error: &sqlx::Error) -> bool;
        /// Whether a statement failed because one before it had.
        fn is_lost(error: &sqlx::Error) -> bool;
        fn finish_failure(error: &sqlx::Error) -> FinishFailure;
    }
}

/// How long the goodbye to a server may take, for one that no longer answers.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that goes back to its pool only when it is said to be clean: whatever else happens to
/// it, a panic included, closes it (reliability, row P7).
pub(super) struct Lease<DB: Database> {
    connection: Option<PoolConnection<DB>>,
}

impl<DB: Database> Lease<DB> {
    pub(super) async fn take(pool: &Pool<DB>) -> Result<Self, sqlx::Error> {
        Ok(Self { connection: Some(pool.acquire().await?) })
    }

    pub(super) fn connection(&mut self) -> &mut DB::Connection {
        self.connection.as_mut().expect("taken only by what consumes the lease")
    }

    /// The connection is clean.
    pub(super) fn give_back(mut self) {
        drop(self.connection.take());
    }

    /// Closes the connection and waits until the goodbye is sent.
    pub(super) async fn close(mut self) {
        if let Some(connection) = self.connection.take() {
            // An error or a timeout: the connection is dropped, which closes it as well.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await;
        }
    }
}

impl<DB: Database> Drop for Lease<DB> {
    fn drop(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.close_on_drop();
        }
    }
}

/// Runs the ledger's own migrations of a folder, with a record of their own.
pub(super) async fn migrate<DB>(
    pool: &Pool<DB>,
    migrations: &'static sqlx::migrate::Migrator,
) -> Result<(), XaError>
where
    DB: Database,
    DB::Connection: sqlx::migrate::Migrate,
{
    let own = migrations.iter().filter(|migration| migration.description == "ledger").cloned().collect();
    let mut migrator = sqlx::migrate::Migrator::with_migrations(own);
    migrator.dangerous_set_table_name("unanimity_ledger_migrations");
    let mut lease = Lease::take(pool).await?;
    // After an error the connection still holds the migrations' lock: dropping the lease closes it.
    migrator.run_direct(None, lease.connection(), false).await?;
    lease.give_back();
    Ok(())
}
