//! The state of a global transaction: the fold of its events.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use unanimity_types::{
    AbortReason, BranchId, BranchKey, BranchKind, BranchStatus, BranchTargets, CallPolicy, DecideHash,
    Decision, Digest, Mode, Name, Status, StepRole, Timestamp, Vote, Xid,
};

use crate::command::TwoPhase;
use crate::event::BranchTraits;
use crate::timeline::TimelineEntry;

/// A global transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Its id.
    pub xid: Xid,
    /// Its mode; none for a presumed abort of an xid that nobody had begun.
    pub mode: Option<Mode>,
    /// What it is for people.
    pub name: Option<Name>,
    /// What began it.
    pub digest: Digest,
    /// When it began.
    pub begun_at: Timestamp,
    /// Until when it must be decided.
    pub deadline: Timestamp,
    /// The decision, once there is one.
    pub decision: Option<DecisionRecord>,
    /// When the last branch was settled.
    pub finished_at: Option<Timestamp>,
    /// Its branches; number `n` stands at place `n - 1`.
    pub branches: Vec<Branch>,
    /// What happened.
    pub timeline: Vec<TimelineEntry>,
    /// Why somebody should look.
    pub attention: Option<Attention>,
    /// How many branches are not settled: kept beside them so that the end is seen without a scan.
    pub(crate) unsettled: u32,
    /// Volatile: a commit that waits for branches.
    pub commit_asked: Option<CommitAsked>,
    /// Its branches came with its plan; no other registers.
    pub planned: bool,
    /// Its branches are asked to prepare, until then.
    pub preparing: Option<Timestamp>,
    /// Of a transaction begun without a call: whose secret decides it (protocol H15).
    pub decide_hash: Option<Box<DecideHash>>,
}

/// A decision and its circumstances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionRecord {
    /// Which.
    pub decision: Decision,
    /// Why, if it is an abort.
    pub reason: Option<AbortReason>,
    /// When.
    pub at: Timestamp,
}

/// A commit that waits for branches that it named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitAsked {
    /// The branches that it named.
    pub votes: BTreeSet<BranchKey>,
    /// Until when it waits.
    pub until: Timestamp,
}

/// One participant's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// Its number.
    pub id: BranchId,
    /// Its identity.
    pub key: BranchKey,
    /// Where its operations go: many branches share them.
    pub targets: Arc<BranchTargets>,
    /// Given back with every operation.
    pub payload: Bytes,
    /// What registered it.
    pub digest: Digest,
    /// Its status.
    pub status: BranchStatus,
    /// How many attempts failed or succeeded, as far as is known: written sparsely.
    pub attempts: u32,
    /// What the last failed attempt saw.
    pub last_error: Option<Box<str>>,
    /// Volatile: when the next attempt is due; `None` while one is on its way or nothing is owed.
    pub next_attempt_at: Option<Timestamp>,
    /// Who settled it by hand, and why.
    pub resolved: Option<Box<Resolution>>,
    /// What it is.
    pub kind: BranchKind,
    /// How it votes.
    pub two_phase: TwoPhase,
    /// How it voted.
    pub vote: Option<Vote>,
    /// When its operations are tried again, if it differs; see [`Branch::policy`].
    pub policy: Option<Box<CallPolicy>>,
    /// The locks that were taken for it.
    pub lock_keys: Vec<Name>,
    /// Its place in a saga.
    pub step: Option<Box<Step>>,
    /// No more attempts are made until an operator asks for one.
    pub parked: bool,
    /// Volatile: an attempt of a forward operation runs here.
    pub in_flight: bool,
    /// Volatile: an earlier owner may have made attempts that nobody knows of.
    pub tainted: bool,
    /// Volatile: an earlier owner's attempt may run until then (protocol H3).
    pub hold_until: Option<Timestamp>,
}

/// A branch's place in a saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// How far it can be turned back.
    pub role: StepRole,
    /// The branches that must be done before.
    pub after: Vec<BranchId>,
    /// What its action brought, once it is known to be done.
    pub result: Option<Bytes>,
}

/// A heuristic outcome's author.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// Who.
    pub operator: Box<str>,
    /// Why.
    pub reason: Box<str>,
    /// Whether the participant said otherwise afterwards.
    pub contradicted: bool,
}

/// Why somebody should look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attention {
    /// Why, in one word.
    pub code: AttentionCode,
    /// Which branch.
    pub branch_id: Option<BranchId>,
    /// For people.
    pub message: Box<str>,
    /// Since when.
    pub since: Timestamp,
}

/// Why somebody should look, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AttentionCode {
    /// A participant does not do what was decided, attempt after attempt.
    ParticipantFailing,
    /// A participant refuses what was decided.
    ParticipantRefuses,
    /// A target cannot be right.
    TargetUnusable,
    /// A saga's deadline passed where it can only go forward.
    Overdue,
    /// A branch is parked: no more attempts are made until somebody asks for one.
    Parked,
    /// A branch was settled by hand against the decision.
    HeuristicMixed,
    /// A participant contradicts what was settled by hand.
    HeuristicContradicted,
}

impl AttentionCode {
    /// Every code.
    pub const ALL: &'static [Self] = &[
        Self::ParticipantFailing,
        Self::ParticipantRefuses,
        Self::TargetUnusable,
        Self::Overdue,
        Self::Parked,
        Self::HeuristicMixed,
        Self::HeuristicContradicted,
    ];

    /// The code's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ParticipantFailing => "participant_failing",
            Self::ParticipantRefuses => "participant_refuses",
            Self::TargetUnusable => "target_unusable",
            Self::Overdue => "overdue",
            Self::Parked => "parked",
            Self::HeuristicMixed => "heuristic_mixed",
            Self::HeuristicContradicted => "heuristic_contradicted",
        }
    }

    /// The code behind a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == word)
    }

    /// Whether the matter is over when the transaction is finished. Heuristic outcomes are shown for
    /// ever.
    pub(crate) const fn ends_with_transaction(self) -> bool {
        match self {
            Self::ParticipantFailing
            | Self::ParticipantRefuses
            | Self::TargetUnusable
            | Self::Overdue
            | Self::Parked => true,
            Self::HeuristicMixed | Self::HeuristicContradicted => false,
        }
    }
}

/// A branch as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchView {
    /// Its number.
    pub id: BranchId,
    /// Its identity.
    pub key: String,
    /// Where its operations go.
    pub target: String,
    /// Its status.
    pub status: BranchStatus,
    /// How many attempts were made, as far as is known.
    pub attempts: u32,
    /// What the last failed attempt saw.
    pub last_error: Option<String>,
    /// When the next attempt is due.
    pub next_attempt_at: Option<Timestamp>,
    /// Who settled it by hand, and why.
    pub resolved: Option<(String, String)>,
    /// What it is.
    pub kind: BranchKind,
    /// No more attempts are made until an operator asks for one.
    pub parked: bool,
    /// The locks that were taken for it.
    pub lock_keys: Vec<String>,
    /// A step's place in its saga: its role, the keys of the steps before it, and its result if that is
    /// text.
    pub step: Option<StepView>,
}

/// A step's place in its saga, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepView {
    /// How far it can be turned back.
    pub role: StepRole,
    /// The steps before it.
    pub after: Vec<BranchId>,
    /// Its result, if it is known and text.
    pub result: Option<String>,
}

impl Branch {
    /// A branch that just registered.
    #[must_use]
    pub fn new(
        id: BranchId,
        key: BranchKey,
        targets: impl Into<Arc<BranchTargets>>,
        payload: Bytes,
        digest: Digest,
        traits: BranchTraits,
    ) -> Self {
        Self {
            id,
            key,
            targets: targets.into(),
            payload,
            digest,
            status: BranchStatus::Registered,
            attempts: 0,
            last_error: None,
            next_attempt_at: None,
            resolved: None,
            kind: traits.kind,
            two_phase: traits.two_phase,
            vote: None,
            policy: (traits.policy != CallPolicy::default()).then(|| Box::new(traits.policy)),
            lock_keys: traits.lock_keys,
            step: traits.step.map(Box::new),
            parked: false,
            in_flight: false,
            tainted: false,
            hold_until: None,
        }
    }

    /// What it is, and what goes with that.
    #[must_use]
    pub fn traits(&self) -> BranchTraits {
        BranchTraits {
            kind: self.kind,
            two_phase: self.two_phase.clone(),
            policy: self.policy(),
            lock_keys: self.lock_keys.clone(),
            step: self.step.as_deref().cloned(),
        }
    }

    /// When its operations are tried again.
    #[must_use]
    pub fn policy(&self) -> CallPolicy {
        self.policy.as_deref().copied().unwrap_or_default()
    }

    /// The branch as people see it.
    #[must_use]
    pub fn view(&self) -> BranchView {
        BranchView {
            id: self.id,
            key: self.key.to_string(),
            target: self.targets.to_string(),
            status: self.status,
            attempts: self.attempts,
            last_error: self.last_error.as_deref().map(str::to_owned),
            next_attempt_at: self.next_attempt_at,
            resolved: self.resolved.as_ref().map(|by| (by.operator.to_string(), by.reason.to_string())),
            kind: self.kind,
            parked: self.parked,
            lock_keys: self.lock_keys.iter().map(ToString::to_string).collect(),
            step: self.step.as_ref().map(|step| StepView {
                role: step.role,
                after: step.after.clone(),
                result: step.result.as_ref().and_then(|bytes| String::from_utf8(bytes.to_vec()).ok()),
            }),
        }
    }

    /// A step's role; `None` if it is none.
    #[must_use]
    pub fn role(&self) -> Option<StepRole> {
        self.step.as_ref().map(|step| step.role)
    }

    /// Whether its compensation has somewhere to go.
    pub(crate) fn has_compensation(&self) -> bool {
        matches!(&*self.targets, BranchTargets::Step { compensate: Some(_), .. })
    }
}

impl Transaction {
    /// Its status, which follows from the decision and from whether all branches are settled.
    #[must_use]
    pub fn status(&self) -> Status {
        match (&self.decision, self.finished_at) {
            (None, _) if self.preparing.is_some() || self.delegate().is_some() => Status::Preparing,
            (None, _) => Status::Active,
            (Some(record), finished) => match (record.decision, finished.is_some()) {
                (Decision::Commit, false) => Status::Committing,
                (Decision::Commit, true) => Status::Committed,
                (Decision::Abort, false) => Status::Aborting,
                (Decision::Abort, true) => Status::Aborted,
            },
        }
    }

    /// The branch that the decision was left to.
    #[must_use]
    pub fn delegate(&self) -> Option<&Branch> {
        self.branches.first().filter(|branch| branch.status == BranchStatus::Delegated)
    }

    /// Why it was aborted, if it was.
    #[must_use]
    pub fn abort_reason(&self) -> Option<AbortReason> {
        self.decision.as_ref().and_then(|record| record.reason)
    }

    /// The branch with this number.
    #[must_use]
    pub fn branch(&self, id: BranchId) -> Option<&Branch> {
        let place = usize::try_from(id.0).ok()?.checked_sub(1)?;
        self.branches.get(place)
    }

    pub(crate) fn branch_mut(&mut self, id: BranchId) -> Option<&mut Branch> {
        let place = usize::try_from(id.0).ok()?.checked_sub(1)?;
        self.branches.get_mut(place)
    }

    /// The branch with this key.
    #[must_use]
    pub fn branch_by_key(&self, key: &BranchKey) -> Option<&Branch> {
        self.branches.iter().find(|branch| branch.key == *key)
    }

    /// Whether a branch ended by hand.
    #[must_use]
    pub fn has_heuristic(&self) -> bool {
        self.branches.iter().any(|branch| branch.resolved.is_some())
    }

    /// How many branches are not settled.
    #[must_use]
    pub const fn unsettled(&self) -> u32 {
        self.unsettled
    }

    /// A transaction to which nothing happened yet.
    #[must_use]
    pub fn empty(xid: Xid) -> Self {
        Self {
            xid,
            mode: None,
            name: None,
            digest: Digest::default(),
            begun_at: Timestamp(0),
            deadline: Timestamp(0),
            decision: None,
            finished_at: None,
            branches: Vec::new(),
            timeline: Vec::new(),
            attention: None,
            unsettled: 0,
            commit_asked: None,
            planned: false,
            preparing: None,
            decide_hash: None,
        }
    }

    /// Whether it was begun without a call: its registrations are answered without a wait, and an unclean
    /// change of owner aborts it while it is undecided (protocol 1.2).
    #[must_use]
    pub const fn is_ticketed(&self) -> bool {
        self.decide_hash.is_some()
    }

    /// Completes a transaction that was built from a snapshot's fields: counts what is kept beside
    /// the branches. `None` if they are not numbered from 1 in order.
    #[must_use]
    pub fn from_snapshot(mut fields: Self) -> Option<Self> {
        let numbered = (1..).zip(&fields.branches).all(|(number, branch)| branch.id.0 == number);
        let unsettled = fields.branches.iter().filter(|branch| !branch.status.is_settled()).count();
        fields.unsettled = u32::try_from(unsettled).ok()?;
        numbered.then_some(fields)
    }

    /// What a snapshot holds: all but the volatile waits. Counts of attempts and last errors are those
    /// of now; a replay without the snapshot knows them as of the last attempt that was written.
    #[must_use]
    pub fn durable(&self) -> Self {
        let mut durable = self.clone();
        durable.commit_asked = None;
        for branch in &mut durable.branches {
            branch.next_attempt_at = None;
            branch.in_flight = false;
            branch.tainted = false;
            branch.hold_until = None;
        }
        durable
    }
}
