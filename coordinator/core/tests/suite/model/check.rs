//! The invariants.

use unanimity_core::{Answer, Command, Event, Timer, Verdict};
use unanimity_types::{BranchStatus, Decision};

use super::coordinator::by_hand;
use super::people::Row;
use super::{Hit, Owed, World};

impl World {
    /// A verdict against the state that it was made for.
    pub(super) fn check_verdict(&mut self, command: &Command, verdict: &Verdict) {
        let decided = self.state.as_ref().is_some_and(|transaction| transaction.decision.is_some());
        let registers = verdict.events.iter().any(|event| matches!(event, Event::Registered { .. }));
        assert!(!(decided && registers), "no branch registers after the decision (I8)");
        if decided {
            let registered = matches!(verdict.answer, Ok(Answer::Registered(_)));
            assert!(!registered, "a registration after the decision is refused (I8)");
            let again =
                verdict.events.iter().any(|event| matches!(event, Event::Decided { .. } | Event::Presumed));
            assert!(!again, "a decision never changes (I3)");
        }
        if self.state.is_none() && !matches!(command, Command::Begin(_)) {
            let settles = matches!(
                command,
                Command::Register(_) | Command::Commit { .. } | Command::Abort { .. } | Command::Inquire
            );
            let expected: &[Event] = if settles { &[Event::Presumed] } else { &[] };
            assert_eq!(verdict.events, expected, "an unknown xid is aborted by asking (C2)");
        }
        let commits = verdict
            .events
            .iter()
            .any(|event| matches!(event, Event::Decided { decision: Decision::Commit, .. }));
        if !commits {
            return;
        }
        let transaction = self.state.as_ref().expect("commits what began");
        assert!(self.now < transaction.deadline, "no commit after the deadline");
        let mut registered = self.registered();
        match command {
            Command::Commit { votes } => {
                let named = votes.clone().unwrap_or_else(|| registered.clone());
                assert_eq!(named, registered, "the named are the registered (1.3)");
            }
            Command::Register(registration) => {
                registered.insert(registration.key.clone());
                let asked = transaction.commit_asked.as_ref().expect("completes a waiting commit");
                assert_eq!(asked.votes, registered, "the named are the registered (1.3)");
                self.hit(Hit::LateRegistrationCompletes);
            }
            _ => panic!("{command:?} commits"),
        }
    }

    /// After every step.
    pub(super) fn check(&mut self) {
        self.check_participants();
        let Some(transaction) = &self.state else {
            assert_eq!(self.durable_decision, None, "a durable decision is never forgotten (I3)");
            assert!(self.promised.is_empty(), "an acknowledged branch is never forgotten");
            return;
        };
        let status = transaction.status();
        let decision = status.decision();
        if self.durable_decision.is_some() {
            assert_eq!(decision, self.durable_decision, "a decision never changes (I3)");
        }
        if let Some(told) = self.told {
            assert_eq!(decision, Some(told), "what was told stays (I3, I4)");
        }
        assert!(!self.told_finished || status.is_terminal(), "what ended stays ended");
        for (key, id) in &self.promised {
            let branch = transaction.branch(*id).expect("an acknowledged branch is never forgotten (C3)");
            assert_eq!(branch.key, *key, "a key is one branch for ever (H8)");
        }
        let mut unsettled = 0;
        for branch in &transaction.branches {
            let fits = match (branch.status, decision) {
                (BranchStatus::Registered, None) => true,
                (BranchStatus::Confirming | BranchStatus::Confirmed, Some(decision)) => {
                    decision == Decision::Commit
                }
                (BranchStatus::Cancelling | BranchStatus::Cancelled, Some(decision)) => {
                    decision == Decision::Abort
                }
                (status, Some(_)) => by_hand(status),
                (_, None) => false,
            };
            assert!(fits, "{} of a transaction that is {status} (I1)", branch.status);
            assert_eq!(by_hand(branch.status), branch.resolved.is_some(), "who settled it by hand is known");
            let n: usize = branch.key.as_str()[1..].parse().expect("a number");
            let row = self.participants[n - 1].row;
            match branch.status {
                BranchStatus::Confirmed => assert_eq!(row, Row::Confirmed, "confirmed is confirmed"),
                BranchStatus::Cancelled => {
                    assert!(matches!(row, Row::Cancelled | Row::Tombstone), "cancelled is cancelled");
                }
                _ => {}
            }
            if branch.status.is_settled() {
                assert!(branch.next_attempt_at.is_none(), "nothing is planned for what is settled");
                assert!(self.owed_now(branch.id).is_none(), "nothing is owed to what is settled");
            } else {
                unsettled += 1;
            }
            if matches!(branch.status, BranchStatus::Confirming | BranchStatus::Cancelling) {
                self.check_progress(branch);
            }
        }
        assert_eq!(transaction.unsettled(), unsettled, "the count of what is not settled");
        assert_eq!(
            status.is_terminal(),
            decision.is_some() && unsettled == 0,
            "it ends when all is settled (I5)"
        );
        self.check_by_hand();
        self.check_deadline();
    }

    /// What is owed is on its way, or a timer will see to it (I5).
    fn check_progress(&self, branch: &unanimity_core::Branch) {
        match (branch.next_attempt_at, self.owed_now(branch.id)) {
            (Some(at), Some(Owed::Waits(_))) => assert!(
                self.timers.contains(&(at, Timer::Retry(branch.id))),
                "a planned attempt has its timer (I5)"
            ),
            (None, Some(Owed::Sent(_))) => {
                let held = self.queue.iter().flat_map(|held| &held.effects).any(|effect| {
                    matches!(effect, unanimity_core::Effect::Dispatch { branch_id, .. } if *branch_id == branch.id)
                });
                let flies = self.flights.iter().any(|flight| flight.branch_id == branch.id);
                assert!(held || flies, "what is owed and not planned is on its way (I5)");
            }
            other => panic!("owed, planned and sent do not fit: {other:?}"),
        }
    }

    fn check_deadline(&self) {
        let Some(transaction) = &self.state else { return };
        if transaction.decision.is_none() {
            let set = self.timers.contains(&(transaction.deadline, Timer::Deadline));
            // A driver fires a timer when it is due, and then it is decided.
            assert!(
                set || self.now >= transaction.deadline,
                "an undecided one has its deadline's timer (I5)"
            );
        }
        if let Some(asked) = &transaction.commit_asked {
            assert!(transaction.decision.is_none(), "nothing waits after the decision");
            let named = transaction.branches.iter().all(|branch| asked.votes.contains(&branch.key));
            assert!(
                named && asked.votes.len() > transaction.branches.len(),
                "a commit waits for what is missing"
            );
            assert!(
                self.timers.contains(&(asked.until, Timer::CommitWait)),
                "a waiting commit has its timer (I5)"
            );
        }
    }

    /// What was settled by hand, durably, stays as it was said.
    fn check_by_hand(&mut self) {
        let Some(transaction) = &self.state else { return };
        for (id, status) in &self.by_hand {
            let now = transaction.branch(*id).expect("it was there").status;
            assert_eq!(now, *status, "a heuristic outcome stays");
        }
        if !self.queue.is_empty() {
            return;
        }
        let by_hand = transaction.branches.iter().filter(|branch| by_hand(branch.status));
        self.by_hand = by_hand.map(|branch| (branch.id, branch.status)).collect();
    }

    fn check_participants(&self) {
        let confirmed = self.participants.iter().any(|participant| participant.row == Row::Confirmed);
        let cancelled = self
            .participants
            .iter()
            .any(|participant| matches!(participant.row, Row::Cancelled | Row::Tombstone));
        assert!(!(confirmed && cancelled), "no branch is confirmed while another is cancelled (I1)");
        if confirmed {
            assert_eq!(
                self.durable_decision,
                Some(Decision::Commit),
                "confirmed behind a durable commit (I2)"
            );
        }
        if cancelled {
            assert_eq!(self.durable_decision, Some(Decision::Abort), "cancelled behind a durable abort (C1)");
        }
        for participant in &self.participants {
            assert!(
                participant.tries <= 1 && participant.confirms <= 1 && participant.cancels <= 1,
                "at most once (I6)"
            );
            assert!(participant.confirms == 0 || participant.cancels == 0, "never both (I6)");
            assert!(
                participant.tries >= participant.confirms.max(participant.cancels),
                "only what was tried (I6)"
            );
        }
    }

    /// After healing (I5).
    pub(super) fn check_the_end(&self) {
        let transaction = self.state.as_ref().expect("somebody asked about it");
        assert!(transaction.status().is_terminal(), "everything ends (I5)");
        assert!(self.queue.is_empty() && self.flights.is_empty(), "nothing is on its way");
        for participant in &self.participants {
            assert!(participant.row != Row::Tried, "nothing stays prepared (I5)");
        }
        for branch in &transaction.branches {
            if by_hand(branch.status) {
                continue;
            }
            let n: usize = branch.key.as_str()[1..].parse().expect("a number");
            let row = self.participants[n - 1].row;
            match transaction.status().decision() {
                Some(Decision::Commit) => assert_eq!(row, Row::Confirmed, "all of it (I1, I5)"),
                _ => assert!(matches!(row, Row::Cancelled | Row::Tombstone), "nothing of it (I1, I5)"),
            }
        }
    }
}
