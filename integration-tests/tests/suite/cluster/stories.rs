//! The stories.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration_tests::output::say;
use integration_tests::wait::until;
use tokio::time::sleep;
use unanimity_sdk::Client;

use super::pumps::Pumps;
use super::steps::{owned_by, restart, stop, whole, work};
use super::{NODES, PARTITIONS, READY_LIMIT, survives};

/// The node's lease, as `EngineConfig` has it.
const LEASE: Duration = Duration::from_secs(6);
/// What a take-over may take beyond the lease.
const TAKEOVER: Duration = Duration::from_secs(2);
/// What a machine that is busy with other tests may add to that; the figure is printed.
const NOISE: Duration = Duration::from_secs(4);

/// Each node is stopped and started, one after the other, while everybody goes on: nobody notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_fails_no_call() {
    let ended = survives(
        "a_rolling_restart_fails_no_call",
        |_, coordinator| coordinator,
        async |stack, load| {
            whole(stack, load).await?;
            work(load).await?;
            let mut took = Vec::new();
            for place in 0..NODES {
                let away = restart(stack, load, place, |_| {}).await?;
                took.push(format!("{:.1} s", away.as_secs_f32()));
            }
            Ok(format!("restarts took {}", took.join(", ")))
        },
    )
    .await;
    assert!(ended.sdk.failed.is_empty(), "{:#?}", &ended.sdk.failed);
    assert!(ended.http.failed.is_empty(), "{:#?}", &ended.http.failed);
    assert!(ended.orders_failed.is_empty(), "{:#?}", &ended.orders_failed);
    assert_eq!(ended.owner_changed, 0);
}

/// F: an owner is killed; its partitions answer again after its lease and a little more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_owner_is_replaced_after_its_lease() {
    survives(
        "a_killed_owner_is_replaced_after_its_lease",
        |_, coordinator| coordinator,
        async |stack, load| {
            whole(stack, load).await?;
            let urls: Vec<_> = stack.coordinators.iter().map(|coordinator| coordinator.url()).collect();
            let client = Client::connect(urls)?;
            let (pumps, tasks) = Pumps::start(&client);
            sleep(Duration::from_secs(3)).await;
            let victim = 1;
            let owned = owned_by(stack, victim).await?;
            load.web.take_out(victim);
            stack.coordinators[victim].process.kill()?;
            let killed = Instant::now();
            until("every partition answers again", LEASE + TAKEOVER + Duration::from_secs(30), async || {
                let silent: Vec<_> =
                    (0..PARTITIONS).filter(|partition| pumps.first_after(*partition, killed).is_none()).collect();
                ensure!(silent.is_empty(), "{silent:?}");
                Ok(())
            })
            .await?;
            let gap = |partition: &u16| pumps.gap(*partition, killed).unwrap_or_default();
            let worst = owned.iter().map(gap).max().context("it owned nothing")?;
            let others = (0..PARTITIONS).filter(|partition| !owned.contains(partition));
            let others = others.map(|partition| gap(&partition)).max().unwrap_or_default();
            let told = format!(
                "{} partitions of the killed node without an answer for at most {:.2} s (lease {LEASE:?}), the others \
                 for {:.2} s",
                owned.len(),
                worst.as_secs_f32(),
                others.as_secs_f32()
            );
            say(&told);
            stack.coordinators[victim].process.start()?;
            whole(stack, load).await?;
            load.web.take_in(victim);
            sleep(Duration::from_secs(2)).await;
            pumps.stop();
            for task in tasks {
                task.await?;
            }
            ensure!(worst <= LEASE + TAKEOVER + NOISE, "{worst:?}");
            Ok(told)
        },
    )
    .await;
}

/// F1: an owner that was frozen beyond its lease wakes up deposed: it writes nothing, says so, and has its share again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_an_owner_that_was_frozen_beyond_its_lease_joins_again() {
    survives(
        "f1_an_owner_that_was_frozen_beyond_its_lease_joins_again",
        |_, coordinator| coordinator,
        async |stack, load| {
            whole(stack, load).await?;
            sleep(Duration::from_secs(2)).await;
            let victim = 2;
            let owned = owned_by(stack, victim).await?;
            load.web.take_out(victim);
            stack.coordinators[victim].process.pause()?;
            until("the others own everything", READY_LIMIT, async || {
                let count = owned_by(stack, 0).await?.len() + owned_by(stack, 1).await?.len();
                ensure!(count == usize::from(PARTITIONS), "{count}");
                Ok(())
            })
            .await?;
            sleep(Duration::from_secs(2)).await;
            let said = stack.coordinators[victim].process.output()?.len();
            stack.coordinators[victim].process.unpause()?;
            whole(stack, load).await?;
            load.web.take_in(victim);
            // What it said since it woke: that it lost what it had.
            let output = stack.coordinators[victim].process.output()?;
            let said = output.get(said..).unwrap_or_default();
            ensure!(
                said.contains("deposed: another owner wrote to the log"),
                "it says nothing of the partitions {owned:?} that it lost: {said}"
            );
            sleep(Duration::from_secs(2)).await;
            Ok(format!("the frozen node owned {} partitions", owned.len()))
        },
    )
    .await;
}

/// M2: wall clocks that are ten minutes ahead and behind change nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m2_wall_clocks_that_are_ten_minutes_apart_change_nothing() {
    let ended = survives(
        "m2_wall_clocks_that_are_ten_minutes_apart_change_nothing",
        |place, coordinator| match place {
            0 => coordinator.set(unanimity_failpoints::CLOCK_VARIABLE, "600000"),
            1 => coordinator.set(unanimity_failpoints::CLOCK_VARIABLE, "-600000"),
            _ => coordinator,
        },
        async |stack, load| {
            whole(stack, load).await?;
            sleep(Duration::from_secs(5)).await;
            // A take-over between clocks that are apart: from the one that is behind to the others, and back.
            let victim = 1;
            load.web.take_out(victim);
            stop(stack, victim).await?;
            stack.coordinators[victim].process.start()?;
            whole(stack, load).await?;
            load.web.take_in(victim);
            sleep(Duration::from_secs(3)).await;
            Ok("clocks +10 min, -10 min and right".to_owned())
        },
    )
    .await;
    assert!(ended.sdk.failed.is_empty(), "{:#?}", &ended.sdk.failed);
    assert!(ended.http.failed.is_empty(), "{:#?}", &ended.http.failed);
    assert!(ended.orders_failed.is_empty(), "{:#?}", &ended.orders_failed);
    assert_eq!(ended.owner_changed, 0);
}
