//! Single calls to the coordinator, each in a task of its own.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use unanimity_types::Xid;

use super::super::handover::{Handed, HandoverError, HandoverMessage, MessageStatus};
use super::super::message::read_plan;
use super::super::row::Header;
use super::super::statements::OutboxDatabase;
use super::Shared;
use crate::failpoint;

/// What a call brought. The numbers are the rows'.
pub(super) enum Reply {
    Handed(i64, Result<Handed, HandoverError>),
    /// The row could not be read, or the lease was over: nobody was called.
    NotSent(i64),
    /// There is no such row, or it is not handed.
    Gone(i64),
    /// The row's plan was written by a version that we do not know.
    Unreadable(i64),
    Asked(Vec<(i64, Xid)>, Result<Vec<MessageStatus>, HandoverError>),
}

/// Hands a row over. The payload is read only now, with a permit: this bounds what is in memory.
pub(super) async fn hand_over<DB: OutboxDatabase>(
    shared: Arc<Shared<DB>>,
    row: Header,
    lease: watch::Receiver<Instant>,
) -> Reply {
    let Ok(_permit) = shared.permits.acquire().await else { return Reply::NotSent(row.n) };
    let loaded = async {
        let mut connection = shared.outbox.pool().acquire().await?;
        DB::load(&mut connection, row.n).await
    };
    let full = match loaded.await {
        Ok(Some(full)) => full,
        Ok(None) => return Reply::Gone(row.n),
        Err(error) => {
            tracing::debug!(id = %row.id, %error, "a message could not be read");
            return Reply::NotSent(row.n);
        }
    };
    let Some((targets, policy)) = read_plan(&full.plan) else { return Reply::Unreadable(row.n) };
    let message = HandoverMessage {
        id: row.id,
        name: full.name,
        key: (!row.key.is_empty()).then_some(row.key),
        payload: full.payload.into(),
        targets,
        policy,
    };
    // Not needed for safety, but what a long pause made stale had better not go out.
    if Instant::now() >= *lease.borrow() {
        return Reply::NotSent(row.n);
    }
    let timeout = shared.settings.call_timeout;
    failpoint::reach("relay.before_handover");
    let answer = tokio::time::timeout(timeout, shared.handover.hand_over(&message)).await;
    failpoint::reach("relay.after_handover");
    Reply::Handed(row.n, answer.unwrap_or_else(|_| Err(no_answer())))
}

/// Asks what became of messages.
pub(super) async fn ask<DB: OutboxDatabase>(shared: Arc<Shared<DB>>, rows: Vec<(i64, Xid)>) -> Reply {
    let ids: Vec<_> = rows.iter().map(|(_, id)| *id).collect();
    let timeout = shared.settings.call_timeout;
    let answer = tokio::time::timeout(timeout, shared.handover.status(&ids)).await;
    Reply::Asked(rows, answer.unwrap_or_else(|_| Err(no_answer())))
}

fn no_answer() -> HandoverError {
    HandoverError { retryable: true, retry_after: None, message: "no answer in time".into() }
}
