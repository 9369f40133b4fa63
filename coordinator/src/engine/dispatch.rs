//! The seam between the engine, which knows what is owed, and delivery, which knows how to bring it.

use bytes::Bytes;
use std::time::Duration;
use tokio::sync::mpsc;
use unanimity_core::ResultOutcome;
use unanimity_types::{BranchId, BranchKey, BranchKind, LogPosition, Name, Operation, StepRole, Target, Xid};

use super::ownership::Ownership;

/// One operation of one branch, to be brought to its target once. What follows from it is durable
/// already.
#[derive(Debug, Clone)]
pub struct BranchCall {
    /// The transaction.
    pub xid: Xid,
    /// The transaction's name, for people.
    pub transaction_name: Option<Name>,
    /// The branch's number.
    pub branch_id: BranchId,
    /// The branch's identity.
    pub key: BranchKey,
    /// What to do.
    pub operation: Operation,
    /// Where.
    pub target: Target,
    /// The branch's payload.
    pub payload: Bytes,
    /// Counted from 1.
    pub attempt: u32,
    /// The owner's place: carried to the participant as a witness, and shown back with the result.
    pub position: LogPosition,
    /// What the branch is.
    pub kind: BranchKind,
    /// A step's role in its saga.
    pub role: Option<StepRole>,
    /// The results of the saga's steps that come before.
    pub inputs: Vec<(BranchKey, Bytes)>,
    /// For a compensation: the result of the step's own action, if it is known.
    pub result: Option<Bytes>,
    /// How long the attempt may take, where the branch says so.
    pub timeout: Option<Duration>,
    /// The branch says itself how often it is tried: nobody else stretches that.
    pub own_pace: bool,
    /// The only instance that can do it: it holds the branch's open work (protocol H11).
    pub instance: Option<Name>,
}

/// How a [`BranchCall`] ended. Exactly one for each call that was dispatched.
#[derive(Debug, Clone)]
pub struct BranchReply {
    /// The transaction.
    pub xid: Xid,
    /// The branch.
    pub branch_id: BranchId,
    /// What was asked.
    pub operation: Operation,
    /// Which attempt it was.
    pub attempt: u32,
    /// The place that the call carried.
    pub position: LogPosition,
    /// What came back.
    pub outcome: ResultOutcome,
    /// How long it took.
    pub took: Duration,
}

/// Where a [`BranchReply`] goes: back to the partition that dispatched the call. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ResultSink {
    replies: mpsc::UnboundedSender<BranchReply>,
    ownership: Ownership,
}

impl ResultSink {
    /// A sink and the end that the partition reads. Unbounded, because the calls in flight bound it.
    #[must_use]
    pub fn new() -> (Self, mpsc::UnboundedReceiver<BranchReply>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { replies: sender, ownership: Ownership::default() }, receiver)
    }

    /// The same with an owner's lease, and what ends it.
    #[cfg(test)]
    pub(crate) fn with_lease() -> (Self, mpsc::UnboundedReceiver<BranchReply>, impl Fn()) {
        let lease = Ownership::until(tokio::time::Instant::now() + Duration::from_secs(3_600));
        let (sink, replies) = Self::new();
        (sink.owned(lease.clone()), replies, move || lease.end())
    }

    /// The same for an owner whose lease may run out.
    #[must_use]
    pub(super) fn owned(self, ownership: Ownership) -> Self {
        Self { ownership, ..self }
    }

    /// Whether an operation may be sent now: what no decision stands behind is not sent for an owner
    /// that cannot be sure to be one any more (protocol H3). To be asked right before a call leaves, as
    /// well as when it is taken: it may have waited. What may not be sent is answered
    /// [`ResultOutcome::NotSent`].
    #[must_use]
    pub fn may_send(&self, operation: Operation) -> bool {
        !operation.is_forward() || self.ownership.holds()
    }

    /// Hands a result back. Nobody is owed anything if the partition is gone: recovery asks again.
    pub fn send(&self, reply: BranchReply) {
        let _ = self.replies.send(reply);
    }
}

/// Brings operations to participants.
pub trait Dispatcher: std::fmt::Debug + Send + Sync + 'static {
    /// Takes a call. Never blocks and never loses one: for each call exactly one [`BranchReply`] goes
    /// into `results`, if only to say that it could not be sent.
    fn dispatch(&self, call: BranchCall, results: &ResultSink);

    /// The same for several, as if one by one: what a durable block lets out. Together they cost less
    /// and leave in fewer messages.
    fn dispatch_many(&self, calls: Vec<BranchCall>, results: &ResultSink) {
        for call in calls {
            self.dispatch(call, results);
        }
    }
}
