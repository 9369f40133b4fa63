//! Row C14, the trim: what was deleted from the log does not come back, and whoever comes late is refused.

use anyhow::{Context as _, ensure};
use unanimity_proto::{error_from_status, v1};
use uuid::Uuid;

use super::story::Tm;
use super::world::{World, died};

/// Far more than fill the blocks after which the log is trimmed (256).
const EMPTY_MAX: usize = 1_000;

/// Empty transactions, one after the other, until nobody answers; answers those that were committed.
async fn until_trimmed(tm: &Tm<'_>) -> anyhow::Result<Vec<String>> {
    let mut committed = Vec::new();
    for _ in 0..EMPTY_MAX {
        let xid = Uuid::new_v4().to_string();
        let begin = v1::BeginRequest {
            mode: v1::Mode::Tcc.into(),
            xid: xid.clone(),
            timeout_ms: 120_000,
            ..Default::default()
        };
        if tm.client.clone().begin(begin).await.is_err() {
            return Ok(committed);
        }
        let commit = v1::CommitRequest { xid: xid.clone(), ..Default::default() };
        if tm.client.clone().commit(commit).await.is_err() {
            return Ok(committed);
        }
        committed.push(xid);
    }
    anyhow::bail!("{EMPTY_MAX} transactions, and the log was not trimmed")
}

async fn dies_at(point: &str) -> anyhow::Result<()> {
    let mut world = World::new("matrix-c14").await?;
    world.start_to_die(point, 1).await?;
    let committed = until_trimmed(&Tm::new(&world.coordinator.url(), &world.bank)?).await?;
    died(&mut world.coordinator.process, point, 1).await?;
    world.die_recovering("recover.after_read").await?;
    world.start().await?;
    let tm = Tm::new(&world.coordinator.url(), &world.bank)?;
    for xid in [committed.first(), committed.last()] {
        let xid = xid.context("nothing was committed")?.clone();
        let shown = tm.look(&xid).await?.with_context(|| format!("{xid} is forgotten"))?;
        ensure!(shown.status() == v1::Status::Committed, "{shown:?}");
        // Late messages.
        let again =
            tm.client.clone().commit(v1::CommitRequest { xid: xid.clone(), ..Default::default() }).await?;
        ensure!(again.get_ref().status() == v1::Status::Committed, "{again:?}");
        let one = v1::Target { kind: Some(v1::target::Kind::Url(world.bank.url("confirm"))) };
        let targets = v1::BranchTargets { one: Some(one), ..Default::default() };
        let register = v1::RegisterBranchRequest {
            xid: xid.clone(),
            key: "late".to_owned(),
            targets: Some(targets),
            ..Default::default()
        };
        let refused =
            tm.client.clone().register_branch(register).await.err().context("a late branch is in")?;
        let code = error_from_status(&refused).map(|detail| detail.code);
        ensure!(code.as_deref() == Some("already_decided"), "{refused:?}");
        let abort = tm.client.clone().abort(v1::AbortRequest { xid, ..Default::default() }).await;
        ensure!(abort.is_err(), "a committed one was aborted: {abort:?}");
    }
    ensure!(world.bank.calls() == 0, "somebody was called");
    let (code, verified) = integration_tests::coordinator::log_verify(&world.log_url).await?;
    ensure!((code, verified["ok"].as_bool()) == (Some(0), Some(true)), "{verified}");
    Ok(())
}

/// Points at which these tests die.
pub(super) const POINTS: &[&str] = &["clean.before", "clean.after"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c14_what_was_trimmed_stays_over() {
    for point in POINTS {
        dies_at(point).await.map_err(|error| format!("{point}: {error:#}")).unwrap();
    }
}
