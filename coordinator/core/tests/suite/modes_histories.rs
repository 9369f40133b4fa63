//! Random histories of the other modes, with crashes and takeovers: what participants applied keeps
//! the invariants, and everything ends.
//!
//! A failure prints its seed and its history. `UNANIMITY_SEED=n` runs that one history alone;
//! `UNANIMITY_HISTORIES=n` runs another number of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::modes::{Hits, Kind, World};

/// So many histories of each mode, whatever the machine.
const HISTORIES: u64 = 100_000;
/// Long enough for a transaction's whole life with trouble, short enough for many of them.
const STEPS: u32 = 60;

fn live(world: &mut World) {
    for _ in 0..STEPS {
        world.step();
    }
    world.heal();
}

/// Runs the history again, this time noting what happens.
fn explain(kind: Kind, seed: u64) -> String {
    let mut world = World::new(kind, seed, true);
    let result = catch_unwind(AssertUnwindSafe(|| live(&mut world)));
    let what = if result.is_err() { "failed" } else { "did not fail again" };
    format!("{kind:?}: seed {seed} {what}; UNANIMITY_SEED={seed} runs it alone\n{}", world.report())
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs them all: what the mode can run into must have come up (I12), and nothing else.
fn run(kind: Kind, never: &[&str]) {
    if let Some(seed) = number("UNANIMITY_SEED") {
        println!("{}", explain(kind, seed));
        live(&mut World::new(kind, seed, false));
        return;
    }
    let histories = number("UNANIMITY_HISTORIES").unwrap_or(HISTORIES);
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let work = || {
        let mut hits = Hits::default();
        let mut done = 0;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= histories {
                return (done, hits);
            }
            let mut world = World::new(kind, seed, false);
            let outcome = catch_unwind(AssertUnwindSafe(|| live(&mut world)));
            assert!(outcome.is_ok(), "{}", explain(kind, seed));
            hits.add(&world.hits);
            done += 1;
        }
    };
    let mut hits = Hits::default();
    let mut done = 0;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let (theirs, their_hits) = worker.join().expect("its history failed, see above");
            done += theirs;
            hits.add(&their_hits);
        }
    });
    println!("{kind:?}: seeds 0..{done}, {STEPS} steps each, in {:?}", began.elapsed());
    let list = hits.list();
    for (name, count) in &list {
        println!("{count:>9} {name}");
    }
    assert_eq!(done, histories, "every history ran");
    // What cannot come up in this mode must not, or the list is wrong; everything else must (I12).
    let wrong: Vec<_> =
        list.iter().filter(|(name, count)| (*count == 0) != never.contains(&name.as_str())).collect();
    assert!(wrong.is_empty(), "never came up, or came up and is listed as impossible (I12): {wrong:?}");
}

/// What only sagas run into.
const OF_SAGAS: &[&str] = &[
    "ResultsHandedOn",
    "CleanRefusal",
    "UncleanRefusal",
    "ConflictAfterUnknown",
    "TurnWhileActionRuns",
    "CompensationHeldAfterTakeover",
    "LateActionRefused",
    "LateActionOfKnownResult",
    "KeptAfterItsAction",
    "LateActionArrives",
    "AbortRefusedPastPivot",
    "PivotRefusesCleanly",
    "ResultTooLarge",
    "NullCompensation",
    "CompensationRepeated",
    "ActionRepeated",
    "event ActionDone",
    "event ActionRefused",
    "branch running",
    "branch done",
    "branch to_compensate",
    "branch compensating",
    "branch compensated",
    "branch skipped",
    "branch kept",
    // Of a two-phase branch for a moment only: the same verdict rolls it back.
    "branch refused",
    "attention overdue",
    "abort gave_up",
];
/// What only messages run into.
const OF_MESSAGES: &[&str] = &[
    "CheckBackDuringOpenTransaction",
    "CheckBackSaysNo",
    "CheckBackSaysYes",
    "event CheckBackAsked",
    "branch checking",
    "branch answered",
];
/// What two-phase branches run into.
const OF_TWO_PHASE: &[&str] = &[
    "RollbackWaitsForPrepare",
    "DelegateAskedAgain",
    "DelegateRefuses",
    "AbortRefusedDelegated",
    "DeadlineOfDelegated",
    "EarlyReadOnlyRefused",
    "ReadOnlyOnly",
    "Contradictory",
    "VoteAfterDecision",
    "LatePrepareAborts",
    "event Voted",
    "event PreparesAsked",
    "event Delegated",
    "branch preparing",
    "branch prepared",
    "branch read_only",
    "branch committing",
    "branch committed",
    "branch rolling_back",
    "branch rolled_back",
    "branch delegated",
    "status preparing",
];
/// What transactions run into whose branches register.
const OF_OPEN: &[&str] =
    &["event CommitAsked", "attention participant_refuses", "abort branch_missing", "abort branch_not_voted"];
/// What deliveries run into.
const OF_DELIVERIES: &[&str] = &[
    "DeliveredOnce",
    "DeliveryRepeated",
    "Discarded",
    "branch delivering",
    "branch delivered",
    "branch discarded",
    "status committing",
];
const OF_TCC: &[&str] = &["branch confirming", "branch confirmed", "branch cancelling", "branch cancelled"];
/// What comes with plans.
const OF_PLANS: &[&str] = &["event PlanAccepted"];
/// Only tickets end a transaction with its owner.
const NOBODYS: &[&str] = &["abort owner_changed", "abort ticket_expired"];

#[test]
fn sagas_keep_the_invariants() {
    run(Kind::Saga, &[OF_MESSAGES, OF_TWO_PHASE, OF_OPEN, OF_DELIVERIES, OF_TCC, NOBODYS].concat());
}

#[test]
fn two_phase_transactions_keep_the_invariants() {
    run(Kind::TwoPhase, &[OF_SAGAS, OF_MESSAGES, OF_TCC, OF_PLANS, NOBODYS].concat());
}

#[test]
fn messages_keep_the_invariants() {
    let by_clock = &["abort deadline", "abort operator", "status aborting", "event Returned"];
    run(Kind::Message, &[OF_SAGAS, OF_TWO_PHASE, OF_OPEN, OF_TCC, by_clock, NOBODYS].concat());
}

#[test]
fn mixed_transactions_keep_the_invariants() {
    run(Kind::Mixed, &[OF_SAGAS, OF_MESSAGES, OF_PLANS, NOBODYS].concat());
}
