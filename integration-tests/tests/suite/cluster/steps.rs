//! What stories are made of.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration_tests::process::Process;
use integration_tests::wait::until;

use super::{Load, NODES, PARTITIONS, READY_LIMIT};
use crate::orders::Stack;

/// Waits until every node has its share, everybody who works for the shop is attached, and the counter to all nodes.
pub(crate) async fn whole(stack: &mut Stack, load: &Load) -> anyhow::Result<()> {
    stack.heal().await?;
    until("a session with every node", READY_LIMIT, async || {
        let attached = load.callers.counter().attached().await?;
        ensure!(attached == NODES, "{attached} of {NODES}");
        Ok(())
    })
    .await?;
    until("every node has its share", READY_LIMIT, async || {
        for place in 0..NODES {
            let owned = owned_by(stack, place).await?;
            let least = usize::from(PARTITIONS) / NODES;
            ensure!((least..=least + 1).contains(&owned.len()), "coordinator-{place} owns {owned:?}");
        }
        Ok(())
    })
    .await
}

/// Lets everybody work for a while: so much that each restart is one under load, however slow the machine is.
pub(crate) async fn work(load: &Load) -> anyhow::Result<()> {
    let done = || (load.callers.heard().calls, load.web.heard().calls, load.customers.placed());
    let (sdk, http, orders) = done();
    until("everybody works", READY_LIMIT, async || {
        let now = done();
        ensure!(now.0 >= sdk + 40 && now.1 >= http + 80 && now.2 >= orders + 10, "{now:?}");
        Ok(())
    })
    .await
}

/// The partitions that work at a node.
pub(crate) async fn owned_by(stack: &Stack, place: usize) -> anyhow::Result<Vec<u16>> {
    let (_, info) = stack.coordinators[place].get("/v1/info").await?;
    let partitions = info["partition_states"].as_array().with_context(|| format!("no partitions: {info}"))?;
    let running = partitions.iter().filter(|partition| partition["state"] == "running");
    Ok(running.filter_map(|partition| partition["partition"].as_u64()?.try_into().ok()).collect())
}

/// Stops a node in good order.
pub(crate) async fn stop(stack: &mut Stack, place: usize) -> anyhow::Result<()> {
    let process = &mut stack.coordinators[place].process;
    process.terminate()?;
    let exit = process.exit(READY_LIMIT).await?;
    ensure!(exit.success(), "coordinator-{place} ended with {exit}:\n{}", process.tail());
    Ok(())
}

/// Stops a node in good order and starts it, changed, while everybody goes on; then all is whole, and everybody works
/// for a while. Answers how long it was away.
pub(crate) async fn restart(
    stack: &mut Stack,
    load: &Load,
    place: usize,
    change: impl FnOnce(&mut Process),
) -> anyhow::Result<Duration> {
    load.web.take_out(place);
    let started = Instant::now();
    stop(stack, place).await?;
    change(&mut stack.coordinators[place].process);
    stack.coordinators[place].process.start()?;
    stack.coordinators[place].ready(READY_LIMIT).await?;
    load.web.take_in(place);
    let took = started.elapsed();
    whole(stack, load).await?;
    work(load).await?;
    Ok(took)
}
