//! Commands about transactions begun without a call: the first contact, and who may decide (protocol 1.2,
//! H15).

use std::time::Duration;

use unanimity_core::{BeginSpec, Command, Event, Transaction};
use unanimity_types::{
    AbortReason, Birth, ErrorCode, Limits, Plan, Seq, Status, TICKETED_TIMEOUT_MAX, Ticket, Timestamp, Xid,
};

use super::life::Life;
use super::tickets::{Worth, worth};
use crate::engine::digest::begin_digest;
use crate::engine::error::Error;
use crate::engine::mailbox::{Done, Reply, Unknown};
use crate::engine::request::{Claim, Wait};

/// What to do with an xid that memory does not hold.
#[derive(Debug)]
pub(super) enum Contact {
    /// Judge the command: nobody knows the xid.
    NobodyKnows,
    /// It begins now, without a call.
    Begins(BeginSpec),
    /// It may be in history.
    AskHistory,
    /// What its ticket would begin is aborted.
    Gone(AbortReason),
    /// It may have been lost with what a restored log does not hold: nothing is presumed.
    Forgotten,
    /// Its ticket is of an epoch that this log has never had.
    Foreign(Ticket),
}

impl Life {
    pub(super) fn contact(
        &self,
        xid: Xid,
        birth: Option<&Birth>,
        unknown: Unknown,
        begins_by_call: bool,
    ) -> Contact {
        let not_in_history = match unknown {
            Unknown::New => true,
            Unknown::Minted(ticket) => self.never_here(xid, &ticket),
            Unknown::AskHistory => false,
            Unknown::NotInHistory { as_of } => !self.memory.may_have_left_since(xid, self.epoch, as_of),
        };
        let Some(birth) = birth else {
            // Only of what was looked for in vain: what was minted a moment ago is new.
            let looked = matches!(unknown, Unknown::NotInHistory { .. });
            return match not_in_history {
                false => Contact::AskHistory,
                true if looked && self.may_be_lost(xid, begins_by_call) => Contact::Forgotten,
                true => Contact::NobodyKnows,
            };
        };
        let never_here = match self.worth(&birth.ticket) {
            Worth::Foreign => return Contact::Foreign(birth.ticket),
            Worth::Gone(_) if not_in_history && self.is_from_before(&birth.ticket) => {
                return Contact::Forgotten;
            }
            Worth::Gone(reason) if not_in_history => return Contact::Gone(reason),
            Worth::Gone(_) => return Contact::AskHistory,
            Worth::Own => !self.memory.left().may_have(xid),
            Worth::Inherited => false,
        };
        if !never_here && !not_in_history {
            return Contact::AskHistory;
        }
        let Birth { decide_hash, timeout, ref name, mode, .. } = *birth;
        let timeout = timeout.unwrap_or(Limits::TIMEOUT_DEFAULT).min(TICKETED_TIMEOUT_MAX);
        Contact::Begins(BeginSpec {
            mode,
            digest: begin_digest(mode, name.as_ref(), Some(timeout), &Plan::Open),
            name: name.clone(),
            timeout,
            plan: Plan::Open,
            decide_hash: Some(decide_hash),
        })
    }

    fn worth(&self, ticket: &Ticket) -> Worth {
        let (good_from, now) = (self.memory.left().good_from(), self.clock.now());
        worth(ticket, &self.epochs, self.epoch, self.valid_since, good_from, now)
    }

    /// Whether an xid that memory does not hold is new for certain: what this life let go of is remembered
    /// until the last ticket that it may have been minted under is not good any more.
    fn never_here(&self, xid: Xid, ticket: &Ticket) -> bool {
        self.worth(ticket) == Worth::Own && is_as_young(xid, ticket) && !self.memory.left().may_have(xid)
    }

    /// What is said about a transaction whose ticket is not good any more: aborted, and nothing is written.
    pub(super) fn gone(&self, xid: Xid, command: &Command, reason: AbortReason) -> Result<Reply, Error> {
        if matches!(command, Command::Abort { .. }) {
            return Ok(Reply::Done(Done {
                answer: unanimity_core::Answer::Status,
                status: Status::Aborted,
                abort_reason: Some(reason),
                position: self.position(),
            }));
        }
        let refusal =
            unanimity_core::Refusal::AlreadyDecided { status: Status::Aborted, reason: Some(reason) };
        Err(Error::refused(xid, &refusal))
    }

    /// Refuses a decision by somebody who does not hold the secret of a transaction begun without a call.
    /// Answers the refusal and the block that it has to wait for. Operators, deadlines and the engine itself
    /// show none.
    pub(super) fn not_the_tm(&self, xid: Xid, command: &Command, claim: &Claim) -> Option<(Error, Seq)> {
        let decides =
            matches!(command, Command::Commit { .. } | Command::Abort { reason: AbortReason::Requested, .. });
        let entry = self.memory.entries.get(&xid).filter(|_| decides)?;
        let hash = entry.transaction.as_ref()?.decide_hash.as_deref()?;
        if claim.shown.as_ref() == Some(hash) {
            return None;
        }
        let message =
            "the transaction was begun without a call; only who holds its secret commits or aborts it";
        Some((Error::new(ErrorCode::WrongSecret, message).about(xid), entry.last))
    }

    /// Whether the command, if it is taken, is answered without a wait (protocol 1.1): the registration of a
    /// ticketed transaction, and the abort of one by a TM that has never sent a commit for it, which is who
    /// asks to wait for no more than that it was heard. Should it be lost, an unclean end aborts as well.
    pub(super) fn is_lazy(&self, xid: Xid, command: &Command, wait: Wait) -> bool {
        let lazy = match command {
            Command::Register(registration) => registration.lock_keys.is_empty(),
            Command::Abort { reason: AbortReason::Requested, .. } => wait == Wait::Accepted,
            _ => false,
        };
        lazy && self.memory.transaction(xid).is_some_and(is_lazy)
    }
}

/// Whether the xid says itself that it was minted when its ticket was given out, or later: a client that shows
/// its newest ticket for an old xid, by mistake, is not believed. Clocks may differ by a minute.
fn is_as_young(xid: Xid, ticket: &Ticket) -> bool {
    const CLOCKS_DIFFER: Duration = Duration::from_secs(60);
    minted_at(xid)
        .is_some_and(|minted| Ticket::generation_at(minted.after(CLOCKS_DIFFER)) >= ticket.generation)
}

/// When the xid says that it was minted: one of UUID version 7, by its maker's clock.
pub(in crate::engine) fn minted_at(xid: Xid) -> Option<Timestamp> {
    let uuid = xid.uuid();
    let (seconds, nanos) = uuid.get_timestamp().filter(|_| uuid.get_version_num() == 7)?.to_unix();
    Some(Timestamp(seconds.saturating_mul(1_000) + u64::from(nanos / 1_000_000)))
}

/// Whether a transaction's registrations are answered without a wait: one begun without a call, that holds
/// no lock. From its first lock on they wait: other branches may count on it, and it must not be let go of
/// while the effect of one that nobody knows is there (protocol H7).
fn is_lazy(transaction: &Transaction) -> bool {
    transaction.is_ticketed() && transaction.branches.iter().all(|branch| branch.lock_keys.is_empty())
}

/// Whether nobody waits for the event because it registers a branch of a ticketed transaction. With lock
/// keys somebody does: a lock must not vanish while its effect is there (protocol H7).
pub(super) fn is_lazy_registration(known: Option<&Transaction>, event: &Event) -> bool {
    let Event::Registered { traits, .. } = event else { return false };
    traits.lock_keys.is_empty() && known.is_some_and(is_lazy)
}
