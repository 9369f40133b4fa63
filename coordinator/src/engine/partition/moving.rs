//! The end of a life whose partition goes to another server (protocol H10).
//!
//! Everything that was taken becomes durable, then the sealing block: from there on nobody appends on this server. The
//! recovery that follows brings the log to where the seal says, and so does anybody else's who takes over meanwhile.

use std::sync::Arc;

use tokio::time::Instant;
use unanimity_types::{ErrorCode, LogPosition};

use super::PartitionTask;
use super::hand_over::{CALLS_WAIT_MAX, END_WAIT};
use super::life::{Exit, Life};
use super::settle::{Settled, settle};
use crate::engine::error::Error;
use crate::engine::mailbox::ReplyTo;
use crate::engine::request::PartitionState;
use crate::failpoint;
use crate::log::Seal;

/// Seals are known from this block format on (protocol M18).
const SEALS_SINCE: u16 = 2;

/// A move that was asked for.
#[derive(Debug)]
pub(super) struct Moving {
    pub(super) seal: Seal,
    pub(super) reply: ReplyTo<LogPosition>,
    /// Until when calls that are out are waited for (protocol M12).
    pub(super) by: Instant,
}

impl Life {
    /// An operator moves the partition: it works on until the calls that are out are back, and makes no more.
    pub(super) fn asked_to_move(&mut self, seal: Seal, reply: ReplyTo<LogPosition>) {
        if self.config.format.get() < SEALS_SINCE {
            let what = "a node of the cluster runs a version that cannot follow a partition to another server: \
                        upgrade every node first";
            drop(reply.send(Err(Error::new(ErrorCode::IllegalTransition, what))));
            return;
        }
        // A second one that came with the first learns by its closed channel that its outcome is unknown.
        let by = Instant::now() + self.config.call_timeout.min(CALLS_WAIT_MAX);
        self.moving.get_or_insert(Moving { seal, reply, by });
    }

    /// Moves, if it was asked for and nothing is out any more.
    pub(super) async fn move_if_due(&mut self, task: &PartitionTask) -> Option<Exit> {
        let is_late = self.moving.as_ref()?.by <= Instant::now();
        // A log in trouble takes no seal.
        if !self.is_open_for_work() || (!self.calls_out.is_empty() && !is_late) {
            return None;
        }
        let moving = self.moving.take()?;
        Some(self.seal_off(moving, task).await)
    }

    /// Ends the log on this server.
    async fn seal_off(&mut self, moving: Moving, task: &PartitionTask) -> Exit {
        let Moving { seal, reply, .. } = moving;
        let why = format!("its log is being moved to server {}", seal.server);
        tracing::info!(partition = %self.partition, server = seal.server, operator = seal.operator,
            reason = seal.reason, "the partition's log is being moved");
        task.set_state(PartitionState::Unavailable(why));
        self.ending = true;
        self.drain(task, false, Instant::now() + END_WAIT).await;
        if let Some(exit) = self.exit.take() {
            return exit;
        }
        if !self.writer.is_idle() {
            let why = "its log did not take in time what came before the move".to_owned();
            drop(reply.send(Err(Error::new(ErrorCode::Unavailable, why.clone()))));
            return Exit::Failed(why);
        }
        let block = self.writer.seal_off(self.clock.now(), self.valid_since, &seal);
        // Without a limit: nobody else may go on before it is known how this ends (protocol C4). If it is there since an
        // earlier offer, who follows it makes it durable by a later write on the same server.
        match settle(Arc::clone(&self.log), block, |_| {}).await {
            Settled::Written | Settled::AlreadyThere => {
                failpoint::reach("seal.after");
                Exit::Sealed(reply)
            }
            Settled::Conflict => Exit::Deposed(String::new()),
            Settled::Refused { why, .. } => Exit::Failed(why),
        }
    }
}
