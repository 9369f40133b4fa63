//! What can go wrong with an XA branch, and what is answered.

use std::error::Error;
use std::time::Duration;

use crate::xa::gid::Gid;

/// The error of a piece of work: any error will do.
pub type WorkError = Box<dyn Error + Send + Sync>;

/// How an XA branch's operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum XaError {
    /// The database answered an error, or did not answer.
    #[error("the branch's database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The ledger's table could not be made or brought up to date.
    #[error("the ledger's table could not be migrated: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The work answered an error and was rolled back.
    #[error("the work failed: {0}")]
    Work(#[source] WorkError),
    /// The work waited in vain for a lock, and another branch of the **same** global transaction has
    /// its own open in this database: most likely they wait for each other, which no time will mend.
    #[error(
        "the work waits for a lock while another branch of the same global transaction ({sibling}) holds its \
         own in this database: do both pieces of work in one branch, or let them touch different rows ({source})"
    )]
    SiblingHoldsLock {
        /// The other branch.
        sibling: Gid,
        /// What the work answered.
        #[source]
        source: WorkError,
    },
    /// The work did not end within its time and was rolled back.
    #[error("the work did not end within {0:?} and was rolled back")]
    WorkTimeout(Duration),
    /// The work panicked and was rolled back.
    #[error("the work panicked and was rolled back")]
    WorkPanicked,
    /// The work ended its own transaction: committed, rolled back, or ended by the database after an
    /// error that the work swallowed.
    #[error("the transaction did not survive its work: was it ended, or an error in it swallowed?")]
    TransactionLost,
    /// `PREPARE TRANSACTION` was answered without an error, and nothing is prepared.
    #[error("the database did not prepare the transaction, and gave no reason")]
    NotPrepared,
    /// The database refused to prepare the transaction and rolled it back.
    #[error("the database refused to prepare the transaction: {0}")]
    PrepareRefused(#[source] sqlx::Error),
    /// It is not known whether the transaction was prepared. Do not vote; a rollback settles it.
    #[error("the connection was lost while the transaction was prepared, and it cannot be seen yet ({0})")]
    PrepareUnknown(#[source] sqlx::Error),
    /// The branch was rolled back, so that it may not work any more.
    #[error("the branch was rolled back: work that comes after that is refused")]
    RolledBack,
    /// Another attempt at the same branch is at work, in this process or another.
    #[error("another attempt at this branch is at work")]
    Busy,
    /// The branch could not be settled yet: something holds its row of the ledger.
    #[error("the branch could not be settled yet: a transaction of it is still open")]
    StillOpen,
    /// As many branches as allowed are held open until their prepare.
    #[error("{0} branches are held open for their prepare, as many as allowed")]
    TooManyHeld(usize),
    /// The database cannot prepare transactions.
    #[error(
        "max_prepared_transactions is 0, so that PostgreSQL cannot prepare transactions: set it to at least the \
         number of connections that work in XA branches (max_connections is a safe choice) and restart the server"
    )]
    PreparedTransactionsOff,
    /// A resource manager of your own failed.
    #[error("the resource manager failed: {0}")]
    Manager(#[source] WorkError),
    /// A resource manager of your own voted "read only" without having been asked to prepare.
    #[error(
        "an early vote must be Prepared: read-only is an answer to the coordinator's prepare alone (M11)"
    )]
    EarlyReadOnly,
    /// The task that did it ended without an answer: the runtime is shutting down.
    #[error("the runtime is shutting down")]
    ShuttingDown,
}

impl XaError {
    /// Whether the branch certainly cannot be committed any more, by the database's or the work's own
    /// word.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Work(_)
                | Self::SiblingHoldsLock { .. }
                | Self::TransactionLost
                | Self::NotPrepared
                | Self::PrepareRefused(_)
                | Self::RolledBack
        )
    }

    /// Whether the same work may succeed in a new transaction, without anybody having changed anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Database(_)
            | Self::PrepareUnknown(_)
            | Self::WorkTimeout(_)
            | Self::Busy
            | Self::StillOpen
            | Self::TooManyHeld(_)
            | Self::Work(_)
            | Self::Manager(_)
            | Self::ShuttingDown => true,
            // Class 40: conflicts between transactions. A constraint will say the same again.
            Self::PrepareRefused(error) => error
                .as_database_error()
                .and_then(sqlx::error::DatabaseError::code)
                .is_some_and(|code| code.starts_with("40")),
            Self::Migrate(_)
            | Self::SiblingHoldsLock { .. }
            | Self::WorkPanicked
            | Self::TransactionLost
            | Self::NotPrepared
            | Self::RolledBack
            | Self::PreparedTransactionsOff
            | Self::EarlyReadOnly => false,
        }
    }
}

/// A state of the database that contradicts the coordinator: a person must look. Nothing is decided
/// by it, and the operation may be repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Alarm {
    /// Decided to commit, but nothing is prepared and the ledger does not know the branch: was the
    /// database restored from a backup, or is this another database?
    #[error(
        "{0} must be committed, but nothing is prepared under it and the ledger has no row of it: restored from a \
         backup, or another database?"
    )]
    CommitLost(Gid),
    /// Decided to commit, but the branch was rolled back.
    #[error("{0} must be committed, but the ledger says that it was rolled back")]
    RolledBackInstead(Gid),
    /// Decided to roll back, but the branch was committed.
    #[error("{0} must be rolled back, but the ledger says that it was committed")]
    CommittedInstead(Gid),
    /// The work committed its transaction by itself, before the decision.
    #[error("the work of {0} committed its transaction by itself; its effect is there, whatever is decided")]
    CommittedByWork(Gid),
    /// Prepared by another role: only that role or a superuser may finish it.
    #[error("{0} was prepared by another role: only that role or a superuser may finish it")]
    WrongRole(Gid),
    /// Prepared in another database of the same server: only a connection to that one may finish it.
    #[error("{0} was prepared in another database of this server: only from there can it be finished")]
    WrongDatabase(Gid),
}

/// What became of work.
#[derive(Debug)]
#[non_exhaustive]
pub enum Worked<T> {
    /// Prepared: durable, and able to go either way. The branch votes Prepared.
    Prepared(T),
    /// Done and held open in this process until [`prepare`](super::Resource::prepare).
    Held(T),
    /// This branch has worked before and is prepared, held or committed: the work did not run again.
    /// What it answered the first time is not kept: while the branch is prepared nobody can read what
    /// it wrote.
    Before,
}

impl<T> Worked<T> {
    /// What the work answered; `None` if it worked before.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Prepared(value) | Self::Held(value) => Some(value),
            Self::Before => None,
        }
    }
}

/// The answer to a prepare.
#[derive(Debug)]
#[non_exhaustive]
pub enum Prepared {
    /// Durable, and able to go either way.
    Yes,
    /// It changed nothing, and needs neither commit nor rollback. The resource managers of this module
    /// never say so.
    ReadOnly,
    /// It cannot be committed, and never will be: rolled back, or its instance is gone.
    Refused(String),
    /// Not known yet: ask again.
    Unknown(XaError),
}

/// The answer to a commit or a rollback.
#[derive(Debug)]
#[non_exhaustive]
pub enum Settled {
    /// It is so, durably; repeating it does no harm.
    Done,
    /// Not known yet: try again.
    Unknown(XaError),
    /// It cannot be so: a person must look. Never a success.
    Alarm(Alarm),
}

/// The answer to a commit in one phase (protocol H4).
#[derive(Debug)]
#[non_exhaustive]
pub enum OnePhase {
    /// The effect is there.
    Committed,
    /// The effect is not there and never will be; the text says why.
    Refused(String),
    /// Not known yet: ask again.
    Unknown(XaError),
    /// The ledger contradicts itself: a person must look.
    Alarm(Alarm),
}
