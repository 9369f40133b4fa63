//! The random sequences, at least 10,000 in all (the demand), most of them in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures::StreamExt as _;
use unanimity_coordinator::log::{MemoryLog, TransactionLog};
use unanimity_types::PartitionId;

use crate::model;
use crate::subject::{Kind, Subject};

const MEMORY_SEQUENCES: u64 = 10_000;
const SQLITE_SEQUENCES: u64 = 2_000;
const POSTGRES_SEQUENCES: u64 = 2_000;

fn seed() -> u64 {
    let seed = std::env::var("UNANIMITY_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..1 << 48));
    eprintln!("log tests: UNANIMITY_TEST_SEED={seed}");
    seed
}

/// Runs sequences, a few at once, each on a partition of its own.
async fn run(name: &str, log: &Arc<dyn TransactionLog>, sequences: u64, at_once: usize) {
    let (seed, begun, steps) = (seed(), Instant::now(), AtomicU64::new(0));
    futures::stream::iter(0..sequences)
        .for_each_concurrent(at_once, async |number| {
            let partition = PartitionId(u16::try_from(number).expect("one partition each"));
            let ran = model::run(Arc::clone(log), partition, seed.wrapping_add(number)).await;
            steps.fetch_add(ran as u64, Ordering::Relaxed);
        })
        .await;
    let steps = steps.into_inner();
    eprintln!("log tests: {name}: {sequences} sequences, {steps} steps, {:.1?}", begun.elapsed());
}

#[tokio::test]
async fn random_sequences_in_memory() {
    let (seed, begun, mut steps) = (seed(), Instant::now(), 0);
    for number in 0..MEMORY_SEQUENCES {
        let log = MemoryLog::new(1);
        // Every second one with calls that give way to each other in their middle.
        log.set_racy(number % 2 == 1);
        steps += model::run(Arc::new(log), PartitionId(0), seed.wrapping_add(number)).await;
    }
    eprintln!("log tests: memory: {MEMORY_SEQUENCES} sequences, {steps} steps, {:.1?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn random_sequences_in_sqlite() {
    let subject = Subject::sqlite(u16::try_from(SQLITE_SEQUENCES).expect("fits")).await;
    run("SQLite", &subject.log, SQLITE_SEQUENCES, 2).await;
    subject.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_sequences_in_postgresql() {
    let subject = Subject::postgres(u16::try_from(POSTGRES_SEQUENCES).expect("fits")).await;
    assert!(matches!(subject.kind, Kind::Postgres(_)));
    run("PostgreSQL", &subject.log, POSTGRES_SEQUENCES, 4).await;
    subject.finish().await;
}
