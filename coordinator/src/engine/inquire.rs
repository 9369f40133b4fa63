//! Inquiries: what became of transactions whose branches are in doubt.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::sync::oneshot;
use unanimity_types::{Decision, InquiryAnswer, Status, Xid};

use super::error::Error;
use super::handle::Coordinator;
use super::mailbox::Mail;
use super::refuse::open_elsewhere;
use super::request::Inquiry;

const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// Memory, then history, then the command in the loop, which looks at memory again and aborts what
/// nobody knows, durably, with one append for the batch (protocol C2, M21).
pub(super) async fn inquire(coordinator: &Coordinator, xids: Vec<Xid>) -> Result<Vec<Inquiry>, Error> {
    let mut by_partition: BTreeMap<u16, Vec<Xid>> = BTreeMap::new();
    for xid in &xids {
        let partition = coordinator.partition(*xid)?;
        by_partition.entry(partition.id.0).or_default().push(*xid);
    }
    let mut answers: HashMap<Xid, Inquiry> = HashMap::with_capacity(xids.len());
    let mut failed = None;
    for asked in by_partition.into_values() {
        match ask(coordinator, asked).await {
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

async fn ask(coordinator: &Coordinator, mut asked: Vec<Xid>) -> Result<Vec<Inquiry>, Error> {
    let Some(first) = asked.first() else { return Ok(Vec::new()) };
    let partition = coordinator.partition(*first)?;
    let mut found = Vec::with_capacity(asked.len());
    let mut as_of = None;
    let mut open_in_history = false;
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
        let open = rows.iter().find(|(view, _)| !view.status.is_terminal());
        if let Some((view, _)) = open {
            // Begun meanwhile? Then memory knows it by now.
            if open_in_history {
                return Err(open_elsewhere(partition, view));
            }
            open_in_history = true;
            as_of = None;
            continue;
        }
        for (view, _) in rows {
            asked.retain(|xid| *xid != view.xid);
            found.push(of_status(view.xid, view.status));
        }
        as_of = Some(inquired.as_of);
    }
    Ok(found)
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
