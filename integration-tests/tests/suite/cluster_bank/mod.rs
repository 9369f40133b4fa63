//! The bank of a cluster: three coordinators over one log, three banks with a database each, transfers in all modes, and
//! everything that can go wrong with processes, networks, databases and clocks.
//!
//! Clients make transfers without a pause while faults happen at moments that follow from a seed (`UNANIMITY_SEED` repeats
//! one; the interleaving is the machine's). Every consistent snapshot of a bank must add up at any time
//! ([`snapshots`]); when everything works again all is settled within a minute, and clients, books, coordinators and the
//! log tell one story ([`verdict`]). A fault that never hit anything fails the run (I12).

mod callers;
mod clients;
mod faults;
mod judge;
mod plan;
mod snapshots;
mod stack;
mod transfers;
mod verdict;

use std::time::Instant;

use anyhow::Context as _;
use integration_tests::output::say;

use self::clients::Clients;
use self::faults::{Fault, lanes};
use self::plan::{FAULTS, Plan};
use self::snapshots::Readers;
use self::stack::Stack;
use crate::orders::seed;

async fn survives(test: &str, plan: Plan) {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    say(&format!("{test}: UNANIMITY_SEED={seed} repeats it"));
    let mut stack = Stack::start(test, plan).await.unwrap();
    stack.heal().await.unwrap();
    let (started, opened) = (Instant::now(), Readers::start(&stack));
    let clients = Clients::open(&stack).unwrap();
    let ordering = clients.start(plan, &mut random);
    let happened = lanes::of_all_kinds(&mut stack, &clients, plan, &mut random).await;
    clients.close();
    for client in ordering {
        client.await.unwrap();
    }
    let happened = happened.with_context(|| format!("seed {seed}")).unwrap();
    stack.heal().await.with_context(|| format!("seed {seed}: healing")).unwrap();
    let took = started.elapsed();
    let verdict = verdict::reach(&mut stack, &clients).await;
    let mut verdict = verdict.with_context(|| format!("seed {seed}")).unwrap();
    let (taken, missed, wrong) = opened.stop();
    verdict.problems.extend(wrong);
    say(&format!(
        "{test}: transfers {}: {}; unknown at some time {}, all known in the end; faults {}: {happened:?}; snapshots \
         {taken}, databases away at {missed}; databases: {}; {:.0} s, settled in {:.1} s; seed {seed}",
        clients.made(),
        clients.counts(),
        verdict.unknown,
        happened.values().sum::<usize>(),
        stack.stores.log.kind(),
        took.as_secs_f32(),
        verdict.settled_in.as_secs_f32()
    ));
    assert!(
        verdict.problems.is_empty(),
        "seed {seed}: {} problems (logs in {}):\n{}",
        verdict.problems.len(),
        stack.scratch.path().display(),
        verdict.problems.join("\n")
    );
    assert!(taken > 0, "no snapshot was read");
    assert_eq!(clients.idle_modes(), [], "I12: no transfer committed in these modes (seed {seed})");
    if stack.owns_databases() {
        for fault in Fault::all() {
            assert!(happened.contains_key(&fault), "I12: {fault:?} never hit anything (seed {seed})");
        }
        assert!(happened.values().sum::<usize>() >= FAULTS, "too few faults: {happened:?}");
    }
}

/// Enough for every run of the tests; as long as one likes with `cargo xtask soak`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_in_all_modes_survive_everything() {
    survives("cluster_bank", Plan::from_environment().unwrap()).await;
}
