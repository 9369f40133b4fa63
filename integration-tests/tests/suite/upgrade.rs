//! M18: a cluster is upgraded node by node, from a version that knows block format 1 to one that writes format 2, and nobody
//! notices.
//!
//! The old binary is the new one that is told to know no more (`UNANIMITY_TEST_FORMAT`): what else differs between
//! two versions is not shown here.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use integration_tests::process::Process;
use integration_tests::wait::until;
use sqlx::{Connection as _, PgConnection};

use crate::cluster::steps::{restart, stop, whole, work};
use crate::cluster::{NODES, READY_LIMIT, survives_from};
use crate::orders::{FORMAT_VARIABLE, Stack};

const OLD: u16 = 1;
const NEW: u16 = 2;

fn to_old(process: &mut Process) {
    process.set(FORMAT_VARIABLE, OLD.to_string());
}

fn to_new(process: &mut Process) {
    process.unset(FORMAT_VARIABLE);
}

/// What the cluster writes, as a node tells it, and what that node knows.
async fn formats(stack: &Stack, place: usize) -> anyhow::Result<(u64, u64)> {
    let (status, cluster) = stack.coordinators[place].get("/v1/cluster").await?;
    ensure!(status == 200, "{status}: {cluster}");
    let name = stack.coordinators[place].process.name();
    let nodes = cluster["nodes"].as_array().with_context(|| cluster.to_string())?;
    let own = nodes.iter().find(|node| node["node"] == name).with_context(|| cluster.to_string())?;
    let known = own["formats"].as_u64().with_context(|| own.to_string())?;
    Ok((cluster["format"].as_u64().with_context(|| cluster.to_string())?, known))
}

/// The formats of all blocks that are in the log.
async fn written(stack: &Stack) -> anyhow::Result<BTreeSet<u16>> {
    let mut db = PgConnection::connect(&stack.coordinator_db_url).await?;
    let versions: Vec<i32> =
        sqlx::query_scalar("SELECT DISTINCT version::integer FROM log_blocks").fetch_all(&mut db).await?;
    db.close().await?;
    Ok(versions.into_iter().map(u16::try_from).collect::<Result<_, _>>()?)
}

/// Not before everybody knows the new format is it written.
async fn still_old(stack: &Stack, when: &str) -> anyhow::Result<()> {
    for place in 0..NODES {
        let (format, _) = formats(stack, place).await?;
        ensure!(format == u64::from(OLD), "{when}: coordinator-{place} says that format {format} is written");
    }
    let written = written(stack).await?;
    ensure!(written == BTreeSet::from([OLD]), "{when}: {written:?} are in the log");
    Ok(())
}

/// Starts a node that stopped as the old version, which must end by itself and say what to do.
async fn is_refused(stack: &mut Stack, place: usize) -> anyhow::Result<()> {
    let process = &mut stack.coordinators[place].process;
    let said = process.output()?.len();
    to_old(process);
    process.start()?;
    let exit = process.exit(READY_LIMIT).await?;
    let output = process.output()?;
    let words = output.get(said..).unwrap_or_default();
    ensure!(!exit.success(), "it ended as if it had been asked to: {words}");
    for what in
        ["this cluster writes block format 2", "use the version of Unanimity that the other nodes run"]
    {
        ensure!(words.contains(what), "it does not say {what:?}: {words}");
    }
    to_new(process);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m18_a_rolling_upgrade_between_two_block_formats_fails_no_call() {
    let ended = survives_from(
        "m18_a_rolling_upgrade_between_two_block_formats_fails_no_call",
        Some(OLD),
        |_, coordinator| coordinator.set(FORMAT_VARIABLE, &OLD.to_string()),
        async |stack, load| {
            whole(stack, load).await?;
            work(load).await?;
            still_old(stack, "before the upgrade").await?;
            // The first node, and back again: nothing holds it.
            restart(stack, load, 0, to_new).await?;
            ensure!(formats(stack, 0).await? == (1, 2), "one new node of three");
            still_old(stack, "with one new node").await?;
            restart(stack, load, 0, to_old).await?;
            ensure!(formats(stack, 0).await? == (1, 1), "rolled back");
            still_old(stack, "rolled back").await?;
            // All of them.
            for place in 0..NODES {
                still_old(stack, &format!("with {place} new nodes")).await?;
                restart(stack, load, place, to_new).await?;
            }
            until("the new format is agreed on", READY_LIMIT, async || {
                for place in 0..NODES {
                    let formats = formats(stack, place).await?;
                    ensure!(formats == (2, 2), "coordinator-{place}: {formats:?}");
                }
                Ok(())
            })
            .await?;
            work(load).await?;
            let all = written(stack).await?;
            ensure!(all == BTreeSet::from([OLD, NEW]), "{all:?} are in the log");
            // There is no way back, and a node that tries it harms nobody. What it had others recover meanwhile,
            // from blocks of both formats, and so does it when it is back.
            let late = NODES - 1;
            load.web.take_out(late);
            stop(stack, late).await?;
            is_refused(stack, late).await?;
            work(load).await?;
            stack.coordinators[late].process.start()?;
            whole(stack, load).await?;
            load.web.take_in(late);
            work(load).await?;
            Ok("from block format 1 to 2, with a step back".to_owned())
        },
    )
    .await;
    assert!(ended.sdk.failed.is_empty(), "{:#?}", &ended.sdk.failed);
    assert!(ended.http.failed.is_empty(), "{:#?}", &ended.http.failed);
    assert!(ended.orders_failed.is_empty(), "{:#?}", &ended.orders_failed);
    assert_eq!(ended.owner_changed, 0);
}
