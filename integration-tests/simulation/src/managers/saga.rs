//! Sagas: a plan is submitted, and carries itself out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::engine::{Begin, Claim, Wait};
use unanimity_types::{
    BranchKey, BranchKind, CallPolicy, Mode, Plan, SagaPlan, SagaStep, Status, StepRole, Target, partition_of,
};

use crate::hits::Hit;
use crate::site::{key, participant, payload_of};
use crate::world::World;

impl World {
    pub(super) async fn saga(self: &Arc<Self>) {
        let xid = self.mint();
        let steps = self.steps();
        let mut places: BTreeMap<BranchKey, Vec<BranchKey>> = BTreeMap::new();
        for step in &steps {
            places.insert(step.name.clone(), step.after.clone());
            let delta = crate::site::delta_of(&step.payload);
            let stays = step.compensate.is_none();
            self.check(|checks| checks.branch(xid, &step.name, BranchKind::Step, delta, stays));
        }
        let roots = places.values().filter(|after| after.is_empty()).count();
        if roots > 1 {
            self.hit(Hit::SagaParallel);
        }
        self.check(|checks| checks.plan(xid, places));
        let ticket = self.tickets.get().get(&partition_of(xid, self.swarm.partitions)).copied();
        let begin = Begin {
            mode: Mode::Saga,
            name: None,
            xid: Some(xid),
            timeout: Some(Duration::from_millis(self.dice(|dice| dice.u64(2_000..30_000)))),
            plan: Plan::Saga(SagaPlan { steps }),
            ticket: ticket.filter(|_| self.percent(70)),
        };
        let mut begun = self.begin(begin.clone()).await;
        if begun.is_err() && self.percent(50) {
            tokio::time::sleep(self.up_to(Duration::from_secs(3))).await;
            begun = self.begin(begin).await;
        }
        if begun.is_err() {
            return;
        }
        if self.percent(15) {
            tokio::time::sleep(self.up_to(Duration::from_secs(1))).await;
            self.abort(xid, &Claim::default(), Wait::Decided).await;
        }
        tokio::time::sleep(self.up_to(Duration::from_secs(4))).await;
        match self.look(xid, Wait::Finished, 3).await.and_then(Status::decision) {
            Some(unanimity_types::Decision::Commit) => self.hit(Hit::SagaCommitted),
            Some(unanimity_types::Decision::Abort) => self.hit(Hit::SagaTurned),
            None => {}
        }
    }

    /// A graph of up to five steps, with or without a pivot.
    fn steps(&self) -> Vec<SagaStep> {
        let count = self.dice(|dice| dice.usize(1..=5));
        let pivot = self.percent(35).then(|| self.dice(|dice| dice.usize(..count)));
        let forward_from = match pivot {
            Some(pivot) => pivot + 1,
            None => count,
        };
        let name = |at: usize| key(&format!("step{at}"));
        let mut rest = 0;
        (0..count)
            .map(|at| {
                let role = match at {
                    at if Some(at) == pivot => StepRole::Pivot,
                    at if at >= forward_from => StepRole::ForwardOnly,
                    _ => StepRole::Compensatable,
                };
                let after = match role {
                    StepRole::Compensatable => (0..at).filter(|_| self.percent(45)).map(name).collect(),
                    // All that can turn back comes before.
                    _ => (0..at).map(name).collect(),
                };
                let delta = if at + 1 == count { -rest } else { self.dice(|dice| dice.i64(-50..50)) };
                rest += delta;
                let site = self.dice(|dice| dice.usize(..self.sites.len()));
                let fenced = self.percent(65);
                let target = |operation: &str| {
                    if fenced {
                        participant(site, operation)
                    } else {
                        Target::Http(format!("http://s{site}/{operation}").into())
                    }
                };
                let undoes = role == StepRole::Compensatable && self.percent(85);
                SagaStep {
                    name: name(at),
                    action: target("act"),
                    compensate: undoes.then(|| target("undo")),
                    payload: payload_of(delta),
                    after,
                    role,
                    policy: CallPolicy {
                        give_up_after: (role == StepRole::Compensatable && self.percent(20))
                            .then(|| self.dice(|dice| dice.u32(1..4))),
                        ..CallPolicy::default()
                    },
                }
            })
            .collect()
    }
}
