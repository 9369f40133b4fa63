//! What a transaction that decides by itself is to do: the steps of a saga, the deliveries of a message.

use bytes::Bytes;

use crate::branch::{CallPolicy, Target};
use crate::id::BranchKey;
use crate::outcome::StepRole;

/// The steps of a saga, as they were submitted. Whether they make a plan that can be carried out is
/// for the core to say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SagaPlan {
    /// In the order in which they were written down.
    pub steps: Vec<SagaStep>,
}

/// A step of a saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SagaStep {
    /// Unique in the plan; it is the branch's key.
    pub name: BranchKey,
    /// Where its action goes.
    pub action: Target,
    /// Where its compensation goes; `None` if there is nothing to undo.
    pub compensate: Option<Target>,
    /// Given with the action and with the compensation.
    pub payload: Bytes,
    /// The steps that must be done before.
    pub after: Vec<BranchKey>,
    /// How far it can be turned back.
    pub role: StepRole,
    /// When it is tried again.
    pub policy: CallPolicy,
}

/// A message, as it was prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessagePlan {
    /// Who is asked whether the local transaction committed; needed unless it is submitted at once.
    pub check_back: Option<Target>,
    /// Given with every check-back.
    pub check_back_payload: Bytes,
    /// Where it goes.
    pub deliveries: Vec<Delivery>,
    /// The local transaction committed already: deliver.
    pub submit: bool,
}

/// One delivery of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The branch's key: receivers dedupe by xid and key. Unique in the message.
    pub key: BranchKey,
    /// Where it goes.
    pub target: Target,
    /// What it says.
    pub payload: Bytes,
    /// When it is tried again.
    pub policy: CallPolicy,
}

/// What a transaction begins with besides its name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Plan {
    /// Nothing: branches register, and the TM decides.
    #[default]
    Open,
    /// A saga's steps.
    Saga(SagaPlan),
    /// A message's deliveries.
    Message(MessagePlan),
}
