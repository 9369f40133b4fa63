//! What is owed after a recovery, and what participants applied when all is over.

use std::collections::BTreeSet;

use unanimity_core::{Branch, Effect, Timer};
use unanimity_types::{BranchStatus, Decision, Operation};

use super::check::operation_of;
use super::sites::{Local, Row, Site};
use super::{Rule, World};

impl World {
    /// What `pending` says against what the live state owes (M7).
    pub(super) fn check_owed(&self, owed: &[Effect]) {
        let transaction = self.state.as_ref().expect("known");
        let mut named = BTreeSet::new();
        let (mut deadline, mut prepare) = (None, None);
        for effect in owed {
            match effect {
                Effect::Dispatch { branch_id, operation, attempt: 1 } => {
                    let status = transaction.branch(*branch_id).expect("registered").status;
                    let expected = match status {
                        BranchStatus::ToCompensate => Some(Operation::Compensate),
                        status => operation_of(status),
                    };
                    assert_eq!(Some(*operation), expected, "recovery sends what is owed (M7)");
                    assert!(named.insert(*branch_id), "once");
                }
                Effect::SetTimer { timer: Timer::Retry(id), .. } => assert!(named.insert(*id), "once"),
                Effect::SetTimer { at, timer: Timer::Deadline } => deadline = Some(*at),
                Effect::SetTimer { at, timer: Timer::Prepare } => prepare = Some(*at),
                other => panic!("not owed after recovery: {other:?}"),
            }
        }
        for branch in &transaction.branches {
            let turn = || self.after(&branch.key).iter().all(|key| self.branch(key).status.is_settled());
            let owes = match branch.status {
                BranchStatus::ToCompensate => turn(),
                status => operation_of(status).is_some() && !branch.parked,
            };
            assert_eq!(
                named.contains(&branch.id),
                owes,
                "recovery owes what the live run owed (M7): {branch:?}"
            );
        }
        let undecided = transaction.decision.is_none();
        assert_eq!(deadline, undecided.then_some(transaction.deadline), "and waits for the deadline (M7)");
        assert_eq!(prepare, transaction.preparing, "and for the prepares (M7)");
    }

    /// After healing: what the participants applied (I1, I5, I7, I10).
    pub(super) fn check_the_end(&mut self) {
        let Some(transaction) = self.state.clone() else {
            for (key, site) in &self.sites {
                let untouched = match site {
                    Site::Step(step) => step.ran == 0,
                    Site::TwoPhase(row) | Site::Tcc(row) => *row == Row::Absent,
                    Site::Receiver(effects) => *effects == 0,
                    Site::Sender(_) => true,
                };
                assert!(untouched, "{key} did something for what never began");
            }
            return;
        };
        assert!(transaction.status().is_terminal(), "everything ends (I5)");
        assert!(self.queue.is_empty() && self.flights.is_empty(), "nothing is on its way");
        let committed = transaction.status().decision() == Some(Decision::Commit);
        for branch in &transaction.branches {
            if branch.resolved.is_some() {
                continue;
            }
            self.check_branch(branch, committed);
        }
    }

    fn check_branch(&mut self, branch: &Branch, committed: bool) {
        let key = &branch.key;
        match &self.sites[key] {
            Site::Step(step) if committed => assert!(step.effect, "{key}: all of it (I7)"),
            Site::Step(step) => match branch.status {
                BranchStatus::Kept => {}
                BranchStatus::Skipped => assert_eq!(step.ran, 0, "{key} was skipped, and ran (I7)"),
                status => assert!(!step.effect, "{key} is {status}, and its effect is there (I7)"),
            },
            Site::TwoPhase(row) => {
                let fits = match row {
                    Row::Committed => committed,
                    // Left out of the second phase, whatever was decided.
                    Row::ReadOnly => branch.status == BranchStatus::ReadOnly,
                    Row::RolledBack => !committed,
                    Row::Absent | Row::Working | Row::Prepared => false,
                };
                assert!(fits, "{key} is {row:?}, committed: {committed} (I1, I5)");
            }
            Site::Tcc(row) => {
                let expected = if committed { Row::Committed } else { Row::RolledBack };
                assert_eq!(*row, expected, "{key} (I1, I5)");
            }
            Site::Receiver(effects) => {
                assert_eq!(*effects, u32::from(committed), "{key} is delivered on commit only, once (I10)");
                if !committed {
                    self.hit(Rule::Discarded);
                }
            }
            Site::Sender(local) => {
                assert_eq!(
                    *local == Local::Committed,
                    committed,
                    "delivered if, and only if, it committed (I10)"
                );
            }
        }
    }
}
