//! Lock keys (protocol H7): durable before the registration, held until every branch is settled, through
//! crashes and takeovers, and never by two.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use unanimity_coordinator::engine::{Coordinator, LoggedEvent, PartitionEvent, Wait, decode};
use unanimity_coordinator::log::{BlockKind, MemoryLog, TransactionLog};
use unanimity_core::{LockEvent, LockTable};
use unanimity_types::{ErrorCode, Limits, Mode, PartitionId, Status, Xid, partition_of};

use crate::support::*;

const NOW: Duration = Duration::ZERO;

/// Every event of locks that the log holds, in order, by partition.
fn lock_events(log: &MemoryLog) -> Vec<(PartitionId, LockEvent)> {
    let partitions = (0..log.identity().partitions).map(PartitionId);
    let blocks = partitions.flat_map(|id| log.raw_blocks(id).into_iter().map(move |block| (id, block)));
    blocks
        .filter(|(_, block)| block.kind == BlockKind::Data)
        .flat_map(|(id, block)| decode(&block).unwrap().into_iter().map(move |logged| (id, logged.what)))
        .filter_map(|(id, what)| match what {
            LoggedEvent::Partition(PartitionEvent::Lock(event)) => Some((id, event)),
            _ => None,
        })
        .collect()
}

async fn begun(coordinator: &Coordinator) -> Xid {
    begun_with(coordinator, &[]).await
}

#[tokio::test(start_paused = true)]
async fn h7_a_conflict_names_holder_and_key_and_may_be_tried_again() {
    let log: Arc<dyn TransactionLog> = Arc::new(MemoryLog::new(4));
    let node = start(log).await;
    let c = &node.coordinator;
    let (first, second) = (begun(c).await, begun(c).await);
    c.register(locking(first, "stock", &["inventory:sku-7"], NOW)).await.unwrap();
    let refused = c.register(locking(second, "stock", &["inventory:sku-7"], NOW)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::LockConflict);
    assert!(refused.message.contains("inventory:sku-7"), "{refused}");
    assert!(refused.message.contains(&first.to_string()), "{refused}");
    assert!(refused.code.is_retryable() && refused.retry_after.is_some());
    assert_eq!(refused.xid, Some(second));
    let view = c.get(second, Wait::Accepted, NOW).await.unwrap();
    assert!(view.branches.is_empty(), "no lock, no branch");
    let view = c.get(first, Wait::Accepted, NOW).await.unwrap();
    assert_eq!(view.branches[0].lock_keys, ["inventory:sku-7"]);
    c.commit(commit(first, Wait::Finished)).await.unwrap();
    settle_down().await;
    // Told at once, not found out by asking.
    c.register(locking(second, "stock", &["inventory:sku-7"], NOW)).await.unwrap();
    let view = c.get(first, Wait::Accepted, NOW).await.unwrap();
    assert_eq!(view.branches[0].lock_keys, ["inventory:sku-7"], "history shows them too");
}

/// H7 (a): the caller's node dies between the lock and the registration.
#[tokio::test(start_paused = true)]
async fn h7a_a_crash_between_lock_and_registration_leaves_an_orphan_that_frees_itself() {
    let (memory, log) = memory();
    let node = start(log.clone()).await;
    let xid = begun(&node.coordinator).await;
    let held = memory.hold_appends();
    let registering = tokio::spawn({
        let coordinator = node.coordinator.clone();
        async move { coordinator.register(locking(xid, "stock", &["k"], NOW)).await }
    });
    held.until_waiting(1).await;
    registering.abort();
    assert!(registering.await.unwrap_err().is_cancelled());
    drop(held);
    settle_down().await;
    let participants = node.kill();
    let node = start_with(log, config("a"), participants).await;
    let c = &node.coordinator;
    let view = c.get(xid, Wait::Accepted, NOW).await.unwrap();
    assert!(view.branches.is_empty(), "the registration never came");
    let other = begun(c).await;
    // The transaction may go on: until it is over the lock is its own.
    let refused = c.register(locking(other, "stock", &["k"], NOW)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::LockConflict);
    // It ends without a branch that names the key: nobody tells the lock's home, which asks.
    c.abort(xid, Wait::Finished).await.unwrap();
    c.register(locking(other, "stock", &["k"], Duration::from_secs(11))).await.unwrap();
}

/// The same where nobody ever decides: the transaction's deadline does.
#[tokio::test(start_paused = true)]
async fn h7a_an_orphan_of_an_abandoned_transaction_is_freed_after_its_deadline() {
    let log: Arc<dyn TransactionLog> = Arc::new(MemoryLog::new(8));
    let node = start(log).await;
    let c = &node.coordinator;
    let xid = new_xid();
    let two_phase = unanimity_coordinator::engine::Begin { mode: Mode::TwoPhase, ..begin(xid) };
    c.begin(two_phase).await.unwrap();
    let mut refused = locking(xid, "stock", &["k"], NOW);
    refused.kind = Some(unanimity_types::BranchKind::Tcc);
    // The lock is taken, then the branch is refused.
    assert_eq!(c.register(refused).await.unwrap_err().code, ErrorCode::BranchKindNotAllowed);
    let other = begun(c).await;
    let conflict = c.register(locking(other, "stock", &["k"], NOW)).await.unwrap_err();
    assert_eq!(conflict.code, ErrorCode::LockConflict, "it stays with its transaction");
    tokio::time::sleep(Limits::TIMEOUT_DEFAULT + Duration::from_secs(6)).await;
    let other = begun(c).await;
    c.register(locking(other, "stock", &["k"], NOW)).await.unwrap();
}

/// H7 (b): what a decided branch did may still be undone or seen half-way.
#[tokio::test(start_paused = true)]
async fn h7b_a_lock_is_freed_when_every_branch_is_settled_and_not_at_the_decision() {
    for commits in [true, false] {
        let log: Arc<dyn TransactionLog> = Arc::new(MemoryLog::new(4));
        let node = start(log).await;
        let c = node.coordinator.clone();
        let xid = begun_with(&c, &["payment"]).await;
        c.register(locking(xid, "stock", &["k"], NOW)).await.unwrap();
        node.participants.set(Manner::Dead);
        let status = if commits {
            c.commit(commit(xid, Wait::Decided)).await.unwrap().status
        } else {
            c.abort(xid, Wait::Decided).await.unwrap().status
        };
        assert!(!status.is_terminal());
        let other = begun(&c).await;
        for _ in 0..20 {
            let refused = c.register(locking(other, "stock", &["k"], NOW)).await.unwrap_err();
            assert_eq!(refused.code, ErrorCode::LockConflict);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let waiting = tokio::spawn({
            let c = c.clone();
            async move { c.register(locking(other, "stock", &["k"], Duration::from_secs(30))).await }
        });
        settle_down().await;
        node.participants.set(Manner::Willing);
        c.participant_available(&unanimity_types::Name::new("stock").unwrap()).await;
        c.participant_available(&unanimity_types::Name::new("payment").unwrap()).await;
        c.get(xid, Wait::Finished, Duration::from_secs(30)).await.unwrap();
        let finished = Instant::now();
        waiting.await.unwrap().unwrap();
        assert!(finished.elapsed() < Duration::from_secs(1), "at once, not by asking");
    }
}

/// H7 (c): neither a crash nor another owner of the key's home loses a lock.
#[tokio::test(start_paused = true)]
async fn h7c_a_takeover_of_the_home_keeps_the_lock() {
    let (memory, log) = memory();
    let node = start(log.clone()).await;
    let mut long = begin(new_xid());
    long.timeout = Some(Duration::from_secs(3_600));
    let xid = node.coordinator.begin(long).await.unwrap().xid;
    node.coordinator.register(locking(xid, "stock", &["k"], NOW)).await.unwrap();
    let mut participants = node.kill();
    for name in ["a", "b", "c"] {
        memory.advance(Duration::from_secs(7));
        let node = start_with(log.clone(), config(name), participants).await;
        let c = &node.coordinator;
        let other = begun(c).await;
        let refused = c.register(locking(other, "stock", &["k"], NOW)).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::LockConflict, "owner {name}");
        c.register(locking(xid, &format!("again-{name}"), &["k"], NOW)).await.unwrap();
        // Long enough to have been asked about.
        tokio::time::sleep(Duration::from_secs(12)).await;
        let refused = c.register(locking(other, "stock", &["k"], NOW)).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::LockConflict, "asked, and still held: owner {name}");
        participants = node.kill();
    }
    memory.advance(Duration::from_secs(7));
    let node = start_with(log, config("d"), participants).await;
    node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
    settle_down().await;
    let other = begun(&node.coordinator).await;
    node.coordinator.register(locking(other, "stock", &["k"], NOW)).await.unwrap();
}

/// The word that a holder is over may be lost with the node that had it to tell.
#[tokio::test(start_paused = true)]
async fn h7c_a_release_that_was_lost_is_found_out_by_asking() {
    let (memory, log) = memory();
    let node = start(log.clone()).await;
    let xid = begun(&node.coordinator).await;
    node.coordinator.register(locking(xid, "stock", &["k"], NOW)).await.unwrap();
    node.coordinator.commit(commit(xid, Wait::Decided)).await.unwrap();
    node.coordinator.get(xid, Wait::Finished, Duration::from_secs(5)).await.unwrap();
    // The end is durable, the release waits for its block.
    let participants = node.kill();
    let freed = lock_events(&memory).iter().any(|(_, event)| matches!(event, LockEvent::Released { .. }));
    assert!(!freed, "the release was lost");
    let node = start_with(log, config("a"), participants).await;
    let other = begun(&node.coordinator).await;
    let refused = node.coordinator.register(locking(other, "stock", &["k"], NOW)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::LockConflict);
    node.coordinator.register(locking(other, "stock", &["k"], Duration::from_secs(6))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn c5_h7_answers_about_locks_wait_for_the_block_that_they_looked_at() {
    let (memory, log) = memory();
    let node = start(log).await;
    let c = &node.coordinator;
    let (first, second) = (begun(c).await, begun(c).await);
    let held = memory.hold_appends();
    let spawn = |xid, name: &str| {
        let (c, register) = (c.clone(), locking(xid, name, &["k"], NOW));
        tokio::spawn(async move { c.register(register).await })
    };
    let taking = spawn(first, "stock");
    held.until_waiting(1).await;
    // One that conflicts with it, and one that counts on it.
    let (conflicting, counting) = (spawn(second, "stock"), spawn(first, "payment"));
    settle_down().await;
    assert!(!taking.is_finished() && !conflicting.is_finished() && !counting.is_finished());
    let written = lock_events(&memory).len();
    assert_eq!(written, 0, "nothing of it is durable");
    drop(held);
    taking.await.unwrap().unwrap();
    counting.await.unwrap().unwrap();
    assert_eq!(conflicting.await.unwrap().unwrap_err().code, ErrorCode::LockConflict);
    // The lock's block lies before the branch's: a crash in between leaves no branch without its lock.
    let order: Vec<_> = memory
        .raw_blocks(PartitionId(0))
        .iter()
        .filter(|block| block.kind == BlockKind::Data)
        .flat_map(|block| decode(block).unwrap().into_iter().map(move |logged| (block.seq, logged.what)))
        .filter_map(|(seq, what)| match what {
            LoggedEvent::Partition(PartitionEvent::Lock(_)) => Some((seq, "lock")),
            LoggedEvent::Transaction(_, unanimity_core::Event::Registered { .. }) => Some((seq, "branch")),
            _ => None,
        })
        .collect();
    assert_eq!(order.iter().map(|(_, what)| *what).collect::<Vec<_>>(), ["lock", "branch", "branch"]);
    assert!(order[0].0 < order[1].0, "{order:?}");
}

/// Where key and xid live in different partitions nothing but the wait orders their blocks.
#[tokio::test(start_paused = true)]
async fn h7_no_registration_is_on_its_way_before_its_lock_is_durable() {
    let memory = MemoryLog::new(8);
    let node = start(Arc::new(memory.clone())).await;
    let c = &node.coordinator;
    for round in 0..8 {
        let xid = begun(c).await;
        let held = memory.hold_appends();
        let registering = tokio::spawn({
            let (c, key) = (c.clone(), format!("k{round}"));
            async move { c.register(locking(xid, "stock", &[&key], NOW)).await }
        });
        held.until_waiting(1).await;
        let second = tokio::time::timeout(Duration::from_millis(200), held.until_waiting(2)).await;
        assert!(second.is_err(), "round {round}: two blocks are on their way");
        drop(held);
        registering.await.unwrap().unwrap();
        c.commit(commit(xid, Wait::Finished)).await.unwrap();
        // What follows the end, releases and history, is written.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn h7_the_same_xid_twice_counts_and_a_wait_ends() {
    let log: Arc<dyn TransactionLog> = Arc::new(MemoryLog::new(4));
    let node = start(log).await;
    let c = &node.coordinator;
    let (xid, other) = (begun(c).await, begun(c).await);
    let branch = locking(xid, "stock", &["b", "a", "b"], NOW);
    let first = c.register(branch.clone()).await.unwrap();
    let view = c.get(xid, Wait::Accepted, NOW).await.unwrap();
    assert_eq!(view.branches[0].lock_keys, ["a", "b"], "each once");
    let again = c.register(locking(xid, "stock", &["a", "b"], NOW)).await.unwrap();
    assert_eq!(first.branch_id, again.branch_id, "a repetition is the same branch");
    c.register(locking(xid, "payment", &["a"], NOW)).await.unwrap();
    let started = Instant::now();
    let late = c.register(locking(other, "stock", &["a"], Duration::from_secs(3))).await.unwrap_err();
    assert_eq!(late.code, ErrorCode::LockConflict);
    let waited = started.elapsed();
    assert!((3_000..3_100).contains(&waited.as_millis()), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn h7_too_many_keys_and_too_long_waits_are_refused_and_take_nothing() {
    let (memory, log) = memory();
    let node = start(log).await;
    let c = &node.coordinator;
    let xid = begun(c).await;
    let names: Vec<String> = (0..17).map(|n| format!("k{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let refused = c.register(locking(xid, "stock", &names, NOW)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidRequest);
    let long = Limits::LOCK_WAIT_MAX + Duration::from_millis(1);
    let refused = c.register(locking(xid, "stock", &["k"], long)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidTimeout);
    assert!(lock_events(&memory).is_empty());
    c.register(locking(xid, "stock", &names[..16], NOW)).await.unwrap();
    assert_eq!(lock_events(&memory).len(), 16);
}

/// What is over, or was never begun, takes no lock; to ask for one is an inquiry (protocol C2).
#[tokio::test(start_paused = true)]
async fn c2_h7_only_what_is_known_and_undecided_takes_locks() {
    let (memory, log) = memory();
    let node = start(log).await;
    let c = &node.coordinator;
    let unknown = new_xid();
    let refused = c.register(locking(unknown, "stock", &["k"], NOW)).await.unwrap_err();
    assert_eq!((refused.code, refused.status), (ErrorCode::AlreadyDecided, Some(Status::Aborted)));
    assert_eq!(c.get(unknown, Wait::Accepted, NOW).await.unwrap().status, Status::Aborted);
    let decided = begun_with(c, &["stock"]).await;
    c.commit(commit(decided, Wait::Finished)).await.unwrap();
    let refused = c.register(locking(decided, "late", &["k"], NOW)).await.unwrap_err();
    assert_eq!((refused.code, refused.status), (ErrorCode::AlreadyDecided, Some(Status::Committed)));
    // Also out of history.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let refused = c.register(locking(decided, "late", &["k"], NOW)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::AlreadyDecided);
    assert!(lock_events(&memory).is_empty());
}

#[tokio::test(start_paused = true)]
async fn h7_held_locks_survive_cleaning_and_trims() {
    // Two partitions: every holder lives in the first, so that in the second nothing but locks is old.
    let memory = MemoryLog::new(2);
    let log: Arc<dyn TransactionLog> = Arc::new(memory.clone());
    let mut eager = config("a");
    eager.trim_blocks = 4;
    eager.clean_bytes = 10_000;
    let node = start_with(log.clone(), eager.clone(), Arc::default()).await;
    let keys: Vec<String> = (0..12).map(|n| format!("k{n}")).collect();
    for key in &keys {
        let xid =
            std::iter::repeat_with(new_xid).find(|xid| partition_of(*xid, 2) == PartitionId(0)).unwrap();
        let mut long = begin(xid);
        long.timeout = Some(Duration::from_secs(86_400));
        let holder = node.coordinator.begin(long).await.unwrap().xid;
        node.coordinator.register(locking(holder, "stock", &[key], NOW)).await.unwrap();
    }
    for _ in 0..300 {
        let xid = begun(&node.coordinator).await;
        node.coordinator.register(locking(xid, "stock", &["m"], NOW)).await.unwrap();
        node.coordinator.commit(commit(xid, Wait::Finished)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let size = |id| -> usize {
        memory.raw_blocks(PartitionId(id)).iter().map(unanimity_coordinator::log::Block::bytes).sum()
    };
    let size = size(0) + size(1);
    assert!(size < 120_000, "{size} bytes");
    let participants = node.kill();
    let node = start_with(log, eager, participants).await;
    let other = begun(&node.coordinator).await;
    for key in &keys {
        let refused = node.coordinator.register(locking(other, "stock", &[key], NOW)).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::LockConflict, "{key}");
    }
    node.coordinator.register(locking(other, "stock", &["m"], NOW)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn h7_locks_and_waits_are_bounded_and_who_gave_up_gets_nothing() {
    let (_memory, log) = memory();
    let mut small = config("a");
    small.locks_max = 2;
    small.lock_waiters_max = 2;
    let node = start_with(log, small, Arc::default()).await;
    let c = &node.coordinator;
    let holder = begun(c).await;
    c.register(locking(holder, "stock", &["a", "b"], NOW)).await.unwrap();
    let full = c.register(locking(holder, "payment", &["c"], NOW)).await.unwrap_err();
    assert_eq!(full.code, ErrorCode::TooBusy);
    let (first, second, third) = (begun(c).await, begun(c).await, begun(c).await);
    let wait = |xid| {
        let (c, register) = (c.clone(), locking(xid, "stock", &["a"], Duration::from_secs(20)));
        tokio::spawn(async move { c.register(register).await })
    };
    let (gives_up, waits) = (wait(first), wait(second));
    settle_down().await;
    assert_eq!(wait(third).await.unwrap().unwrap_err().code, ErrorCode::TooBusy);
    gives_up.abort();
    settle_down().await;
    c.abort(holder, Wait::Finished).await.unwrap();
    waits.await.unwrap().unwrap();
}

/// H7 (d): 32 transactions, three keys in any order, and whoever meets a conflict aborts and comes again.
#[tokio::test(start_paused = true)]
async fn h7d_32_transactions_fight_for_3_keys_and_none_is_held_twice() {
    let seeds = std::env::var("UNANIMITY_SEED").ok().map(|seed| seed.parse().unwrap());
    for seed in seeds.map_or(0..20, |seed: u64| seed..seed + 1) {
        println!("seed {seed}");
        fight(seed).await;
    }
}

async fn fight(seed: u64) {
    let mut dice = fastrand::Rng::with_seed(seed);
    let memory = MemoryLog::new(dice.u16(1..6));
    memory.set_racy(true);
    let node = start(Arc::new(memory.clone())).await;
    let inside: Arc<Mutex<HashMap<&str, Xid>>> = Arc::default();
    let fighters: Vec<_> = (0..32)
        .map(|_| {
            let (c, inside, dice) = (node.coordinator.clone(), Arc::clone(&inside), dice.fork());
            tokio::spawn(async move { fighter(c, inside, dice, seed).await })
        })
        .collect();
    let all = async {
        let mut conflicts = 0;
        for fighter in fighters {
            conflicts += fighter.await.unwrap();
        }
        conflicts
    };
    let limit = Duration::from_secs(3_600);
    let conflicts = tokio::time::timeout(limit, all).await.unwrap_or_else(|_| panic!("seed {seed}: stuck"));
    assert!(conflicts > 0, "seed {seed}: nobody met anybody");
    tokio::time::sleep(Duration::from_secs(15)).await;
    let mut tables: HashMap<PartitionId, LockTable> = HashMap::new();
    for (home, event) in lock_events(&memory) {
        let table = tables.entry(home).or_default();
        table.apply(&event).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    assert!(tables.values().all(LockTable::is_empty), "seed {seed}: all are free at the end");
}

/// Comes again until it had all three keys. Answers how often it met somebody.
async fn fighter(
    c: Coordinator,
    inside: Arc<Mutex<HashMap<&'static str, Xid>>>,
    mut dice: fastrand::Rng,
    seed: u64,
) -> u32 {
    let mut conflicts = 0;
    'again: loop {
        let xid = begun(&c).await;
        let mut order = ["x", "y", "z"];
        dice.shuffle(&mut order);
        let mut mine = Vec::new();
        for key in order {
            let wait = Duration::from_millis(dice.u64(0..400));
            let name = format!("branch-{key}");
            if let Err(error) = c.register(locking(xid, &name, &[key], wait)).await {
                assert_eq!(error.code, ErrorCode::LockConflict, "seed {seed}: {error}");
                conflicts += 1;
                leave(&inside, &mine);
                c.abort(xid, Wait::Finished).await.unwrap();
                tokio::time::sleep(Duration::from_millis(dice.u64(0..2_000))).await;
                continue 'again;
            }
            let before = inside.lock().unwrap().insert(key, xid);
            assert_eq!(before, None, "seed {seed}: {key} is held twice");
            mine.push(key);
            tokio::time::sleep(Duration::from_millis(dice.u64(0..20))).await;
        }
        leave(&inside, &mine);
        c.commit(commit(xid, Wait::Finished)).await.unwrap();
        return conflicts;
    }
}

fn leave(inside: &Mutex<HashMap<&'static str, Xid>>, mine: &[&'static str]) {
    let mut inside = inside.lock().unwrap();
    for key in mine {
        inside.remove(key);
    }
}
