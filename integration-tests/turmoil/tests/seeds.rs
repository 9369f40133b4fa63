//! Forty seeds of real gRPC over a simulated network: nobody hears two outcomes, every transfer is made at both banks or
//! at none, all works again after healing, and every fault and situation was really met (I1, I2, I4, I5, I11, I12).
//! `UNANIMITY_SEED=S` runs one.
#![allow(clippy::print_stdout, reason = "figures belong to the output")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use unanimity_turmoil::{Hit, Hits, run, watch_panics};

const SEEDS: u64 = 40;

#[test]
fn i1_i2_i4_i5_i11_hold_over_real_grpc_on_a_simulated_network() {
    watch_panics();
    if let Ok(seed) = std::env::var("UNANIMITY_SEED") {
        let seed = seed.parse().expect("UNANIMITY_SEED is a number");
        let report = run(seed);
        println!(
            "seed {seed}: {} transfers in {:?}\n{}",
            report.transfers,
            report.simulated,
            report.hits.table()
        );
        assert!(report.failure.is_none(), "seed {seed}: {}", report.failure.unwrap_or_default());
        return;
    }
    let next = AtomicU64::new(1);
    let found = Mutex::new((Hits::default(), Vec::new(), 0));
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > SEEDS {
                        return;
                    }
                    let report = run(seed);
                    let (transfers, simulated) = (report.transfers, report.simulated);
                    println!("seed {seed}: {transfers} transfers in {simulated:?}");
                    let mut found = found.lock().expect("no panic");
                    found.0.merge(&report.hits);
                    found.2 += report.transfers;
                    if let Some(why) = report.failure {
                        found.1.push(format!("seed {seed}: {why}"));
                    }
                }
            });
        }
    });
    let (hits, failures, transfers) = found.into_inner().expect("no panic");
    println!("{SEEDS} seeds, {transfers} transfers\n{}", hits.table());
    assert!(failures.is_empty(), "run one again with UNANIMITY_SEED=S:\n{}", failures.join("\n"));
    let missing: Vec<_> = hits.missing().into_iter().map(Hit::words).collect();
    assert!(missing.is_empty(), "never met in {SEEDS} seeds (I12): {missing:?}");
}
