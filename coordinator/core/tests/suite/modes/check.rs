//! The invariants.

use std::collections::BTreeSet;

use unanimity_core::{AttentionCode, Branch, Command, Effect, Event, Refusal, Timer, Transaction, Verdict};
use unanimity_types::{
    BranchId, BranchKey, BranchStatus, Decision, Operation, Plan, SagaPlan, StepRole, Vote,
};

use super::sites::Site;
use super::{Flight, Kind, Rule, World};

/// What is asked of a branch of this status; the test's own list.
pub(super) const fn operation_of(status: BranchStatus) -> Option<Operation> {
    Some(match status {
        BranchStatus::Confirming => Operation::Confirm,
        BranchStatus::Cancelling => Operation::Cancel,
        BranchStatus::Preparing => Operation::Prepare,
        BranchStatus::Committing => Operation::Commit,
        BranchStatus::RollingBack => Operation::Rollback,
        BranchStatus::Delegated => Operation::CommitOnePhase,
        BranchStatus::Running => Operation::Action,
        BranchStatus::Compensating => Operation::Compensate,
        BranchStatus::Checking => Operation::CheckBack,
        BranchStatus::Delivering => Operation::Deliver,
        _ => return None,
    })
}

/// Its pivot was dispatched, or what comes behind, and did not say that it did nothing.
fn is_past_pivot(transaction: &Transaction) -> bool {
    transaction.branches.iter().any(|branch| {
        matches!(branch.role(), Some(StepRole::Pivot | StepRole::ForwardOnly))
            && !matches!(branch.status, BranchStatus::Registered | BranchStatus::Refused)
    })
}

impl World {
    fn plan(&self) -> &SagaPlan {
        match &self.begin {
            Command::Begin(spec) => match &spec.plan {
                Plan::Saga(plan) => plan,
                plan => panic!("no saga: {plan:?}"),
            },
            other => panic!("begins nothing: {other:?}"),
        }
    }

    /// All steps that come after one, by the plan.
    pub(super) fn after(&self, key: &BranchKey) -> BTreeSet<BranchKey> {
        let mut after = BTreeSet::from([key.clone()]);
        loop {
            let before = after.len();
            for step in &self.plan().steps {
                if step.after.iter().any(|name| after.contains(name)) {
                    after.insert(step.name.clone());
                }
            }
            if after.len() == before {
                after.remove(key);
                return after;
            }
        }
    }

    pub(super) fn branch(&self, key: &BranchKey) -> &Branch {
        self.state.as_ref().and_then(|transaction| transaction.branch_by_key(key)).expect("it is in the plan")
    }

    pub(super) fn must_be_undone(&self, key: &BranchKey) -> bool {
        let step = self.plan().steps.iter().find(|step| step.name == *key).expect("it is in the plan");
        step.compensate.is_some() && !self.durable.resolved.contains(&self.branch(key).id)
    }

    /// A verdict against the state that it was made for.
    pub(super) fn check_verdict(&mut self, command: &Command, verdict: &Verdict) {
        let Some(transaction) = self.state.take() else { return };
        self.check_verdict_of(&transaction, command, verdict);
        self.count(&transaction, command, verdict);
        self.state = Some(transaction);
    }

    fn check_verdict_of(&mut self, transaction: &Transaction, command: &Command, verdict: &Verdict) {
        let decides = verdict.events.iter().find_map(|event| match event {
            Event::Decided { decision, .. } => Some(*decision),
            _ => None,
        });
        if transaction.decision.is_some() {
            assert_eq!(decides, None, "a decision never changes (I3)");
            assert!(
                !verdict.events.iter().any(|event| matches!(event, Event::Registered { .. })),
                "no branch registers after the decision (I8)"
            );
        }
        for event in &verdict.events {
            match event {
                Event::Voted { branch_id, vote: Vote::ReadOnly } => {
                    let status = transaction.branch(*branch_id).expect("registered").status;
                    assert_eq!(status, BranchStatus::Preparing, "read_only only answers a prepare (M11)");
                }
                Event::ActionRefused { branch_id, .. } => {
                    self.hit(Rule::CleanRefusal);
                    let branch = transaction.branch(*branch_id).expect("registered");
                    if branch.role() == Some(StepRole::Pivot) {
                        self.hit(Rule::PivotRefusesCleanly);
                    }
                    let Site::Step(step) = &self.sites[&branch.key] else { panic!("a step") };
                    assert!(!step.effect, "a refusal that counts as clean did nothing (H2)");
                }
                Event::AttemptFailed { error, .. } | Event::Parked { error, .. }
                    if error.contains("larger than the limit") =>
                {
                    self.hit(Rule::ResultTooLarge);
                }
                Event::BranchSettled { branch_id, .. } => {
                    let branch = transaction.branch(*branch_id).expect("registered");
                    if branch.status == BranchStatus::ToCompensate {
                        self.hit(Rule::KeptAfterItsAction);
                        assert!(!branch.in_flight, "what is kept does not run any more (H3)");
                    }
                }
                _ => {}
            }
        }
        let by_hand = matches!(command, Command::Resolve { .. });
        if transaction.delegate().is_some() && decides.is_some() {
            let asked = matches!(command, Command::Result { operation: Operation::CommitOnePhase, .. });
            assert!(asked || by_hand, "the delegate decides (H4)");
        }
        if decides == Some(Decision::Abort) && is_past_pivot(transaction) {
            let clean = verdict.events.iter().any(|event| matches!(event, Event::ActionRefused { .. }));
            assert!(
                clean || by_hand,
                "past the pivot's dispatch only its own clean refusal turns back (H14)"
            );
        }
        if decides == Some(Decision::Commit) && matches!(self.kind, Kind::TwoPhase | Kind::Mixed) {
            let delegated = transaction.delegate().is_some();
            assert!(delegated || self.now < transaction.deadline, "no commit after the deadline");
            let until = transaction.preparing.unwrap_or(transaction.deadline);
            assert!(delegated || self.now < until, "no commit after the prepares' deadline");
        }
        if self.kind == Kind::Message && matches!(command, Command::Timer(_)) {
            assert_eq!(decides, None, "a message is decided by its sender (H5)");
        }
    }

    /// Counts what a command ran into.
    fn count(&mut self, transaction: &Transaction, command: &Command, verdict: &Verdict) {
        let decided = transaction.decision.is_some();
        let decides_abort = verdict
            .events
            .iter()
            .any(|event| matches!(event, Event::Decided { decision: Decision::Abort, .. }));
        let runs = transaction
            .branches
            .iter()
            .any(|branch| branch.in_flight && branch.status == BranchStatus::Running);
        if decides_abort && runs && !matches!(command, Command::Result { .. }) {
            self.hit(Rule::TurnWhileActionRuns);
        }
        let prepares = transaction
            .branches
            .iter()
            .any(|branch| branch.in_flight && branch.status == BranchStatus::Preparing);
        if decides_abort && prepares && !matches!(command, Command::Result { .. }) {
            self.hit(Rule::RollbackWaitsForPrepare);
        }
        match (command, &verdict.answer) {
            (Command::Abort { .. }, Err(Refusal::Delegated)) => self.hit(Rule::AbortRefusedDelegated),
            (Command::Abort { .. }, Err(Refusal::NoWayBack)) => self.hit(Rule::AbortRefusedPastPivot),
            (Command::Vote { vote: Vote::ReadOnly, .. }, Err(Refusal::Illegal { .. })) => {
                self.hit(Rule::EarlyReadOnlyRefused);
            }
            (Command::Vote { .. }, Err(Refusal::AlreadyDecided { .. })) if decided => {
                self.hit(Rule::VoteAfterDecision);
            }
            (Command::Timer(Timer::Deadline), _)
                if transaction.delegate().is_some() && self.now >= transaction.deadline =>
            {
                self.hit(Rule::DeadlineOfDelegated);
            }
            (Command::Timer(Timer::Prepare), _) if decides_abort => self.hit(Rule::LatePrepareAborts),
            (Command::Result { operation: Operation::Action, attempt, branch_id, .. }, _)
                if matches!(
                    command,
                    Command::Result { outcome: unanimity_core::ResultOutcome::Refused { .. }, .. }
                ) =>
            {
                let clean = verdict.events.iter().any(|event| matches!(event, Event::ActionRefused { .. }));
                let known = transaction.branch(*branch_id).is_some();
                if known && !clean && (*attempt > 1 || decides_abort) {
                    self.hit(Rule::UncleanRefusal);
                }
            }
            (Command::Retry { .. }, Ok(_)) => self.hit(Rule::OperatorRetry),
            _ => {}
        }
        let read_only = |branch: &Branch| branch.status == BranchStatus::ReadOnly;
        if !transaction.branches.is_empty() && transaction.branches.iter().all(read_only) {
            self.hit(Rule::ReadOnlyOnly);
        }
    }

    /// An operation is let out.
    pub(super) fn check_dispatch(&self, id: BranchId, operation: Operation) {
        let transaction = self.state.as_ref().expect("known");
        let branch = transaction.branch(id).expect("registered");
        let decision = self.durable.decision;
        match operation {
            Operation::Confirm | Operation::Commit | Operation::Deliver => {
                assert_eq!(decision, Some(Decision::Commit), "{operation} behind its durable decision (I2)");
            }
            Operation::Cancel | Operation::Rollback | Operation::Compensate => {
                assert_eq!(decision, Some(Decision::Abort), "{operation} behind its durable decision (C1)");
            }
            Operation::Prepare => {
                assert!(self.durable.prepares, "prepare behind its round");
            }
            Operation::CommitOnePhase => {
                assert!(self.durable.delegated, "the delegation is durable before the request (H4)");
            }
            Operation::CheckBack => assert!(self.durable.checked, "asked behind its event"),
            Operation::Action => {
                assert!(self.durable.planned, "a step runs behind its durable plan");
                for before in &branch.step.as_ref().expect("a step").after {
                    assert!(
                        self.durable.results.contains_key(before) || self.durable.resolved.contains(before),
                        "a step runs when those before it are durably done (C6)"
                    );
                }
                for (key, result) in transaction.inputs_of(branch) {
                    let known = self.durable.results.get(&self.branch(&key).id);
                    assert_eq!(known, Some(&result), "a result is durable before it is used (C6)");
                }
            }
            Operation::Try => panic!("the application tries"),
        }
        let runs_here =
            |forward| self.flights.iter().any(|flight| flight.branch_id == id && flight.operation == forward);
        if operation == Operation::Rollback {
            assert!(!runs_here(Operation::Prepare), "a rollback waits for the prepare that runs here (H3)");
        }
        if operation == Operation::Compensate {
            let undone = self.after(&branch.key).into_iter().chain([branch.key.clone()]);
            // What somebody settled by hand is on his word.
            let all: BTreeSet<_> = undone.filter(|key| self.branch(key).resolved.is_none()).collect();
            let runs = |flight: &Flight| flight.operation == Operation::Action && all.contains(&flight.key);
            assert!(
                !self.flights.iter().any(runs),
                "a compensation waits for the actions that run here, its own and later ones (H3)"
            );
            let late = self.ghosts.iter().find(|ghost| runs(&ghost.flight) && self.now < ghost.until);
            assert!(late.is_none(), "an earlier owner may still send the action (H3): {late:?}");
            for later in self.after(&branch.key) {
                let status = self.branch(&later).status;
                assert!(status.is_settled(), "{} before {later}, which is {status}", branch.key);
            }
        }
    }

    /// After every step.
    pub(super) fn check(&mut self) {
        let Some(transaction) = &self.state else {
            assert_eq!(self.durable.decision, None, "a durable decision is never forgotten (I3)");
            assert!(!self.durable.planned, "an accepted plan is never forgotten");
            assert!(self.manager.acked.is_empty(), "an acknowledged branch is never forgotten (C3)");
            return;
        };
        let status = transaction.status();
        self.hits.status(status);
        for branch in &transaction.branches {
            self.hits.branch(branch.status);
        }
        let decision = status.decision();
        if self.durable.decision.is_some() {
            assert_eq!(decision, self.durable.decision, "a decision never changes (I3)");
        }
        if let Some(told) = self.told {
            assert_eq!(decision, Some(told), "what was told stays (I4)");
        }
        for key in &self.manager.acked {
            assert!(
                transaction.branch_by_key(key).is_some(),
                "an acknowledged branch is never forgotten (C3)"
            );
        }
        for (id, result) in &self.durable.results {
            let step = transaction.branch(*id).and_then(|branch| branch.step.as_ref()).expect("a step");
            assert_eq!(step.result.as_ref(), Some(result), "a durable result is never forgotten (C6)");
        }
        let unsettled = transaction.branches.iter().filter(|branch| !branch.status.is_settled()).count();
        assert_eq!(transaction.unsettled() as usize, unsettled, "the count of what is not settled");
        assert_eq!(
            status.is_terminal(),
            decision.is_some() && unsettled == 0,
            "it ends when all is settled (I5)"
        );
        for branch in &transaction.branches {
            self.check_progress(transaction, branch);
        }
        if decision.is_none() {
            let set = self.timers.contains(&(transaction.deadline, Timer::Deadline));
            assert!(
                set || self.now >= transaction.deadline,
                "an undecided one has its deadline's timer (I5)"
            );
            if let Some(until) = transaction.preparing {
                let set = self.timers.contains(&(until, Timer::Prepare));
                assert!(set || self.now >= until, "a round of prepares has its timer (I5)");
            }
            if self.now >= transaction.deadline
                && !self.timers.contains(&(transaction.deadline, Timer::Deadline))
            {
                self.check_overdue(transaction);
            }
        }
    }

    /// Past its deadline and undecided: only where nobody may decide, and people know.
    fn check_overdue(&self, transaction: &Transaction) {
        match self.kind {
            Kind::Saga => {
                let known = transaction.attention.as_ref().map(|attention| attention.code);
                assert!(is_past_pivot(transaction) && known >= Some(AttentionCode::Overdue), "overdue (H14)");
            }
            Kind::Message => {
                let asked = |branch: &Branch| branch.status == BranchStatus::Checking;
                assert!(transaction.branches.iter().any(asked), "the sender is asked (H5)");
            }
            Kind::TwoPhase | Kind::Mixed => {
                assert!(transaction.delegate().is_some(), "aborted at its deadline, unless delegated (H4)");
            }
        }
    }

    /// What is owed is on its way, or a timer will see to it (I5).
    fn check_progress(&self, transaction: &Transaction, branch: &Branch) {
        let held = |wanted: Operation| {
            self.queue.iter().flat_map(|held| &held.effects).any(|effect| {
                matches!(effect, Effect::Dispatch { branch_id, operation, .. }
                    if *branch_id == branch.id && *operation == wanted)
            }) || self
                .flights
                .iter()
                .any(|flight| flight.branch_id == branch.id && flight.operation == wanted)
        };
        let timer = |at| self.timers.contains(&(at, Timer::Retry(branch.id)));
        match (operation_of(branch.status), branch.next_attempt_at) {
            _ if branch.parked => {
                let known = transaction.attention.as_ref().map(|attention| attention.code);
                assert!(known >= Some(AttentionCode::Parked), "what is parked is seen (S6)");
            }
            (Some(_), Some(at)) => assert!(timer(at), "a planned attempt has its timer (I5)"),
            (Some(Operation::Rollback), None) if branch.in_flight => {
                assert!(held(Operation::Prepare), "it waits for a prepare that runs");
            }
            (Some(operation), None) => assert!(held(operation), "{operation} is on its way (I5)"),
            (None, Some(at)) => {
                assert_eq!(
                    branch.status,
                    BranchStatus::ToCompensate,
                    "nothing is planned for what is settled"
                );
                assert!(timer(at), "a held compensation has its timer (I5)");
            }
            (None, None) if branch.status == BranchStatus::ToCompensate => {
                let waits = self.after(&branch.key).iter().any(|key| !self.branch(key).status.is_settled());
                assert!(waits || held(Operation::Action), "a compensation waits for something (I5)");
            }
            (None, None) => {}
        }
    }
}
