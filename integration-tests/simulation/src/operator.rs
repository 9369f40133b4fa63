//! The operator: looks at what needs attention, tries again, aborts, settles by hand, accepts losses. And who keeps
//! the managers' tickets fresh.

use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::engine::{ListFilter, OperatorAction, PartitionState, Resolve, StopReason, Wait};
use unanimity_core::BranchView;
use unanimity_types::{Mode, ResolveAs, Ticket, Xid};

use crate::hits::Hit;
use crate::site::key;
use crate::world::{Host, World};

fn action() -> OperatorAction {
    OperatorAction { operator: "simulated".to_owned(), reason: "by chance".to_owned() }
}

impl World {
    /// Until the run ends.
    pub(crate) async fn operate(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.up_to(self.swarm.operator_every * 2)).await;
            self.accept_losses().await;
            if self.in_trouble() {
                self.act().await;
            }
        }
    }

    /// Once: what stopped goes on.
    pub(crate) async fn accept_losses(self: &Arc<Self>) {
        for node in 0..self.nodes.len() {
            let Some(coordinator) = self.nodes[node].coordinator() else { continue };
            for info in coordinator.info().states {
                let PartitionState::Stopped(reason) = info.state else { continue };
                let StopReason::LostTail(why) = reason else {
                    self.fail(None, format_args!("p{} stopped at n{node}: {reason:?}", info.partition));
                    continue;
                };
                if !self.check(|checks| checks.lost) {
                    self.fail(None, format_args!("H6: p{} stopped without a loss: {why}", info.partition));
                }
                self.note(Host::Manager, None, format_args!("accepts the loss of p{}", info.partition));
                self.forget_witnesses(info.partition);
                let accepted = self
                    .ask(Host::Manager, node, Duration::from_secs(5), move |coordinator| async move {
                        coordinator.accept_loss(info.partition, action()).await
                    })
                    .await;
                drop(accepted);
            }
        }
    }

    async fn act(self: &Arc<Self>) {
        let node = self.dice(|dice| dice.usize(..self.nodes.len()));
        let filter = ListFilter { limit: 50, ..ListFilter::default() };
        let listed = self
            .ask(Host::Manager, node, Duration::from_secs(3), move |coordinator| {
                let filter = filter.clone();
                async move { coordinator.list(filter).await }
            })
            .await;
        let Ok(Ok(page)) = listed else { return };
        for view in &page.transactions {
            self.check(|checks| checks.told(view.xid, view.status));
        }
        let open: Vec<_> = page.transactions.into_iter().filter(|view| !view.status.is_terminal()).collect();
        let Some(view) = self.dice(|dice| dice.choice(open)) else { return };
        let xid = view.xid;
        match self.dice(|dice| dice.u32(..20)) {
            0..=11 => {
                drop(
                    self.command(Host::Manager, xid, "retry", 2, move |coordinator| async move {
                        coordinator.retry(xid, action()).await
                    })
                    .await,
                );
            }
            // Only the sender knows what became of a message (protocol H5).
            12..=15 if view.mode != Some(Mode::Message) => {
                drop(
                    self.command(Host::Manager, xid, "operator's abort", 2, move |coordinator| async move {
                        coordinator.abort_by_operator(xid, action(), Wait::Decided).await
                    })
                    .await,
                );
            }
            16 => self.resolve(xid).await,
            _ => drop(self.look(xid, Wait::Accepted, 3).await),
        }
    }

    /// After the trouble: everything that waits for a person is tried again.
    pub(crate) async fn retry_all(self: &Arc<Self>, round: u32) {
        for node in 0..self.nodes.len() {
            let filter = ListFilter { limit: 100, attention: true, ..ListFilter::default() };
            let listed = self
                .ask(Host::Manager, node, Duration::from_secs(3), move |coordinator| {
                    let filter = filter.clone();
                    async move { coordinator.list(filter).await }
                })
                .await;
            let Ok(Ok(page)) = listed else { continue };
            for view in page.transactions.into_iter().filter(|view| !view.status.is_terminal()) {
                let xid = view.xid;
                // What an acknowledged loss tore apart, nobody but a person can mend.
                if round > 3 && self.check(|checks| checks.is_excused(xid)) {
                    self.settle_by_hand(xid, |_| true).await;
                    continue;
                }
                // A step without a fence that says "409" to a repeat: a person looks what is there.
                if round > 3 {
                    self.settle_by_hand(xid, |target| target.starts_with("http")).await;
                }
                drop(
                    self.command(Host::Manager, xid, "retry", 2, move |coordinator| async move {
                        coordinator.retry(xid, action()).await
                    })
                    .await,
                );
            }
        }
    }

    /// Settles a branch by hand, as its participant's database shows.
    async fn resolve(self: &Arc<Self>, xid: Xid) {
        let view = self
            .command(Host::Manager, xid, "get", 2, move |coordinator| async move {
                coordinator.get(xid, Wait::Accepted, Duration::ZERO).await
            })
            .await;
        let Ok(view) = view else { return };
        let Some(branch) = self.dice(|dice| dice.choice(view.branches)) else { return };
        self.resolve_as_it_is(xid, &branch).await;
    }

    /// Every branch that is not settled, and whose target is of that kind.
    async fn settle_by_hand(self: &Arc<Self>, xid: Xid, which: impl Fn(&str) -> bool) {
        let view = self
            .command(Host::Manager, xid, "get", 2, move |coordinator| async move {
                coordinator.get(xid, Wait::Accepted, Duration::ZERO).await
            })
            .await;
        let Ok(view) = view else { return };
        for branch in view.branches {
            let waits = !branch.status.is_settled() && branch.last_error.is_some();
            if waits && which(&branch.target) {
                self.resolve_as_it_is(xid, &branch).await;
            }
        }
    }

    async fn resolve_as_it_is(self: &Arc<Self>, xid: Xid, branch: &BranchView) {
        let there = self.check(|checks| checks.is_there(xid, &key(&branch.key)));
        let resolve_as = if there { ResolveAs::Confirmed } else { ResolveAs::Cancelled };
        let branch_id = branch.id;
        // Between the look and the word the participant may act: that is what makes it heuristic.
        drop(
            self.command(Host::Manager, xid, "resolve", 1, move |coordinator| async move {
                coordinator.resolve(Resolve { xid, branch_id, resolve_as, action: action() }).await
            })
            .await,
        );
    }

    /// Keeps the managers' tickets as fresh as news from the nodes are. Until the run ends.
    pub(crate) async fn hear_tickets(self: Arc<Self>) {
        loop {
            let node = self.dice(|dice| dice.usize(..self.nodes.len()));
            let heard = self
                .ask(Host::Manager, node, Duration::from_secs(2), |coordinator| async move {
                    Ok(coordinator.tickets())
                })
                .await;
            if let Ok(Ok(heard)) = heard {
                let mut tickets = self.tickets.get();
                for (partition, ticket) in heard {
                    let newer = |old: &Ticket| {
                        (ticket.epoch, ticket.generation) > (old.epoch, old.generation)
                            || ticket.epoch_tag != old.epoch_tag
                    };
                    if tickets.get(&partition).is_none_or(newer) {
                        tickets.insert(partition, ticket);
                    }
                }
            }
            tokio::time::sleep(self.up_to(Duration::from_millis(1_500))).await;
        }
    }

    /// The managers show what they have seen. Until the run ends.
    pub(crate) async fn show_witnesses(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_secs(1) + self.up_to(Duration::from_secs(4))).await;
            let seen = self.witness_of(Host::Manager);
            let node = self.dice(|dice| dice.usize(..self.nodes.len()));
            let shown = self
                .ask(Host::Manager, node, Duration::from_secs(2), move |coordinator| {
                    let seen = seen.clone();
                    async move { coordinator.witness(&seen).await }
                })
                .await;
            if let Ok(answer) = shown {
                self.hit(Hit::WitnessHeard);
                self.answered(&answer);
            }
        }
    }
}
