//! Many transactions over a log on which everything goes wrong, and owners that are killed: whoever
//! was told an outcome was told the truth (I3, I4), and participants agree (I1, I6).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::engine::{Coordinator, Wait};
use unanimity_coordinator::log::{Fault, FaultRates, FaultyLog, MemoryLog, TransactionLog};
use unanimity_types::{Decision, ErrorCode, Xid};

use crate::support::*;

const SEEDS: u64 = 60;
const LIVES: usize = 4;
const TRANSACTIONS: usize = 25;

fn rates() -> FaultRates {
    FaultRates {
        append_failed: 0.05,
        append_refused: 0.02,
        append_done_unknown: 0.05,
        append_lost_unknown: 0.05,
        append_late: 0.08,
        late_lands: 0.1,
        trim_raced: 0.3,
        trim_interrupted: 0.1,
        slow: 0.1,
        slow_max: Duration::from_millis(30),
        read_failed: 0.05,
        lease_failed: 0.05,
        ..FaultRates::default()
    }
}

/// One client: begins, registers, decides; notes what it was told.
async fn client(coordinator: Coordinator, seed: u64) -> (Xid, Option<Decision>) {
    let mut dice = fastrand::Rng::with_seed(seed);
    let xid = new_xid();
    if coordinator.begin(begin(xid)).await.is_err() {
        return (xid, None);
    }
    for name in ["stock", "payment"] {
        if coordinator.register(branch(xid, name)).await.is_err() {
            let told = coordinator.abort(xid, Wait::Decided).await;
            return (xid, told.ok().and_then(|standing| standing.status.decision()));
        }
    }
    let told = if dice.bool() {
        coordinator.commit(commit(xid, Wait::Decided)).await
    } else {
        coordinator.abort(xid, Wait::Decided).await
    };
    let told = match told {
        Ok(standing) => standing.status.decision(),
        Err(error) if error.code == ErrorCode::AlreadyDecided => {
            error.status.and_then(unanimity_types::Status::decision)
        }
        Err(_) => None,
    };
    (xid, told)
}

#[tokio::test(start_paused = true)]
async fn i3_i4_whoever_was_told_an_outcome_was_told_the_truth() {
    let mut fired: HashMap<Fault, u64> = HashMap::new();
    let mut told = 0;
    let mut untold = 0;
    for seed in 0..SEEDS {
        let (some, none) = run(seed, &mut fired).await;
        told += some;
        untold += none;
    }
    println!("{SEEDS} seeds: {told} outcomes told, {untold} unknown; faults {fired:?}");
    assert!(told > 1_000 && untold > 100, "{told} told, {untold} unknown");
    for fault in [
        Fault::AppendFailed,
        Fault::AppendRefused,
        Fault::AppendDoneUnknown,
        Fault::AppendLostUnknown,
        Fault::AppendLate,
        Fault::LateLanded,
        Fault::LateRefused,
        Fault::TrimInterrupted,
        Fault::ReadFailed,
        Fault::LeaseFailed,
    ] {
        assert!(fired.get(&fault).is_some_and(|count| *count > 0), "{fault:?} was never hit");
    }
}

async fn run(seed: u64, fired: &mut HashMap<Fault, u64>) -> (usize, usize) {
    let faulty = FaultyLog::over_memory(MemoryLog::new(1), seed);
    let log: Arc<dyn TransactionLog> = Arc::new(faulty.clone());
    let mut settings = config("a");
    settings.trim_blocks = 4;
    settings.clean_bytes = 4_000;
    let mut participants: Arc<Participants> = Arc::default();
    let mut told: HashMap<Xid, Option<Decision>> = HashMap::new();
    let mut dice = fastrand::Rng::with_seed(seed);
    for life in 0..LIVES {
        faulty.set_rates(rates());
        let node = start_unready(Arc::clone(&log), settings.clone(), participants);
        let _ = node.coordinator.ready(Duration::from_secs(60)).await;
        let clients: Vec<_> = (0..TRANSACTIONS)
            .map(|n| tokio::spawn(client(node.coordinator.clone(), seed * 1_000 + (life * 100 + n) as u64)))
            .collect();
        // Killed in the middle of it, at a random moment.
        tokio::time::sleep(Duration::from_millis(dice.u64(0..120))).await;
        participants = node.kill();
        for client in clients {
            let (xid, outcome) = client.await.unwrap();
            told.insert(xid, outcome);
        }
    }
    // Heal; whatever is late lands; every transaction comes to its end (I5).
    faulty.set_rates(FaultRates::default());
    let node = start_with(Arc::clone(&log), settings, participants).await;
    let _ = faulty.land_late().await;
    for (xid, outcome) in &told {
        let standing = node.coordinator.abort(*xid, Wait::Finished).await;
        let truth = match standing {
            Ok(standing) => standing.status.decision(),
            Err(error) => error.status.and_then(unanimity_types::Status::decision),
        };
        assert!(truth.is_some(), "seed {seed}: {xid} has no outcome after healing");
        if let Some(outcome) = outcome {
            assert_eq!(Some(*outcome), truth, "seed {seed}: {xid} was told another outcome");
        }
        let view = node.coordinator.get(*xid, Wait::Finished, Duration::from_secs(60)).await.unwrap();
        assert!(view.status.is_terminal(), "seed {seed}: {xid} is not settled");
        for done in node.participants.done(*xid) {
            assert_eq!(done.confirmed, truth == Some(Decision::Commit), "seed {seed}: {xid} I1");
            assert_eq!(done.cancelled, truth == Some(Decision::Abort), "seed {seed}: {xid} I1");
        }
    }
    for (fault, count) in faulty.counts() {
        *fired.entry(fault).or_default() += count;
    }
    let some = told.values().flatten().count();
    (some, told.len() - some)
}
