//! Branches that the transaction manager registers itself, for participants that do not know Unanimity:
//! plain HTTP services, or services in languages without an SDK.
//!
//! ```text
//!   register ──► the service's own try, by whatever call it offers ──► vote ──► commit
//! ```
//!
//! Registered before the try (protocol I8), so that an abort reaches whatever the try left behind. What
//! such a service must do by itself is what the fence does elsewhere: answer a repetition as the first
//! time, take a cancel that comes before its try.

use std::time::Duration;

use bytes::Bytes;
use unanimity_proto::{target_to_wire, v1};
use unanimity_types::BranchKey;

use crate::client::GlobalTransaction;
use crate::error::ClientError;
use crate::saga::{StepTarget, payload_fits};

/// As for the branches of a [`crate::Participant`]: longer than a partition is without an owner.
const REGISTER_FOR: Duration = Duration::from_secs(15);

/// In place of a participant's name and an operation in the branch's key.
const NAME: (&str, &str) = ("tm", "branch");

/// A branch of a participant that does not register itself: see [`GlobalTransaction::register`].
#[derive(Debug, Clone)]
#[must_use = "it is for GlobalTransaction::register"]
pub struct NewBranch {
    kind: v1::BranchKind,
    /// Where a commit goes, and an abort.
    targets: (StepTarget, StepTarget),
    payload: Bytes,
    label: Option<String>,
}

impl NewBranch {
    /// A TCC branch: where its `confirm` goes, and its `cancel`.
    pub fn tcc(confirm: impl Into<StepTarget>, cancel: impl Into<StepTarget>) -> Self {
        Self::new(v1::BranchKind::Tcc, confirm.into(), cancel.into())
    }

    /// A branch that is prepared before it votes: where its `commit` goes, and its `rollback`.
    pub fn two_phase(commit: impl Into<StepTarget>, rollback: impl Into<StepTarget>) -> Self {
        Self::new(v1::BranchKind::TwoPhase, commit.into(), rollback.into())
    }

    fn new(kind: v1::BranchKind, commit: StepTarget, abort: StepTarget) -> Self {
        Self { kind, targets: (commit, abort), payload: Bytes::new(), label: None }
    }

    /// What the operations are given, as it is: at most 1 MiB.
    pub fn payload_bytes(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Tells the branch apart from the others that this transaction registers. Without one it is told
    /// apart by the order of registrations.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    fn targets(&self) -> Result<v1::BranchTargets, ClientError> {
        let commit = Some(target_to_wire(&self.targets.0.check()?));
        if self.targets.0 == self.targets.1 {
            return Ok(v1::BranchTargets { one: commit, ..Default::default() });
        }
        let abort = Some(target_to_wire(&self.targets.1.check()?));
        Ok(match self.kind {
            v1::BranchKind::TwoPhase => v1::BranchTargets { commit, rollback: abort, ..Default::default() },
            _ => v1::BranchTargets { confirm: commit, cancel: abort, ..Default::default() },
        })
    }
}

impl GlobalTransaction {
    /// Registers a branch for a participant that does not register itself. Returns its key when it is
    /// registered: then call the service's try, and [`GlobalTransaction::vote`] when it succeeded.
    ///
    /// ```no_run
    /// # async fn f(tx: unanimity_sdk::GlobalTransaction) -> Result<(), unanimity_sdk::ClientError> {
    /// use unanimity_sdk::{NewBranch, StepTarget};
    ///
    /// let confirm = StepTarget::http("https://stock.example/confirm");
    /// let cancel = StepTarget::http("https://stock.example/cancel");
    /// let key = tx.register(NewBranch::tcc(confirm, cancel).payload_bytes("7")).await?;
    /// // … POST https://stock.example/reserve, with (xid, key) as its idempotency key …
    /// tx.vote(key);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ClientError`]. If it was registered all the same, it aborts the transaction: it has no vote.
    pub async fn register(&self, branch: NewBranch) -> Result<BranchKey, ClientError> {
        payload_fits(&branch.payload)?;
        let context = self.context();
        let key = match &branch.label {
            Some(label) => context.labelled_key(NAME.0, NAME.1, label),
            None => context.next_key(NAME.0, NAME.1),
        };
        let early = branch.kind == v1::BranchKind::TwoPhase;
        let request = v1::RegisterBranchRequest {
            xid: context.xid().to_string(),
            key: key.to_string(),
            targets: Some(branch.targets()?),
            payload: branch.payload,
            log_id: context.log_id().map(|id| id.to_string()).unwrap_or_default(),
            birth: context.birth(),
            kind: branch.kind.into(),
            two_phase: early.then(|| v1::TwoPhaseOptions { early, ..Default::default() }),
            ..Default::default()
        };
        let left = context.remaining().unwrap_or(REGISTER_FOR).min(REGISTER_FOR);
        self.client().register_branch(request, left, Duration::ZERO).await?;
        Ok(key)
    }

    /// Says that the try of a branch succeeded: the commit names its vote. For branches of
    /// [`GlobalTransaction::register`]; those of a [`crate::Participant`] vote by themselves.
    pub fn vote(&self, key: BranchKey) {
        self.context().add_votes([key]);
    }
}
