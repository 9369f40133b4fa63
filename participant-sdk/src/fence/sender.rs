//! The sender of a message: its row says whether the local transaction that the message goes with
//! committed.
//!
//! The local transaction and the coordinator's check-back insert the same row; the database lets one
//! of them win and the other wait for that (protocol H5). A look with SELECT would miss a local
//! transaction that is still open, say "no", and be wrong when it commits.

use unanimity_types::LogId;
use unanimity_types::mutant::{self, Mutant};

use crate::fence::row::{FenceState, NewRow};
use crate::fence::rules::NO_ANSWER;
use crate::fence::statements::FenceDatabase;
use crate::fence::{Fence, FenceError, LocalTransaction};
use crate::message::PreparedMessage;

/// What a sender can say about its local transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SenderSays {
    /// It committed.
    Committed,
    /// It did not, and from now on it cannot.
    No,
    /// The row belongs to another log's message (C8).
    OtherLog(LogId),
    /// The row is no sender's.
    OtherKind,
}

/// Answers a check-back, by an insert. Waits for a local transaction that is open, for as long as the
/// connection may wait for a lock.
pub(crate) async fn check_back<DB: FenceDatabase>(
    connection: &mut DB::Connection,
    new: &NewRow,
) -> Result<SenderSays, FenceError> {
    let by_select = mutant::is(Mutant::CheckBackBySelect);
    if by_select && DB::read_locked(connection, new.xid, &new.key).await?.is_none() {
        return Ok(SenderSays::No);
    }
    if DB::insert(connection, new, FenceState::Tombstone).await?.is_some() {
        return Ok(SenderSays::No);
    }
    let row = DB::read_locked(connection, new.xid, &new.key).await?.ok_or(FenceError::Contended)?;
    if let (Some(mine), Some(theirs)) = (row.log_id, new.log_id)
        && mine != theirs
    {
        return Ok(SenderSays::OtherLog(mine));
    }
    if row.kind != new.kind {
        return Ok(SenderSays::OtherKind);
    }
    match row.state {
        FenceState::Tried | FenceState::Confirmed => Ok(SenderSays::Committed),
        FenceState::Tombstone | FenceState::Cancelled => Ok(SenderSays::No),
        // Only its own local transaction sees it so.
        FenceState::Trying => Err(FenceError::Contended),
    }
}

/// Inserts the sender's row when its local transaction begins: a check-back waits from here on.
pub(crate) async fn mark_open<DB: FenceDatabase>(
    connection: &mut DB::Connection,
    new: &NewRow,
) -> Result<(), FenceError> {
    mark::<DB>(connection, new, FenceState::Trying).await
}

/// Says that the local transaction commits: its last statement.
pub(crate) async fn mark_sent<DB: FenceDatabase>(
    connection: &mut DB::Connection,
    new: &NewRow,
) -> Result<(), FenceError> {
    let (from, to) = (FenceState::Trying, FenceState::Tried);
    match DB::set_state(connection, new.xid, &new.key, from, to, None, Some(NO_ANSWER)).await? {
        1 => Ok(()),
        _ => Err(FenceError::TransactionLost),
    }
}

async fn mark<DB: FenceDatabase>(
    connection: &mut DB::Connection,
    new: &NewRow,
    state: FenceState,
) -> Result<(), FenceError> {
    if DB::insert(connection, new, state).await?.is_some() {
        return Ok(());
    }
    let row = DB::read_locked(connection, new.xid, &new.key).await?.ok_or(FenceError::Contended)?;
    let error = match row.state {
        FenceState::Tombstone | FenceState::Cancelled => FenceError::MessageRefused,
        FenceState::Trying | FenceState::Tried | FenceState::Confirmed => FenceError::MessageAlreadySent,
    };
    // Whoever swallows our error must not commit: in PostgreSQL a failed statement takes care of that.
    match DB::spoil(connection, new.xid, &new.key).await {
        Err(_) => Err(error),
        Ok(()) => Err(FenceError::Contended),
    }
}

impl<DB: FenceDatabase> Fence<DB> {
    /// Writes into your own local transaction that it is the one that this message goes with: if it
    /// commits, the message is delivered, if not, it never is. Then [`PreparedMessage::submit`].
    ///
    /// The transaction must be one of the fence's database, in PostgreSQL with the isolation level
    /// READ COMMITTED. Call it before the transaction's slow parts: from here on a check-back waits for
    /// its end.
    ///
    /// PostgreSQL answers the commit of a failed transaction with a rollback and no error. Do not swallow
    /// the error of a statement and then submit; [`PreparedMessage::in_local_transaction`] would notice.
    ///
    /// ```no_run
    /// # #[cfg(feature = "sqlite")]
    /// # async fn f(fence: unanimity_sdk::Fence<sqlx::Sqlite>, message: unanimity_sdk::PreparedMessage) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut tx = fence.pool().begin_with("BEGIN IMMEDIATE").await?;
    /// fence.mark_sent(&mut tx, &message).await?;
    /// sqlx::query("INSERT INTO orders (id) VALUES (7)").execute(&mut *tx).await?;
    /// tx.commit().await?;
    /// message.submit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`FenceError::MessageRefused`] if the coordinator has given the message up meanwhile: the
    /// local transaction must be rolled back, and in PostgreSQL cannot be committed any more.
    /// [`FenceError::MessageTooLate`], [`FenceError::MessageAlreadySent`], [`FenceError::Database`].
    pub async fn mark_sent(
        &self,
        tx: &mut LocalTransaction<'_, DB>,
        message: &PreparedMessage,
    ) -> Result<(), FenceError> {
        let row = message.row()?;
        mark_open::<DB>(tx, &row).await?;
        mark_sent::<DB>(tx, &row).await
    }
}
