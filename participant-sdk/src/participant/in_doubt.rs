//! The in-doubt loop and the collection of settled rows: what a participant does by itself when
//! nobody tells it how its branches ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use unanimity_types::{BranchKind, InquiryAnswer, Limits, LogId, Operation, Xid};

use crate::error::ClientError;
use crate::fence::{Cursor, FenceDatabase, FenceError, FenceRow, close};
use crate::participant::Shared;
use crate::participant::order::Order;
use crate::wall_clock::now_ms;

/// What one sweep over the rows could not do.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error(transparent)]
    Fence(#[from] FenceError),
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Asks about branches that stay open, for as long as the participant runs.
pub(super) async fn run<DB: FenceDatabase>(shared: Arc<Shared<DB>>) {
    while pause(&shared, shared.settings.in_doubt_every).await {
        if let Err(error) = sweep(&shared).await {
            tracing::warn!(participant = %shared.name, %error, "branches in doubt could not be asked about");
        }
    }
}

/// Collects settled rows, for as long as the participant runs.
pub(super) async fn run_collection<DB: FenceDatabase>(shared: Arc<Shared<DB>>) {
    while pause(&shared, shared.settings.collect_every).await {
        match collect(&shared).await {
            Ok(0) => {}
            Ok(rows) => tracing::debug!(participant = %shared.name, rows, "settled rows collected"),
            Err(error) => {
                tracing::warn!(participant = %shared.name, %error, "settled rows could not be collected");
            }
        }
    }
}

/// Waits about so long, or for the end: `false`. Jitter, so that instances do not ask in step.
pub(super) async fn pause<DB: FenceDatabase>(shared: &Shared<DB>, interval: Duration) -> bool {
    let pause = interval.mul_f64(0.75 + 0.5 * fastrand::f64());
    tokio::select! {
        () = shared.stop.cancelled() => false,
        () = tokio::time::sleep(pause) => true,
    }
}

/// One pass over all rows that are open for too long.
async fn sweep<DB: FenceDatabase>(shared: &Arc<Shared<DB>>) -> Result<(), SweepError> {
    let before = older_than(shared.settings.in_doubt_after);
    let mut cursor = Cursor::start();
    loop {
        let rows = page(shared, true, before, &cursor).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        cursor = Cursor { at_ms: last.created_at_ms, xid: last.xid.uuid(), key: last.key.to_string() };
        let answers = ask(shared, &rows).await?;
        let (mut orders, mut over) = (Vec::new(), Vec::new());
        for row in rows {
            let at = Some((row.xid, &row.key));
            let answer = answers.get(&(row.xid, row.log_id)).copied();
            match answer.map(|(answer, _)| answer) {
                // Compensations have an order, and deliveries a decision: those are the coordinator's.
                Some(InquiryAnswer::Committed | InquiryAnswer::Aborted) if row.kind != BranchKind::Tcc => {
                    if let Some((answer, true)) = answer {
                        contradicting(shared, &row, answer);
                        over.push(row);
                    }
                }
                Some(InquiryAnswer::Committed) => orders.push(Order::from_row(Operation::Confirm, &row)),
                Some(InquiryAnswer::Aborted) => orders.push(Order::from_row(Operation::Cancel, &row)),
                Some(InquiryAnswer::Forgotten) => shared.attention.raise(
                    "forgotten",
                    at,
                    "an open branch is older than the coordinator's history: find out by other means and settle it by hand",
                ),
                Some(InquiryAnswer::NotMine) => shared.attention.raise(
                    "not_mine",
                    at,
                    "an open branch belongs to another coordinator's log: nothing is done with it",
                ),
                Some(InquiryAnswer::Active) | None => {}
            }
        }
        let work = orders.into_iter().map(|order| shared.carry_out(order));
        futures::future::join_all(work).await;
        if !over.is_empty() {
            let this = Arc::clone(shared);
            let closed = shared.unstoppable(async move { close_all(&this, &over).await }).await;
            closed.unwrap_or(Ok(()))?;
        }
        if shared.stop.is_cancelled() {
            return Ok(());
        }
    }
}

/// A local transaction that committed, of a message that was aborted: by an operator, or because
/// somebody said no in the sender's name.
fn contradicting<DB: FenceDatabase>(shared: &Shared<DB>, row: &FenceRow, answer: InquiryAnswer) {
    if row.kind == BranchKind::Sender && answer == InquiryAnswer::Aborted {
        shared.attention.raise(
            "contradiction",
            Some((row.xid, &row.key)),
            "the local transaction committed and its message was aborted: it is not delivered",
        );
    }
}

async fn close_all<DB: FenceDatabase>(shared: &Shared<DB>, rows: &[FenceRow]) -> Result<(), FenceError> {
    for rows in rows.chunks(100) {
        let mut tx = shared.begin_local().await?;
        for row in rows {
            close::<DB>(&mut tx, row).await?;
        }
        tx.commit().await?;
    }
    Ok(())
}

/// One pass over all settled rows that are old enough; answers how many are gone.
async fn collect<DB: FenceDatabase>(shared: &Arc<Shared<DB>>) -> Result<usize, SweepError> {
    let before = older_than(shared.settings.collect_after);
    let mut cursor = Cursor::start();
    let mut collected = 0;
    loop {
        let rows = page(shared, false, before, &cursor).await?;
        let Some(last) = rows.last() else { return Ok(collected) };
        cursor = Cursor { at_ms: last.updated_at_ms, xid: last.xid.uuid(), key: last.key.to_string() };
        let answers = ask(shared, &rows).await?;
        let settled: Vec<_> = rows
            .into_iter()
            .filter(|row| answers.get(&(row.xid, row.log_id)).is_some_and(|answer| is_over(*answer)))
            .collect();
        if !settled.is_empty() {
            let this = Arc::clone(shared);
            let deleted = shared.unstoppable(async move { delete(&this, &settled).await }).await;
            collected += deleted.unwrap_or(Ok(0))?;
        }
        if shared.stop.is_cancelled() {
            return Ok(collected);
        }
    }
}

/// Whether nothing more can come for a row that is settled here: the coordinator says that every branch is,
/// or it was so long ago that history has dropped it (protocol H9).
pub(super) fn is_over((answer, settled): (InquiryAnswer, bool)) -> bool {
    settled || answer == InquiryAnswer::Forgotten
}

async fn delete<DB: FenceDatabase>(shared: &Shared<DB>, rows: &[FenceRow]) -> Result<usize, FenceError> {
    let mut deleted = 0;
    // Short transactions: in SQLite each keeps every other writer out.
    for rows in rows.chunks(100) {
        let mut tx = shared.begin_local().await?;
        for row in rows {
            deleted += DB::delete_settled(&mut tx, row.xid, &row.key).await?;
        }
        tx.commit().await?;
    }
    Ok(usize::try_from(deleted).unwrap_or(usize::MAX))
}

async fn page<DB: FenceDatabase>(
    shared: &Shared<DB>,
    open: bool,
    before: i64,
    cursor: &Cursor,
) -> Result<Vec<FenceRow>, FenceError> {
    // One inquiry.
    const PAGE: i64 = Limits::INQUIRY_XIDS_MAX as i64;
    let fence = shared.fence.as_ref().ok_or(FenceError::Absent)?;
    let mut connection = fence.pool().acquire().await?;
    DB::page(&mut connection, &shared.name, open, before, cursor, PAGE).await
}

pub(super) type Answers = BTreeMap<(Xid, Option<LogId>), (InquiryAnswer, bool)>;

/// Asks about rows, each with the log that it is registered in, in batches.
async fn ask<DB: FenceDatabase>(shared: &Shared<DB>, rows: &[FenceRow]) -> Result<Answers, ClientError> {
    let now = now_ms();
    let mut by_log: BTreeMap<Option<LogId>, BTreeMap<Xid, u64>> = BTreeMap::new();
    for row in rows {
        // Since its branch was registered; of several branches here the oldest one's.
        let age = u64::try_from(now.saturating_sub(row.created_at_ms)).unwrap_or(0);
        let oldest = by_log.entry(row.log_id).or_default().entry(row.xid).or_default();
        *oldest = age.max(*oldest);
    }
    ask_about(shared, by_log).await
}

/// Asks about transactions, by the log that they live in, each with the age in milliseconds of what is known
/// of it here, in batches.
pub(super) async fn ask_about<DB: FenceDatabase>(
    shared: &Shared<DB>,
    by_log: BTreeMap<Option<LogId>, BTreeMap<Xid, u64>>,
) -> Result<Answers, ClientError> {
    let mut answers = Answers::new();
    for (log_id, xids) in by_log {
        let xids: Vec<_> = xids.into_iter().collect();
        for xids in xids.chunks(Limits::INQUIRY_XIDS_MAX) {
            let answered = match shared.client.inquire(xids.to_vec(), log_id).await {
                Ok(answered) => answered,
                // The whole batch belongs to another log.
                Err(error) if error.code() == Some(unanimity_types::ErrorCode::NotMine) => {
                    let not_mine = (InquiryAnswer::NotMine, false);
                    answers.extend(xids.iter().map(|(xid, _)| ((*xid, log_id), not_mine)));
                    continue;
                }
                Err(error) => return Err(error),
            };
            for inquiry in answered {
                // Matched by xid, never by place; a word that we do not know is no answer.
                let (Ok(xid), Ok(answer)) = (inquiry.xid.parse::<Xid>(), inquiry.answer.parse()) else {
                    continue;
                };
                if xids.iter().any(|(asked, _)| *asked == xid) {
                    answers.insert((xid, log_id), (answer, inquiry.settled));
                }
            }
        }
    }
    Ok(answers)
}

pub(super) fn older_than(age: Duration) -> i64 {
    now_ms().saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
}
