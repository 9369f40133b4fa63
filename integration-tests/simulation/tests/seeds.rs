//! Two thousand seeds, of which fifty run twice: every invariant at every step, then liveness, and every fault and
//! situation really met (I1 to I12). `cargo xtask simulate --seed S` replays one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use unanimity_simulation::{Hits, run, watch_panics};

const SEEDS: u64 = 2_000;
/// These run twice: the same seed, the same trace, byte by byte.
const TWICE: u64 = 50;

/// Seeds that failed once, and what they found. Those beyond the two thousand run besides.
const FOUND: &[(u64, &str)] = &[
    (
        679,
        "an owner left on the lost line of a log wrote an open row into history, and its xid was never answered (C8)",
    ),
    (893, "the same row kept a whole batch of inquiries without an answer (C2, M21)"),
];

#[test]
fn i1_to_i12_hold_over_two_thousand_seeds() {
    watch_panics();
    let besides: Vec<u64> = FOUND.iter().map(|(seed, _)| *seed).filter(|seed| *seed > SEEDS).collect();
    let seeds: Vec<u64> = (1..=SEEDS).chain(besides).collect();
    let next = AtomicUsize::new(0);
    let found = Mutex::new((Hits::default(), Vec::new()));
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                    let report = run(seed, false).expect("a runtime");
                    let again = (seed <= TWICE).then(|| run(seed, false).expect("a runtime").hash);
                    let mut found = found.lock().expect("no panic");
                    found.0.merge(&report.hits);
                    if let Some(why) = report.failure {
                        let before = FOUND.iter().find(|(found, _)| *found == seed);
                        let before = before.map(|(_, what)| format!(" (found before: {what})"));
                        found.1.push(format!("seed {seed}: {why}{}", before.unwrap_or_default()));
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
