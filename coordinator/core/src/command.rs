//! What can be asked of a transaction.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use unanimity_types::{
    AbortReason, BranchId, BranchKey, BranchKind, BranchTargets, CallPolicy, DecideHash, Digest, Mode, Name,
    Operation, Plan, ResolveAs, Timestamp, Vote, Xid,
};

use crate::retry::RetryPolicy;

/// What a decision is made with besides the state: the core has no clock and no configuration.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// Which transaction.
    pub xid: Xid,
    /// Partition time.
    pub now: Timestamp,
    /// When to try again, and when to call for people.
    pub retry: RetryPolicy,
    /// How long a deposed owner may go on believing that it owns the partition (protocol H3).
    pub lease: Duration,
    /// How long an attempt may take whose branch does not say otherwise.
    pub call_timeout: Duration,
}

/// A command about one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Begin it.
    Begin(BeginSpec),
    /// Register a branch.
    Register(Registration),
    /// A two-phase branch votes by itself.
    Vote {
        /// Which branch.
        key: BranchKey,
        /// How.
        vote: Vote,
    },
    /// Decide Commit; for a message: submit it.
    Commit {
        /// The keys of the branches that voted (protocol 1.3); `None`: those registered voted, on the
        /// caller's word.
        votes: Option<BTreeSet<BranchKey>>,
    },
    /// Decide Abort.
    Abort {
        /// Why.
        reason: AbortReason,
        /// Who, if an operator asks.
        by: Option<OperatorAction>,
    },
    /// Somebody whose branch is in doubt asks. An unknown xid is aborted by asking (protocol C2).
    Inquire,
    /// A timer went off. It may be an old one.
    Timer(Timer),
    /// A dispatched operation ended.
    Result {
        /// Of which branch.
        branch_id: BranchId,
        /// What was asked of it.
        operation: Operation,
        /// Which attempt it was.
        attempt: u32,
        /// What came back.
        outcome: ResultOutcome,
    },
    /// The branch's participant can be reached again: try at `at` instead of when its back-off ends.
    Wake {
        /// Which branch.
        branch_id: BranchId,
        /// When; the driver spreads a herd (protocol M9).
        at: Timestamp,
    },
    /// Operator: try what is owed again now.
    Retry {
        /// Who and why.
        by: OperatorAction,
    },
    /// Operator: settle a branch by hand.
    Resolve {
        /// Which branch.
        branch_id: BranchId,
        /// How it ended.
        resolve_as: ResolveAs,
        /// Who and why.
        by: OperatorAction,
    },
}

/// What begins a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeginSpec {
    /// Its mode.
    pub mode: Mode,
    /// What it is for people.
    pub name: Option<Name>,
    /// Tells a repetition from a reuse of the xid (protocol M1).
    pub digest: Digest,
    /// How long it may stay undecided.
    pub timeout: Duration,
    /// What it is to do, if it decides by itself.
    pub plan: Plan,
    /// Of a transaction begun without a call: whose secret decides it. It is not durable from birth
    /// (protocol 1.2).
    pub decide_hash: Option<DecideHash>,
}

/// What registers a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its identity.
    pub key: BranchKey,
    /// Where its operations go.
    pub targets: BranchTargets,
    /// Given back with every operation.
    pub payload: Bytes,
    /// Tells a repetition from a reuse of the key (protocol H8).
    pub digest: Digest,
    /// What the branch is; `None` for what goes with the transaction's mode.
    pub kind: Option<BranchKind>,
    /// How it votes, if it is a two-phase branch.
    pub two_phase: TwoPhase,
    /// When its operations are tried again.
    pub policy: CallPolicy,
    /// The locks that were taken for it (protocol H7).
    pub lock_keys: Vec<Name>,
}

/// How a two-phase branch votes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TwoPhase {
    /// It prepares by itself: to be named by the commit is its vote Prepared.
    pub early: bool,
    /// If it is alone it may be committed in one phase (protocol H4).
    pub one_phase: bool,
    /// The attached instance that holds its open work (protocol H11).
    pub instance: Option<Name>,
}

/// An operator's action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorAction {
    /// Who.
    pub operator: Box<str>,
    /// Why.
    pub reason: Box<str>,
}

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The transaction's deadline.
    Deadline,
    /// A commit waited long enough for the branches that it named.
    CommitWait,
    /// The prepares took too long.
    Prepare,
    /// A branch's back-off is over.
    Retry(BranchId),
}

/// How one attempt of an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResultOutcome {
    /// It is done, now or before. For a prepare: the vote Prepared; for an action: without a result.
    Done,
    /// The action is done, now or before, with this result.
    Result(Bytes),
    /// The answer to a prepare.
    Voted(Vote),
    /// The participant says no.
    Refused {
        /// In its own words.
        error: Box<str>,
    },
    /// The participant says no to an action, and has made sure that no attempt of it takes effect, now or
    /// later: a refusal that is clean whichever attempt it answers.
    Sealed {
        /// In its own words.
        error: Box<str>,
    },
    /// Nothing is known: a time-out, a broken connection, an answer that makes no sense.
    Unknown {
        /// What was seen.
        error: Box<str>,
        /// When the participant asked to be called again.
        retry_after: Option<Duration>,
    },
    /// Not possible yet: the try has not ended (matrix K8).
    NotYet {
        /// What was seen.
        error: Box<str>,
    },
    /// The target looks wrong (HTTP 404, a redirect, not on the allow list): somebody should look at
    /// once, and it is tried again all the same.
    Unusable {
        /// What was seen.
        error: Box<str>,
    },
    /// It never left the node: not an attempt.
    NotSent {
        /// Why.
        error: Box<str>,
        /// When there may be room again.
        retry_after: Duration,
    },
}
