//! What must be true when everything works again: all is settled soon, and what the clients heard, the banks' databases,
//! every coordinator and the log tell one story.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use integration_tests::coordinator::log_verify;
use integration_tests::wait::until;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::clients::{Clients, Mode};
use super::judge::{Entries, History, judge};
use super::stack::Stack;
use super::{faults, snapshots};
use crate::orders::Told;

/// How long the rest may take once everything works again.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// Questions about transfers of unknown outcome at a time.
const ASKED_AT_ONCE: usize = 8;
/// Transfers that every coordinator is asked about in the end.
const ASKED_MAX: usize = 200;
/// Problems that are spelled out.
const PROBLEMS_MAX: usize = 20;

pub(super) struct Verdict {
    pub(super) settled_in: Duration,
    /// How many transfers their clients did not know the outcome of at first, or never.
    pub(super) unknown: usize,
    pub(super) problems: Vec<String>,
}

pub(super) async fn reach(stack: &mut Stack, clients: &Clients) -> anyhow::Result<Verdict> {
    let started = Instant::now();
    until("everything is settled", SETTLE_LIMIT, async || settled(stack).await).await?;
    let settled_in = started.elapsed();
    let unknown = settle_unknown(clients).await?;
    // The aborts of those are transactions too.
    until("the last aborts are settled", SETTLE_LIMIT, async || settled(stack).await).await?;
    let mut problems = other_opinions(stack, clients).await?;
    for node in 0..stack.cluster.nodes.len() {
        faults::cluster::stop(&mut stack.cluster, node).await?;
    }

    let (mut entries, mut total) = (HashMap::<String, Entries>::new(), 0);
    for bank in &stack.stores.banks {
        let mut db = PgConnection::connect(&bank.database_url).await?;
        let snapshot = snapshots::read(&mut db).await?;
        total += snapshot.total;
        problems.extend(snapshot.wrong.into_iter().map(|wrong| format!("{}: {wrong}", bank.name)));
        let sql = "SELECT transfer, account, cents FROM entries";
        let rows: Vec<(String, String, i64)> = sqlx::query_as(sql).fetch_all(&mut db).await?;
        for (transfer, account, cents) in rows {
            entries.entry(transfer).or_default().push(((bank.name, account), cents));
        }
        let held: i64 = sqlx::query_scalar("SELECT count(*) FROM holds").fetch_one(&mut db).await?;
        if held > 0 {
            problems.push(format!("{}: {held} holds are left", bank.name));
        }
        db.close().await?;
    }
    let opening = i64::try_from(stack.stores.banks.len())? * stack.opening();
    if total != opening {
        problems.push(format!("there were {opening} cents in all banks, and there are {total}"));
    }
    problems.extend(judge(&clients.all(), &entries, &history(stack).await?));
    problems.truncate(PROBLEMS_MAX);
    let (code, verified) = log_verify(&stack.cluster.log_url).await?;
    if code != Some(0) || verified["ok"] != true {
        problems.push(format!("log verify: {verified}"));
    }
    Ok(Verdict { settled_in, unknown, problems })
}

/// Nothing is open at the coordinators, prepared in a database, or undelivered in an outbox.
async fn settled(stack: &Stack) -> anyhow::Result<()> {
    for status in ["active", "preparing", "committing", "aborting"] {
        let open = stack.cluster.nodes[0].coordinator.list(status).await?;
        ensure!(open.is_empty(), "{} transactions are {status}, {:?} for one", open.len(), open.first());
    }
    for (place, bank) in stack.stores.banks.iter().enumerate() {
        let mut db = PgConnection::connect(&bank.database_url).await?;
        let sql = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()";
        let prepared: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut db).await?;
        db.close().await?;
        ensure!(prepared.is_empty(), "{}: prepared is {prepared:?}", bank.name);
        let health = stack.health(place).await?;
        ensure!(health["undelivered"] == 0 && health["dead"] == 0, "{}: {health}", bank.name);
        ensure!(health["open"] == 0, "{}: {health}", bank.name);
    }
    // The projection is asynchronous.
    let sql =
        "SELECT xid::text, status FROM transactions WHERE status NOT IN ('committed', 'aborted') LIMIT 5";
    let mut db = PgConnection::connect(&stack.cluster.log_url).await?;
    let open: Vec<(String, String)> = sqlx::query_as(sql).fetch_all(&mut db).await?;
    db.close().await?;
    ensure!(open.is_empty(), "history: {open:?}");
    Ok(())
}

/// Who never heard an outcome asks again: now somebody must know.
async fn settle_unknown(clients: &Clients) -> anyhow::Result<usize> {
    let stories = clients.all();
    let mut unknown: Vec<_> = stories
        .iter()
        .filter(|(_, story)| story.heard.has(Told::Unknown) || story.heard.0.is_empty())
        .map(|(id, story)| (*id, story.wanted.mode))
        .collect();
    unknown.sort();
    let asked = unknown.iter().enumerate().map(async |(number, (id, mode))| {
        let sdk = &clients.sdk[number % clients.sdk.len()];
        // A message whose sender is over and that nobody knows was never prepared: it can be given up, too. What an
        // outbox took its bank's books tell, and the judge reads those.
        if *mode == Mode::Outbox {
            return Ok(());
        }
        let mut told = Told::Unknown;
        if !mode.may_abort() {
            told = clients.ask_sdk(sdk, *id).await;
        }
        if told == Told::Unknown {
            told = clients.settle(sdk, *id).await;
        }
        ensure!(told != Told::Unknown, "the outcome of {id} is still unknown: {:?}", stories.get(id));
        Ok(())
    });
    futures::stream::iter(asked).buffer_unordered(ASKED_AT_ONCE).try_collect::<()>().await?;
    Ok(unknown.len())
}

/// Every coordinator says the same of a transaction, whoever owns it.
async fn other_opinions(stack: &Stack, clients: &Clients) -> anyhow::Result<Vec<String>> {
    let stories = clients.all();
    let mut named: Vec<_> = stories.iter().filter(|(_, story)| story.wanted.mode.is_named()).collect();
    // Those first of which somebody did not know.
    named.sort_by_key(|(id, story)| (!story.heard.has(Told::Unknown), **id));
    let mut problems = Vec::new();
    for (id, story) in named.into_iter().take(ASKED_MAX) {
        for node in &stack.cluster.nodes {
            let told = clients.ask_node(*id, &node.coordinator.url()).await;
            // An abort before anybody registered need not be remembered.
            if told == Told::Unknown && story.heard.has(Told::Committed) {
                problems
                    .push(format!("{} does not know that {id} committed", node.coordinator.process.name()));
            }
        }
    }
    Ok(problems)
}

/// What the log's history says: status, and whether an operator had a hand in it.
async fn history(stack: &Stack) -> anyhow::Result<History> {
    let mut db = PgConnection::connect(&stack.cluster.log_url).await?;
    let sql = "SELECT xid, status, heuristic FROM transactions";
    let rows: Vec<(Uuid, String, bool)> =
        sqlx::query_as(sql).fetch_all(&mut db).await.context("the coordinator's history")?;
    db.close().await?;
    Ok(rows.into_iter().map(|(xid, status, heuristic)| (xid, (status, heuristic))).collect())
}
