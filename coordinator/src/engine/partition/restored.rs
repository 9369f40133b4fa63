//! A log that was restored from a backup (protocol C8).
//!
//! What nobody knows may have been decided, and answered, in the part that is gone. So of everything that may be from before
//! the restore nothing is presumed: for ever, because nobody can say when the last participant of that time comes back.

use unanimity_types::{ErrorCode, LogPosition, Ticket, Xid};

use super::life::{Exit, Life};
use super::restore_record;
use crate::engine::config::EngineConfig;
use crate::engine::error::Error;
use crate::engine::inquire::may_be_from_before;
use crate::engine::mailbox::ReplyTo;
use crate::engine::request::OperatorAction;

/// Restores are known from this block format on (protocol M18).
const RESTORES_SINCE: u16 = 2;

/// Why the record cannot be written yet: a node that does not know it would stop at it.
pub(super) fn not_known_by_all(config: &EngineConfig) -> Option<Error> {
    let what =
        "a node of the cluster runs a version that does not know of restores: upgrade every node first";
    let is_known = config.format.get() >= RESTORES_SINCE;
    (!is_known).then(|| Error::new(ErrorCode::IllegalTransition, what))
}

impl Life {
    /// An operator says that the log was restored: this life ends, and the next one begins with the record.
    pub(super) fn was_restored(&mut self, action: OperatorAction, reply: ReplyTo<LogPosition>) {
        if let Some(error) = not_known_by_all(&self.config) {
            drop(reply.send(Err(error)));
            return;
        }
        // What is in hand is told that its outcome is unknown, and repeats.
        self.exit = Some(Exit::Restored(restore_record(action), reply));
    }

    /// Whether an xid that nobody knows may be of a transaction that the restored log lost.
    pub(super) fn may_be_lost(&self, xid: Xid, begins_by_call: bool) -> bool {
        let Some(restored) = self.restored else { return false };
        match super::contact::minted_at(xid) {
            // Whoever begins it now may begin it, unless it says itself that it is older.
            Some(minted) if begins_by_call => minted < restored.at,
            None if begins_by_call => false,
            _ => may_be_from_before(xid, None, self.clock.now(), restored.at),
        }
    }

    /// Whether a ticket is of an epoch before the restore.
    pub(super) fn is_from_before(&self, ticket: &Ticket) -> bool {
        self.restored.is_some_and(|restored| ticket.epoch <= restored.epoch)
    }
}
