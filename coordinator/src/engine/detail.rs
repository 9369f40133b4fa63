//! Transactions to history rows and back to views.
//!
//! A row's `detail` is compact JSON that the SQL views `transactions` and `branches` unpack:
//!
//! ```text
//! {"b": [[id, key, target, status, attempts, error, resolved_by, resolved_reason, more], …],
//!  "d": [[ms after the begin, event, branch_id, detail], …],
//!  "a": [code, message, since_ms, branch_id]}
//! ```
//! What is empty at the end of an array is left out. A key that begins with its target's text is `[rest]`; a
//! status and an event are numbers. Rows from before have words for both, and a timeline "t" with absolute
//! times.
//!
//! What a look shows is the same before and after a transaction left memory; a test compares the two. The
//! text is written by hand, since a partition's loop writes one for every transaction; it is read by serde.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use unanimity_core::{
    Attention, AttentionCode, Branch, BranchView, StepView, TimelineEntry, TimelineKind, Transaction,
};
use unanimity_types::{
    BranchId, BranchKind, BranchStatus, Epoch, ErrorCode, LogPosition, PartitionId, Seq, Timestamp,
};

use super::error::Error;
use super::request::TransactionView;
use crate::log::{HistoryRow, of_branch_status, to_branch_status};

/// A branch as people see it, live and in history alike. An empty text says nothing; a result with U+0000,
/// which databases do not store in text (protocol M5), is as little text as one that is no UTF-8.
fn shown(branch: &Branch) -> BranchView {
    let mut view = branch.view();
    view.last_error.take_if(|error| error.is_empty());
    if let Some(step) = &mut view.step {
        step.result.take_if(|result| result.contains('\0'));
    }
    view
}

/// What a branch is besides a plain TCC one. What is empty is left out.
#[derive(Debug, Default, Serialize, Deserialize)]
struct More {
    #[serde(rename = "k", default, skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(rename = "p", default, skip_serializing_if = "std::ops::Not::not")]
    parked: bool,
    #[serde(rename = "l", default, skip_serializing_if = "Vec::is_empty")]
    lock_keys: Vec<String>,
    /// Role, the numbers of the steps before it, and the result if it is text.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    step: Option<(String, Vec<u32>, Option<String>)>,
}

fn more_of(view: BranchView) -> More {
    More {
        kind: if view.kind == BranchKind::Tcc { String::new() } else { view.kind.as_str().to_owned() },
        parked: view.parked,
        lock_keys: view.lock_keys,
        step: view.step.map(|step| {
            let after = step.after.iter().map(|id| id.0).collect();
            (step.role.as_str().to_owned(), after, step.result)
        }),
    }
}

/// A transaction's row, as it is now; the caller sees to it that this is durable.
pub(super) fn row_of(
    transaction: &Transaction,
    partition: PartitionId,
    epoch: Epoch,
    seq: Seq,
) -> HistoryRow {
    let targets = transaction.branches.iter().flat_map(|branch| branch.targets.iter());
    let mut names: Vec<&str> = targets.map(|target| target.bulkhead()).collect();
    names.sort_unstable();
    names.dedup();
    HistoryRow {
        xid: transaction.xid,
        partition,
        mode: transaction.mode,
        name: transaction.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        status: transaction.status(),
        decision: transaction.decision.as_ref().map(|record| record.decision),
        abort_reason: transaction.abort_reason(),
        digest: transaction.digest,
        begun_at: transaction.begun_at,
        deadline: transaction.deadline,
        decided_at: transaction.decision.as_ref().map(|record| record.at),
        finished_at: transaction.finished_at,
        attention: transaction.attention.as_ref().map(|attention| attention.code.as_str().to_owned()),
        heuristic: transaction.has_heuristic(),
        participants: names.into_iter().map(str::to_owned).collect(),
        detail: detail_of(transaction),
        epoch,
        seq,
    }
}

fn detail_of(transaction: &Transaction) -> String {
    // A branch of the SDK takes some 80 bytes, an event some 10.
    let room = 48 + 96 * transaction.branches.len() + 12 * transaction.timeline.len();
    let mut out = String::with_capacity(room);
    let mut scratch = String::new();
    out.push_str("{\"b\":[");
    for (place, branch) in transaction.branches.iter().enumerate() {
        separate(&mut out, place);
        write_branch(&mut out, &mut scratch, branch);
    }
    out.push_str("],\"d\":[");
    for (place, entry) in transaction.timeline.iter().enumerate() {
        separate(&mut out, place);
        write_event(&mut out, transaction.begun_at, entry);
    }
    out.push(']');
    if let Some(attention) = &transaction.attention {
        out.push_str(",\"a\":[");
        text(&mut out, attention.code.as_str());
        out.push(',');
        text(&mut out, &attention.message);
        number(&mut out, attention.since.0);
        number(&mut out, attention.branch_id.map_or(0, |id| id.0));
        out.push(']');
    }
    out.push('}');
    out
}

fn write_branch(out: &mut String, scratch: &mut String, branch: &Branch) {
    // Writing to a text never fails.
    let _ = write!(out, "[{},", branch.id.0);
    scratch.clear();
    let _ = write!(scratch, "{}\n{}", branch.targets, branch.key);
    let (target, key) = scratch.rsplit_once('\n').unwrap_or_default();
    match key.strip_prefix(target).filter(|_| !target.is_empty()) {
        Some(rest) => {
            out.push('[');
            text(out, rest);
            out.push(']');
        }
        None => text(out, key),
    }
    out.push(',');
    text(out, target);
    match of_branch_status(branch.status) {
        Some(code) => number(out, code),
        None => {
            out.push(',');
            text(out, branch.status.as_str());
        }
    }
    let plain = branch.kind == BranchKind::Tcc
        && !branch.parked
        && branch.lock_keys.is_empty()
        && branch.step.is_none()
        && branch.resolved.is_none()
        && branch.last_error.is_none();
    if !plain {
        write_rest(out, shown(branch));
    } else if branch.attempts > 0 {
        number(out, branch.attempts);
    }
    out.push(']');
}

/// What most branches do not have.
fn write_rest(out: &mut String, mut view: BranchView) {
    number(out, view.attempts);
    let (by, reason) = view.resolved.take().unwrap_or_default();
    let error = view.last_error.take().unwrap_or_default();
    let texts = [error, by, reason];
    let more = more_of(view);
    let has_more = !more.kind.is_empty() || more.parked || !more.lock_keys.is_empty() || more.step.is_some();
    let last =
        if has_more { texts.len() } else { texts.iter().rposition(|t| !t.is_empty()).map_or(0, |n| n + 1) };
    for one in &texts[..last] {
        out.push(',');
        text(out, one);
    }
    if has_more {
        out.push(',');
        // Strings and numbers always serialise.
        out.push_str(&serde_json::to_string(&more).unwrap_or_default());
    }
}

fn write_event(out: &mut String, begun_at: Timestamp, entry: &TimelineEntry) {
    // Partition time never goes backwards.
    let _ = write!(out, "[{}", entry.at.0.saturating_sub(begun_at.0));
    number(out, event_number(entry.kind));
    let detail = entry.detail.as_deref().unwrap_or_default();
    let branch = entry.branch_id.map_or(0, |id| id.0);
    if branch > 0 || !detail.is_empty() {
        number(out, branch);
    }
    if !detail.is_empty() {
        out.push(',');
        text(out, detail);
    }
    out.push(']');
}

/// The numbers that the log knows them by too: only ever added to.
fn event_number(kind: TimelineKind) -> usize {
    TimelineKind::ALL.iter().position(|known| *known == kind).map_or(0, |place| place + 1)
}

fn separate(out: &mut String, place: usize) {
    if place > 0 {
        out.push(',');
    }
}

fn number(out: &mut String, number: impl std::fmt::Display) {
    let _ = write!(out, ",{number}");
}

/// A JSON text.
fn text(out: &mut String, text: &str) {
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        // A text always serialises.
        out.push_str(&serde_json::to_string(text).unwrap_or_default());
    }
}

#[derive(Debug, Deserialize)]
struct Detail {
    #[serde(default)]
    b: Vec<DetailBranch>,
    /// After the begin.
    #[serde(default)]
    d: Vec<DetailEvent>,
    /// As it was written before, at absolute times.
    #[serde(default)]
    t: Vec<DetailEvent>,
    #[serde(default)]
    a: Option<(String, String, u64, u32)>,
}

/// An array: what is missing at its end is empty.
#[derive(Debug, Deserialize)]
struct DetailBranch {
    id: u32,
    key: Key,
    target: String,
    status: Word,
    #[serde(default)]
    attempts: u32,
    #[serde(default)]
    error: String,
    #[serde(default)]
    by: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    more: More,
}

#[derive(Debug, Deserialize)]
struct DetailEvent {
    at: u64,
    kind: Word,
    #[serde(default)]
    branch: u32,
    #[serde(default)]
    detail: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Key {
    Whole(String),
    /// After the target's text.
    Rest((String,)),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Word {
    Number(i64),
    Word(String),
}

impl Word {
    fn status(&self) -> Option<BranchStatus> {
        match self {
            Self::Number(number) => to_branch_status(*number),
            Self::Word(word) => word.parse().ok(),
        }
    }

    fn event(&self) -> Option<TimelineKind> {
        match self {
            Self::Number(number) => {
                let place = usize::try_from(*number).ok()?.checked_sub(1)?;
                TimelineKind::ALL.get(place).copied()
            }
            Self::Word(word) => TimelineKind::from_word(word),
        }
    }
}

/// What a row tells, as a view.
///
/// # Errors
/// `internal` if the row's detail is not of the shape that we write.
pub(super) fn view_of(row: HistoryRow) -> Result<TransactionView, Error> {
    let detail: Detail = serde_json::from_str(&row.detail).map_err(|error| {
        Error::new(ErrorCode::Internal, format!("the history row of {} is not readable: {error}", row.xid))
            .about(row.xid)
    })?;
    let branches = detail.b.into_iter().map(branch_of).collect::<Option<Vec<_>>>();
    let before = detail.t.into_iter().map(|event| event_of(event, 0));
    let since = detail.d.into_iter().map(|event| event_of(event, row.begun_at.0));
    let timeline = before.chain(since).collect::<Option<Vec<_>>>();
    let (Some(branches), Some(timeline)) = (branches, timeline) else {
        let message = format!("the history row of {} has words that this version does not know", row.xid);
        return Err(Error::new(ErrorCode::Internal, message).about(row.xid));
    };
    let attention = detail.a.and_then(|(code, message, since, branch)| {
        Some(Attention {
            code: AttentionCode::from_word(&code)?,
            branch_id: (branch > 0).then_some(BranchId(branch)),
            message: message.into(),
            since: Timestamp(since),
        })
    });
    Ok(TransactionView {
        xid: row.xid,
        mode: row.mode,
        name: row.name,
        status: row.status,
        decision: row.decision,
        abort_reason: row.abort_reason,
        begun_at: row.begun_at,
        deadline: row.deadline,
        decided_at: row.decided_at,
        finished_at: row.finished_at,
        branches,
        timeline,
        attention,
        // The epoch's tag is not kept in history: such a place is shown, never a witness.
        position: LogPosition { partition: row.partition, epoch: row.epoch, epoch_tag: 0, seq: row.seq },
    })
}

fn event_of(event: DetailEvent, since: u64) -> Option<TimelineEntry> {
    let DetailEvent { at, kind, branch, detail } = event;
    Some(TimelineEntry {
        at: Timestamp(since.saturating_add(at)),
        kind: kind.event()?,
        branch_id: (branch > 0).then_some(BranchId(branch)),
        detail: (!detail.is_empty()).then(|| detail.into()),
    })
}

fn branch_of(branch: DetailBranch) -> Option<BranchView> {
    let DetailBranch { id, key, target, status, attempts, error, by, reason, more } = branch;
    let kind = if more.kind.is_empty() { BranchKind::Tcc } else { more.kind.parse().ok()? };
    let step = match more.step {
        Some((role, after, result)) => {
            let after = after.into_iter().map(BranchId).collect();
            Some(StepView { role: role.parse().ok()?, after, result })
        }
        None => None,
    };
    Some(BranchView {
        id: BranchId(id),
        key: match key {
            Key::Whole(key) => key,
            Key::Rest((rest,)) => format!("{target}{rest}"),
        },
        target,
        status: status.status()?,
        attempts,
        last_error: (!error.is_empty()).then_some(error),
        next_attempt_at: None,
        resolved: (!by.is_empty() || !reason.is_empty()).then_some((by, reason)),
        kind,
        parked: more.parked,
        lock_keys: more.lock_keys,
        step,
    })
}

/// What a transaction in memory tells, as a view.
pub(super) fn live_view(transaction: &Transaction, position: LogPosition) -> TransactionView {
    let timeline = transaction.timeline.iter().map(|entry| TimelineEntry {
        detail: entry.detail.clone().filter(|detail| !detail.is_empty()),
        ..entry.clone()
    });
    TransactionView {
        branches: transaction.branches.iter().map(shown).collect(),
        timeline: timeline.collect(),
        ..brief_view(transaction, position)
    }
}

/// The same without branches and timeline: as lists show it.
pub(super) fn brief_view(transaction: &Transaction, position: LogPosition) -> TransactionView {
    TransactionView {
        xid: transaction.xid,
        mode: transaction.mode,
        name: transaction.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        status: transaction.status(),
        decision: transaction.decision.as_ref().map(|record| record.decision),
        abort_reason: transaction.abort_reason(),
        begun_at: transaction.begun_at,
        deadline: transaction.deadline,
        decided_at: transaction.decision.as_ref().map(|record| record.at),
        finished_at: transaction.finished_at,
        branches: Vec::new(),
        timeline: Vec::new(),
        attention: transaction.attention.clone(),
        position,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimity_types::{Digest, Mode, Status, Xid};

    fn row(detail: &str) -> HistoryRow {
        HistoryRow {
            xid: Xid::from_slice(&[1; 16]).expect("not nil"),
            partition: PartitionId(0),
            mode: Some(Mode::Tcc),
            name: String::new(),
            status: Status::Active,
            decision: None,
            abort_reason: None,
            digest: Digest::default(),
            begun_at: Timestamp(1),
            deadline: Timestamp(2),
            decided_at: None,
            finished_at: None,
            attention: None,
            heuristic: false,
            participants: Vec::new(),
            detail: detail.to_owned(),
            epoch: Epoch(1),
            seq: Seq(1),
        }
    }

    #[test]
    fn rows_of_before_branches_had_kinds_stay_readable() {
        let before = r#"{"b":[[1,"k","stock/reserve","registered",0,"","",""]],"t":[[5,"begun",0,""]]}"#;
        let view = view_of(row(before)).expect("readable");
        let branch = &view.branches[0];
        assert_eq!((branch.kind, branch.parked, branch.step.is_none()), (BranchKind::Tcc, false, true));
        let now = r##"{"b":[[1,["#1"],"a | b",20,2,"no","","",{"k":"step","p":true,"s":["pivot",[1],"r"]}],
            [2,"l","x","registered",0,"","","",{"l":["sku-7"]}],[3,"m","y",1]],"d":[[4,3,0,"commit"],[5,10]]}"##;
        let view = view_of(row(now)).expect("readable");
        assert!(view.branches[0].parked && view.branches[0].kind == BranchKind::Step);
        assert_eq!(
            (view.branches[0].key.as_str(), view.branches[0].status),
            ("a | b#1", BranchStatus::Compensating)
        );
        assert_eq!(view.branches[1].lock_keys, ["sku-7"]);
        assert_eq!((view.branches[2].status, view.branches[2].attempts), (BranchStatus::Registered, 0));
        let told: Vec<_> = view.timeline.iter().map(|entry| (entry.at.0, entry.kind)).collect();
        assert_eq!(told, [(5, TimelineKind::Decided), (6, TimelineKind::Finished)]);
        assert_eq!(view.timeline[0].detail.as_deref(), Some("commit"));
        assert!(view_of(row(r#"{"b":[[1,"k"]],"t":[]}"#)).is_err());
    }

    /// M5: a row that lost its texts still tells its status, to people and to inquiries.
    #[test]
    fn m5_a_row_that_was_stored_bare_stays_readable() {
        let bare = crate::log::bare_row(&row("{}"));
        let view = view_of(bare).expect("readable");
        assert_eq!((view.status, view.branches.len()), (Status::Active, 0));
    }
}
