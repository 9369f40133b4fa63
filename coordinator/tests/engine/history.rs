//! History tells what a look into memory told: random transactions of every mode, with random answers of
//! their participants, before and after they left memory.
#![allow(clippy::print_stdout, reason = "the seed")]

use std::time::Duration;

use bytes::Bytes;
use unanimity_coordinator::engine::{Begin, OperatorAction, Resolve, TransactionView, TwoPhase, Wait};
use unanimity_core::ResultOutcome;
use unanimity_types::{
    BranchKind, CallPolicy, Mode, Name, Operation, Plan, ResolveAs, Status, StepRole, Vote, Xid,
};

use crate::support::*;

const TRANSACTIONS: usize = 150;
const SOON: Duration = Duration::from_secs(60);
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn by() -> OperatorAction {
    OperatorAction { operator: "ann".to_owned(), reason: "mended".to_owned() }
}

/// Something that a participant may say, or nothing: then it does what it is told.
fn says(rng: &mut fastrand::Rng, operation: Operation) -> Option<ResultOutcome> {
    let results: [&'static [u8]; 7] =
        [b"{\"seat\": 1.50}", b"", b"plain", b"\xff\x00", b"nul\0inside", b"\"\\u0000\"", "ä\n".as_bytes()];
    Some(match rng.usize(0..12) {
        0 | 1 => ResultOutcome::Refused { error: "sold out".into() },
        2 => ResultOutcome::Unknown { error: "no answer".into(), retry_after: None },
        3 => ResultOutcome::Unusable { error: "HTTP 404".into() },
        4 => ResultOutcome::NotYet { error: "".into() },
        5 if operation == Operation::Prepare => ResultOutcome::Voted(Vote::ReadOnly),
        6 if operation == Operation::Action => ResultOutcome::Result(vec![b'x'; 70_000].into()),
        7..=9 if operation == Operation::Action => {
            ResultOutcome::Result(Bytes::from_static(results[rng.usize(0..results.len())]))
        }
        _ => return None,
    })
}

fn random_saga(rng: &mut fastrand::Rng, xid: Xid) -> Begin {
    let count = rng.usize(1..=NAMES.len());
    let turn = rng.usize(0..=2 * count);
    let steps = (0..count).map(|n| {
        let after = if n > 0 { vec![NAMES[n - 1]] } else { Vec::new() };
        let mut step = step(NAMES[n], &after);
        step.role = match n.cmp(&turn) {
            std::cmp::Ordering::Less => StepRole::Compensatable,
            std::cmp::Ordering::Equal => StepRole::Pivot,
            std::cmp::Ordering::Greater => StepRole::ForwardOnly,
        };
        if step.role != StepRole::Compensatable || rng.u8(0..5) == 0 {
            step.compensate = None;
        }
        step.policy.give_up_after = rng.bool().then_some(2);
        step
    });
    saga(xid, steps.collect())
}

/// Begins one, and decides it if that is its TM's to do.
async fn one(rng: &mut fastrand::Rng, node: &Node) -> Xid {
    let xid = new_xid();
    let coordinator = &node.coordinator;
    match rng.usize(0..4) {
        0 => drop(coordinator.begin(random_saga(rng, xid)).await.unwrap()),
        1 => {
            let mut begin = message(xid, &NAMES[..rng.usize(1..=4)]);
            if let Plan::Message(plan) = &mut begin.plan {
                plan.submit = rng.bool();
                plan.deliveries[0].policy = CallPolicy { give_up_after: Some(1), ..CallPolicy::default() };
            }
            coordinator.begin(begin).await.unwrap();
        }
        mode => {
            let mode = if mode == 2 { Mode::Tcc } else { Mode::TwoPhase };
            coordinator.begin(Begin { mode, ..begin(xid) }).await.unwrap();
            for name in &NAMES[..rng.usize(1..=4)] {
                let lock = format!("{xid}-{name}");
                let mut register =
                    if rng.bool() { locking(xid, name, &[&lock], Duration::ZERO) } else { branch(xid, name) };
                register.kind = match rng.usize(0..3) {
                    0 => Some(BranchKind::Message),
                    1 => Some(BranchKind::TwoPhase),
                    _ => None,
                };
                if register.kind != Some(BranchKind::Message) && mode == Mode::TwoPhase {
                    register.two_phase = TwoPhase { one_phase: rng.bool(), ..TwoPhase::default() };
                }
                coordinator.register(register).await.unwrap();
            }
            if rng.u8(0..4) > 0 {
                drop(coordinator.commit(commit(xid, Wait::Decided)).await);
            } else {
                drop(coordinator.abort(xid, Wait::Decided).await);
            }
        }
    }
    xid
}

/// Brings it to its end, with an operator's help where that is needed.
async fn end(rng: &mut fastrand::Rng, node: &Node, xid: Xid) -> TransactionView {
    for _ in 0..50 {
        let view = node.coordinator.get(xid, Wait::Finished, SOON).await.unwrap();
        if view.status.is_terminal() {
            return view;
        }
        for parked in view.branches.iter().filter(|branch| branch.parked) {
            if rng.bool() {
                let resolve_as = if rng.bool() { ResolveAs::Confirmed } else { ResolveAs::Cancelled };
                let resolve = Resolve { xid, branch_id: parked.id, resolve_as, action: by() };
                drop(node.coordinator.resolve(resolve).await);
            }
        }
        drop(node.coordinator.retry(xid, by()).await);
    }
    panic!("it never ends: {:?}", node.coordinator.get(xid, Wait::Accepted, SOON).await);
}

#[tokio::test(start_paused = true)]
async fn c8_history_tells_what_memory_told() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let (_memory, log) = memory();
    let node = start(log).await;
    let (mut ends, mut parked, mut results) = (Vec::new(), 0, 0);
    for _ in 0..TRANSACTIONS {
        for name in NAMES.into_iter().chain(["sender"]) {
            for operation in Operation::ALL.iter().copied().filter(|operation| *operation != Operation::Try) {
                if let Some(outcome) = says(&mut rng, operation) {
                    node.participants.say(name, operation, outcome);
                }
            }
        }
        let xid = one(&mut rng, &node).await;
        let view = end(&mut rng, &node, xid).await;
        parked += view.timeline.iter().filter(|entry| entry.kind.as_str() == "parked").count();
        results +=
            view.branches.iter().filter(|b| b.step.as_ref().is_some_and(|s| s.result.is_some())).count();
        ends.push(view);
    }
    // What was settled by hand stays in memory for a minute.
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!(node.coordinator.info().states[0].open, 0);
    for live in &ends {
        let mut told = node.coordinator.get(live.xid, Wait::Accepted, SOON).await.unwrap();
        // History does not keep the tag: such a place is no witness. What came after the end moves it.
        assert_eq!(told.position.epoch_tag, 0, "from history");
        told.position = live.position;
        assert_eq!(told, *live);
    }
    let ended = |status: Status| ends.iter().filter(|view| view.status == status).count();
    println!(
        "{} committed, {} aborted, {parked} parked, {results} results",
        ended(Status::Committed),
        ended(Status::Aborted)
    );
    assert!(parked > 0 && results > 0 && ended(Status::Committed) > 0 && ended(Status::Aborted) > 0);
    let name = Name::new("test").unwrap();
    assert!(ends.iter().all(|view| view.name == name.as_str()));
}
