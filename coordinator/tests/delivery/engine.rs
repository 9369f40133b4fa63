//! Delivery and the real engine, on a log in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use unanimity_coordinator::delivery::{Delivery, ParticipantsService};
use unanimity_coordinator::engine::{
    Begin, Commit, Coordinator, Dispatcher, Engine, EngineConfig, Register, Wait,
};
use unanimity_coordinator::log::MemoryLog;
use unanimity_core::{RetryPolicy, TwoPhase};
use unanimity_proto::v1::branch_result::Outcome;
use unanimity_types::{BranchTargets, CallPolicy, Mode, Plan, Status};

use crate::support::{PATIENCE, Session, code_of, config, hello, participant, serve_service};

struct Node {
    engine: Engine,
    delivery: Arc<Delivery>,
    address: std::net::SocketAddr,
}

impl Node {
    async fn start() -> Self {
        let delivery = Delivery::new(config());
        let dispatcher: Arc<dyn Dispatcher> = Arc::clone(&delivery) as Arc<dyn Dispatcher>;
        let engine_config = EngineConfig {
            // Far longer than the test's patience: what comes sooner was not a matter of waiting.
            retry: RetryPolicy { initial: 500 * PATIENCE, cap: 500 * PATIENCE, ..RetryPolicy::default() },
            ..EngineConfig::default()
        };
        let engine = Engine::start(engine_config, Arc::new(MemoryLog::new(1)), &dispatcher);
        engine.coordinator().ready(PATIENCE).await.expect("ready");
        let service = ParticipantsService::new(engine.coordinator(), Arc::clone(&delivery));
        let address = serve_service(service).await;
        Self { engine, delivery, address }
    }
}

async fn commit_one(coordinator: &Coordinator) -> unanimity_types::Xid {
    let begin =
        Begin { mode: Mode::Tcc, name: None, xid: None, timeout: None, plan: Plan::Open, ticket: None };
    let xid = coordinator.begin(begin).await.expect("begun").xid;
    let targets = BranchTargets::One(participant("stock"));
    let register = Register {
        xid,
        key: None,
        targets,
        payload: "{}".into(),
        kind: None,
        two_phase: TwoPhase::default(),
        policy: CallPolicy::default(),
        lock_keys: Vec::new(),
        lock_wait: Duration::ZERO,
    };
    coordinator.register(register).await.expect("registered");
    coordinator.commit(Commit { xid, votes: None, wait: Wait::Decided }).await.expect("decided");
    xid
}

#[tokio::test]
async fn what_waits_for_a_participant_comes_as_soon_as_it_attaches() {
    let node = Node::start().await;
    let coordinator = node.engine.coordinator();
    let xid = commit_one(&coordinator).await;
    // Nobody is there: the attempt is over at once, and the back-off is long.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let view = coordinator.get(xid, Wait::Accepted, PATIENCE).await.expect("known");
    assert_eq!(view.status, Status::Committing);

    let said = unanimity_proto::v1::Hello { log_id: coordinator.log_id().to_string(), ..hello("stock", "1") };
    let attached = Instant::now();
    let (mut session, _) = Session::open(node.address, said).await.expect("attached");
    let operation = session.operation().await.expect("an operation");
    assert!(attached.elapsed() < PATIENCE, "{:?}", attached.elapsed());
    assert_eq!((operation.xid.as_str(), operation.branch_id), (xid.to_string().as_str(), 1));
    assert!(operation.position.is_some_and(|position| position.epoch == 1));
    session.answer(operation.call_id, Outcome::Done, "").await;
    let view = coordinator.get(xid, Wait::Finished, PATIENCE).await.expect("known");
    assert_eq!(view.status, Status::Committed);
    node.delivery.shutdown(Duration::from_secs(5)).await;
    node.engine.shutdown(Duration::from_secs(5)).await;
}

/// A participant that saw more than the log holds is a witness against it (protocol C8, H6).
#[tokio::test]
async fn a_participant_that_saw_more_is_not_attached() {
    let node = Node::start().await;
    let coordinator = node.engine.coordinator();
    let mut beyond = coordinator.positions()[0];
    beyond.seq.0 += 1_000;
    let said = unanimity_proto::v1::Hello {
        log_id: coordinator.log_id().to_string(),
        witnesses: vec![unanimity_proto::position_to_wire(beyond)],
        ..hello("stock", "1")
    };
    let Err(status) = Session::open(node.address, said).await else { panic!("attached") };
    assert_eq!(code_of(&status), "log_lost_tail", "{status:?}");
    assert!(node.delivery.stats().is_empty());
}
