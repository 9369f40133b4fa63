//! What an operation may do, by what the fence's row says. Crash contract: all of these run inside
//! the caller's local transaction, so before its commit nothing has happened.

use unanimity_types::{BranchKey, BranchKind, LogId, Operation, Xid};

use crate::fence::FenceError;
use crate::fence::row::{FenceRow, FenceState, NewRow};
use crate::fence::statements::FenceDatabase;

/// What a try, an action or a delivery finds.
#[derive(Debug)]
pub(crate) enum TryStart {
    /// Nobody was here: run the hook.
    Fresh,
    /// An external try began before and its end is not known: run the hook again. With the mark of
    /// this claim.
    Again(i64),
    /// It was done before: answer this.
    Repeat(Vec<u8>),
    /// The branch was cancelled before: an error, never a success (K3, DTM #453).
    Late(FenceState),
    /// The key belongs to another operation or payload.
    Reused,
    /// The row belongs to another log's transaction (C8).
    OtherLog(LogId),
}

/// Claims the branch's row for a try, an action or a delivery.
pub(crate) async fn start_try<DB: FenceDatabase>(
    connection: &mut DB::Connection,
    new: &NewRow,
) -> Result<TryStart, FenceError> {
    if DB::insert(connection, new, FenceState::Trying).await? {
        return Ok(TryStart::Fresh);
    }
    let row = DB::read_locked(connection, new.xid, &new.key).await?.ok_or(FenceError::Contended)?;
    if let (Some(mine), Some(theirs)) = (row.log_id, new.log_id)
        && mine != theirs
    {
        return Ok(TryStart::OtherLog(mine));
    }
    Ok(match row.state {
        _ if row.kind != new.kind => TryStart::Reused,
        FenceState::Cancelled | FenceState::Tombstone => TryStart::Late(row.state),
        _ if row.operation != new.operation || row.payload != new.payload => TryStart::Reused,
        FenceState::Trying => {
            let row = DB::claim(connection, new.xid, &new.key).await?.ok_or(FenceError::Contended)?;
            TryStart::Again(row.updated_at_ms)
        }
        FenceState::Tried | FenceState::Confirmed => {
            let answer =
                row.answer.ok_or_else(|| FenceError::Unreadable("no answer in a tried row".into()))?;
            TryStart::Repeat(answer)
        }
    })
}

/// Records a try's answer or an action's result: the transaction's last statement.
pub(crate) async fn finish_try<DB: FenceDatabase>(
    connection: &mut DB::Connection,
    xid: Xid,
    key: &BranchKey,
    mark: Option<i64>,
    answer: &[u8],
) -> Result<(), FenceError> {
    let (from, to) = (FenceState::Trying, FenceState::Tried);
    one_row(DB::set_state(connection, xid, key, from, to, mark, Some(answer)).await?)
}

/// Records that a message is delivered: the transaction's last statement.
pub(crate) async fn finish_delivery<DB: FenceDatabase>(
    connection: &mut DB::Connection,
    xid: Xid,
    key: &BranchKey,
    mark: Option<i64>,
) -> Result<(), FenceError> {
    let (from, to) = (FenceState::Trying, FenceState::Confirmed);
    one_row(DB::set_state(connection, xid, key, from, to, mark, Some(b"null")).await?)
}

/// Closes an open row of a transaction that is over: its effect stays, or, where nobody knows whether
/// there is one, no other may follow. From here on the row waits for its collection.
pub(crate) async fn close<DB: FenceDatabase>(
    connection: &mut DB::Connection,
    row: &FenceRow,
) -> Result<(), FenceError> {
    let to = if row.state == FenceState::Tried { FenceState::Confirmed } else { FenceState::Tombstone };
    // No row: something else settled it meanwhile.
    DB::set_state(connection, row.xid, &row.key, row.state, to, Some(row.updated_at_ms), None).await?;
    Ok(())
}

/// What a confirm, a cancel or a compensation finds.
#[derive(Debug)]
pub(crate) enum SecondPhase {
    /// Run the hook for this row.
    Run(FenceRow),
    /// It was done before, or there is nothing to do.
    Done,
    /// There is no try yet that could be confirmed (K8).
    NotYet,
    /// The opposite was done (K6).
    Contradicts(FenceState),
    /// The row belongs to another log's transaction (C8).
    OtherLog(LogId),
    /// The row is not of the kind that this operation belongs to.
    OtherKind(BranchKind),
}

/// Looks at, and claims, the branch's row for a confirm, a cancel or a compensation.
pub(crate) async fn start_second_phase<DB: FenceDatabase>(
    connection: &mut DB::Connection,
    operation: Operation,
    new: &NewRow,
) -> Result<SecondPhase, FenceError> {
    let confirm = operation == Operation::Confirm;
    if !confirm && DB::insert(connection, new, FenceState::Tombstone).await? {
        return Ok(SecondPhase::Done);
    }
    let claimed = DB::claim(connection, new.xid, &new.key).await?;
    let is_claimed = claimed.is_some();
    let row = match claimed {
        Some(row) => Some(row),
        None => DB::read_locked(connection, new.xid, &new.key).await?,
    };
    let Some(row) = row else {
        // For a cancel: the row that it conflicted with is gone again. It comes back.
        return if confirm { Ok(SecondPhase::NotYet) } else { Err(FenceError::Contended) };
    };
    if !is_claimed && matches!(row.state, FenceState::Trying | FenceState::Tried) {
        // Its try ended between our two statements.
        return Err(FenceError::Contended);
    }
    if let (Some(mine), Some(theirs)) = (row.log_id, new.log_id)
        && mine != theirs
    {
        return Ok(SecondPhase::OtherLog(mine));
    }
    if row.kind != new.kind {
        return Ok(SecondPhase::OtherKind(row.kind));
    }
    Ok(match (confirm, row.state) {
        (true, FenceState::Trying) => SecondPhase::NotYet,
        (true, FenceState::Tried) | (false, FenceState::Trying | FenceState::Tried) => SecondPhase::Run(row),
        (true, FenceState::Confirmed) | (false, FenceState::Cancelled | FenceState::Tombstone) => {
            SecondPhase::Done
        }
        (true, FenceState::Cancelled | FenceState::Tombstone) | (false, FenceState::Confirmed) => {
            SecondPhase::Contradicts(row.state)
        }
    })
}

/// Records what was done: the transaction's last statement.
pub(crate) async fn finish_second_phase<DB: FenceDatabase>(
    connection: &mut DB::Connection,
    operation: Operation,
    row: &FenceRow,
) -> Result<(), FenceError> {
    let to = if operation == Operation::Confirm { FenceState::Confirmed } else { FenceState::Cancelled };
    let mark = Some(row.updated_at_ms);
    one_row(DB::set_state(connection, row.xid, &row.key, row.state, to, mark, None).await?)
}

/// Zero rows: our transaction is over, by its hook or by the database. What it wrote first, the
/// inserted row or the mark in it, is gone.
fn one_row(changed: u64) -> Result<(), FenceError> {
    if changed == 1 { Ok(()) } else { Err(FenceError::TransactionLost) }
}
