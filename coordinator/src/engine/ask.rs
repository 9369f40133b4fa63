//! The way of a command: to its partition, to history where the partition does not know its xid, and back.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use unanimity_core::Command;
use unanimity_types::{Digest, ErrorCode, LogPosition, Seq, Ticket, Xid};

use super::detail;
use super::error::Error;
use super::handle::{ANSWER_WAIT_MAX, Coordinator, Partition};
use super::mailbox::{Mail, Outcome, Reply, Unknown};
use super::open_row;
use super::plan;
use super::refuse::{too_busy, unavailable, went_elsewhere};
use super::request::{Claim, TransactionView, Wait};

impl Coordinator {
    /// Sends a command into its partition, asking history first where the partition does not know
    /// the xid. The order is memory, history, and memory again (protocol C2).
    pub(super) async fn command(
        &self,
        xid: Xid,
        command: Command,
        wait: Wait,
        unknown: Unknown,
    ) -> Result<Outcome, Error> {
        self.command_as(xid, command, Claim::default(), wait, unknown).await
    }

    /// The same with what the caller shows about a transaction begun without a call.
    pub(super) async fn command_as(
        &self,
        xid: Xid,
        command: Command,
        claim: Claim,
        wait: Wait,
        unknown: Unknown,
    ) -> Result<Outcome, Error> {
        if claim.birth.as_ref().is_some_and(|birth| birth.log_id != self.log_id()) {
            let message =
                format!("{xid} was begun for another log than this coordinator's ({})", self.log_id());
            return Err(Error::new(ErrorCode::NotMine, message).about(xid));
        }
        let partition = self.partition(xid)?;
        // They come back with the answer where they are needed again: nothing is copied on the way.
        let (mut command, mut claim) = (Box::new(command), claim);
        let mut unknown = unknown;
        let mut open_in_history = false;
        loop {
            let (reply, answer) = oneshot::channel();
            let room = room_for(partition, &command)?;
            let mail = Mail::Command { xid, command, claim, wait, unknown, room, reply };
            self.send(partition, mail)?;
            match self.answer(partition, answer, ANSWER_WAIT_MAX).await?? {
                Reply::Done(done) => return Ok(Outcome::Done(done)),
                Reply::Foreign(ticket) => {
                    let Ticket { epoch, epoch_tag, .. } = ticket;
                    let id = partition.id;
                    // A log that never had this epoch lost its tail, or another owner lives and this one
                    // does not know yet (protocol C8, H6).
                    Box::pin(self.hear(LogPosition { partition: id, epoch, epoch_tag, seq: Seq(0) })).await?;
                    return Err(went_elsewhere(id, xid));
                }
                Reply::AskHistory { as_of, back } => {
                    (command, claim) = *back;
                    if let Some((view, digest)) = Box::pin(self.history(&[xid])).await?.pop() {
                        if !view.status.is_terminal() {
                            // Begun meanwhile? Then memory knows it by now.
                            if open_in_history {
                                Box::pin(open_row::settle(self, partition, xid, as_of)).await?;
                            }
                            open_in_history = true;
                            unknown = Unknown::AskHistory;
                            continue;
                        }
                        return Ok(Outcome::InHistory(Box::new(view), digest));
                    }
                    unknown = Unknown::NotInHistory { as_of };
                }
            }
        }
    }

    pub(super) async fn history(&self, xids: &[Xid]) -> Result<Vec<(TransactionView, Digest)>, Error> {
        let rows = self.shared.log.find_history(xids).await.map_err(|error| unavailable(&error))?;
        rows.into_iter()
            .map(|row| {
                let digest = row.digest;
                detail::view_of(row).map(|view| (view, digest))
            })
            .collect()
    }
}

/// A command's payload takes room in the mailbox: its length alone would let a few thousand large
/// payloads fill the memory.
fn room_for(partition: &Partition, command: &Command) -> Result<Option<OwnedSemaphorePermit>, Error> {
    let bytes = match command {
        Command::Register(registration) => registration.payload.len(),
        Command::Begin(spec) => plan::bytes_of(&spec.plan),
        _ => 0,
    };
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    if bytes == 0 {
        return Ok(None);
    }
    Arc::clone(&partition.room).try_acquire_many_owned(bytes).map(Some).map_err(|_| too_busy(partition))
}
