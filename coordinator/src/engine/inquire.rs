//! Inquiries: what became of transactions whose branches are in doubt.
//!
//! "Nobody knows it" is evidence only as far back as history goes: what an asker has had for longer than that
//! is forgotten, not aborted (protocol C8).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use tokio::sync::oneshot;
use unanimity_types::{Decision, ErrorCode, InquiryAnswer, PartitionId, Status, Timestamp, Xid};

use super::error::Error;
use super::handle::Coordinator;
use super::mailbox::Mail;
use super::open_row;
use super::partition::contact::minted_at;
use super::refuse::unavailable;
use super::request::{Asked, Inquiry};

const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// How long the answer about other transactions is kept back for a partition that nobody owns at the moment: longer
/// than a hand-over.
const OWNER_WAIT: Duration = Duration::from_secs(2);

/// An asker's age is as good as its clock, and the question was on its way: so near to where history ends
/// it counts as beyond.
const AGE_DOUBT: Duration = Duration::from_secs(3_600);

/// Memory, then history, then the command in the loop, which looks at memory again and aborts what
/// nobody knows, durably, with one append for the batch (protocol C2, M21). Partitions are asked side by side, those
/// of other nodes within `limit`.
pub(super) async fn inquire(
    coordinator: &Coordinator,
    asked: Vec<Asked>,
    limit: Duration,
) -> Result<Vec<Inquiry>, Error> {
    let xids: Vec<Xid> = asked.iter().map(|asked| asked.xid).collect();
    let mut by_partition: BTreeMap<PartitionId, Vec<Asked>> = BTreeMap::new();
    for asked in asked {
        by_partition.entry(coordinator.partition(asked.xid)?.id).or_default().push(asked);
    }
    let mut answers: HashMap<Xid, Inquiry> = HashMap::with_capacity(xids.len());
    let mut failed = None;
    // Nobody else's answer is kept back where there is one partition only.
    let owner_wait = if by_partition.len() == 1 { limit } else { limit.min(OWNER_WAIT) };
    let parts = by_partition.into_iter().map(|(partition, asked)| async move {
        match coordinator.peers() {
            Some(peers) if !coordinator.is_here(partition) => {
                peers.inquire(partition, asked, owner_wait).await
            }
            _ => ask(coordinator, asked).await,
        }
    });
    for part in futures::future::join_all(parts).await {
        match part {
            Ok(inquiries) => answers.extend(inquiries.into_iter().map(|inquiry| (inquiry.xid, inquiry))),
            Err(error) => failed = Some(error),
        }
    }
    // One partition in trouble keeps nobody else's branches in doubt: its xids are left out, which
    // tells their participants nothing, and they ask again.
    if answers.is_empty()
        && let Some(error) = failed
    {
        return Err(error);
    }
    Ok(xids.into_iter().filter_map(|xid| answers.get(&xid).copied()).collect())
}

/// Asks about transactions of one partition of this node.
pub(super) async fn ask(coordinator: &Coordinator, asked: Vec<Asked>) -> Result<Vec<Inquiry>, Error> {
    let mut ages: HashMap<Xid, Duration> = HashMap::new();
    for Asked { xid, age } in &asked {
        // Asked twice in one batch: the older record counts.
        if let Some(age) = age {
            let longest = ages.entry(*xid).or_insert(*age);
            *longest = (*age).max(*longest);
        }
    }
    let mut asked: Vec<Xid> = asked.into_iter().map(|asked| asked.xid).collect();
    let Some(first) = asked.first() else { return Ok(Vec::new()) };
    let partition = coordinator.partition(*first)?;
    let mut found = Vec::with_capacity(asked.len());
    let mut as_of = None;
    let mut open_in_history = HashSet::new();
    while !asked.is_empty() {
        let (reply, answer) = oneshot::channel();
        coordinator.send(partition, Mail::Inquire { xids: asked, as_of, reply })?;
        let inquired = coordinator.answer(partition, answer, ANSWER_WAIT).await??;
        found.extend(inquired.known);
        asked = inquired.unknown;
        if asked.is_empty() {
            break;
        }
        let rows = coordinator.history(&asked).await?;
        let open: Vec<Xid> =
            rows.iter().filter(|(view, _)| !view.status.is_terminal()).map(|(view, _)| view.xid).collect();
        if !open.is_empty() {
            for xid in open {
                // Begun meanwhile? Then memory knows it by now.
                if open_in_history.insert(xid) {
                    continue;
                }
                match open_row::settle(coordinator, partition, xid, inquired.as_of).await {
                    Ok(()) => {}
                    Err(error) if error.code == ErrorCode::Forgotten => {
                        asked.retain(|asked| *asked != xid);
                        found.push(Inquiry { xid, answer: InquiryAnswer::Forgotten, settled: false });
                    }
                    Err(error) => return Err(error),
                }
            }
            as_of = None;
            continue;
        }
        for (view, _) in rows {
            asked.retain(|xid| *xid != view.xid);
            found.push(of_status(view.xid, view.status));
        }
        // After the look into history, never before: the floor rises with what is dropped.
        for xid in forgotten(coordinator, partition.id, &asked, &ages, inquired.restored_at).await? {
            asked.retain(|asked| *asked != xid);
            found.push(Inquiry { xid, answer: InquiryAnswer::Forgotten, settled: false });
        }
        as_of = Some(inquired.as_of);
    }
    Ok(found)
}

/// Those that history may have known and dropped: the asker's record of them is older than what is kept.
/// A branch registered before its transaction finished, and only what finished below the floor was dropped.
/// And those that may be from before the log was restored from a backup.
async fn forgotten(
    coordinator: &Coordinator,
    partition: PartitionId,
    unknown: &[Xid],
    ages: &HashMap<Xid, Duration>,
    restored_at: Option<Timestamp>,
) -> Result<Vec<Xid>, Error> {
    if unknown.is_empty() || (restored_at.is_none() && unknown.iter().all(|xid| !ages.contains_key(xid))) {
        return Ok(Vec::new());
    }
    let log = &coordinator.shared.log;
    let floor = log.history_floor(partition).await.map_err(|error| unavailable(&error))?;
    if floor == Timestamp(0) && restored_at.is_none() {
        return Ok(Vec::new());
    }
    let now = log.now().await.map_err(|error| unavailable(&error))?;
    let before = if floor == Timestamp(0) { floor } else { floor.after(AGE_DOUBT) };
    let is_forgotten = |xid: &&Xid| {
        let age = ages.get(xid).copied();
        let dropped = age.is_some_and(|age| ago(now, age) < before);
        dropped || restored_at.is_some_and(|at| may_be_from_before(**xid, age, now, at))
    };
    Ok(unknown.iter().filter(is_forgotten).copied().collect())
}

/// Whether a transaction that nobody knows may be from before a restore: by the asker's age for it, or by when its xid says
/// that it was minted. What says neither may be.
pub(super) fn may_be_from_before(
    xid: Xid,
    age: Option<Duration>,
    now: Timestamp,
    restored_at: Timestamp,
) -> bool {
    let begun = age.map(|age| ago(now, age)).or_else(|| minted_at(xid));
    begun.is_none_or(|begun| begun < restored_at.after(AGE_DOUBT))
}

fn ago(now: Timestamp, age: Duration) -> Timestamp {
    Timestamp(now.0.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)))
}

/// What a status means to a participant in doubt.
pub(super) fn of_status(xid: Xid, status: Status) -> Inquiry {
    let answer = match status.decision() {
        None => InquiryAnswer::Active,
        Some(Decision::Commit) => InquiryAnswer::Committed,
        Some(Decision::Abort) => InquiryAnswer::Aborted,
    };
    Inquiry { xid, answer, settled: status.is_terminal() }
}
