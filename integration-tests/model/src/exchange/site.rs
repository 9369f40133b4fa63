//! A participant.

use unanimity_types::{Operation, Vote};

use crate::core_table::Out;

/// What a participant has done for the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Work {
    /// Nothing that lasts.
    #[default]
    Idle,
    /// TCC: reserved. Two-phase: prepared.
    Ready,
    /// Two-phase: it had changed nothing, and has forgotten the transaction.
    ReadOnly,
    /// Its effect is final; of a step: it ran.
    Done,
    /// Undone; two-phase: rolled back.
    RolledBack,
    /// It will never be done: cancelled before its try, or refused for good.
    Tombstone,
}

/// A participant and what it remembers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Site {
    /// What it has done.
    pub work: Work,
    /// How often its branch was registered.
    pub registrations: u8,
    /// Its registration was acknowledged.
    pub registered: bool,
    /// Its try was good, and its answer reached the client.
    pub voted: bool,
    /// How often it asked for the outcome.
    pub asks: u8,
    /// A cancel or a compensation came before what it cancels.
    pub early_cancel: bool,
    /// An action was refused after it had been done (a foreign service's 409).
    pub refused_after: bool,
}

impl Site {
    /// Whether a try may still commit here.
    pub(super) const fn may_try(&self, no_tombstone: bool) -> bool {
        self.registered
            && (matches!(self.work, Work::Idle) || no_tombstone && matches!(self.work, Work::Tombstone))
    }

    /// The try commits; `true` if it came after its cancel and had an effect.
    pub(super) fn try_now(&mut self) -> bool {
        let late = self.work == Work::Tombstone;
        self.work = Work::Ready;
        self.voted |= !late;
        late
    }

    /// Whether it waits for the outcome.
    pub(super) const fn in_doubt(&self) -> bool {
        matches!(self.work, Work::Ready)
    }

    /// Carries an operation out. Answers what it says, and whether that was asked of it at all: a confirm of
    /// what is cancelled breaks the transaction apart, whatever it answers.
    pub(super) fn carry_out(
        &mut self,
        operation: Operation,
        willing: bool,
        read_only: bool,
        fenced: bool,
    ) -> (Out, bool) {
        match operation {
            Operation::Confirm | Operation::Commit => match self.work {
                Work::Ready => self.becomes(Work::Done, Out::Done),
                Work::Done => (Out::Done, true),
                Work::Idle if operation == Operation::Confirm => (Out::NotYet, true),
                Work::Idle | Work::ReadOnly | Work::RolledBack | Work::Tombstone => (Out::Refused, false),
            },
            Operation::Cancel | Operation::Rollback => match self.work {
                Work::Idle => {
                    self.early_cancel = true;
                    self.becomes(Work::Tombstone, Out::Done)
                }
                Work::Ready => self.becomes(Work::RolledBack, Out::Done),
                Work::RolledBack | Work::Tombstone | Work::ReadOnly => (Out::Done, true),
                Work::Done => (Out::Refused, false),
            },
            Operation::Prepare => match self.work {
                Work::Idle if read_only => self.becomes(Work::ReadOnly, Out::Voted(Vote::ReadOnly)),
                Work::Idle if willing => {
                    self.voted = true;
                    self.becomes(Work::Ready, Out::Voted(Vote::Prepared))
                }
                Work::Idle => self.becomes(Work::Tombstone, Out::Voted(Vote::Refused)),
                Work::Ready | Work::Done => (Out::Voted(Vote::Prepared), true),
                Work::ReadOnly => (Out::Voted(Vote::ReadOnly), true),
                Work::RolledBack | Work::Tombstone => (Out::Voted(Vote::Refused), true),
            },
            Operation::CommitOnePhase => match self.work {
                Work::Idle if willing => {
                    self.voted = true;
                    self.becomes(Work::Done, Out::Done)
                }
                Work::Idle => self.becomes(Work::Tombstone, Out::Refused),
                Work::Done => (Out::Done, true),
                _ => (Out::Refused, true),
            },
            Operation::Action => self.act(willing, fenced),
            Operation::Compensate => match self.work {
                Work::Idle => {
                    self.early_cancel = true;
                    // Without a fence nothing is left behind.
                    self.becomes(if fenced { Work::Tombstone } else { Work::RolledBack }, Out::Done)
                }
                Work::Done => self.becomes(Work::RolledBack, Out::Done),
                _ => (Out::Done, true),
            },
            Operation::Try | Operation::CheckBack | Operation::Deliver => (Out::Unknown, false),
        }
    }

    /// A step's action.
    fn act(&mut self, willing: bool, fenced: bool) -> (Out, bool) {
        match self.work {
            Work::Idle if willing => self.becomes(Work::Done, Out::Done),
            Work::Idle if fenced => self.becomes(Work::Tombstone, Out::Sealed),
            Work::Idle => (Out::Refused, true),
            Work::Done if willing => (Out::Done, true),
            // A foreign service's unique key: "there is one already".
            Work::Done if !fenced => {
                self.refused_after = true;
                (Out::Refused, true)
            }
            Work::Done => (Out::Done, true),
            Work::RolledBack if fenced => (Out::Sealed, true),
            // It was undone, and now it is done after all.
            Work::RolledBack if willing => {
                self.work = Work::Done;
                (Out::Done, false)
            }
            Work::RolledBack => (Out::Refused, true),
            Work::Ready | Work::ReadOnly | Work::Tombstone => (Out::Sealed, true),
        }
    }

    fn becomes(&mut self, work: Work, out: Out) -> (Out, bool) {
        self.work = work;
        (out, true)
    }
}
