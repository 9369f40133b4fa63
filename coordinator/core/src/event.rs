//! What happened to a transaction: the log's contents.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use unanimity_types::{
    AbortReason, BranchId, BranchKey, BranchKind, BranchTargets, CallPolicy, DecideHash, Decision, Digest,
    Mode, Name, Operation, ResolveAs, Timestamp, Vote,
};

use crate::command::{OperatorAction, TwoPhase};
use crate::transaction::{AttentionCode, Step, Transaction};

/// Who waits for an event's block (protocol 1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// Replies and effects that it causes are released when its block is durable.
    Waits,
    /// It goes into the log, and nobody waits.
    Lazy,
    /// It is not written: lost in a crash without harm.
    Volatile,
}

/// An event. Applied live and in recovery alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The transaction began.
    Begun {
        /// Its mode.
        mode: Mode,
        /// Its name.
        name: Option<Name>,
        /// What began it.
        digest: Digest,
        /// Until when it must be decided.
        deadline: Timestamp,
        /// Of a transaction begun without a call: whose secret decides it. Otherwise it was begun by call,
        /// and is durable from birth.
        decide_hash: Option<Box<DecideHash>>,
    },
    /// Somebody asked about an xid that nobody knew: aborted, for good (protocol C2).
    Presumed,
    /// A branch registered.
    Registered {
        /// Its number: the next one.
        branch_id: BranchId,
        /// Its identity.
        key: BranchKey,
        /// Where its operations go.
        targets: Arc<BranchTargets>,
        /// Given back with every operation.
        payload: Bytes,
        /// What registered it.
        digest: Digest,
        /// What it is, and what goes with that.
        traits: Box<BranchTraits>,
    },
    /// A plan's branches are registered: nothing more registers, and it goes on by itself.
    PlanAccepted {
        /// How many there are.
        branches: u32,
    },
    /// A two-phase branch voted.
    Voted {
        /// Which.
        branch_id: BranchId,
        /// How.
        vote: Vote,
    },
    /// The TM asked for a commit, and branches are asked to prepare.
    PreparesAsked {
        /// Until when they may vote.
        until: Timestamp,
    },
    /// The decision is left to the only branch (protocol H4).
    Delegated {
        /// To which.
        branch_id: BranchId,
    },
    /// The sender of a message is asked whether its local transaction committed.
    CheckBackAsked {
        /// Which branch it is.
        branch_id: BranchId,
    },
    /// A step's action is done.
    ActionDone {
        /// Which step.
        branch_id: BranchId,
        /// How many attempts it took, as far as is known.
        attempts: u32,
        /// What later steps and its compensation are given.
        result: Bytes,
    },
    /// A step refused and did nothing (protocol H2).
    ActionRefused {
        /// Which step.
        branch_id: BranchId,
        /// How many attempts it took.
        attempts: u32,
        /// In its own words.
        error: Box<str>,
    },
    /// No attempt of a forward operation runs here any more, and its end is not known.
    Returned {
        /// Of which branch.
        branch_id: BranchId,
    },
    /// No more attempts are made until an operator asks for one.
    Parked {
        /// Of which branch.
        branch_id: BranchId,
        /// How many there were.
        attempts: u32,
        /// What the last one saw.
        error: Box<str>,
    },
    /// A commit named branches that are not all registered yet, and waits for them.
    CommitAsked {
        /// The branches that it named.
        votes: BTreeSet<BranchKey>,
        /// Until when it waits.
        until: Timestamp,
    },
    /// The decision. There is one at most.
    Decided {
        /// Which.
        decision: Decision,
        /// Why, if it is an abort.
        reason: Option<AbortReason>,
        /// How many branches it covers.
        branches: u32,
        /// Who, if an operator did.
        by: Option<OperatorAction>,
    },
    /// An operation is on its way again, after a back-off.
    Dispatched {
        /// Of which branch.
        branch_id: BranchId,
    },
    /// An attempt ended without a result.
    AttemptFailed {
        /// Of which branch.
        branch_id: BranchId,
        /// How many there were with this one.
        attempts: u32,
        /// What was seen.
        error: Box<str>,
        /// When the next one is due. Not written: recovery spreads anew.
        next_at: Timestamp,
    },
    /// The next attempt is due at another time than planned.
    Deferred {
        /// Of which branch.
        branch_id: BranchId,
        /// When.
        next_at: Timestamp,
    },
    /// A branch's participant did what was decided.
    BranchSettled {
        /// Which branch.
        branch_id: BranchId,
        /// How many attempts it took, as far as is known.
        attempts: u32,
    },
    /// An operator settled a branch by hand: a heuristic outcome.
    BranchResolved {
        /// Which branch.
        branch_id: BranchId,
        /// How it ended.
        resolve_as: ResolveAs,
        /// Who and why.
        by: OperatorAction,
    },
    /// A participant's late answer contradicts a heuristic outcome (protocol M14).
    Contradicted {
        /// Which branch.
        branch_id: BranchId,
        /// What its participant says that it did.
        operation: Operation,
    },
    /// Somebody should look.
    AttentionRaised {
        /// Why, in one word.
        code: AttentionCode,
        /// Which branch.
        branch_id: Option<BranchId>,
        /// For people.
        message: Box<str>,
    },
    /// An operator asked to try again now.
    RetryRequested {
        /// Who and why.
        by: OperatorAction,
    },
    /// Every branch is settled.
    Finished,
    /// The whole transaction, re-appended by cleaning. Only its durable part.
    Snapshot(Box<Transaction>),
}

/// What a branch is, and what goes with that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchTraits {
    /// What it is.
    pub kind: BranchKind,
    /// How it votes.
    pub two_phase: TwoPhase,
    /// When its operations are tried again.
    pub policy: CallPolicy,
    /// The locks that were taken for it.
    pub lock_keys: Vec<Name>,
    /// Its place in a saga.
    pub step: Option<Step>,
}

/// A payload of its own: what comes in is a part of the message that brought it, and holding on to a part
/// holds on to the whole.
pub(crate) fn held(payload: &Bytes) -> Bytes {
    Bytes::copy_from_slice(payload)
}

impl BranchTraits {
    /// Those of a plain branch of a kind.
    #[must_use]
    pub fn of(kind: BranchKind) -> Self {
        Self {
            kind,
            two_phase: TwoPhase::default(),
            policy: CallPolicy::default(),
            lock_keys: Vec::new(),
            step: None,
        }
    }
}

impl Event {
    /// Whether a transaction's history may start with it.
    ///
    /// Recovery that reads from a floor meets the rest of transactions whose beginning lies below it:
    /// over, or written again as a snapshot further on. Nothing is known of them there, so their events
    /// up to the next beginning are to be skipped, not applied.
    #[must_use]
    pub const fn is_beginning(&self) -> bool {
        matches!(self, Self::Begun { .. } | Self::Presumed | Self::Snapshot(_))
    }

    /// Who waits for the event's block.
    ///
    /// Attempts are written sparsely (the 1st, 2nd, 4th, 8th …): enough to keep the back-off's
    /// magnitude over a takeover (protocol M9) without a write for each of them.
    #[must_use]
    pub const fn persistence(&self) -> Persistence {
        match self {
            // A first contact is answered without a wait: its ticket is what makes that safe.
            Self::Begun { decide_hash: Some(_), .. } => Persistence::Lazy,
            Self::Begun { .. }
            | Self::Presumed
            | Self::Registered { .. }
            | Self::Decided { .. }
            | Self::BranchResolved { .. }
            | Self::Contradicted { .. }
            | Self::AttentionRaised { .. }
            | Self::RetryRequested { .. }
            | Self::PlanAccepted { .. }
            | Self::Delegated { .. }
            | Self::ActionDone { .. }
            | Self::ActionRefused { .. }
            | Self::Parked { .. } => Persistence::Waits,
            // Only who waits for the end hurries its block, which the driver knows.
            Self::BranchSettled { .. }
            | Self::Finished
            | Self::Voted { .. }
            | Self::PreparesAsked { .. }
            | Self::CheckBackAsked { .. }
            | Self::Snapshot(_) => Persistence::Lazy,
            Self::AttemptFailed { attempts, .. } => {
                if attempts.is_power_of_two() {
                    Persistence::Lazy
                } else {
                    Persistence::Volatile
                }
            }
            Self::CommitAsked { .. }
            | Self::Dispatched { .. }
            | Self::Returned { .. }
            | Self::Deferred { .. } => Persistence::Volatile,
        }
    }
}
