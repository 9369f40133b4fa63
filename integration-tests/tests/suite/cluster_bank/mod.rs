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
mod snapshots;
mod stack;
mod transfers;
mod verdict;

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration_tests::output::say;
use integration_tests::wait::until;

use self::clients::Clients;
use self::faults::Fault;
use self::snapshots::Readers;
use self::stack::Stack;
use crate::orders::seed;

/// For how many minutes faults go on: set by `cargo xtask soak`.
const MINUTES_VARIABLE: &str = "UNANIMITY_TEST_SOAK_MINUTES";
/// How many transfers a run of the suite makes, at least.
const TRANSFERS: usize = 3_000;
/// How many faults hit, at least, where all servers are ours.
const FAULTS: usize = 20;
/// The limit of a run of the suite until everything works again, for a machine that is busy with other tests.
const STORY_LIMIT: Duration = Duration::from_secs(600);

/// When a run has had enough.
#[derive(Debug, Clone, Copy)]
enum Bound {
    /// Transfers and faults enough.
    Enough,
    /// So long.
    Time(Duration),
}

impl Bound {
    /// Whether no other round of faults is due.
    fn is_reached(self, elapsed: Duration, faults: usize) -> bool {
        match self {
            Self::Enough => faults > 0,
            Self::Time(limit) => elapsed >= limit,
        }
    }

    /// Whether not even another fault is due.
    fn is_over(self, elapsed: Duration) -> bool {
        match self {
            Self::Enough => elapsed >= STORY_LIMIT,
            Self::Time(limit) => elapsed >= limit,
        }
    }

    /// Waits for what is missing after the faults.
    async fn enough(self, clients: &Clients, started: Instant) -> anyhow::Result<()> {
        let Self::Enough = self else { return Ok(()) };
        until("there are transfers enough", STORY_LIMIT.saturating_sub(started.elapsed()), async || {
            ensure!(clients.made() >= TRANSFERS, "{} of {TRANSFERS}", clients.made());
            Ok(())
        })
        .await
    }
}

async fn survives(test: &str, bound: Bound) {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    say(&format!("{test}: UNANIMITY_SEED={seed} repeats it"));
    let mut stack = Stack::start(test).await.unwrap();
    stack.heal().await.unwrap();
    let (started, opened) = (Instant::now(), Readers::start(&stack));
    let clients = Clients::open(&stack).unwrap();
    let ordering = clients.start(&mut random);
    let happened = faults::of_all_kinds(&mut stack, &clients, bound, &mut random).await;
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
        stack.log.kind(),
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
        for fault in Fault::ALL {
            assert!(happened.contains_key(&fault), "I12: {fault:?} never hit anything (seed {seed})");
        }
        assert!(happened.values().sum::<usize>() >= FAULTS, "too few faults: {happened:?}");
    }
}

/// Enough for every run of the tests; with [`MINUTES_VARIABLE`] as long as one likes (`cargo xtask soak`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_in_all_modes_survive_everything() {
    let bound = std::env::var(MINUTES_VARIABLE).map_or(Bound::Enough, |minutes| {
        let minutes: u64 = minutes.parse().expect("a whole number of minutes");
        Bound::Time(Duration::from_secs(minutes * 60))
    });
    survives("cluster_bank", bound).await;
}
