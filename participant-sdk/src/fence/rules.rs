//! What an operation may do, by what the fence's row says. Crash contract: all of these run inside
//! the caller's local transaction, so before its commit nothing has happened.
//!
//! The first statement writes the row as it will be: what is refused after that rolls back. The end
//! of the transaction ([`FenceDatabase`]'s `finish`) makes sure that the first statement still counts.

use unanimity_types::mutant::{self, Mutant};
use unanimity_types::{BranchKind, LogId, Operation};

use crate::fence::row::{Claim, Closing, FenceRow, FenceState, NewRow};
use crate::fence::statements::FenceDatabase;
use crate::fence::{FenceError, LocalTransaction};

/// What a row that needs no better answer holds: the answer of `()`.
pub(crate) const NO_ANSWER: &[u8] = b"null";

/// What a try, an action or a delivery finds.
#[derive(Debug)]
pub(crate) enum TryStart {
    /// Nobody was here: run the hook.
    Fresh(Claim),
    /// An external try began before and its end is not known: run the hook again.
    Again(Claim),
    /// It was done before: answer this.
    Repeat(Vec<u8>),
    /// The branch was cancelled before: an error, never a success (K3, DTM #453).
    Late(FenceState),
    /// The key belongs to another operation or payload.
    Reused,
    /// The row belongs to another log's transaction (C8).
    OtherLog(LogId),
}

/// Claims the branch's row for a try, an action or a delivery that leaves it in state `to`; in state
/// `Trying` for the first half of the external form.
pub(crate) async fn start_try<DB: FenceDatabase>(
    connection: &mut DB::Connection,
    new: &NewRow,
    to: FenceState,
) -> Result<TryStart, FenceError> {
    let claim = |from, mark| Claim { xid: new.xid, key: new.key.clone(), from, to, mark };
    if let Some(mark) = DB::insert(connection, new, to).await? {
        return Ok(TryStart::Fresh(claim(to, mark)));
    }
    let row = DB::read_locked(connection, new.xid, &new.key).await?.ok_or(FenceError::Contended)?;
    if let (Some(mine), Some(theirs)) = (row.log_id, new.log_id)
        && mine != theirs
    {
        return Ok(TryStart::OtherLog(mine));
    }
    Ok(match row.state {
        _ if row.kind != new.kind => TryStart::Reused,
        FenceState::Cancelled | FenceState::Tombstone if mutant::is(Mutant::LateTrySucceeds) => {
            TryStart::Repeat(NO_ANSWER.to_vec())
        }
        FenceState::Cancelled | FenceState::Tombstone => TryStart::Late(row.state),
        _ if row.operation != new.operation || row.payload != new.payload => TryStart::Reused,
        FenceState::Trying => {
            let row = DB::claim(connection, new.xid, &new.key).await?.ok_or(FenceError::Contended)?;
            TryStart::Again(claim(FenceState::Trying, row.updated_at_ms))
        }
        FenceState::Tried | FenceState::Confirmed if mutant::is(Mutant::NoFence) => {
            TryStart::Again(claim(row.state, row.updated_at_ms))
        }
        FenceState::Tried | FenceState::Confirmed => {
            let answer =
                row.answer.ok_or_else(|| FenceError::Unreadable("no answer in a tried row".into()))?;
            TryStart::Repeat(answer)
        }
    })
}

/// Writes what there is to write into the claimed row and commits. After `Ok` all of the transaction
/// is durable; after [`FenceError::TransactionLost`] nothing of it is there.
pub(crate) async fn finish<DB: FenceDatabase>(
    mut tx: LocalTransaction<'static, DB>,
    claim: &Claim,
    closing: Closing<'_>,
) -> Result<(), FenceError> {
    if claim.from == claim.to {
        return DB::finish(tx, claim, closing).await;
    }
    let (from, to, mark) = (claim.from, claim.to, Some(claim.mark));
    match DB::set_state(&mut tx, claim.xid, &claim.key, from, to, mark, closing.answer).await? {
        1 => Ok(tx.commit().await?),
        // Our transaction is over, by its hook or by the database. What it wrote first is gone.
        _ => Err(FenceError::TransactionLost),
    }
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
///
/// The row is there in all but a few cases, so it is changed first; where it is not, what ends a branch
/// without a try inserts a row, and looks again when that conflicts. Neither statement waits while it
/// holds something that the other kind of caller needs.
pub(crate) async fn start_second_phase<DB: FenceDatabase>(
    connection: &mut DB::Connection,
    operation: Operation,
    new: &NewRow,
) -> Result<SecondPhase, FenceError> {
    let confirm = operation == Operation::Confirm;
    let to = if confirm { FenceState::Confirmed } else { FenceState::Cancelled };
    let mut taken = DB::take(connection, new.xid, &new.key, to).await?;
    if taken.is_none() && !confirm && !mutant::is(Mutant::NoTombstone) {
        if DB::insert(connection, new, FenceState::Tombstone).await?.is_some() {
            return Ok(SecondPhase::Done);
        }
        taken = DB::take(connection, new.xid, &new.key, to).await?;
    }
    let is_taken = taken.is_some();
    let row = match taken {
        Some(row) => Some(row),
        None => DB::read_locked(connection, new.xid, &new.key).await?,
    };
    let Some(row) = row else {
        // For a cancel: the row that it conflicted with is gone again. It comes back.
        if mutant::is(Mutant::NoTombstone) && !confirm {
            return Ok(SecondPhase::Done);
        }
        return if confirm { Ok(SecondPhase::NotYet) } else { Err(FenceError::Contended) };
    };
    if let (Some(mine), Some(theirs)) = (row.log_id, new.log_id)
        && mine != theirs
    {
        return Ok(SecondPhase::OtherLog(mine));
    }
    if row.kind != new.kind {
        return Ok(SecondPhase::OtherKind(row.kind));
    }
    if is_taken {
        return Ok(SecondPhase::Run(row));
    }
    Ok(match (confirm, row.state) {
        (true, FenceState::Trying) => SecondPhase::NotYet,
        // Its try ended between our two statements.
        (true, FenceState::Tried) | (false, FenceState::Trying | FenceState::Tried) => {
            return Err(FenceError::Contended);
        }
        (true, FenceState::Confirmed) | (false, FenceState::Cancelled | FenceState::Tombstone) => {
            SecondPhase::Done
        }
        (true, FenceState::Cancelled | FenceState::Tombstone) | (false, FenceState::Confirmed) => {
            SecondPhase::Contradicts(row.state)
        }
    })
}
