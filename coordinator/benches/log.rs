//! What the log's format costs: events to a block, a block to events, and a whole partition's recovery
//! from a log in memory, so that no database is in the figure.

#![allow(missing_docs, reason = "criterion's macros make a public function")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use unanimity_coordinator::engine::{
    BodyWriter, BranchCall, Dispatcher, Engine, EngineConfig, ResultSink, decode,
};
use unanimity_coordinator::log::{Appended, Block, BlockHeader, BlockKind, MemoryLog, TransactionLog};
use unanimity_core::{BranchTraits, Event};
use unanimity_types::{
    BranchId, BranchKey, BranchKind, BranchTargets, Decision, Digest, Epoch, Mode, Name, PartitionId, Target,
    Timestamp, Xid,
};

const PARTITION: PartitionId = PartitionId(0);
/// Events of a block: about what gathers while one is written under load.
const BLOCK_EVENTS: usize = 256;
/// Events of a log to recover: large enough that the start does not show.
const LOG_EVENTS: usize = 200_000;
/// An hour: nothing of it runs out meanwhile.
const TIMEOUT_MS: u64 = 3_600_000;

fn xid(n: u64) -> Xid {
    // Spread like random ones: a partition's map sees no order in them.
    let mixed = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Xid::from_slice(&[mixed.to_be_bytes(), n.to_be_bytes()].concat()).unwrap()
}

/// A two-branch TCC transaction with 64-byte payloads, as the log knows it: 3 events, or 7 if it is over.
fn transaction(now: Timestamp, is_over: bool) -> Vec<Event> {
    let target = Target::Participant {
        participant: Name::new("stock").unwrap(),
        operation: Name::new("reserve").unwrap(),
    };
    let registered = |n| Event::Registered {
        branch_id: BranchId(n),
        key: BranchKey::new(format!("branch-{n}")).unwrap(),
        targets: BranchTargets::One(target.clone()).into(),
        payload: Bytes::from_static(&[7; 64]),
        digest: Digest([2; 16]),
        traits: Box::new(BranchTraits::of(BranchKind::Tcc)),
    };
    let settled = |n| Event::BranchSettled { branch_id: BranchId(n), attempts: 1 };
    let begun = Event::Begun {
        mode: Mode::Tcc,
        name: Some(Name::new("order").unwrap()),
        digest: Digest([1; 16]),
        deadline: Timestamp(now.0 + TIMEOUT_MS),
        decide_hash: None,
    };
    let mut events = vec![begun, registered(1), registered(2)];
    if is_over {
        events.push(Event::Decided { decision: Decision::Commit, reason: None, branches: 2, by: None });
        events.extend([settled(1), settled(2), Event::Finished]);
    }
    events
}

fn events(now: Timestamp, is_over: bool, count: usize) -> Vec<(Xid, Event)> {
    let all = (0..).flat_map(|n| transaction(now, is_over).into_iter().map(move |event| (xid(n), event)));
    all.take(count).collect()
}

fn body(time: Timestamp, events: &[(Xid, Event)]) -> Bytes {
    let mut body = BodyWriter::default();
    body.start(time);
    for (xid, event) in events {
        body.event(*xid, time, event);
    }
    body.finish()
}

fn header(kind: BlockKind, after: &Block, epoch: Epoch) -> BlockHeader {
    BlockHeader {
        kind,
        partition: PARTITION,
        seq: after.seq.next(),
        epoch,
        floor: after.floor,
        time: after.time,
        previous: after.checksum,
    }
}

fn blocks(criterion: &mut Criterion) {
    let birth = MemoryLog::new(1).raw_blocks(PARTITION).remove(0);
    let events = events(birth.time, true, BLOCK_EVENTS);
    let mut group = criterion.benchmark_group("block");
    group.throughput(Throughput::Elements(BLOCK_EVENTS as u64));
    group.bench_function("encode and seal", |bencher| {
        bencher.iter(|| {
            Block::new(header(BlockKind::Data, &birth, Epoch(1)), body(birth.time, black_box(&events)))
        });
    });
    let block = Block::new(header(BlockKind::Data, &birth, Epoch(1)), body(birth.time, &events));
    assert_eq!(decode(&block).unwrap().len(), BLOCK_EVENTS);
    group.bench_function("verify and decode", |bencher| {
        bencher.iter(|| {
            black_box(&block).verify().unwrap();
            decode(&block).unwrap()
        });
    });
    group.finish();
}

/// Nobody: what is recovered owes nothing.
#[derive(Debug)]
struct Nobody;

impl Dispatcher for Nobody {
    fn dispatch(&self, _: BranchCall, _: &ResultSink) {}
}

/// A log with so many events of one owner before.
async fn filled(is_over: bool, count: usize) -> MemoryLog {
    let log = MemoryLog::new(1);
    let now = log.now().await.unwrap();
    let mut last = log.raw_blocks(PARTITION).remove(0);
    let epoch_body = Bytes::from_static(&[0; 24]);
    let mut next = vec![(BlockKind::Epoch, epoch_body)];
    next.extend(
        events(now, is_over, count).chunks(BLOCK_EVENTS).map(|chunk| (BlockKind::Data, body(now, chunk))),
    );
    for (kind, body) in next {
        let header = BlockHeader { time: now, ..header(kind, &last, Epoch(1)) };
        last = Block::new(header, body);
        assert_eq!(log.append(&last).await.unwrap(), Appended::Written);
    }
    log
}

fn recovery(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut group = criterion.benchmark_group("recovery");
    group.throughput(Throughput::Elements(LOG_EVENTS as u64));
    group.sample_size(10);
    for (name, is_over) in [("of finished transactions", true), ("of open transactions", false)] {
        let log = runtime.block_on(filled(is_over, LOG_EVENTS));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| runtime.block_on(recover(&log))).sum());
        });
    }
    group.finish();
}

/// How long a new owner takes from its start until the partition works.
async fn recover(log: &MemoryLog) -> Duration {
    let log: Arc<dyn TransactionLog> = Arc::new(log.fork());
    let dispatcher: Arc<dyn Dispatcher> = Arc::new(Nobody);
    let started = Instant::now();
    let engine = Engine::start(EngineConfig::default(), log, &dispatcher);
    engine.coordinator().ready(Duration::from_secs(60)).await.unwrap();
    started.elapsed()
}

criterion_group!(benches, blocks, recovery);
criterion_main!(benches);
