//! The outbox under kills: real processes, real databases, and what must be true when the dust has settled.
//!
//! Senders place orders at a shop that writes them and their messages in its own transactions (examples/outbox), some
//! of them rolled back at the end. Two relays bring the messages to the coordinator, the warehouse receives them.
//! Shop, relays, coordinator and warehouse are killed at moments that follow from a seed (`UNANIMITY_SEED` repeats one;
//! the interleaving is the machine's). Then each message of a committed transaction must have taken effect once, none
//! of a rolled back one, and each customer's in their order: see [`verdict`].

mod kills;
mod senders;
mod stack;
mod verdict;

use std::time::Instant;

use anyhow::Context as _;
use integration_tests::mariadb::{self, TestMariaDb};
use integration_tests::output::{Scratch, say};
use integration_tests::postgres::{Options, TestPostgres};

use self::senders::Senders;
use self::stack::Stack;
use self::verdict::Verdict;

/// Enough orders in flight that every kill of the shop hits some, little enough for two cores.
const CONCURRENCY: u64 = 8;

/// The seed of this run: the one that is asked for, or a new one.
fn seed() -> u64 {
    match std::env::var("UNANIMITY_SEED") {
        Ok(seed) => seed.parse().expect("UNANIMITY_SEED is a whole number"),
        Err(_) => fastrand::u64(..1_000_000_000),
    }
}

/// Sends at least so many messages under at least so many kills, and judges how it ended.
async fn survives(test: &str, mut stack: Stack, messages: u64, kills: u64) -> Verdict {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    say(&format!("{test}: UNANIMITY_SEED={seed} repeats it"));
    let started = Instant::now();
    stack.start().await.unwrap();
    let senders = Senders::open(&stack, messages).unwrap();
    let sending = senders.start(CONCURRENCY, &mut random);

    let killed = kills::of_everything(&mut stack, &senders, kills, &mut random).await;
    senders.close();
    for sender in sending {
        sender.await.unwrap();
    }
    let killed = killed.with_context(|| format!("seed {seed}")).unwrap();
    stack.heal().await.unwrap();
    let kills_took = started.elapsed();

    let verdict = verdict::reach(&mut stack, &senders).await.with_context(|| format!("seed {seed}")).unwrap();
    say(&format!(
        "{test}: {}; {killed}; {:.0} s, settled in {:.1} s; seed {seed}",
        verdict.counts,
        kills_took.as_secs_f32(),
        verdict.settled_in.as_secs_f32()
    ));
    assert!(
        verdict.problems.is_empty(),
        "seed {seed}: {} problems (logs in {}):\n{}",
        verdict.problems.len(),
        stack.scratch().path().display(),
        verdict.problems.join("\n")
    );
    verdict
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_messages_from_postgres_survive_kills() {
    let test = "i10_messages_from_postgres_survive_kills";
    let scratch = Scratch::new(test).unwrap();
    let postgres = TestPostgres::start(Options::default()).await.unwrap();
    let shop_db = postgres.create_database("shop").await.unwrap();
    let stack = Stack::new(scratch, postgres, None, shop_db).await.unwrap();
    let verdict = survives(test, stack, 10_000, 20).await;
    assert!(verdict.rolled_back > 100, "only {} orders were rolled back", verdict.rolled_back);
    assert!(verdict.dead > 0, "no message was refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_messages_from_mariadb_survive_kills() {
    let test = "i10_messages_from_mariadb_survive_kills";
    let scratch = Scratch::new(test).unwrap();
    let postgres = TestPostgres::start(Options::default()).await.unwrap();
    let mariadb = TestMariaDb::start(mariadb::Options::default()).await.unwrap();
    let shop_db = mariadb.create_database("shop").await.unwrap();
    let stack = Stack::new(scratch, postgres, Some(mariadb), shop_db).await.unwrap();
    survives(test, stack, 1_500, 8).await;
}
