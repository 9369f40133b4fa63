//! Random histories with crashes: the invariants hold after every step, and everything ends.
//!
//! A failure prints its seed and its history. `UNANIMITY_SEED=n` runs that one history alone;
//! `UNANIMITY_HISTORIES=n` runs another number of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::model::{Hit, Hits, World};

/// So many histories, whatever the machine.
const HISTORIES: u64 = 100_000;
/// Long enough for a transaction's whole life with trouble, short enough for many of them.
const STEPS: u32 = 100;

fn live(world: &mut World) {
    for _ in 0..STEPS {
        world.step();
    }
    world.heal();
}

/// Runs the history again, this time noting what happens.
fn explain(seed: u64) -> String {
    let mut world = World::new(seed, true);
    let result = catch_unwind(AssertUnwindSafe(|| live(&mut world)));
    let what = if result.is_err() { "failed" } else { "did not fail again" };
    format!("history of seed {seed} {what}; UNANIMITY_SEED={seed} runs it alone\n{}", world.report())
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn histories_with_crashes_keep_the_invariants() {
    if let Some(seed) = number("UNANIMITY_SEED") {
        println!("{}", explain(seed));
        live(&mut World::new(seed, false));
        return;
    }
    let histories = number("UNANIMITY_HISTORIES").unwrap_or(HISTORIES);
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let run = || {
        let mut hits = Hits::default();
        let mut done = 0;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= histories {
                return (done, hits);
            }
            let mut world = World::new(seed, false);
            let outcome = catch_unwind(AssertUnwindSafe(|| live(&mut world)));
            assert!(outcome.is_ok(), "{}", explain(seed));
            hits.add(&world.hits);
            done += 1;
        }
    };
    let mut hits = Hits::default();
    let mut done = 0;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        for worker in workers {
            let (theirs, their_hits) = worker.join().expect("its history failed, see above");
            done += theirs;
            hits.add(&their_hits);
        }
    });
    println!("{done} histories of {STEPS} steps in {:?}", began.elapsed());
    for hit in Hit::ALL {
        println!("{:>9} {hit:?}", hits.of(*hit));
    }
    assert_eq!(done, histories, "every history ran");
    let missed: Vec<_> = Hit::ALL.iter().filter(|hit| hits.of(**hit) == 0).collect();
    assert!(missed.is_empty(), "these situations never came up (I12): {missed:?}");
}
