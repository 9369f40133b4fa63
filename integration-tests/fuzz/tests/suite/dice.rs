//! Commands out of bytes: what shrinks to fewer bytes shrinks to fewer commands.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use unanimity_core::{
    BeginSpec, Command, Context, OperatorAction, Registration, ResultOutcome, RetryPolicy, Timer, TwoPhase,
};
use unanimity_types::{
    AbortReason, BranchId, BranchKey, BranchKind, BranchTargets, CallPolicy, DecideHash, Delivery, Digest,
    MessagePlan, Mode, Operation, Plan, ResolveAs, SagaPlan, SagaStep, StepRole, Target, Timestamp, Vote,
    Xid,
};

pub(crate) struct Dice<'a>(pub(crate) &'a [u8]);

impl Dice<'_> {
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn below(&mut self, end: u8) -> u8 {
        self.byte() % end
    }

    fn one<T: Clone>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()].clone()
    }

    fn yes(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    fn key(&mut self) -> BranchKey {
        BranchKey::new(format!("k{}", self.below(6))).expect("valid")
    }

    fn keys(&mut self) -> BTreeSet<BranchKey> {
        (0..self.below(5)).map(|_| self.key()).collect()
    }

    fn target(&mut self) -> Target {
        Target::Http(format!("http://127.0.0.1:9/{}", self.below(3)).into())
    }

    /// As it comes in: nothing is said of what is zero.
    fn policy(&mut self) -> CallPolicy {
        let mut wait = || Some(u64::from(self.byte())).filter(|ms| *ms > 0).map(Duration::from_millis);
        let (initial, cap, timeout) = (wait(), wait(), wait());
        let give_up_after = Some(u32::from(self.below(4))).filter(|most| *most > 0);
        CallPolicy { initial, cap, timeout, give_up_after }
    }

    fn by(&mut self) -> OperatorAction {
        OperatorAction { operator: "ada".into(), reason: "she knows why".into() }
    }

    fn step(&mut self) -> SagaStep {
        SagaStep {
            name: self.key(),
            action: self.target(),
            compensate: self.yes().then(|| self.target()),
            payload: Bytes::from(vec![self.byte()]),
            after: self.keys().into_iter().collect(),
            role: self.one(&[
                StepRole::Compensatable,
                StepRole::Compensatable,
                StepRole::Pivot,
                StepRole::ForwardOnly,
            ]),
            policy: self.policy(),
        }
    }

    /// A saga that can be carried out, more often than not.
    fn chain(&mut self) -> Vec<SagaStep> {
        let steps = 1 + self.below(4);
        (0..steps)
            .map(|n| SagaStep {
                name: BranchKey::new(format!("k{n}")).expect("valid"),
                after: n
                    .checked_sub(1)
                    .map(|n| BranchKey::new(format!("k{n}")).expect("valid"))
                    .into_iter()
                    .collect(),
                compensate: Some(self.target()),
                role: StepRole::Compensatable,
                ..self.step()
            })
            .collect()
    }

    fn plan(&mut self, mode: Mode) -> Plan {
        match (mode, self.below(8)) {
            (Mode::Saga, 0) => {
                Plan::Saga(SagaPlan { steps: (0..self.below(5)).map(|_| self.step()).collect() })
            }
            (Mode::Saga, _) => Plan::Saga(SagaPlan { steps: self.chain() }),
            (Mode::Message, _) => Plan::Message(MessagePlan {
                check_back: self.yes().then(|| self.target()),
                check_back_payload: Bytes::new(),
                deliveries: (0..self.below(4))
                    .map(|_| Delivery {
                        key: self.key(),
                        target: self.target(),
                        payload: Bytes::new(),
                        policy: self.policy(),
                    })
                    .collect(),
                submit: self.yes(),
            }),
            (_, 0) => Plan::Saga(SagaPlan { steps: Vec::new() }),
            _ => Plan::Open,
        }
    }

    fn begin(&mut self) -> Command {
        let mode = self.one(&[Mode::Tcc, Mode::TwoPhase, Mode::Saga, Mode::Message]);
        Command::Begin(BeginSpec {
            mode,
            name: None,
            digest: Digest([self.below(2); 16]),
            timeout: Duration::from_secs(u64::from(self.byte())),
            plan: self.plan(mode),
            decide_hash: self.yes().then_some(DecideHash([5; 32])),
        })
    }

    fn registration(&mut self) -> Command {
        let kind = self.one(&[
            None,
            None,
            Some(BranchKind::Tcc),
            Some(BranchKind::TwoPhase),
            Some(BranchKind::Message),
            Some(BranchKind::Step),
            Some(BranchKind::Sender),
        ]);
        Command::Register(Registration {
            key: self.key(),
            targets: BranchTargets::One(self.target()),
            payload: Bytes::from(vec![self.byte(); 3]),
            digest: Digest([self.below(2); 16]),
            kind,
            two_phase: TwoPhase { early: self.yes(), one_phase: self.yes(), instance: None },
            policy: if self.yes() { CallPolicy::default() } else { self.policy() },
            lock_keys: Vec::new(),
        })
    }

    fn outcome(&mut self) -> ResultOutcome {
        let error = || Box::<str>::from("no");
        match self.below(10) {
            0 | 1 => ResultOutcome::Done,
            2 => ResultOutcome::Result(Bytes::from_static(b"{\"room\":7}")),
            3 => ResultOutcome::Voted(self.one(&[Vote::Prepared, Vote::ReadOnly, Vote::Refused])),
            4 => ResultOutcome::Refused { error: error() },
            5 => ResultOutcome::Sealed { error: error() },
            6 => ResultOutcome::Unknown { error: error(), retry_after: self.yes().then_some(Duration::MAX) },
            7 => ResultOutcome::NotYet { error: error() },
            8 => ResultOutcome::Unusable { error: error() },
            _ => ResultOutcome::NotSent { error: error(), retry_after: Duration::from_secs(1) },
        }
    }

    fn branch(&mut self) -> BranchId {
        BranchId(self.one(&[1, 2, 3, 4, 5, 0, u32::MAX]))
    }

    pub(crate) fn command(&mut self) -> Command {
        match self.below(16) {
            0 => self.begin(),
            1..=3 => self.registration(),
            4 => Command::Vote {
                key: self.key(),
                vote: self.one(&[Vote::Prepared, Vote::ReadOnly, Vote::Refused]),
            },
            5 => Command::Commit { votes: self.yes().then(|| self.keys()) },
            6 => Command::Commit { votes: None },
            7 => Command::Abort {
                reason: self.one(&[AbortReason::Requested, AbortReason::OwnerChanged, AbortReason::Operator]),
                by: self.yes().then(|| self.by()),
            },
            8 => Command::Inquire,
            9 => Command::Timer(match self.below(4) {
                0 => Timer::Deadline,
                1 => Timer::CommitWait,
                2 => Timer::Prepare,
                _ => Timer::Retry(self.branch()),
            }),
            10..=12 => Command::Result {
                branch_id: self.branch(),
                operation: self.one(&[
                    Operation::Confirm,
                    Operation::Cancel,
                    Operation::Prepare,
                    Operation::Commit,
                    Operation::Rollback,
                    Operation::CommitOnePhase,
                    Operation::Action,
                    Operation::Compensate,
                    Operation::CheckBack,
                    Operation::Deliver,
                ]),
                attempt: self.one(&[1, 1, 2, 3, 0, u32::MAX]),
                outcome: self.outcome(),
            },
            13 => Command::Wake { branch_id: self.branch(), at: Timestamp(u64::from(self.byte()) * 1_000) },
            14 => Command::Retry { by: self.by() },
            _ => Command::Resolve {
                branch_id: self.branch(),
                resolve_as: self.one(&[ResolveAs::Confirmed, ResolveAs::Cancelled]),
                by: self.by(),
            },
        }
    }

    /// Time that goes on, and sometimes far.
    pub(crate) fn later(&mut self, now: Timestamp) -> Timestamp {
        let wait = if self.below(16) == 0 { 100_000 } else { u64::from(self.below(8)) * 50 };
        now.after(Duration::from_millis(wait))
    }
}

pub(crate) fn xid() -> Xid {
    Xid::from_slice(&[7; 16]).expect("not nil")
}

pub(crate) fn context(now: Timestamp) -> Context {
    Context {
        xid: xid(),
        now,
        retry: RetryPolicy::default(),
        lease: Duration::from_secs(10),
        call_timeout: Duration::from_secs(5),
    }
}
