//! Lists: open transactions from memory, the rest from history, merged newest first. Without branches and
//! timelines: one transaction is looked at for those.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::time::Duration;

use tokio::sync::oneshot;
use unanimity_core::Transaction;
use unanimity_types::{ErrorCode, Timestamp, Xid};
use uuid::Uuid;

use super::detail;
use super::error::Error;
use super::handle::Coordinator;
use super::mailbox::Mail;
use super::peers::Elsewhere;
use super::refuse::unavailable;
use super::request::{ListFilter, Page, PartitionState, TransactionView};
use crate::log::HistoryFilter;

/// How long a partition's part of a page is waited for.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// As many as a page may have.
pub(super) const PAGE_MAX: u32 = 500;

/// Open transactions of all nodes, and history, which they share.
pub(super) async fn list(coordinator: &Coordinator, mut filter: ListFilter) -> Result<Page, Error> {
    filter.limit = filter.limit.clamp(1, PAGE_MAX);
    let now = coordinator.shared.log.now().await.map_err(|error| unavailable(&error))?;
    let begun_before = filter
        .older_than
        .map(|age| Timestamp(now.0.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))));
    // Memory first: what leaves it between the two looks is then in history.
    let in_history = HistoryFilter {
        status: filter.status,
        mode: filter.mode,
        name: filter.name.clone(),
        participant: filter.participant.clone(),
        begun_before,
        attention: filter.attention,
        after: filter.after,
        limit: filter.limit + 1,
    };
    let mut in_memory = filter.clone();
    in_memory.limit += 1;
    // No xid is below this one: what began before the moment comes after this place.
    let first = begun_before.map(|moment| (moment, Xid::new(Uuid::from_u128(1))));
    in_memory.after = filter.after.into_iter().chain(first).min();
    in_memory.older_than = None;
    let peers = coordinator.peers();
    let others = async {
        match &peers {
            Some(peers) => peers.open(in_memory.clone()).await,
            None => Elsewhere::default(),
        }
    };
    let (own, others) = tokio::join!(open_here(coordinator, &in_memory), others);
    let mut live = own?;
    live.extend(others.transactions);
    // A partition that went from one node to another between the two looks.
    let mut seen = HashSet::new();
    live.retain(|view| seen.insert(view.xid));
    let history =
        coordinator.shared.log.list_history(&in_history).await.map_err(|error| unavailable(&error))?;
    let more_in_history = history.more;
    let known = seen;
    let mut all = live;
    for row in history.rows {
        // Rows of open transactions lag behind; memory knows better. A row that says "open" of one
        // that memory does not hold is about to be replaced: show it as it is.
        if !known.contains(&row.xid) {
            all.push(detail::view_of(row)?);
        }
    }
    Ok(Page { missing: others.missing, ..cut(all, filter.limit, more_in_history) })
}

/// The newest open transactions of the partitions that live here.
pub(super) async fn open_here(
    coordinator: &Coordinator,
    filter: &ListFilter,
) -> Result<Vec<TransactionView>, Error> {
    let late = || Error::new(ErrorCode::Unavailable, "a partition does not answer; ask again");
    let mut live = Vec::new();
    for answer in ask_partitions(coordinator, filter)? {
        match tokio::time::timeout(ANSWER_WAIT, answer).await.map_err(|_| late())? {
            Ok(Ok(views)) => live.extend(views),
            // Its life ended meanwhile: its history is shown, as that of one that did not run.
            Ok(Err(error)) if error.elsewhere || error.code == ErrorCode::OutcomeUnknown => {}
            Err(_) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
    Ok(live)
}

/// A partition's answer on its way.
type Answer = oneshot::Receiver<Result<Vec<TransactionView>, Error>>;

fn ask_partitions(coordinator: &Coordinator, filter: &ListFilter) -> Result<Vec<Answer>, Error> {
    let mut answers = Vec::new();
    for partition in &coordinator.shared.partitions {
        // A partition that does not run has nothing in memory that may be shown; its history is.
        if partition.state.borrow().state != PartitionState::Running {
            continue;
        }
        let (reply, answer) = oneshot::channel();
        match coordinator.send(partition, Mail::List { filter: filter.clone(), reply }) {
            Ok(()) => answers.push(answer),
            // It stopped to run since.
            Err(error) if error.elsewhere => {}
            Err(error) => return Err(error),
        }
    }
    Ok(answers)
}

fn cut(mut all: Vec<TransactionView>, limit: u32, more: bool) -> Page {
    all.sort_unstable_by_key(|view| Reverse((view.begun_at, view.xid)));
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = more || all.len() > limit;
    all.truncate(limit);
    let next = if more { all.last().map(|view| (view.begun_at, view.xid)) } else { None };
    Page { transactions: all, next, missing: Vec::new() }
}

/// The newest that are asked for, of all that are open in a partition: one pass, and memory for a page
/// only. Whatever is too old for the page costs a comparison.
pub(super) fn newest<'a>(filter: &ListFilter, open: impl Iterator<Item = &'a Transaction>) -> Vec<Xid> {
    let limit = usize::try_from(filter.limit).unwrap_or(usize::MAX);
    let mut page: BinaryHeap<Reverse<(Timestamp, Xid)>> = BinaryHeap::with_capacity(limit.min(1_024) + 1);
    for transaction in open {
        let place = (transaction.begun_at, transaction.xid);
        let full = page.len() >= limit;
        let too_old = full && page.peek().is_none_or(|Reverse(oldest)| place < *oldest);
        if too_old || filter.after.is_some_and(|after| place >= after) || !matches(filter, transaction) {
            continue;
        }
        if full {
            page.pop();
        }
        page.push(Reverse(place));
    }
    page.into_sorted_vec().into_iter().map(|Reverse((_, xid))| xid).collect()
}

/// Whether a transaction in memory is one of those asked for, wherever its place is.
fn matches(filter: &ListFilter, view: &Transaction) -> bool {
    let by_participant = |wanted: &String| {
        view.branches.iter().any(|branch| branch.targets.iter().any(|target| target.bulkhead() == wanted))
    };
    filter.status.is_none_or(|status| view.status() == status)
        && filter.mode.is_none_or(|mode| view.mode == Some(mode))
        && filter.name.as_ref().is_none_or(|name| view.name.as_ref().is_some_and(|own| own.as_str() == name))
        && filter.participant.as_ref().is_none_or(by_participant)
        && (!filter.attention || view.attention.is_some())
}
