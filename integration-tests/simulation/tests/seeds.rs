//! Two thousand seeds, of which fifty run twice: every invariant at every step, then liveness, and every fault and
//! situation really met (I1 to I12). `cargo xtask simulate --seed S` replays one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use unanimity_simulation::{Hits, run, watch_panics};

const SEEDS: u64 = 2_000;
/// These run twice: the same seed, the same trace, byte by byte.
const TWICE: u64 = 50;

/// Found and not mended yet (docs/testing.md): in these a branch stays open after healing. They are to go on failing so
/// and in no other way; one that passes is taken out.
const OPEN: &[u64] = &[679, 893];

#[test]
fn i1_to_i12_hold_over_two_thousand_seeds() {
    watch_panics();
    let next = AtomicU64::new(1);
    let found = Mutex::new((Hits::default(), Vec::new()));
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > SEEDS {
                        return;
                    }
                    let report = run(seed, false).expect("a runtime");
                    let again = (seed <= TWICE).then(|| run(seed, false).expect("a runtime").hash);
                    let mut found = found.lock().expect("no panic");
                    found.0.merge(&report.hits);
                    let is_open = OPEN.contains(&seed);
                    match report.failure {
                        Some(why) if is_open && why.starts_with("I5: after healing there is still") => {
                            println!("seed {seed}, known and open: {why}");
                        }
                        Some(why) => found.1.push(format!("seed {seed}: {why}")),
                        None if is_open => found.1.push(format!("seed {seed} holds: take it out of OPEN")),
                        None => {}
                    }
                    if again.is_some_and(|again| again != report.hash) {
                        found.1.push(format!("seed {seed}: two runs, two traces"));
                    }
                }
            });
        }
    });
    let (hits, failures) = found.into_inner().expect("no panic");
    println!("{}", hits.table());
    assert!(failures.is_empty(), "replay with `cargo xtask simulate --seed S`:\n{}", failures.join("\n"));
    let missing: Vec<_> = hits.missing().into_iter().map(unanimity_simulation::Hit::words).collect();
    assert!(missing.is_empty(), "never met in {SEEDS} seeds (I12): {missing:?}");
}
