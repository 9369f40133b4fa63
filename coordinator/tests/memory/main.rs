//! How much memory an open transaction takes: measured of a whole process, so it has one of its own.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use unanimity_coordinator::engine::{
    Begin, BranchCall, Coordinator, Dispatcher, Engine, EngineConfig, Register, ResultSink, TwoPhase,
};
use unanimity_coordinator::log::{MemoryLog, TransactionLog};
use unanimity_types::{BranchKey, BranchTargets, CallPolicy, Mode, Name, Plan, Target, Xid};
use uuid::Uuid;

/// So many that what the process has anyway, and the steps in which tables grow, weigh little.
const OPEN: u64 = 57_000;
const AT_ONCE: usize = 500;

/// Nobody: nothing is decided.
#[derive(Debug)]
struct Nobody;

impl Dispatcher for Nobody {
    fn dispatch(&self, _: BranchCall, _: &ResultSink) {}
}

/// The process's resident bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}

async fn open_one(coordinator: &Coordinator) {
    let xid = Xid::new(Uuid::new_v4());
    let name = Some(Name::new("order").unwrap());
    let timeout = Some(Duration::from_secs(3_600));
    let begin = Begin { xid: Some(xid), mode: Mode::Tcc, name, timeout, plan: Plan::Open, ticket: None };
    coordinator.begin(begin).await.unwrap();
    for participant in ["inventory", "payment"] {
        let target = Target::Participant {
            participant: Name::new(participant).unwrap(),
            operation: Name::new("reserve").unwrap(),
        };
        let register = Register {
            xid,
            key: BranchKey::new(format!("{participant}/reserve#1@0123456789abcdef")).ok(),
            targets: BranchTargets::One(target),
            // A part of a larger message, as it comes from the wire.
            payload: bytes::Bytes::from(vec![7; 8_192]).slice(64..128),
            kind: None,
            two_phase: TwoPhase::default(),
            policy: CallPolicy::default(),
            lock_keys: Vec::new(),
            lock_wait: Duration::ZERO,
        };
        coordinator.register(register).await.unwrap();
    }
}

/// At most 1.5 KB for each open transaction with two branches and payloads of 64 bytes, beside what the log
/// holds.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn memory_of_an_open_transaction() {
    let log: Arc<dyn TransactionLog> = Arc::new(MemoryLog::new(1));
    let dispatcher: Arc<dyn Dispatcher> = Arc::new(Nobody);
    // A row in history is the log's memory as well.
    let config = EngineConfig { project_open_after: Duration::from_secs(3_600), ..EngineConfig::default() };
    let engine = Engine::start(config, log, &dispatcher);
    let coordinator = engine.coordinator();
    coordinator.ready(Duration::from_secs(60)).await.unwrap();
    // Threads' stacks, tables' first sizes, the allocator's arenas.
    join_all((0..AT_ONCE).map(|_| open_one(&coordinator))).await;
    let in_log = || coordinator.info().states[0].counters.block_bytes;
    let (resident_before, log_before) = (resident(), in_log());
    let mut left = OPEN;
    while left > 0 {
        join_all((0..AT_ONCE).map(|_| open_one(&coordinator))).await;
        left -= AT_ONCE as u64;
    }
    let grown = resident().saturating_sub(resident_before);
    let logged = in_log() - log_before;
    let each = grown.saturating_sub(logged) / OPEN;
    println!(
        "sizes: transaction {}, branch {}, entry of its timeline {}",
        size_of::<unanimity_core::Transaction>(),
        size_of::<unanimity_core::Branch>(),
        size_of::<unanimity_core::TimelineEntry>()
    );
    println!("{each} bytes for each of {OPEN}; the log grew by {} for each", logged / OPEN);
    assert!(each <= 1_500, "{each} bytes for each");
}
