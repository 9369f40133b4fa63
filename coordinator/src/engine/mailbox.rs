//! What goes into a partition's mailbox.

use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use unanimity_core::{Answer, Command};
use unanimity_types::{AbortReason, Digest, Epoch, LogPosition, Name, Status, Ticket, Timestamp, Xid};

use super::error::Error;
use super::request::{Claim, Inquiry, ListFilter, OperatorAction, Standing, TransactionView, Wait};
use crate::log::{HistoryRow, Seal};

/// A moment in a partition's life: so many transactions had left its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct AsOf {
    pub(super) epoch: Epoch,
    pub(super) evictions: u64,
}

/// What to do with an xid that the partition does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// It was minted a moment ago: nobody can know it.
    New,
    /// Its caller minted it under this ticket. Say [`Reply::AskHistory`] if that does not show that it is new.
    Minted(Ticket),
    /// Say [`Reply::AskHistory`].
    AskHistory,
    /// History was asked and did not have it, when so many transactions had left memory. If it was
    /// among those that left since, history must be asked again.
    NotInHistory { as_of: AsOf },
}

/// The answer to a command, released when it is durable.
#[derive(Debug, Clone)]
pub(super) struct Done {
    pub(super) answer: Answer,
    pub(super) status: Status,
    pub(super) abort_reason: Option<AbortReason>,
    pub(super) position: LogPosition,
}

impl Done {
    pub(super) fn standing(&self, xid: Xid) -> Standing {
        Standing { xid, status: self.status, abort_reason: self.abort_reason, position: self.position }
    }
}

/// What a partition says to a command.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Done(Done),
    /// History is to be asked; what was asked comes back.
    AskHistory {
        as_of: AsOf,
        back: Box<(Box<Command>, Claim)>,
    },
    /// The transaction's ticket is of an epoch that this log has never had: to be shown as a witness.
    Foreign(Ticket),
}

/// How a command ended, after history was asked where need was.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    Done(Done),
    InHistory(Box<TransactionView>, Digest),
}

/// The answers about known xids and what to ask history for.
#[derive(Debug, Default)]
pub(super) struct Inquired {
    pub(super) known: Vec<Inquiry>,
    pub(super) unknown: Vec<Xid>,
    pub(super) as_of: AsOf,
    /// Of what is as old as this, nothing is presumed.
    pub(super) restored_at: Option<Timestamp>,
}

/// A sender for one answer.
pub(super) type ReplyTo<T> = oneshot::Sender<Result<T, Error>>;

/// One thing in a partition's mailbox.
#[derive(Debug)]
pub(super) enum Mail {
    Command {
        xid: Xid,
        command: Box<Command>,
        claim: Claim,
        wait: Wait,
        unknown: Unknown,
        /// The payload's share of the mailbox, given back when the command is taken out.
        room: Option<OwnedSemaphorePermit>,
        reply: ReplyTo<Reply>,
    },
    Get {
        xid: Xid,
        wait: Wait,
        reply: ReplyTo<Option<Box<TransactionView>>>,
    },
    List {
        filter: ListFilter,
        reply: ReplyTo<Vec<TransactionView>>,
    },
    /// A batch of xids; with `as_of` history was asked about them and does not know them: they are
    /// aborted, with one append for the batch (protocol M21).
    Inquire {
        xids: Vec<Xid>,
        as_of: Option<AsOf>,
        reply: ReplyTo<Inquired>,
    },
    /// A transaction wants a lock whose home is here, and waits so long for it.
    Lock {
        key: Name,
        xid: Xid,
        wait: Duration,
        reply: ReplyTo<()>,
    },
    /// A transaction is over, and so are its locks.
    Unlock {
        xid: Xid,
        keys: Vec<Name>,
    },
    Witness {
        position: LogPosition,
        reply: ReplyTo<()>,
    },
    /// History has a transaction as open that memory did not hold at that moment. The answer: look again.
    OpenRow {
        row: Box<HistoryRow>,
        as_of: AsOf,
        reply: ReplyTo<()>,
    },
    AcceptLoss {
        action: OperatorAction,
        reply: ReplyTo<LogPosition>,
    },
    /// The log was restored from a backup.
    Restored {
        action: OperatorAction,
        reply: ReplyTo<LogPosition>,
    },
    /// The log is to go on at the server that the seal names.
    Move {
        seal: Seal,
        reply: ReplyTo<LogPosition>,
    },
    ParticipantAvailable(Name),
}

impl Mail {
    /// Tells the sender that nothing of it was taken.
    pub(super) fn refuse(self, error: &Error) {
        let error = error.clone();
        match self {
            Self::Command { reply, .. } => drop(reply.send(Err(error))),
            Self::Get { reply, .. } => drop(reply.send(Err(error))),
            Self::List { reply, .. } => drop(reply.send(Err(error))),
            Self::Inquire { reply, .. } => drop(reply.send(Err(error))),
            Self::Lock { reply, .. } | Self::Witness { reply, .. } | Self::OpenRow { reply, .. } => {
                drop(reply.send(Err(error)));
            }
            Self::AcceptLoss { reply, .. } | Self::Move { reply, .. } | Self::Restored { reply, .. } => {
                drop(reply.send(Err(error)));
            }
            // A home asks by itself, and whoever recovers plans anew what is owed.
            Self::Unlock { .. } | Self::ParticipantAvailable(_) => {}
        }
    }
}
