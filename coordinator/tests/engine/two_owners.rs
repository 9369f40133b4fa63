//! Two nodes over one log on which everything goes wrong, their leases running out at any moment,
//! clients at both of them: one truth, told by whoever tells anything (I1, I3, I4, I6, I9), and
//! after healing every branch is settled (I5).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use unanimity_coordinator::engine::{Coordinator, PartitionState, Register, TransactionView, Wait};
use unanimity_coordinator::log::{Fault, FaultRates, FaultyLog, MemoryLog, TransactionLog};
use unanimity_types::{Decision, ErrorCode, InquiryAnswer, Status, Xid};

use crate::support::*;

const SEEDS: u64 = 60;
const ROUNDS: usize = 5;
const CLIENTS: usize = 10;

/// What each xid's askers were told.
type Told = BTreeMap<Xid, BTreeSet<Outcome>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Commit,
    Abort,
}

fn of_status(status: Option<Status>) -> Option<Outcome> {
    match status.and_then(Status::decision) {
        Some(Decision::Commit) => Some(Outcome::Commit),
        Some(Decision::Abort) => Some(Outcome::Abort),
        None => None,
    }
}

fn rates(scale: f64) -> FaultRates {
    FaultRates {
        append_failed: 0.04 * scale,
        append_refused: 0.02 * scale,
        append_done_unknown: 0.06 * scale,
        append_lost_unknown: 0.04 * scale,
        append_late: 0.06 * scale,
        late_lands: 0.1 * scale,
        trim_raced: 0.3 * scale,
        trim_interrupted: 0.1 * scale,
        slow: 0.2 * scale,
        slow_max: Duration::from_millis(40),
        read_failed: 0.03 * scale,
        lease_failed: 0.05 * scale,
        beat_failed: 0.05 * scale,
        history_failed: 0.1 * scale,
        history_done_unknown: 0.1 * scale,
    }
}

/// A client with two coordinators, who asks now this one and now that one, and asks twice.
struct Client {
    nodes: [Coordinator; 2],
    dice: fastrand::Rng,
    told: BTreeSet<Outcome>,
    xid: Xid,
}

impl Client {
    fn node(&mut self) -> &Coordinator {
        &self.nodes[usize::from(self.dice.bool())]
    }

    /// With a lock that others want too, or without (H7).
    fn registration(&mut self, name: &str) -> Register {
        let wait = Duration::from_millis(self.dice.u64(0..100));
        match self.dice.u8(0..6) {
            0 => locking(self.xid, name, &["k1"], wait),
            1 => locking(self.xid, name, &["k2", "k1"], wait),
            _ => branch(self.xid, name),
        }
    }

    async fn pause(&mut self) {
        tokio::time::sleep(Duration::from_millis(self.dice.u64(0..40))).await;
    }

    async fn decide(&mut self, commits: bool) {
        let xid = self.xid;
        let answer = if commits {
            self.node().commit(commit(xid, Wait::Decided)).await
        } else {
            self.node().abort(xid, Wait::Decided).await
        };
        let status = match answer {
            Ok(standing) => Some(standing.status),
            Err(error) if error.code == ErrorCode::AlreadyDecided => error.status,
            Err(error) => {
                assert_ne!(error.code, ErrorCode::LogLostTail, "{error}");
                None
            }
        };
        self.told.extend(of_status(status));
    }

    async fn ask(&mut self) {
        let xid = self.xid;
        if let Ok(answers) = self.node().inquire(None, vec![xid]).await {
            let told = match answers[0].answer {
                InquiryAnswer::Committed => Some(Outcome::Commit),
                InquiryAnswer::Aborted => Some(Outcome::Abort),
                _ => None,
            };
            self.told.extend(told);
        }
    }

    async fn look(&mut self) {
        let xid = self.xid;
        if let Ok(view) = self.node().get(xid, Wait::Accepted, Duration::ZERO).await {
            self.told.extend(of_status(Some(view.status)));
        }
    }

    async fn run(mut self) -> (Xid, BTreeSet<Outcome>) {
        let xid = self.xid;
        let mut begun = false;
        for _ in 0..3 {
            if self.node().begin(begin(xid)).await.is_ok() {
                begun = true;
                break;
            }
            self.pause().await;
        }
        if begun && self.dice.u8(0..10) > 0 {
            for name in ["stock", "payment"] {
                let register = self.registration(name);
                for _ in 0..2 {
                    if self.node().register(register.clone()).await.is_ok() {
                        break;
                    }
                }
            }
        }
        for _ in 0..self.dice.usize(1..4) {
            match self.dice.u8(0..10) {
                0..=4 => self.decide(true).await,
                5..=6 => self.decide(false).await,
                7..=8 => self.ask().await,
                _ => self.look().await,
            }
            self.pause().await;
        }
        (xid, self.told)
    }
}

#[tokio::test(start_paused = true)]
async fn i1_i3_i4_i5_i6_i9_two_owners_and_one_truth() {
    let mut fired: BTreeMap<String, u64> = BTreeMap::new();
    let (mut told, mut untold, mut epochs) = (0, 0, 0);
    // More of them, or one alone, by hand: UNANIMITY_SEEDS=0..2000.
    let by_hand = std::env::var("UNANIMITY_SEEDS").ok();
    let range = by_hand.as_deref().and_then(|text| text.split_once(".."));
    let (first, end) =
        range.map_or((0, SEEDS), |(first, end)| (first.parse().unwrap(), end.parse().unwrap()));
    for seed in first..end {
        if by_hand.is_some() {
            println!("seed {seed}");
        }
        let (some, none, lives) = run(seed, &mut fired).await;
        told += some;
        untold += none;
        epochs += lives;
    }
    println!("seeds {first} to {end}: {told} told, {untold} not, {epochs} epochs; faults {fired:?}");
    if by_hand.is_some() {
        return;
    }
    assert!(told > 1_000 && untold > 20, "{told} told, {untold} not");
    assert!(epochs > 3 * SEEDS, "{epochs} epochs");
    for fault in [Fault::AppendDoneUnknown, Fault::LateLanded, Fault::LateRefused, Fault::HistoryFailed] {
        assert!(fired.get(&format!("{fault:?}")).is_some_and(|count| *count > 0), "{fault:?}");
    }
}

fn settings(node: &str, dice: &mut fastrand::Rng) -> unanimity_coordinator::engine::EngineConfig {
    let mut settings = config(node);
    settings.trim_blocks = dice.u64(1..6);
    settings.clean_bytes = dice.u64(1_000..6_000);
    settings.project_open_after = Duration::from_millis(dice.u64(1..200));
    settings.project_every = Duration::from_millis(dice.u64(5..60));
    settings.lease = Duration::from_millis(600);
    settings.lock_ask_after = Duration::from_millis(dice.u64(50..3_000));
    settings
}

async fn run(seed: u64, fired: &mut BTreeMap<String, u64>) -> (usize, usize, u64) {
    let memory = MemoryLog::new(1);
    memory.set_racy(true);
    let faulty = FaultyLog::over_memory(memory.clone(), seed);
    let log: Arc<dyn TransactionLog> = Arc::new(faulty.clone());
    let mut dice = fastrand::Rng::with_seed(seed);
    let participants: Arc<Participants> = Arc::default();
    let mut told: Told = BTreeMap::new();
    let start = |name: &str, dice: &mut fastrand::Rng| {
        start_unready(Arc::clone(&log), settings(name, dice), Arc::clone(&participants))
    };
    let mut nodes = [start("a", &mut dice), start("b", &mut dice)];
    let _ = nodes[0].coordinator.ready(Duration::from_secs(2)).await;
    for _ in 0..ROUNDS {
        faulty.set_rates(rates(dice.f64() * 1.5));
        participants.set([Manner::Willing, Manner::Dead, Manner::Holding][dice.usize(0..3)]);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let client = Client {
                    nodes: [nodes[0].coordinator.clone(), nodes[1].coordinator.clone()],
                    dice: fastrand::Rng::with_seed(dice.u64(..)),
                    told: BTreeSet::new(),
                    xid: Xid::new(uuid::Uuid::from_u128(dice.u128(..))),
                };
                tokio::spawn(client.run())
            })
            .collect();
        for _ in 0..dice.usize(1..5) {
            tokio::time::sleep(Duration::from_millis(dice.u64(0..150))).await;
            match dice.u8(0..6) {
                // Every lease runs out: whoever comes first.
                0..=2 => memory.advance(Duration::from_millis(700)),
                3 => drop(faulty.land_late().await),
                4 => participants.let_go(),
                // Killed; the same name comes again.
                _ => {
                    let which = dice.usize(0..2);
                    let name = ["a", "b"][which];
                    nodes[which] = start(name, &mut dice);
                }
            }
        }
        for client in clients {
            let (xid, answers) = client.await.unwrap();
            told.entry(xid).or_default().extend(answers);
        }
    }
    heal(seed, &faulty, &participants, &nodes).await;
    check(seed, &memory, &participants, &nodes, &told).await;
    for (fault, count) in faulty.counts() {
        *fired.entry(format!("{fault:?}")).or_default() += count;
    }
    let some = told.values().filter(|told| !told.is_empty()).count();
    let lives = memory.raw_blocks(unanimity_types::PartitionId(0));
    let lives = lives.iter().filter(|block| block.kind.is_kept()).count() as u64;
    (some, told.len() - some, lives)
}

async fn heal(seed: u64, faulty: &FaultyLog, participants: &Participants, nodes: &[Node; 2]) {
    faulty.set_rates(FaultRates::default());
    let _ = faulty.land_late().await;
    participants.set(Manner::Willing);
    participants.let_go();
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if nodes.iter().any(|node| node.coordinator.is_ready()) {
            return;
        }
        for node in nodes {
            let state = node.coordinator.info().states[0].state.clone();
            assert!(!matches!(state, PartitionState::Stopped(_)), "seed {seed}: {state:?}");
        }
    }
    panic!("seed {seed}: nobody owns the partition after healing");
}

/// Asks until somebody knows, and until every branch is settled. One that only thinks that it owns the
/// partition learns by its next block that it does not, and says "unknown".
async fn settle(seed: u64, nodes: &[Node; 2], xid: Xid) -> TransactionView {
    let mut last = None;
    for _ in 0..100 {
        for node in nodes {
            let coordinator = &node.coordinator;
            last = Some(coordinator.abort(xid, Wait::Decided).await);
            let view = coordinator.get(xid, Wait::Finished, Duration::from_secs(60)).await;
            if let Ok(view) = view
                && view.status.is_terminal()
            {
                return view;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("seed {seed}: {xid} I5: {last:?}")
}

/// H7: whoever held a lock is over, so nobody does. (That none was given to two is what every recovery
/// has checked: it would have stopped the partition.)
async fn locks_are_free(seed: u64, nodes: &[Node; 2]) {
    let mut last = None;
    for _ in 0..100 {
        for node in nodes {
            let xid = new_xid();
            if node.coordinator.begin(begin(xid)).await.is_ok() {
                let register = locking(xid, "last", &["k1", "k2"], Duration::from_secs(10));
                last = Some(node.coordinator.register(register).await);
                let taken = last.as_ref().is_some_and(Result::is_ok);
                let _ = node.coordinator.abort(xid, Wait::Finished).await;
                if taken {
                    return;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("seed {seed}: a lock stays with somebody who is over: {last:?}");
}

async fn check(seed: u64, memory: &MemoryLog, participants: &Participants, nodes: &[Node; 2], told: &Told) {
    let xids: Vec<Xid> = told.keys().copied().collect();
    for (xid, answers) in told {
        let view = settle(seed, nodes, *xid).await;
        let truth = of_status(Some(view.status)).unwrap();
        assert!(
            answers.iter().all(|answer| *answer == truth),
            "seed {seed}: {xid} {answers:?}, is {truth:?}"
        );
        for done in participants.done(*xid) {
            assert_eq!(done.confirmed, truth == Outcome::Commit, "seed {seed}: {xid} I1");
            assert_eq!(done.cancelled, truth == Outcome::Abort, "seed {seed}: {xid} I1");
        }
    }
    locks_are_free(seed, nodes).await;
    // All of it is in history, as the log had it, and the log itself is whole.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let rows = memory.find_history(&xids).await.unwrap();
    assert_eq!(rows.len(), xids.len(), "seed {seed}: rows are missing");
    assert!(rows.iter().all(|row| row.status.is_terminal()), "seed {seed}: rows are stuck");
    memory.read(unanimity_types::PartitionId(0)).await.unwrap();
}
