//! Participants that can be made to fail, and engines that can be killed.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use unanimity_coordinator::engine::{
    Begin, BranchCall, BranchReply, Coordinator, Dispatcher, Engine, EngineConfig, Register, ResultSink,
    TwoPhase, Wait,
};
use unanimity_coordinator::log::{MemoryLog, TransactionLog};
use unanimity_core::ResultOutcome;
use unanimity_types::{
    BranchKey, BranchTargets, CallPolicy, Delivery, MessagePlan, Mode, Name, Operation, Plan, SagaPlan,
    SagaStep, StepRole, Target, Vote, Xid,
};
use uuid::Uuid;

/// What a participant did for a branch, in order, without repetitions.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Done {
    pub confirmed: bool,
    pub cancelled: bool,
    pub acted: bool,
    pub compensated: bool,
    pub prepared: bool,
    pub committed: bool,
    pub rolled_back: bool,
    pub delivered: bool,
}

/// How the participants behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manner {
    /// They do what they are told.
    #[default]
    Willing,
    /// Nothing comes back but "unknown".
    Dead,
    /// They keep calls until told to go on.
    Holding,
}

#[derive(Debug, Default)]
struct State {
    manner: Manner,
    done: HashMap<(Xid, BranchKey), Done>,
    calls: Vec<BranchCall>,
    held: Vec<(BranchCall, ResultSink)>,
    script: HashMap<(BranchKey, Operation), VecDeque<ResultOutcome>>,
}

/// Participants with a fence, all in one.
#[derive(Debug, Default)]
pub struct Participants(Mutex<State>);

impl Participants {
    pub fn set(&self, manner: Manner) {
        self.0.lock().unwrap().manner = manner;
    }

    pub fn calls(&self) -> Vec<BranchCall> {
        self.0.lock().unwrap().calls.clone()
    }

    pub fn done(&self, xid: Xid) -> Vec<Done> {
        let state = self.0.lock().unwrap();
        state.done.iter().filter(|((of, _), _)| *of == xid).map(|(_, done)| done.clone()).collect()
    }

    /// What the branch says to its next calls of that operation, instead of doing it.
    pub fn say(&self, branch: &str, operation: Operation, outcome: ResultOutcome) {
        self.0.lock().unwrap().script.entry((key(branch), operation)).or_default().push_back(outcome);
    }

    /// The calls of an operation, as `branch` or `branch#attempt` after the first.
    pub fn asked(&self, operation: Operation) -> Vec<String> {
        let calls = self.calls().into_iter().filter(|call| call.operation == operation);
        calls
            .map(|call| match call.attempt {
                1 => call.key.to_string(),
                attempt => format!("{}#{attempt}", call.key),
            })
            .collect()
    }

    /// What became of one branch.
    pub fn of(&self, xid: Xid, branch: &str) -> Done {
        self.0.lock().unwrap().done.get(&(xid, key(branch))).cloned().unwrap_or_default()
    }

    pub fn forget_held(&self) {
        self.0.lock().unwrap().held.clear();
    }

    /// A second answer to an attempt that was answered before the calls that are held.
    pub fn answer_attempt_again(&self, attempt: u32, outcome: &ResultOutcome) {
        for (call, results) in &self.0.lock().unwrap().held {
            results.send(BranchReply { attempt, ..reply(call, outcome.clone()) });
        }
    }

    /// Answers everything that is held.
    pub fn let_go(&self) {
        let held = std::mem::take(&mut self.0.lock().unwrap().held);
        for (call, results) in held {
            let outcome = self.says(&call).unwrap_or_else(|| self.act(&call));
            results.send(reply(&call, outcome));
        }
    }

    fn says(&self, call: &BranchCall) -> Option<ResultOutcome> {
        let mut state = self.0.lock().unwrap();
        state.script.get_mut(&(call.key.clone(), call.operation)).and_then(VecDeque::pop_front)
    }

    fn act(&self, call: &BranchCall) -> ResultOutcome {
        let mut state = self.0.lock().unwrap();
        let done = state.done.entry((call.xid, call.key.clone())).or_default();
        match call.operation {
            Operation::Confirm => {
                assert!(!done.cancelled, "I6: confirm after cancel of {} {}", call.xid, call.key);
                done.confirmed = true;
            }
            Operation::Cancel => {
                assert!(!done.confirmed, "I6: cancel after confirm of {} {}", call.xid, call.key);
                done.cancelled = true;
            }
            Operation::Action => {
                // Without a fence: whatever comes late takes effect.
                assert!(!done.compensated, "H3: action after compensate of {} {}", call.xid, call.key);
                done.acted = true;
                return ResultOutcome::Result(format!("result of {}", call.key).into());
            }
            Operation::Compensate => done.compensated = true,
            Operation::Prepare => {
                assert!(!done.rolled_back, "H3: prepare after rollback of {} {}", call.xid, call.key);
                done.prepared = true;
                return ResultOutcome::Voted(Vote::Prepared);
            }
            Operation::Commit => {
                assert!(done.prepared && !done.rolled_back, "I1: commit of {} {}", call.xid, call.key);
                done.committed = true;
            }
            Operation::CommitOnePhase => done.committed = true,
            Operation::Rollback => {
                assert!(!done.committed, "I1: rollback after commit of {} {}", call.xid, call.key);
                done.rolled_back = true;
            }
            Operation::CheckBack => {}
            Operation::Deliver => done.delivered = true,
            Operation::Try => panic!("the coordinator never sends {}", call.operation),
        }
        ResultOutcome::Done
    }
}

fn reply(call: &BranchCall, outcome: ResultOutcome) -> BranchReply {
    BranchReply {
        xid: call.xid,
        branch_id: call.branch_id,
        operation: call.operation,
        attempt: call.attempt,
        position: call.position,
        outcome,
        took: Duration::ZERO,
    }
}

impl Dispatcher for Participants {
    fn dispatch(&self, call: BranchCall, results: &ResultSink) {
        let manner = {
            let mut state = self.0.lock().unwrap();
            state.calls.push(call.clone());
            if state.manner == Manner::Holding {
                state.held.push((call, results.clone()));
                return;
            }
            state.manner
        };
        let outcome = match self.says(&call) {
            Some(outcome) => outcome,
            None if manner == Manner::Dead => {
                ResultOutcome::Unknown { error: "no answer".into(), retry_after: None }
            }
            None => self.act(&call),
        };
        results.send(reply(&call, outcome));
    }
}

/// A node: an engine and its participants.
pub struct Node {
    pub engine: Engine,
    pub coordinator: Coordinator,
    pub participants: Arc<Participants>,
}

pub fn config(node: &str) -> EngineConfig {
    EngineConfig { node: node.to_owned(), ..EngineConfig::default() }
}

pub async fn start(log: Arc<dyn TransactionLog>) -> Node {
    start_with(log, config("a"), Arc::default()).await
}

pub async fn start_with(
    log: Arc<dyn TransactionLog>,
    config: EngineConfig,
    participants: Arc<Participants>,
) -> Node {
    let node = start_unready(log, config, participants);
    node.coordinator.ready(Duration::from_secs(60)).await.unwrap();
    node
}

pub fn start_unready(
    log: Arc<dyn TransactionLog>,
    config: EngineConfig,
    participants: Arc<Participants>,
) -> Node {
    let dispatcher: Arc<dyn Dispatcher> = participants.clone();
    let engine = Engine::start(config, log, &dispatcher);
    let coordinator = engine.coordinator();
    Node { engine, coordinator, participants }
}

impl Node {
    /// As SIGKILL: everything in memory is gone.
    pub fn kill(self) -> Arc<Participants> {
        self.participants.forget_held();
        self.participants
    }
}

pub fn memory() -> (MemoryLog, Arc<dyn TransactionLog>) {
    let log = MemoryLog::new(1);
    let shared: Arc<dyn TransactionLog> = Arc::new(log.clone());
    (log, shared)
}

pub fn new_xid() -> Xid {
    Xid::new(Uuid::new_v4())
}

pub fn key(text: &str) -> BranchKey {
    BranchKey::new(text).unwrap()
}

pub fn keys(texts: &[&str]) -> Option<BTreeSet<BranchKey>> {
    Some(texts.iter().map(|text| key(text)).collect())
}

pub fn to(participant: &str) -> BranchTargets {
    BranchTargets::One(Target::Participant {
        participant: Name::new(participant).unwrap(),
        operation: Name::new("reserve").unwrap(),
    })
}

pub fn begin(xid: Xid) -> Begin {
    Begin {
        mode: Mode::Tcc,
        name: Some(Name::new("test").unwrap()),
        xid: Some(xid),
        timeout: None,
        plan: Plan::Open,
        ticket: None,
    }
}

pub fn branch(xid: Xid, name: &str) -> Register {
    Register {
        xid,
        key: Some(key(name)),
        targets: to(name),
        payload: name.as_bytes().to_vec().into(),
        kind: None,
        two_phase: TwoPhase::default(),
        policy: CallPolicy::default(),
        lock_keys: Vec::new(),
        lock_wait: Duration::ZERO,
    }
}

/// A branch that wants locks.
pub fn locking(xid: Xid, name: &str, keys: &[&str], wait: Duration) -> Register {
    let lock_keys = keys.iter().map(|key| Name::new(*key).unwrap()).collect();
    Register { lock_keys, lock_wait: wait, ..branch(xid, name) }
}

/// A step that can be turned back and comes after those.
pub fn step(name: &str, after: &[&str]) -> SagaStep {
    let target = |operation: &str| Target::Participant {
        participant: Name::new(name).unwrap(),
        operation: Name::new(operation).unwrap(),
    };
    SagaStep {
        name: key(name),
        action: target("book"),
        compensate: Some(target("unbook")),
        payload: name.as_bytes().to_vec().into(),
        after: after.iter().map(|name| key(name)).collect(),
        role: StepRole::Compensatable,
        policy: CallPolicy::default(),
    }
}

pub fn saga(xid: Xid, steps: Vec<SagaStep>) -> Begin {
    Begin { mode: Mode::Saga, plan: Plan::Saga(SagaPlan { steps }), ..begin(xid) }
}

/// A message that is prepared first, for those receivers.
pub fn message(xid: Xid, receivers: &[&str]) -> Begin {
    let target = |name: &str| Target::Participant {
        participant: Name::new(name).unwrap(),
        operation: Name::new("mail").unwrap(),
    };
    let deliveries = receivers
        .iter()
        .map(|name| Delivery {
            key: key(name),
            target: target(name),
            payload: name.as_bytes().to_vec().into(),
            policy: CallPolicy::default(),
        })
        .collect();
    let plan = MessagePlan {
        check_back: Some(target("shop")),
        check_back_payload: "was it committed?".into(),
        deliveries,
        submit: false,
    };
    Begin { mode: Mode::Message, plan: Plan::Message(plan), ..begin(xid) }
}

pub async fn begun_with(coordinator: &Coordinator, branches: &[&str]) -> Xid {
    let xid = new_xid();
    coordinator.begin(begin(xid)).await.unwrap();
    for name in branches {
        coordinator.register(branch(xid, name)).await.unwrap();
    }
    xid
}

pub fn commit(xid: Xid, wait: Wait) -> unanimity_coordinator::engine::Commit {
    unanimity_coordinator::engine::Commit { xid, votes: None, wait }
}

/// Lets every task run until nothing more happens by itself.
pub async fn settle_down() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}
