//! Transaction managers: what a client of each mode does, with its retries, its doubts and its deaths.

mod message;
mod open;
mod saga;

use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::engine::{Begin, Begun, Claim, Wait};
use unanimity_types::{Status, Xid};
use uuid::Uuid;

use crate::client::Failed;
use crate::hits::Hit;
use crate::world::{Host, World};

/// What a manager does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Tcc,
    TwoPhase,
    Mixed,
    Saga,
    Message,
}

impl World {
    pub(crate) fn mint(&self) -> Xid {
        Xid::new(self.dice(|dice| Uuid::from_u128(dice.u128(1..))))
    }

    /// One transaction, from its begin to its end or the manager's.
    pub(crate) async fn transaction(self: Arc<Self>, work: Work) {
        match work {
            Work::Tcc | Work::TwoPhase | Work::Mixed => self.open(work).await,
            Work::Saga => self.saga().await,
            Work::Message => self.message().await,
        }
    }

    async fn begin(self: &Arc<Self>, begin: Begin) -> Result<Begun, Failed> {
        let Some(xid) = begin.xid else { return Err(Failed::Unknown) };
        self.command(Host::Manager, xid, "begin", 4, move |coordinator| {
            let begin = begin.clone();
            async move { coordinator.begin(begin).await }
        })
        .await
    }

    async fn abort(self: &Arc<Self>, xid: Xid, claim: &Claim, wait: Wait) -> Option<Status> {
        let claim = claim.clone();
        let tries = 1 + self.dice(|dice| dice.usize(..4));
        let answer = self
            .command(Host::Manager, xid, "abort", tries, move |coordinator| {
                let claim = claim.clone();
                async move { coordinator.abort_as(xid, claim, wait).await }
            })
            .await;
        answer.map_or_else(|failed| failed.status(), |standing| Some(standing.status))
    }

    /// Looks at any node, as people and programs do.
    pub(crate) async fn look(self: &Arc<Self>, xid: Xid, wait: Wait, tries: usize) -> Option<Status> {
        self.hit(Hit::ReadElsewhere);
        let limit = Duration::from_millis(self.dice(|dice| dice.u64(0..2_000)));
        let view = self.command(Host::Manager, xid, "get", tries, move |coordinator| async move {
            coordinator.get(xid, wait, limit).await
        });
        view.await.ok().map(|view| view.status)
    }

    async fn breath(&self) {
        tokio::time::sleep(self.up_to(Duration::from_millis(80))).await;
    }

    fn wait(&self) -> Wait {
        match self.dice(|dice| dice.u32(..10)) {
            0 => Wait::Accepted,
            1..=6 => Wait::Decided,
            _ => Wait::Finished,
        }
    }

    fn dies(&self, percent: u32) -> bool {
        let dies = self.in_trouble() && self.percent(percent);
        if dies {
            self.hit(Hit::ManagerDied);
        }
        dies
    }
}
