//! What clients are told (I3, I4, C5).

use unanimity_types::{Decision, PartitionId, Seq, Status, Xid};

use super::Checks;
use crate::hits::Hit;

impl Checks {
    /// A client is told a status.
    pub(crate) fn told(&mut self, xid: Xid, status: Status) {
        let Some(decision) = status.decision() else {
            return;
        };
        let durable = self.decision(xid);
        match (decision, durable) {
            (Decision::Commit, Some(Decision::Commit)) | (Decision::Abort, Some(Decision::Abort) | None) => {}
            (Decision::Commit, None) => {
                self.violation(Some(xid), "C5, I3: a client is told Commit, and the log does not hold it");
            }
            (told, Some(durable)) => {
                self.violation(Some(xid), format!("I4: a client is told {told:?}, the log says {durable:?}"));
            }
        }
        match self.told.insert(xid, decision) {
            Some(before) if before == decision => self.hit(Hit::ToldAgain),
            Some(before) => {
                self.violation(Some(xid), format!("I4: a client was told {before:?}, another {decision:?}"));
            }
            None => {}
        }
        if status.is_terminal() && durable.is_some() {
            self.settled(xid);
        }
    }

    /// Everybody who was told anything.
    pub(crate) fn told_xids(&self) -> Vec<Xid> {
        self.told.keys().copied().collect()
    }
}

impl Checks {
    /// A decided transaction whose end nobody wrote down yet, or an undecided one.
    pub(crate) fn unfinished(&self) -> Option<Xid> {
        self.registered.keys().find(|xid| !self.finished.contains(xid)).copied()
    }

    /// The last place of a partition.
    pub(crate) fn last_of(&self, partition: PartitionId) -> Seq {
        Seq(self.next_of(partition).0.saturating_sub(1))
    }
}
