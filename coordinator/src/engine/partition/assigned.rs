//! Whose a partition is to be: waiting for one's turn, and giving the lease to who is next.

use std::time::Duration;

use tokio::time::Instant;

use super::{PartitionTask, shutdown_asked};
use crate::engine::assignment::{Assignment, Heir};
use crate::engine::refuse::not_running;
use crate::engine::request::{PartitionState, Turn};

/// A partition that another node is to hand over is asked for so often without a word that it is free: whoever
/// was to say so may be wrong.
const CLAIM_ANYWAY: Duration = Duration::from_secs(2);

/// How long a lease that was given away waits for its heir, who is looking for it at that very moment.
const HEIR_WAIT: Duration = Duration::from_secs(2);

/// What a hand-over may take beyond a lease, until this node counts as one that does not work.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);

/// How long giving a lease back may take. It ends by itself.
const RELEASE_MAX: Duration = Duration::from_secs(2);

impl PartitionTask {
    /// Whether the partition is to be ours and there is a point in asking for its lease. If not, waits until
    /// something changes, or for a while.
    pub(super) async fn is_assigned(&mut self) -> bool {
        let assignment = self.assignment.borrow_and_update().clone();
        self.show_turn(assignment.turn());
        match assignment {
            Assignment::Mine { free: true } => true,
            Assignment::Mine { free: false } => {
                let who = "another node, which is to hand it over".to_owned();
                self.set_state(PartitionState::Waiting(who));
                // Without news it is tried all the same.
                !self.wait(CLAIM_ANYWAY).await
            }
            Assignment::NotMine { to } => {
                let who = to.as_ref().map_or_else(
                    || "no node at this moment".to_owned(),
                    |heir| format!("{} at {}", heir.node, heir.address),
                );
                self.leave_alone(who, to.as_ref()).await;
                false
            }
            Assignment::Nobodys { why } => {
                self.leave_alone(format!("a node that can serve it: {why}"), None).await;
                false
            }
        }
    }

    /// It is not this node's: waits until that changes.
    async fn leave_alone(&mut self, who: String, to: Option<&Heir>) {
        self.set_state(PartitionState::Waiting(who));
        self.give_away(to).await;
        while !*self.shutdown.borrow() && !self.wait(CLAIM_ANYWAY).await {}
    }

    /// Waits so long, or until the assignment changes or the node shuts down; answers whether it did. What comes
    /// meanwhile is refused: another node can take it.
    pub(super) async fn wait(&mut self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let refusal = not_running(self.partition, &self.state.borrow().state);
        loop {
            tokio::select! {
                biased;
                () = shutdown_asked(&mut self.shutdown) => return true,
                Ok(()) = self.assignment.changed() => return true,
                Some(mail) = self.mail.recv() => mail.refuse(&refusal),
                () = tokio::time::sleep_until(until) => return false,
            }
        }
    }

    /// Gives the lease to who is to have it next, or back.
    pub(super) async fn give_away(&mut self, to: Option<&Heir>) {
        if !std::mem::take(&mut self.holds) {
            return;
        }
        let (node, partition) = (self.config.node.as_str(), self.partition);
        let given = async {
            match to {
                Some(Heir { node: heir, address }) => {
                    let wait = self.config.lease.min(HEIR_WAIT);
                    self.log.hand_over(partition, node, heir, address, wait).await.map(drop)
                }
                None => self.log.release(partition, node).await,
            }
        };
        match tokio::time::timeout(RELEASE_MAX, given).await {
            // Who is to have it need not wait for the next look.
            Ok(Ok(())) => {
                if let Some(peers) = self.coordinator.peers() {
                    peers.look(to.map(|heir| heir.address.as_str()));
                }
            }
            // The lease ends by itself.
            Ok(Err(error)) => tracing::debug!(%partition, %error, "the lease could not be given away"),
            Err(_) => tracing::debug!(%partition, "the lease could not be given away in time"),
        }
    }

    /// Shows whose the partition is to be, and until when it may be on its way here.
    fn show_turn(&self, turn: Turn) {
        let due = Instant::now() + self.config.lease + HAND_OVER_MAX;
        self.state.send_if_modified(|info| {
            let before = std::mem::replace(&mut info.turn, turn);
            if before != turn {
                // What nobody had does not come from anywhere.
                info.due = (turn == Turn::Here && before == Turn::Elsewhere).then_some(due);
            }
            before != turn
        });
    }
}
