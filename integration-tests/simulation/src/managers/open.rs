//! TCC, two-phase and mixed transactions: branches register, then the manager decides.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use unanimity_coordinator::engine::{Begin, Claim, Commit, Register, TwoPhase, Wait};
use unanimity_types::{
    Birth, BranchKey, BranchKind, BranchTargets, CallPolicy, Mode, Name, Plan, Status, Ticket, Xid,
    partition_of,
};

use super::Work;
use crate::hits::Hit;
use crate::site::{Tried, TryOrder, key, name, participant};
use crate::world::{Host, World};

/// A part of the transaction at a participant.
#[derive(Debug, Clone)]
struct Part {
    site: usize,
    order: TryOrder,
}

impl World {
    pub(super) async fn open(self: &Arc<Self>, work: Work) {
        let xid = self.mint();
        let mode = if work == Work::TwoPhase { Mode::TwoPhase } else { Mode::Tcc };
        let timeout = Duration::from_millis(self.dice(|dice| dice.u64(1_500..20_000)));
        let locks = self.locks(work);
        let ticket = self.tickets.get().get(&partition_of(xid, self.swarm.partitions)).copied();
        let ticket = ticket.filter(|_| locks.is_empty() && self.percent(65));
        let claim = match ticket {
            Some(ticket) => self.birth(ticket, mode, timeout),
            None => {
                let begin = Begin {
                    mode,
                    name: Some(name("simulated")),
                    xid: Some(xid),
                    timeout: Some(timeout),
                    plan: Plan::Open,
                    ticket: None,
                };
                if self.begin(begin).await.is_err() {
                    return;
                }
                Claim::default()
            }
        };
        if ticket.is_some() {
            self.check(|checks| checks.ticketed(xid, partition_of(xid, self.swarm.partitions)));
        }
        self.note(
            Host::Manager,
            Some(xid),
            format_args!("{work:?} {}, {timeout:?}", if ticket.is_some() { "ticketed" } else { "durable" }),
        );
        let parts = self.parts(xid, work, &claim, &locks);
        let Some(voted) = self.tries(xid, &parts, work, &claim).await else { return };
        self.breath().await;
        if self.dies(4) {
            return;
        }
        match voted {
            Some(keys) if !self.percent(8) => self.commit(xid, keys, ticket.is_none(), &claim).await,
            _ => drop(self.abort(xid, &claim, self.wait()).await),
        }
        if self.percent(50) {
            self.breath().await;
            self.look(xid, self.wait(), 3).await;
        }
    }

    fn locks(&self, work: Work) -> Vec<Name> {
        if work != Work::Tcc || !self.percent(20) {
            return Vec::new();
        }
        let count = self.dice(|dice| dice.usize(1..=2));
        (0..count).map(|_| name(&format!("row-{}", self.dice(|dice| dice.u32(..3))))).collect()
    }

    fn birth(&self, ticket: Ticket, mode: Mode, timeout: Duration) -> Claim {
        let secret = self.dice(|dice| dice.u128(..)).to_be_bytes();
        let shown = Claim::showing(None, &secret).shown;
        let birth = shown.map(|decide_hash| Birth {
            log_id: self.log_id(),
            ticket,
            decide_hash,
            timeout: Some(timeout),
            name: Some(name("simulated")),
            mode,
        });
        Claim { birth: birth.map(Box::new), shown }
    }

    fn parts(&self, xid: Xid, work: Work, claim: &Claim, locks: &[Name]) -> Vec<Part> {
        let count = *self.dice(|dice| dice.choice(&[1, 2, 2, 2, 3]).copied()).get_or_insert(2);
        let mut rest = 0;
        (1..=count)
            .map(|number| {
                let kind = match work {
                    Work::Tcc => BranchKind::Tcc,
                    Work::TwoPhase => BranchKind::TwoPhase,
                    _ if self.percent(50) => BranchKind::Tcc,
                    _ => BranchKind::TwoPhase,
                };
                // Debits first, and the last one takes what the others gave.
                let delta = if number == count { -rest } else { -self.dice(|dice| dice.i64(1..100)) };
                rest += delta;
                let key = key(&format!("b{number}"));
                self.check(|checks| checks.branch(xid, &key, kind, delta, false));
                let early = kind == BranchKind::TwoPhase && self.percent(45);
                let order = TryOrder {
                    xid,
                    key,
                    kind,
                    delta,
                    // The participants carry no secret: they may not decide (protocol H15).
                    claim: Claim { birth: claim.birth.clone(), shown: None },
                    early,
                    one_phase: kind == BranchKind::TwoPhase && !early && self.percent(60),
                    votes: kind == BranchKind::TwoPhase && !early && self.percent(20),
                    locks: locks.to_vec(),
                };
                Part { site: self.dice(|dice| dice.usize(..self.sites.len())), order }
            })
            .collect()
    }

    /// Calls the services. Nothing if the manager died; no keys if one of them failed.
    async fn tries(
        self: &Arc<Self>,
        xid: Xid,
        parts: &[Part],
        work: Work,
        claim: &Claim,
    ) -> Option<Option<BTreeSet<BranchKey>>> {
        let mut keys = BTreeSet::new();
        for part in parts {
            self.breath().await;
            if self.dies(3) {
                return None;
            }
            if !self.tries_one(part).await {
                return Some(None);
            }
            keys.insert(part.order.key.clone());
        }
        if work == Work::Mixed && self.percent(50) {
            let delivery = key("note");
            let site = self.dice(|dice| dice.usize(..self.sites.len()));
            self.check(|checks| checks.branch(xid, &delivery, BranchKind::Message, 0, false));
            let register = Register {
                xid,
                key: Some(delivery.clone()),
                targets: BranchTargets::One(participant(site, "deliver")),
                payload: Bytes::new(),
                kind: Some(BranchKind::Message),
                two_phase: TwoPhase::default(),
                policy: CallPolicy::default(),
                lock_keys: Vec::new(),
                lock_wait: Duration::ZERO,
            };
            let claim = Claim { birth: claim.birth.clone(), shown: None };
            let registered = self
                .command(Host::Manager, xid, "register note", 3, move |coordinator| {
                    let (register, claim) = (register.clone(), claim.clone());
                    async move { coordinator.register_as(register, claim).await }
                })
                .await;
            if registered.is_err() {
                return Some(None);
            }
            keys.insert(delivery);
        }
        Some(Some(keys))
    }

    async fn tries_one(self: &Arc<Self>, part: &Part) -> bool {
        // A layer below may send the call again, under the same key (protocol H8).
        for _ in 0..=u32::from(self.percent(30)) {
            let (world, order, site) = (Arc::clone(self), part.order.clone(), part.site);
            let answer = self
                .call(Host::Manager, Host::Site(site), Duration::from_secs(4), move || {
                    let site = Arc::clone(&world.sites[site]);
                    site.try_branch(Arc::clone(&world), order.clone())
                })
                .await;
            if answer == Ok(Tried::Voted) {
                return true;
            }
        }
        // An end without a well-formed answer: the transaction must abort (protocol 1.3).
        false
    }

    async fn commit(self: &Arc<Self>, xid: Xid, keys: BTreeSet<BranchKey>, durable: bool, claim: &Claim) {
        let votes = if durable && self.percent(25) { None } else { Some(keys) };
        let votes = match votes {
            // An answer was lost on its way through the services.
            Some(mut keys) if self.percent(2) => {
                keys.pop_first();
                Some(keys)
            }
            // A call that ended well is still on its way: a branch that never registers.
            Some(mut keys) if self.percent(2) => {
                keys.insert(key("never"));
                Some(keys)
            }
            votes => votes,
        };
        let wait = self.wait().max(Wait::Decided);
        let commit = Commit { xid, votes, wait };
        if self.in_trouble() && self.percent(8) {
            self.hit(Hit::HedgedCommit);
            let other = tokio::spawn(Arc::clone(self).send_commit(commit.clone(), claim.clone(), 2));
            self.breath().await;
            Arc::clone(self).send_commit(commit.clone(), claim.clone(), 2).await;
            drop(other.await);
        }
        loop {
            let status = Arc::clone(self).send_commit(commit.clone(), claim.clone(), 6).await;
            if status.is_some() || !self.in_trouble() || self.dies(20) {
                return;
            }
            // After a commit was sent nothing sends an abort: it asks again.
            tokio::time::sleep(self.up_to(Duration::from_secs(2))).await;
        }
    }

    async fn send_commit(self: Arc<Self>, commit: Commit, claim: Claim, tries: usize) -> Option<Status> {
        let xid = commit.xid;
        let answer = self
            .command(Host::Manager, xid, "commit", tries, move |coordinator| {
                let (commit, claim) = (commit.clone(), claim.clone());
                async move { coordinator.commit_as(commit, claim).await }
            })
            .await;
        answer.map_or_else(|failed| failed.status(), |standing| Some(standing.status))
    }
}
