//! What tells one request from another under the same id.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use unanimity_types::{BranchKind, CallPolicy, Digest, MessagePlan, Mode, Name, Plan, SagaPlan, Target};

use super::request::Register;

/// What tells one begin from another under the same xid (protocol M1).
pub(super) fn begin_digest(
    mode: Mode,
    name: Option<&Name>,
    timeout: Option<Duration>,
    plan: &Plan,
) -> Digest {
    let mut hash = Hash::default();
    hash.text(mode.as_str());
    hash.text(name.map_or("", Name::as_str));
    // As it was said: what a node takes for one that was not is that node's affair.
    hash.0.update(timeout.unwrap_or_default().as_millis().to_be_bytes());
    match plan {
        Plan::Open => {}
        Plan::Saga(plan) => hash.saga(plan),
        Plan::Message(plan) => hash.message(plan),
    }
    hash.first16()
}

/// What tells one registration from another under the same key (protocol H8). How long to wait for a
/// lock is not a part of it.
pub(super) fn registration_digest(register: &Register) -> Digest {
    let mut hash = Hash::default();
    for target in register.targets.iter() {
        hash.target(target);
    }
    hash.bytes(&register.payload);
    hash.text(register.kind.map_or("", BranchKind::as_str));
    let two_phase = &register.two_phase;
    hash.0.update([u8::from(two_phase.early), u8::from(two_phase.one_phase)]);
    hash.text(two_phase.instance.as_ref().map_or("", Name::as_str));
    hash.policy(&register.policy);
    register.lock_keys.iter().for_each(|key| hash.text(key.as_str()));
    hash.first16()
}

/// Every part is hashed with its length or a fixed one, so that no two requests look the same.
#[derive(Default)]
struct Hash(Sha256);

impl Hash {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn target(&mut self, target: &Target) {
        self.text(&target.to_string());
    }

    fn policy(&mut self, policy: &CallPolicy) {
        let CallPolicy { initial, cap, give_up_after, timeout } = policy;
        for wait in [initial, cap, timeout] {
            self.0.update(wait.map_or(0, |wait| wait.as_millis()).to_be_bytes());
        }
        self.0.update(give_up_after.unwrap_or(0).to_be_bytes());
    }

    fn saga(&mut self, plan: &SagaPlan) {
        for step in &plan.steps {
            self.text(step.name.as_str());
            self.target(&step.action);
            self.text(&step.compensate.as_ref().map(ToString::to_string).unwrap_or_default());
            self.bytes(&step.payload);
            self.text(step.role.as_str());
            self.0.update((step.after.len() as u64).to_be_bytes());
            step.after.iter().for_each(|name| self.text(name.as_str()));
            self.policy(&step.policy);
        }
    }

    fn message(&mut self, plan: &MessagePlan) {
        self.text(&plan.check_back.as_ref().map(ToString::to_string).unwrap_or_default());
        self.bytes(&plan.check_back_payload);
        self.0.update([u8::from(plan.submit)]);
        for delivery in &plan.deliveries {
            self.text(delivery.key.as_str());
            self.target(&delivery.target);
            self.bytes(&delivery.payload);
            self.policy(&delivery.policy);
        }
    }

    fn first16(self) -> Digest {
        let mut first = [0; 16];
        first.copy_from_slice(&self.0.finalize()[..16]);
        Digest(first)
    }
}
