//! Rows C12 and C13: two commands race, the coordinator dies around the decision, and both callers learn the same.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use unanimity_proto::{error_from_status, v1};

use super::bank::Reply;
use super::story::{Outcome, Story, Stuck, Tm, Tx, ended};
use super::world::{World, died};

/// What a decision's answer says; `None`: nothing.
fn told(answer: Result<tonic::Response<v1::DecideResponse>, tonic::Status>) -> Option<Outcome> {
    let status = match answer {
        Ok(answer) => answer.get_ref().status(),
        Err(error) => error_from_status(&error).filter(|detail| detail.code == "already_decided")?.status(),
    };
    match status {
        v1::Status::Committing | v1::Status::Committed => Some(Outcome::Committed),
        v1::Status::Aborting | v1::Status::Aborted => Some(Outcome::Aborted),
        _ => None,
    }
}

async fn finish(world: &World, tm: &Tm<'_>, tx: &mut Tx) -> anyhow::Result<Outcome> {
    match tm.finished(tx).await {
        Ok(()) => {}
        Err(Stuck::NoAnswer(why)) => anyhow::bail!("no answer after the restart: {why}"),
        Err(Stuck::Wrong(error)) => return Err(error),
    }
    let outcome = ended(&tm.look(&tx.xid).await?.context("it is unknown")?)?;
    tx.verify(&world.bank, outcome).await?;
    Ok(outcome)
}

/// Begins, with two branches that tried.
async fn two_branches(tm: &Tm<'_>, tx: &Tx) -> anyhow::Result<()> {
    tm.client.clone().begin(tm.begin(tx)).await?;
    for key in ["a", "b"] {
        tm.client.clone().register_branch(tm.branch(tx, key)).await?;
        ensure!(tm.bank.perform(&tx.xid, key, "try").await? == Reply::Done, "{key} cannot try");
    }
    Ok(())
}

/// The deadline and a commit, so close that either may win.
async fn deadline_and_commit(point: &str, before: Duration) -> anyhow::Result<Outcome> {
    let mut world = World::new("matrix-c12").await?;
    world.start_to_die(point, 1).await?;
    let timeout = Duration::from_millis(1_500);
    let mut tx = Tx::new(Story::Tcc, timeout);
    let begun = tokio::time::Instant::now();
    {
        let tm = Tm::new(&world.coordinator.url(), &world.bank)?;
        two_branches(&tm, &tx).await?;
        tokio::time::sleep_until(begun + timeout - before).await;
        let commit = async || {
            let request = v1::CommitRequest { xid: tx.xid.clone(), ..Default::default() };
            tm.client.clone().commit(request).await
        };
        let (first, second) = futures::join!(commit(), commit());
        tx.told.extend([told(first), told(second)].into_iter().flatten());
    }
    died(&mut world.coordinator.process, point, 1).await?;
    world.die_recovering("recover.after_read").await?;
    world.start().await?;
    let tm = Tm::new(&world.coordinator.url(), &world.bank)?;
    for _ in 0..2 {
        let request = v1::CommitRequest { xid: tx.xid.clone(), ..Default::default() };
        tx.told.push(told(tm.client.clone().commit(request).await).context("not told")?);
    }
    finish(&world, &tm, &mut tx).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c12_the_deadline_and_a_commit_have_one_winner() {
    let cases = ["append.after.decided", "append.before.decided"];
    for (point, before) in cases.into_iter().flat_map(|point| [0, 3, 200].map(|ms| (point, ms))) {
        deadline_and_commit(point, Duration::from_millis(before))
            .await
            .map_err(|error| format!("{point}, {before} ms: {error:#}"))
            .unwrap();
    }
}

/// A registration and a commit at once: the branch is in the decided set, or refused.
async fn registration_and_commit(point: &str, commit_after: Duration) -> anyhow::Result<()> {
    let mut world = World::new("matrix-c13").await?;
    world.start_to_die(point, 1).await?;
    let mut tx = Tx::new(Story::Tcc, Duration::from_secs(120));
    {
        let tm = Tm::new(&world.coordinator.url(), &world.bank)?;
        tm.client.clone().begin(tm.begin(&tx)).await?;
        tm.client.clone().register_branch(tm.branch(&tx, "a")).await?;
        ensure!(tm.bank.perform(&tx.xid, "a", "try").await? == Reply::Done, "a cannot try");
        let mut client = tm.client.clone();
        let request = tm.branch(&tx, "b");
        let commit = async {
            tokio::time::sleep(commit_after).await;
            let request = v1::CommitRequest { xid: tx.xid.clone(), ..Default::default() };
            tm.client.clone().commit(request).await
        };
        let (_, committed) = futures::join!(client.register_branch(request), commit);
        tx.told.extend(told(committed));
    }
    died(&mut world.coordinator.process, point, 1).await?;
    world.start().await?;
    let tm = Tm::new(&world.coordinator.url(), &world.bank)?;
    // Both repeat themselves.
    let registered = tm.client.clone().register_branch(tm.branch(&tx, "b")).await;
    let is_in = match registered {
        Ok(_) => true,
        Err(error) => {
            let code = error_from_status(&error).map(|detail| detail.code);
            ensure!(code.as_deref() == Some("already_decided"), "{error:?}");
            // It may have been taken in before the decision, by the first call.
            let shown = tm.look(&tx.xid).await?.context("it is unknown")?;
            shown.branches.iter().any(|branch| branch.key == "b")
        }
    };
    if is_in {
        // As the service does that learns that its branch is registered.
        ensure!(tm.bank.perform(&tx.xid, "b", "try").await? == Reply::Done, "b cannot try");
    }
    let request = v1::CommitRequest { xid: tx.xid.clone(), ..Default::default() };
    tx.told.push(told(tm.client.clone().commit(request).await).context("not told")?);
    if is_in {
        finish(&world, &tm, &mut tx).await.map(drop)
    } else {
        match tm.finished(&mut tx).await {
            Ok(()) => {}
            other => anyhow::bail!("{other:?}"),
        }
        ensure!(!world.bank.states(&tx.xid).await?.contains_key("b"), "a refused branch was called");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_a_registration_that_races_the_decision_is_in_the_set_or_refused() {
    // Whoever wins the race: the commit decides.
    let cases = ["append.before.decided", "append.after.decided"];
    for (point, after) in cases.into_iter().flat_map(|point| [0, 5].map(|ms| (point, ms))) {
        registration_and_commit(point, Duration::from_millis(after))
            .await
            .map_err(|error| format!("{point}, {after} ms: {error:#}"))
            .unwrap();
    }
}
