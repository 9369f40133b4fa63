//! Transactions that history has as open and their partition does not hold.
//!
//! What is over leaves memory only when its row says so, and what is open leaves it never. So such a row says that the log,
//! or history, lost something: it was decided otherwise perhaps, and told. Its partition judges: it stops until an
//! operator accepts the loss, and then settles the row (protocol C8, H6).

use tokio::sync::oneshot;
use unanimity_types::Xid;

use super::error::Error;
use super::handle::{ANSWER_WAIT_MAX, Coordinator, Partition};
use super::mailbox::{AsOf, Mail};
use super::refuse::{unavailable, went_elsewhere};

/// Lets the partition judge an open row of a transaction that its memory did not hold at the moment `as_of`, before
/// history was asked. Done, it is to be asked again about the transaction.
///
/// # Errors
/// `log_lost_tail` if that is how the loss is found, `forgotten` if the log was restored since, `not_owner` if it is
/// another node's by now, or the engine's state.
pub(super) async fn settle(
    coordinator: &Coordinator,
    partition: &Partition,
    xid: Xid,
    as_of: AsOf,
) -> Result<(), Error> {
    let log = &coordinator.shared.log;
    let rows = log.find_history(&[xid]).await.map_err(|error| unavailable(&error))?;
    let Some(row) = rows.into_iter().find(|row| !row.status.is_terminal()) else { return Ok(()) };
    let own = partition.state.borrow().position.map(|position| position.epoch);
    // If a later owner lives, this one is stale and does not know yet. The row alone does not show that: its epoch
    // may be lost.
    if own.is_some_and(|own| row.epoch > own) {
        let tip = log.tip(partition.id).await.map_err(|error| unavailable(&error))?;
        if own.is_some_and(|own| tip.epoch > own) {
            return Err(went_elsewhere(partition.id, xid));
        }
    }
    let (reply, answer) = oneshot::channel();
    coordinator.send(partition, Mail::OpenRow { row: Box::new(row), as_of, reply })?;
    coordinator.answer(partition, answer, ANSWER_WAIT_MAX).await?
}
