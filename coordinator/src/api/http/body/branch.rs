//! The request that registers a branch.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use unanimity_proto::birth_from_text;
use unanimity_types::{BranchKind, BranchTargets, ErrorCode, Name, Xid};
use utoipa::ToSchema;

use super::target::{RetryBody, TargetBody, branch_policy, key, payload};
use crate::api::http::problem::Failure;
use crate::api::kind::branch_kind;
use crate::engine::{Claim, Register, TwoPhase};

/// Register a branch, with one of: `participant` and `operation` (attached, told which operation it is) ·
/// `confirm` and `cancel` (TCC) · `commit` and `rollback`, with or without `prepare` (two-phase) · `deliver` (a
/// message that goes out on commit).
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BranchBody {
    /// The branch's identity inside the transaction: the same key is the same branch. Minted if not
    /// given, but then a repeated call makes a second branch.
    #[schema(example = "payment-1")]
    pub(crate) key: Option<String>,
    /// The name of an attached participant.
    pub(crate) participant: Option<String>,
    /// The name of its hooks.
    pub(crate) operation: Option<String>,
    /// Where confirm goes.
    pub(crate) confirm: Option<TargetBody>,
    /// Where cancel goes.
    pub(crate) cancel: Option<TargetBody>,
    /// Where prepare goes. Without it the branch votes by itself (`early`).
    pub(crate) prepare: Option<TargetBody>,
    /// Where commit goes, in one phase or two.
    pub(crate) commit: Option<TargetBody>,
    /// Where rollback goes.
    pub(crate) rollback: Option<TargetBody>,
    /// Where the message goes, on commit only.
    pub(crate) deliver: Option<TargetBody>,
    /// `tcc`, `two_phase` or `message`, where the targets do not say; else what goes with the
    /// transaction's mode.
    pub(crate) kind: Option<String>,
    /// Two-phase: the branch prepares by itself when it does its work; to be named by the commit, or to
    /// vote, is its vote. If not given: true for `commit` and `rollback` without `prepare`.
    pub(crate) early: Option<bool>,
    /// Two-phase: if it is the only branch, it may be committed without a prepare. Only for participants that
    /// keep a ledger: from then on the branch decides.
    pub(crate) one_phase: Option<bool>,
    /// Taken for the transaction before the branch is registered, at most 16; freed when every branch is
    /// settled.
    pub(crate) lock_keys: Option<Vec<String>>,
    /// How long to wait for a lock that another transaction holds; at most 30,000, 0 if not given.
    pub(crate) lock_wait_ms: Option<u64>,
    /// When its operations are tried again; `give_up_after` only for deliveries.
    pub(crate) retry: Option<RetryBody>,
    /// How long one attempt may take; at most 600,000.
    pub(crate) timeout_ms: Option<u64>,
    /// Any JSON; given back with every operation of the branch. At most 1 MiB.
    #[schema(value_type = Option<Object>)]
    pub(crate) payload: Option<Box<RawValue>>,
    /// The parameter `birth` of the context that came with the call, if there is one: the transaction may
    /// have begun without a call, and this registration be the first that is heard of it.
    pub(crate) birth: Option<String>,
}

impl BranchBody {
    /// What the caller shows about a transaction begun without a call.
    pub(in crate::api::http) fn claim(&mut self) -> Result<Claim, Failure> {
        let birth = self.birth.take().map(|text| birth_from_text(&text)).transpose();
        let birth = birth.map_err(|invalid| Failure::new(invalid.code, invalid.message))?;
        Ok(Claim { birth: birth.map(Box::new), shown: None })
    }

    /// What the engine is asked.
    pub(in crate::api::http) fn into_register(mut self, xid: Xid) -> Result<Register, Failure> {
        let key = self.key.take().map(|text| key("key", text)).transpose()?;
        let said = self.kind.take().map(|word| kind(&word)).transpose()?;
        let two_phase = TwoPhase {
            early: self.early.unwrap_or(self.prepare.is_none() && self.commit.is_some()),
            one_phase: self.one_phase.unwrap_or_default(),
            instance: None,
        };
        let has_options = self.early.is_some() || self.one_phase.is_some();
        let lock_keys = self.lock_keys.take().unwrap_or_default();
        let lock_wait = Duration::from_millis(self.lock_wait_ms.unwrap_or_default());
        let policy = branch_policy(self.retry.take(), self.timeout_ms)?;
        let payload = payload(self.payload.take());
        let (targets, said) = self.into_targets(said)?;
        let kind = branch_kind(said, &targets, &two_phase)?;
        if has_options && kind.is_some_and(|kind| kind != BranchKind::TwoPhase) {
            let message = "early and one_phase are for two-phase branches";
            return Err(Failure::new(ErrorCode::InvalidRequest, message));
        }
        let lock_key = |text: String| {
            Name::new(text)
                .map_err(|error| Failure::new(ErrorCode::InvalidName, format!("lock_keys: {error}")))
        };
        Ok(Register {
            xid,
            key,
            targets,
            payload,
            kind,
            two_phase,
            policy,
            lock_keys: lock_keys.into_iter().map(lock_key).collect::<Result<_, _>>()?,
            lock_wait,
        })
    }

    /// The targets, and the kind that they are of if that was said or a delivery says it.
    fn into_targets(self, said: Option<BranchKind>) -> Result<(BranchTargets, Option<BranchKind>), Failure> {
        let attached = self.participant.is_some() || self.operation.is_some();
        let tcc = self.confirm.is_some() || self.cancel.is_some();
        let two_phase = self.prepare.is_some() || self.commit.is_some() || self.rollback.is_some();
        let sets = [attached, tcc, two_phase, self.deliver.is_some()];
        let chosen = sets.iter().filter(|set| **set).count() == 1;
        if chosen {
            let target = |target: TargetBody, what: &str| target.into_target(what);
            match (self.confirm, self.cancel, self.commit, self.rollback, self.deliver) {
                (Some(confirm), Some(cancel), ..) => {
                    let (confirm, cancel) = (target(confirm, "confirm")?, target(cancel, "cancel")?);
                    return Ok((BranchTargets::Tcc { confirm, cancel }, said));
                }
                (_, _, Some(commit), Some(rollback), _) => {
                    let targets = BranchTargets::TwoPhase {
                        prepare: self.prepare.map(|prepare| target(prepare, "prepare")).transpose()?,
                        commit: target(commit, "commit")?,
                        rollback: target(rollback, "rollback")?,
                    };
                    return Ok((targets, said));
                }
                (.., Some(deliver)) if said.is_none_or(|kind| kind == BranchKind::Message) => {
                    let targets = BranchTargets::One(target(deliver, "deliver")?);
                    return Ok((targets, Some(BranchKind::Message)));
                }
                _ if attached => {
                    let (participant, operation) = (self.participant, self.operation);
                    let one = TargetBody { url: None, grpc: None, participant, operation };
                    return Ok((BranchTargets::One(one.into_target("participant")?), said));
                }
                _ => {}
            }
        }
        let message = "a branch has one of: participant and operation; confirm and cancel (TCC); commit and rollback, \
                       with or without prepare (two-phase); deliver (a message)";
        Err(Failure::new(ErrorCode::InvalidTarget, message))
    }
}

/// The kinds that register.
fn kind(word: &str) -> Result<BranchKind, Failure> {
    word.parse().map_err(|_| {
        Failure::new(ErrorCode::InvalidRequest, "kind: one of tcc, two_phase, message".to_owned())
    })
}
