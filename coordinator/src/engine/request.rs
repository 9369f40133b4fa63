//! What the engine is asked and what it answers: domain types, the same for gRPC, HTTP and users
//! who embed the coordinator.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use unanimity_core::{Attention, BranchView, TimelineEntry, TwoPhase};
use unanimity_types::{
    AbortReason, Birth, BranchId, BranchKey, BranchKind, BranchTargets, CallPolicy, DecideHash, Decision,
    InquiryAnswer, LogId, LogPosition, Mode, Name, PartitionId, Plan, ResolveAs, Status, Ticket, Timestamp,
    Xid,
};

/// How far an answer waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wait {
    /// The command is durable.
    Accepted,
    /// The decision is durable.
    Decided,
    /// Every branch is settled.
    Finished,
}

/// Begin a global transaction.
#[derive(Debug, Clone)]
pub struct Begin {
    /// Its mode.
    pub mode: Mode,
    /// What it is for people.
    pub name: Option<Name>,
    /// Its xid, if the caller minted one.
    pub xid: Option<Xid>,
    /// Until when it must be decided.
    pub timeout: Option<Duration>,
    /// What it is to do, if it decides by itself.
    pub plan: Plan,
    /// The ticket of the xid's partition when the caller minted it: with a good one nobody has to look into
    /// history for whether the xid is new.
    pub ticket: Option<Ticket>,
}

/// The answer to [`Begin`], also to a repeated one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// The xid.
    pub xid: Xid,
    /// Its status.
    pub status: Status,
    /// The durable place that says so.
    pub position: LogPosition,
}

/// What a caller shows about a transaction begun without a call (protocol 1.2, H15).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claim {
    /// What the transaction is, should this be the first that is heard of it.
    pub birth: Option<Box<Birth>>,
    /// The hash of the secret that the caller showed: who shows the right one may decide.
    pub shown: Option<DecideHash>,
}

impl Claim {
    /// A claim with a secret in clear, which is hashed and let go of.
    #[must_use]
    pub fn showing(birth: Option<Birth>, secret: &[u8]) -> Self {
        let shown = (!secret.is_empty()).then(|| DecideHash(Sha256::digest(secret).into()));
        Self { birth: birth.map(Box::new), shown }
    }
}

/// Register a branch.
#[derive(Debug, Clone)]
pub struct Register {
    /// The transaction.
    pub xid: Xid,
    /// The branch's identity; minted if the caller has none.
    pub key: Option<BranchKey>,
    /// Where its operations go.
    pub targets: BranchTargets,
    /// Given back with every operation.
    pub payload: Bytes,
    /// What the branch is; `None` for what goes with the transaction's mode.
    pub kind: Option<BranchKind>,
    /// How it votes, if it is a two-phase branch.
    pub two_phase: TwoPhase,
    /// When its operations are tried again.
    pub policy: CallPolicy,
    /// Locks that are taken for it before it is registered (protocol H7).
    pub lock_keys: Vec<Name>,
    /// How long to wait for a lock that another transaction holds.
    pub lock_wait: Duration,
}

/// The answer to [`Register`], also to a repeated one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// The branch's number.
    pub branch_id: BranchId,
    /// Its identity.
    pub key: BranchKey,
    /// The durable place that says so.
    pub position: LogPosition,
}

/// Ask for the decision Commit.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The transaction.
    pub xid: Xid,
    /// The keys of the branches that answered with a vote (protocol 1.3); `None`: those registered
    /// are those that voted, on the caller's word.
    pub votes: Option<BTreeSet<BranchKey>>,
    /// How far to wait.
    pub wait: Wait,
}

/// Where a transaction stands, after a command about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The transaction.
    pub xid: Xid,
    /// Its status.
    pub status: Status,
    /// Why it was aborted, if it was.
    pub abort_reason: Option<AbortReason>,
    /// The durable place that says so.
    pub position: LogPosition,
}

/// An operator's action: who and why. It is recorded with what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorAction {
    /// Who; the identity that the API found out, or what the caller says.
    pub operator: String,
    /// Why; never empty.
    pub reason: String,
}

/// Settle a branch by hand.
#[derive(Debug, Clone)]
pub struct Resolve {
    /// The transaction.
    pub xid: Xid,
    /// The branch.
    pub branch_id: BranchId,
    /// How it ended, as the operator knows.
    pub resolve_as: ResolveAs,
    /// Who and why.
    pub action: OperatorAction,
}

/// A transaction as people and programs see it: the durable prefix of its state, or its row in
/// history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionView {
    /// The xid.
    pub xid: Xid,
    /// Its mode; none for a presumed abort of an xid that nobody had begun.
    pub mode: Option<Mode>,
    /// Its name; empty if it has none.
    pub name: String,
    /// Its status.
    pub status: Status,
    /// Its decision.
    pub decision: Option<Decision>,
    /// Why it was aborted.
    pub abort_reason: Option<AbortReason>,
    /// When it began.
    pub begun_at: Timestamp,
    /// Until when it had to be decided.
    pub deadline: Timestamp,
    /// When it was decided.
    pub decided_at: Option<Timestamp>,
    /// When its last branch was settled.
    pub finished_at: Option<Timestamp>,
    /// Its branches.
    pub branches: Vec<BranchView>,
    /// What happened, in order.
    pub timeline: Vec<TimelineEntry>,
    /// Why somebody should look, if somebody should.
    pub attention: Option<Attention>,
    /// The durable place that says so.
    pub position: LogPosition,
}

/// What to list. All conditions hold together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListFilter {
    /// Only this status.
    pub status: Option<Status>,
    /// Only this mode.
    pub mode: Option<Mode>,
    /// Only this name.
    pub name: Option<String>,
    /// Only with a branch at this participant.
    pub participant: Option<String>,
    /// Only begun at least so long ago.
    pub older_than: Option<Duration>,
    /// Only what needs attention.
    pub attention: bool,
    /// After this place (exclusive), newest first.
    pub after: Option<(Timestamp, Xid)>,
    /// At most so many.
    pub limit: u32,
}

/// A page of transactions, newest begun first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The transactions.
    pub transactions: Vec<TransactionView>,
    /// Where the next page starts, if there is one.
    pub next: Option<(Timestamp, Xid)>,
    /// Nodes whose open transactions are not among them: they did not answer.
    pub missing: Vec<String>,
}

/// One xid of an inquiry. An [`Xid`] alone is one without an age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Which.
    pub xid: Xid,
    /// How old the asker's own record of it is, if it says so. What nobody knows and is older than the
    /// history that is kept is `forgotten`; without an age it is presumed aborted (protocol C8).
    pub age: Option<Duration>,
}

impl From<Xid> for Asked {
    fn from(xid: Xid) -> Self {
        Self { xid, age: None }
    }
}

/// The answer about one xid of an inquiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inquiry {
    /// Which.
    pub xid: Xid,
    /// What became of it.
    pub answer: InquiryAnswer,
    /// Whether every branch is settled: fence rows may go (protocol H9).
    pub settled: bool,
}

/// Who the coordinator is and how its partitions are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The log's identity.
    pub log_id: LogId,
    /// This node's name.
    pub node: String,
    /// How many partitions the log has.
    pub partitions: u16,
    /// How each of them is.
    pub states: Vec<PartitionInfo>,
}

/// How a partition is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Which.
    pub partition: PartitionId,
    /// Its state.
    pub state: PartitionState,
    /// The last durable place.
    pub position: Option<LogPosition>,
    /// How many transactions it holds in memory.
    pub open: u64,
    /// How many are over and not yet in history.
    pub history_lag: u64,
    /// What xids of this partition are stamped with, while it works (protocol 1.2).
    pub ticket: Option<Ticket>,
    /// What it did since the node started.
    pub counters: PartitionCounters,
    /// Whose it is to be.
    pub turn: Turn,
    /// Until when it may be on its way here from another node.
    pub due: Option<Instant>,
}

impl PartitionInfo {
    /// Whether the partition is as it should be: it works here, is another node's, or comes from there within the
    /// time that a hand-over may take.
    #[must_use]
    pub fn is_well(&self) -> bool {
        match self.state {
            PartitionState::Running => true,
            PartitionState::Closed => false,
            _ if self.turn == Turn::Elsewhere => true,
            PartitionState::Waiting(_) | PartitionState::Recovering => {
                self.due.is_some_and(|due| Instant::now() < due)
            }
            PartitionState::Unavailable(_) | PartitionState::Stopped(_) => false,
        }
    }
}

/// Whose a partition is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// This node's.
    Here,
    /// Another node's, or none's that lives: this one could do nothing for it.
    Elsewhere,
    /// Nobody's that is known: the node has not seen its cluster, or the cluster does not have it.
    Nobody,
}

/// What a partition did on this node since the node started: lives are added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionCounters {
    /// Transactions that began, presumed aborts included.
    pub begun: u64,
    /// Decisions Commit.
    pub committed: u64,
    /// Decisions Abort.
    pub aborted: u64,
    /// Transactions whose last branch was settled.
    pub finished: u64,
    /// Events that went into blocks.
    pub events: u64,
    /// Blocks written.
    pub blocks: u64,
    /// Bytes of block rows.
    pub block_bytes: u64,
    /// Of those, snapshots that cleaning re-appended.
    pub rewritten_bytes: u64,
    /// Answers to callers that waited for a block.
    pub held_answers: u64,
    /// History rows written.
    pub history_rows: u64,
    /// Bytes of history rows, without the database's own overhead.
    pub history_bytes: u64,
}

/// What a partition is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionState {
    /// Another node has it, or is to have it. Says whose it is.
    Waiting(String),
    /// Reading its log.
    Recovering,
    /// Working.
    Running,
    /// Its log does not answer; work goes on by itself when it does. Says why.
    Unavailable(String),
    /// Stopped until an operator acts. Says why.
    Stopped(StopReason),
    /// Shut down.
    Closed,
}

/// Why a partition stopped for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// A witness knows of more than the log holds (protocol C8, H6): `unanimity log accept-loss`.
    LostTail(String),
    /// A block is damaged or missing.
    Damaged(String),
    /// The log was written by a newer version, or says something impossible.
    Unreadable(String),
}
