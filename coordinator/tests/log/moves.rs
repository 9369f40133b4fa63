//! An engine whose partition goes to another server and back under load, and dies on the way (protocol H10): what was
//! answered stays so.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use unanimity_coordinator::engine::{
    Begin, BranchCall, Commit, Coordinator, Dispatcher, Engine, EngineConfig, OperatorAction, ResultSink,
    Wait,
};
use unanimity_coordinator::log::{Error, PlacedLog, PostgresOptions, TransactionLog};
use unanimity_types::{ErrorCode, Mode, PartitionId, Plan, Status, Xid};
use uuid::Uuid;

use crate::placed::Two;
use crate::subject::P;

/// Nobody is called: the transactions have no branches.
#[derive(Debug)]
struct Nobody;

impl Dispatcher for Nobody {
    fn dispatch(&self, call: BranchCall, _: &ResultSink) {
        panic!("{call:?}");
    }
}

fn start(log: &Arc<PlacedLog>, node: &str) -> Engine {
    let config = EngineConfig {
        node: node.to_owned(),
        lease: Duration::from_secs(2),
        trim_blocks: 8,
        ..EngineConfig::default()
    };
    let dispatcher: Arc<dyn Dispatcher> = Arc::new(Nobody);
    Engine::start(config, Arc::clone(log) as Arc<dyn TransactionLog>, &dispatcher)
}

fn action() -> OperatorAction {
    OperatorAction { operator: "test".to_owned(), reason: "h10".to_owned() }
}

/// What was acknowledged as committed, by clients that go on until they are stopped.
#[derive(Default)]
struct Clients {
    committed: Mutex<Vec<Xid>>,
    coordinator: Mutex<Option<Coordinator>>,
    stop: AtomicBool,
}

impl Clients {
    async fn run(self: Arc<Self>) {
        while !self.stop.load(Ordering::Relaxed) {
            let coordinator = self.coordinator.lock().unwrap().clone();
            let xid = Xid::new(Uuid::new_v4());
            if let Some(coordinator) = coordinator
                && one(&coordinator, xid).await.is_some()
            {
                self.committed.lock().unwrap().push(xid);
            } else {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    fn count(&self) -> usize {
        self.committed.lock().unwrap().len()
    }

    async fn more(&self, count: usize) {
        let before = self.count();
        for _ in 0..6_000 {
            if self.count() >= before + count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} more outcomes of {count}", self.count() - before);
    }
}

async fn one(coordinator: &Coordinator, xid: Xid) -> Option<()> {
    let begin =
        Begin { mode: Mode::Tcc, name: None, xid: Some(xid), timeout: None, plan: Plan::Open, ticket: None };
    coordinator.begin(begin).await.ok()?;
    let standing = coordinator.commit(Commit { xid, votes: None, wait: Wait::Decided }).await.ok()?;
    assert_eq!(standing.status.decision(), Status::Committed.decision());
    Some(())
}

async fn move_to(coordinator: &Coordinator, partition: PartitionId, server: &str) {
    for _ in 0..600 {
        match coordinator.move_partition(partition, server, action()).await {
            Ok(_) => return,
            Err(error) if error.message.contains("already") => return,
            Err(error) => {
                assert!(error.code != ErrorCode::IllegalTransition, "{error:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    panic!("{partition} does not come to {server}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h10_a_partition_goes_to_and_fro_under_load_and_its_owner_dies_on_the_way() {
    let two = Two::create().await;
    let log = Arc::new(two.open().await);
    let mut engine = start(&log, "a");
    engine.coordinator().ready(Duration::from_secs(60)).await.unwrap();
    let clients = Arc::new(Clients::default());
    *clients.coordinator.lock().unwrap() = Some(engine.coordinator());
    let tasks: Vec<_> = (0..8).map(|_| tokio::spawn(Arc::clone(&clients).run())).collect();
    clients.more(50).await;
    for round in 0..8_u64 {
        let server = if round % 2 == 0 { "b" } else { "home" };
        let coordinator = engine.coordinator();
        if round < 4 {
            let position = coordinator.move_partition(P, server, action()).await.expect("moved");
            assert_eq!(position.partition, P);
        } else {
            // As SIGKILL, somewhere between the seal and the first block on the other server.
            let moving = tokio::spawn(async move { coordinator.move_partition(P, server, action()).await });
            tokio::time::sleep(Duration::from_millis(7 * (round - 3))).await;
            drop(engine);
            engine = start(&log, "a");
            *clients.coordinator.lock().unwrap() = Some(engine.coordinator());
            let _ = moving.await.unwrap();
            engine.coordinator().ready(Duration::from_secs(60)).await.unwrap();
            move_to(&engine.coordinator(), P, server).await;
        }
        clients.more(20).await;
    }
    // Somebody else's partition is taken over while it is sealed and not copied: the taker does the rest.
    let known = clients.count();
    clients.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    let coordinator = engine.coordinator();
    let committed = clients.committed.lock().unwrap().clone();
    for xid in &committed {
        let view = coordinator.get(*xid, Wait::Finished, Duration::from_secs(30)).await.expect("known");
        assert_eq!(view.status, Status::Committed, "I3: {xid}");
    }
    eprintln!("log tests: 8 moves, {known} commits acknowledged, none lost");
    engine.shutdown(Duration::from_secs(10)).await;
    for partition in (0..4).map(PartitionId) {
        log.read(partition).await.expect("whole");
    }
    log.close().await;
    two.remove().await;
}

/// A node without the address does not take it, says so, and goes on with the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h10_a_node_that_cannot_reach_a_server_takes_what_is_elsewhere() {
    let two = Two::create().await;
    let log = Arc::new(two.open().await);
    let engine = start(&log, "a");
    engine.coordinator().ready(Duration::from_secs(60)).await.unwrap();
    let refused = engine.coordinator().move_partition(P, "nowhere", action()).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::IllegalTransition, "{refused:?}");
    engine.coordinator().move_partition(P, "b", action()).await.unwrap();
    engine.shutdown(Duration::from_secs(10)).await;
    let blind = PlacedLog::open(&two.home.url, BTreeMap::new(), PostgresOptions::default()).await.unwrap();
    assert!(matches!(blind.tip(P).await, Err(Error::Refused(_))));
    let blind = Arc::new(blind);
    let engine = start(&blind, "blind");
    for _ in 0..600 {
        let states = engine.coordinator().info().states;
        let says = format!("{:?}", states[0].state);
        let others = states[1..].iter().all(|info| format!("{:?}", info.state) == "Running");
        if says.contains("database.servers") && others {
            engine.shutdown(Duration::from_secs(10)).await;
            log.close().await;
            two.remove().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{:?}", engine.coordinator().info().states);
}
