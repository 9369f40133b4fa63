//! What participants did (I1, I2, I5, I6, I7, I10, I11).

use std::collections::BTreeMap;

use bytes::Bytes;
use unanimity_types::{BranchKey, BranchKind, Decision, Operation, Xid};

use super::Checks;

/// What a branch's effect is now, in its participant's database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Did {
    Nothing,
    /// Tried, prepared or worked: it can go either way.
    Open,
    /// It is there for good: confirmed, committed, done, delivered, sent.
    Effect,
    /// It was there and was undone, or was kept from ever being there.
    Undone,
    /// Nothing to decide about.
    ReadOnly,
}

/// A branch as its participant's database shows it.
#[derive(Debug, Clone)]
pub(crate) struct Effect {
    pub(crate) kind: BranchKind,
    pub(crate) did: Did,
    pub(crate) delta: i64,
    /// How often the effect came to be.
    pub(crate) times: u32,
    pub(crate) inputs: Option<Vec<(BranchKey, Bytes)>>,
    /// It is a step without a compensation.
    pub(crate) stays: bool,
}

impl Checks {
    /// A transaction's steps, by what comes before each, and which have nothing to undo.
    pub(crate) fn plan(&mut self, xid: Xid, steps: BTreeMap<BranchKey, Vec<BranchKey>>) {
        self.plans.insert(xid, steps);
    }

    /// A branch may do something from now on.
    pub(crate) fn branch(&mut self, xid: Xid, key: &BranchKey, kind: BranchKind, delta: i64, stays: bool) {
        let effect = Effect { kind, did: Did::Nothing, delta, times: 0, inputs: None, stays };
        self.effects.entry(xid).or_default().entry(key.clone()).or_insert(effect);
    }

    fn did(&self, xid: Xid, key: &BranchKey) -> Did {
        self.effects
            .get(&xid)
            .and_then(|branches| branches.get(key))
            .map_or(Did::Nothing, |effect| effect.did)
    }

    fn stays(&self, xid: Xid, key: &BranchKey) -> bool {
        let effect = self.effects.get(&xid).and_then(|branches| branches.get(key));
        effect.is_some_and(|effect| effect.stays)
    }

    fn is_resolved(&self, xid: Xid, key: &BranchKey) -> bool {
        self.resolved.contains(&(xid, key.clone()))
    }

    fn any_resolved(&self, xid: Xid) -> bool {
        self.resolved.iter().any(|(of, _)| *of == xid)
    }

    /// A local transaction of a participant committed, and left the branch so.
    pub(crate) fn does(&mut self, xid: Xid, key: &BranchKey, operation: Operation, after: Did) {
        let before = self.did(xid, key);
        if before == after && operation != Operation::Try {
            return;
        }
        let decision = self.decision(xid);
        match operation {
            Operation::Try if before != Did::Nothing => {
                self.violation(Some(xid), format!("I6: {key} is tried, and was {before:?}"));
            }
            Operation::Confirm | Operation::Commit | Operation::Deliver
                if decision != Some(Decision::Commit) && !self.is_resolved(xid, key) =>
            {
                self.violation(
                    Some(xid),
                    format!("I2: {operation} of {key} while the log says {decision:?}"),
                );
            }
            Operation::Cancel | Operation::Rollback | Operation::Compensate
                if decision == Some(Decision::Commit) && !self.is_resolved(xid, key) =>
            {
                self.violation(
                    Some(xid),
                    format!("C1, I1: {operation} of {key} while the log says {decision:?}"),
                );
            }
            Operation::Cancel | Operation::Rollback | Operation::Compensate
                if decision.is_none() && self.told.get(&xid) != Some(&Decision::Abort) =>
            {
                self.violation(Some(xid), format!("C1: {operation} of {key} before any abort is durable"));
            }
            Operation::CommitOnePhase if !self.delegated.contains(&xid) => {
                self.violation(Some(xid), format!("H4: {key} commits alone without a durable delegation"));
            }
            Operation::Action if !self.planned.contains(&xid) => {
                self.violation(Some(xid), format!("{key} runs before its plan is durable"));
            }
            // What has nothing to undo has no tombstone either: a participant that was frozen may do it late.
            Operation::Action if !self.stays(xid, key) => self.nothing_before_is_undone(xid, key),
            Operation::Compensate => self.nothing_after_is_there(xid, key),
            _ => {}
        }
        if after == Did::Effect && before == Did::Undone {
            self.violation(
                Some(xid),
                format!("I6, H3: {operation} of {key} takes effect after it was undone"),
            );
        }
        if after == Did::Undone && before == Did::Effect && operation != Operation::Compensate {
            self.violation(Some(xid), format!("I6: {operation} of {key} after it took effect"));
        }
        if let Some(effect) = self.effects.get_mut(&xid).and_then(|branches| branches.get_mut(key)) {
            effect.did = after;
            if after == Did::Effect || after == Did::Open {
                effect.times += u32::from(before == Did::Nothing);
            }
        }
    }

    /// Every attempt of a step is given the same results (C6).
    pub(crate) fn inputs(&mut self, xid: Xid, key: &BranchKey, inputs: &[(BranchKey, Bytes)]) {
        let Some(effect) = self.effects.get_mut(&xid).and_then(|branches| branches.get_mut(key)) else {
            return;
        };
        match &effect.inputs {
            None => effect.inputs = Some(inputs.to_vec()),
            Some(first) if first == inputs => {}
            Some(first) => {
                let why = format!("C6: {key} is given {inputs:?}, and was given {first:?} before");
                self.violation(Some(xid), why);
            }
        }
    }

    fn before(&self, xid: Xid, key: &BranchKey) -> Vec<BranchKey> {
        let Some(plan) = self.plans.get(&xid) else { return Vec::new() };
        let mut all: Vec<BranchKey> = plan.get(key).cloned().unwrap_or_default();
        let mut at = 0;
        while let Some(step) = all.get(at).cloned() {
            for earlier in plan.get(&step).into_iter().flatten() {
                if !all.contains(earlier) {
                    all.push(earlier.clone());
                }
            }
            at += 1;
        }
        all
    }

    fn nothing_before_is_undone(&mut self, xid: Xid, key: &BranchKey) {
        for earlier in self.before(xid, key) {
            if self.any_resolved(xid) {
                return;
            }
            let did = self.did(xid, &earlier);
            if did != Did::Effect {
                self.violation(
                    Some(xid),
                    format!("I7: {key} runs while {earlier}, which comes before it, is {did:?}"),
                );
            }
        }
    }

    fn nothing_after_is_there(&mut self, xid: Xid, key: &BranchKey) {
        if self.any_resolved(xid) {
            return;
        }
        let steps: Vec<(BranchKey, bool, Did)> = self
            .effects
            .get(&xid)
            .into_iter()
            .flatten()
            .map(|(key, effect)| (key.clone(), effect.stays, effect.did))
            .collect();
        for (later, stays, did) in steps {
            if did == Did::Effect && !stays && later != *key && self.before(xid, &later).contains(key) {
                self.violation(
                    Some(xid),
                    format!("I7: {key} is compensated while {later}, which comes after it, is in effect"),
                );
            }
        }
    }

    /// The log decides Commit: every vote is in (I2).
    pub(super) fn commit_is_unanimous(&mut self, xid: Xid) {
        let branches: Vec<(BranchKey, BranchKind)> = self
            .registered
            .get(&xid)
            .into_iter()
            .flat_map(|branches| branches.values())
            .map(|branch| (branch.key.clone(), branch.kind))
            .collect();
        for (key, kind) in branches {
            if self.is_resolved(xid, &key) {
                continue;
            }
            let did = self.did(xid, &key);
            let fits = match kind {
                BranchKind::Tcc => did == Did::Open,
                BranchKind::TwoPhase => matches!(did, Did::Open | Did::ReadOnly | Did::Effect),
                BranchKind::Step | BranchKind::Sender => did == Did::Effect,
                BranchKind::Message => did == Did::Nothing,
            };
            if !fits {
                self.violation(Some(xid), format!("I2: decided Commit while {key} ({kind}) is {did:?}"));
            }
        }
    }

    /// Every branch is said to be settled: then it is (I1, I5, I10).
    pub(super) fn settled(&mut self, xid: Xid) {
        let Some(decision) = self.decision(xid) else { return };
        let branches: Vec<(BranchKey, Effect)> = self
            .effects
            .get(&xid)
            .into_iter()
            .flatten()
            .map(|(key, effect)| (key.clone(), effect.clone()))
            .collect();
        let registered: Vec<BranchKey> = self
            .registered
            .get(&xid)
            .into_iter()
            .flat_map(|branches| branches.values())
            .map(|branch| branch.key.clone())
            .collect();
        for (key, effect) in branches {
            if self.is_resolved(xid, &key) || !registered.contains(&key) {
                continue;
            }
            let fits = match (decision, effect.did) {
                (_, Did::ReadOnly) | (Decision::Commit, Did::Effect) => true,
                (Decision::Commit, _) | (Decision::Abort, Did::Open) => false,
                (Decision::Abort, Did::Effect) => effect.stays,
                (Decision::Abort, Did::Nothing | Did::Undone) => true,
            };
            if !fits {
                self.violation(
                    Some(xid),
                    format!(
                        "I1: all is settled as {decision:?}, and {key} ({}) is {:?}",
                        effect.kind, effect.did
                    ),
                );
            }
            if effect.times > 1 {
                self.violation(Some(xid), format!("I6: {key} took effect {} times", effect.times));
            }
        }
    }

    /// At the end, when all is healed: nothing hangs, and the money adds up (I1, I5, I11). Answers the sum of
    /// what all effects moved.
    pub(crate) fn end(&mut self) -> i64 {
        let xids: Vec<Xid> = self.effects.keys().copied().collect();
        let mut moved = 0;
        for xid in xids {
            let effects: Vec<(BranchKey, Effect)> =
                self.effects[&xid].iter().map(|(key, effect)| (key.clone(), effect.clone())).collect();
            let mut sum = 0;
            for (key, effect) in &effects {
                if effect.did == Did::Effect {
                    sum += effect.delta;
                }
                if effect.did == Did::Open && effect.kind == BranchKind::Tcc {
                    // What a try takes away is taken away at once.
                    sum += effect.delta.min(0);
                }
                if effect.did == Did::Open {
                    self.violation(
                        Some(xid),
                        format!("I5: {key} ({}) is still open at the end", effect.kind),
                    );
                }
            }
            moved += sum;
            let kept = effects.iter().any(|(_, effect)| effect.stays || effect.did == Did::ReadOnly);
            if sum != 0 && !kept && !self.any_resolved(xid) {
                let states: Vec<String> = effects
                    .iter()
                    .map(|(key, effect)| format!("{key} {} {:?} {:+}", effect.kind, effect.did, effect.delta))
                    .collect();
                self.violation(Some(xid), format!("I1, I11: it moved {sum:+} in all: {}", states.join(", ")));
            }
            if !effects.iter().all(|(_, effect)| effect.did == Did::Nothing) {
                self.settled(xid);
            }
        }
        moved
    }
}

impl Checks {
    /// Open work went with its process.
    pub(crate) fn work_lost(&mut self, xid: Xid, key: &BranchKey) {
        if let Some(effect) = self.effects.get_mut(&xid).and_then(|branches| branches.get_mut(key)) {
            effect.did = Did::Nothing;
        }
    }

    /// A participant was asked for the opposite of what it did.
    pub(crate) fn contradiction(&mut self, xid: Xid, key: &BranchKey, why: &str) {
        if !self.is_resolved(xid, key) {
            self.violation(Some(xid), format!("{why} of {key}"));
        }
    }

    /// What its participant did with a branch, for the operator who looks.
    pub(crate) fn is_there(&self, xid: Xid, key: &BranchKey) -> bool {
        self.did(xid, key) == Did::Effect
    }
}
