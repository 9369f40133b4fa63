//! What a participant does by itself about prepared branches: asks the coordinator, and does what it
//! says. Without its word nothing prepared is touched (reliability, row P4).
//!
//! At the start everything that is prepared is asked about, since whoever prepared it may have died
//! with it; after that only what stays prepared for longer than ordinary transactions take.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use unanimity_types::{InquiryAnswer, LogId, Operation, Xid};

use crate::error::ClientError;
use crate::fence::FenceDatabase;
use crate::participant::Shared;
use crate::participant::in_doubt::{ask_about, is_over, older_than, pause};
use crate::participant::order::Answer;
use crate::participant::two_phase::{Named, apply, managers};
use crate::wall_clock::now_ms;
use crate::xa::{Gid, TwoPhaseCall, XaError};

/// Ledger rows in one page: as many as one inquiry takes.
const PAGE: u32 = 1_000;

/// What one pass could not do.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error(transparent)]
    Manager(#[from] XaError),
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Asks about prepared branches, for as long as the participant runs.
pub(in crate::participant) async fn run<DB: FenceDatabase>(shared: Arc<Shared<DB>>) {
    let managers = managers(&shared);
    if managers.is_empty() {
        return;
    }
    let mut age = Duration::ZERO;
    loop {
        match sweep(&shared, &managers, age).await {
            Ok(()) => age = shared.settings.in_doubt_after,
            Err(error) => {
                tracing::warn!(participant = %shared.name, %error, "prepared branches could not be asked about");
            }
        }
        if !pause(&shared, shared.settings.in_doubt_every).await {
            return;
        }
    }
}

/// Collects the records of settled branches, for as long as the participant runs.
pub(in crate::participant) async fn run_collection<DB: FenceDatabase>(shared: Arc<Shared<DB>>) {
    let managers = managers(&shared);
    if managers.is_empty() {
        return;
    }
    while pause(&shared, shared.settings.collect_every).await {
        for named in &managers {
            match collect(&shared, named).await {
                Ok(0) => {}
                Ok(rows) => tracing::debug!(participant = %shared.name, rows, "ledger rows collected"),
                Err(error) => {
                    tracing::warn!(participant = %shared.name, operation = %named.0, %error, "ledger rows could not be collected");
                }
            }
        }
    }
}

/// One pass over all that is prepared for at least so long. One manager that fails keeps none of the
/// others from being looked through.
async fn sweep<DB: FenceDatabase>(
    shared: &Arc<Shared<DB>>,
    managers: &[Named],
    age: Duration,
) -> Result<(), PassError> {
    let log_id = shared.client.learn_log().await?;
    let mut failed = None;
    // Several managers may be in one database.
    let mut seen = HashSet::new();
    for named in managers {
        let swept = sweep_one(shared, named, log_id, age, &mut seen).await;
        if let Err(error) = swept {
            failed = Some(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn sweep_one<DB: FenceDatabase>(
    shared: &Arc<Shared<DB>>,
    named: &Named,
    log_id: LogId,
    age: Duration,
    seen: &mut HashSet<Gid>,
) -> Result<(), PassError> {
    let listed = named.1.list_in_doubt(log_id).await?;
    let old = listed.ours.into_iter().filter(|branch| branch.age >= age);
    let branches: Vec<_> = old.filter(|branch| seen.insert(branch.gid)).collect();
    let ages = branches
        .iter()
        .map(|branch| (branch.gid.xid(), u64::try_from(branch.age.as_millis()).unwrap_or(u64::MAX)));
    let answers = answers(shared, log_id, ages).await?;
    let mut work = Vec::new();
    for gid in branches.into_iter().map(|branch| branch.gid) {
        let operation = match answers.get(&gid.xid()).map(|(answer, _)| *answer) {
            Some(InquiryAnswer::Committed) => Operation::Commit,
            Some(InquiryAnswer::Aborted) => Operation::Rollback,
            Some(InquiryAnswer::Forgotten) => {
                let message = format!(
                    "{gid} is prepared, and its transaction is older than the coordinator's history: find out by \
                     other means and finish it by hand"
                );
                shared.attention.raise_at("forgotten", Some(gid.xid()), None, message);
                continue;
            }
            Some(InquiryAnswer::NotMine) => {
                let message = format!(
                    "{gid} is prepared and belongs to another coordinator's log: nothing is done with it"
                );
                shared.attention.raise_at("not_mine", Some(gid.xid()), None, message);
                continue;
            }
            Some(InquiryAnswer::Active) | None => continue,
        };
        work.push(finish(shared, named, gid, operation));
    }
    futures::future::join_all(work).await;
    Ok(())
}

/// Does what the coordinator said, in its turn among the operations in hand.
async fn finish<DB: FenceDatabase>(shared: &Arc<Shared<DB>>, named: &Named, gid: Gid, operation: Operation) {
    let Ok(permit) = Arc::clone(&shared.permits).acquire_owned().await else { return };
    let (this, manager) = (Arc::clone(shared), Arc::clone(&named.1));
    let done = shared.unstoppable(async move {
        let _permit = permit;
        let call = TwoPhaseCall::new(gid, None, Vec::new());
        apply(&this, manager.as_ref(), operation, &call).await
    });
    match done.await {
        Ok(Answer::Done) => tracing::info!(%gid, %operation, "a branch in doubt was settled"),
        Ok(other) => tracing::warn!(%gid, %operation, answer = ?other, "a branch in doubt stays prepared"),
        Err(panic) => tracing::error!(%gid, %operation, %panic, "the resource manager panicked"),
    }
}

/// One pass over all settled records that are old enough; answers how many are gone.
async fn collect<DB: FenceDatabase>(shared: &Arc<Shared<DB>>, named: &Named) -> Result<usize, PassError> {
    let Some(log_id) = shared.client.log_id() else { return Ok(0) };
    let before = older_than(shared.settings.collect_after);
    let (mut after, mut collected) = (None, 0);
    loop {
        let rows = named.1.list_settled(log_id, before, after.clone(), PAGE).await?;
        let Some(last) = rows.last() else { return Ok(collected) };
        after = Some(last.clone());
        let now = now_ms();
        let ages = rows
            .iter()
            .map(|row| (row.gid.xid(), u64::try_from(now.saturating_sub(row.updated_at_ms)).unwrap_or(0)));
        let answers = answers(shared, log_id, ages).await?;
        for row in &rows {
            // Settled, not only decided: no operation of it can come any more (protocol H9).
            if answers.get(&row.gid.xid()).is_some_and(|answer| is_over(*answer))
                && named.1.run_forget(&row.gid).await?
            {
                collected += 1;
            }
        }
        if shared.stop.is_cancelled() {
            return Ok(collected);
        }
    }
}

async fn answers<DB: FenceDatabase>(
    shared: &Shared<DB>,
    log_id: LogId,
    aged: impl Iterator<Item = (Xid, u64)>,
) -> Result<BTreeMap<Xid, (InquiryAnswer, bool)>, ClientError> {
    let mut ages: BTreeMap<Xid, u64> = BTreeMap::new();
    for (xid, age) in aged {
        let oldest = ages.entry(xid).or_default();
        *oldest = age.max(*oldest);
    }
    if ages.is_empty() {
        return Ok(BTreeMap::new());
    }
    let answers = ask_about(shared, BTreeMap::from([(Some(log_id), ages)])).await?;
    Ok(answers.into_iter().map(|((xid, _), answer)| (xid, answer)).collect())
}
