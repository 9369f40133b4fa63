//! Messages: prepared, then delivered exactly if the sender's local transaction commits.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use unanimity_coordinator::engine::{Begin, Claim, Commit, Wait};
use unanimity_types::{BranchKind, CallPolicy, Delivery, MessagePlan, Mode, Plan};

use crate::site::{Local, key, participant, payload_of, sender};
use crate::world::{Host, World};

impl World {
    pub(super) async fn message(self: &Arc<Self>) {
        let xid = self.mint();
        let home = self.dice(|dice| dice.usize(..self.sites.len()));
        let amount = self.dice(|dice| dice.i64(1..50));
        let count = self.dice(|dice| dice.i64(1..=2));
        let deliveries = (1..=count)
            .map(|number| {
                let key = key(&format!("to{number}"));
                self.check(|checks| checks.branch(xid, &key, BranchKind::Message, amount, false));
                let site = self.dice(|dice| dice.usize(..self.sites.len()));
                Delivery {
                    key,
                    target: participant(site, "deliver"),
                    payload: payload_of(amount),
                    policy: CallPolicy::default(),
                }
            })
            .collect();
        self.check(|checks| checks.branch(xid, &sender(), BranchKind::Sender, -amount * count, false));
        let begin = Begin {
            mode: Mode::Message,
            name: None,
            xid: Some(xid),
            timeout: Some(Duration::from_millis(self.dice(|dice| dice.u64(1_000..10_000)))),
            plan: Plan::Message(MessagePlan {
                check_back: Some(participant(home, "check")),
                check_back_payload: Bytes::new(),
                deliveries,
                submit: false,
            }),
            ticket: None,
        };
        // Without a prepare that was acknowledged there is no local transaction (protocol H5).
        if self.begin(begin).await.is_err() || self.dies(5) {
            return;
        }
        self.breath().await;
        let world = Arc::clone(self);
        let local = self
            // It is the sender's own, in its own process: nobody carries it there twice.
            .call_once_or_twice(Host::Manager, Host::Site(home), Duration::from_secs(6), false, move || {
                Arc::clone(&world.sites[home]).local(Arc::clone(&world), xid, -amount * count)
            })
            .await;
        if self.dies(15) {
            return;
        }
        match local {
            Ok(Local::Committed) => {
                let commit = Commit { xid, votes: None, wait: Wait::Decided };
                let submitted = self
                    .command(Host::Manager, xid, "submit", 4, move |coordinator| {
                        let commit = commit.clone();
                        async move { coordinator.commit(commit).await }
                    })
                    .await;
                drop(submitted);
            }
            Ok(Local::RolledBack) => drop(self.abort(xid, &Claim::default(), Wait::Decided).await),
            // Nobody knows: the check-back will find out.
            Err(_) => {}
        }
        if self.percent(50) {
            self.look(xid, Wait::Finished, 3).await;
        }
    }
}
