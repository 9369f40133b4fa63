//! Transactions to history rows and back to views.
//!
//! A row's `detail` is compact JSON that the SQL views `transactions` and `branches` unpack:
//!
//! ```text
//! {"b": [[id, key, target, status, attempts, error, resolved_by, resolved_reason, more], …],
//!  "t": [[at_ms, event, branch_id, detail], …],
//!  "a": [code, message, since_ms, branch_id]}
//! ```
//!
//! What a look shows is the same before and after a transaction left memory; a test compares the two.

use serde::{Deserialize, Serialize};
use unanimity_core::{
    Attention, AttentionCode, Branch, BranchView, StepView, TimelineEntry, TimelineKind, Transaction,
};
use unanimity_types::{
    BranchId, BranchKind, BranchStatus, Epoch, ErrorCode, LogPosition, PartitionId, Seq, Timestamp,
};

use super::error::Error;
use super::request::TransactionView;
use crate::log::HistoryRow;

#[derive(Debug, Serialize, Deserialize)]
struct Detail<B> {
    b: Vec<B>,
    t: Vec<(u64, String, u32, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    a: Option<(String, String, u64, u32)>,
}

/// id, key, target, status, attempts, error, `resolved_by`, `resolved_reason`, and what a branch is
/// besides a plain TCC one.
type DetailBranch = (u32, String, String, String, u32, String, String, String, More);

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

/// As it was written before there was more than TCC, or since.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum AnyBranch {
    Now(DetailBranch),
    Before((u32, String, String, String, u32, String, String, String)),
}

impl From<AnyBranch> for DetailBranch {
    fn from(any: AnyBranch) -> Self {
        match any {
            AnyBranch::Now(branch) => branch,
            AnyBranch::Before((id, key, target, status, attempts, error, by, reason)) => {
                (id, key, target, status, attempts, error, by, reason, More::default())
            }
        }
    }
}

/// What is empty is left out.
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

fn more_of(view: &BranchView) -> More {
    More {
        kind: if view.kind == BranchKind::Tcc { String::new() } else { view.kind.as_str().to_owned() },
        parked: view.parked,
        lock_keys: view.lock_keys.clone(),
        step: view.step.as_ref().map(|step| {
            let after = step.after.iter().map(|id| id.0).collect();
            (step.role.as_str().to_owned(), after, step.result.clone())
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
    let mut participants: Vec<String> = transaction
        .branches
        .iter()
        .flat_map(|branch| branch.targets.iter())
        .map(|target| target.bulkhead().to_owned())
        .collect();
    participants.sort_unstable();
    participants.dedup();
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
        participants,
        detail: detail_of(transaction),
        epoch,
        seq,
    }
}

fn detail_of(transaction: &Transaction) -> String {
    let detail = Detail {
        b: transaction
            .branches
            .iter()
            .map(|branch| {
                let view = shown(branch);
                let more = more_of(&view);
                let (by, reason) = view.resolved.unwrap_or_default();
                let error = view.last_error.unwrap_or_default();
                let status = view.status.as_str().to_owned();
                (view.id.0, view.key, view.target, status, view.attempts, error, by, reason, more)
            })
            .collect(),
        t: transaction
            .timeline
            .iter()
            .map(|entry| {
                let detail = entry.detail.as_deref().unwrap_or_default().to_owned();
                (entry.at.0, entry.kind.as_str().to_owned(), entry.branch_id.map_or(0, |id| id.0), detail)
            })
            .collect(),
        a: transaction.attention.as_ref().map(|attention| {
            let branch = attention.branch_id.map_or(0, |id| id.0);
            (attention.code.as_str().to_owned(), attention.message.to_string(), attention.since.0, branch)
        }),
    };
    // Strings and numbers always serialise.
    serde_json::to_string(&detail).unwrap_or_default()
}

/// What a row tells, as a view.
///
/// # Errors
/// `internal` if the row's detail is not of the shape that we write.
pub(super) fn view_of(row: HistoryRow) -> Result<TransactionView, Error> {
    let detail: Detail<AnyBranch> = serde_json::from_str(&row.detail).map_err(|error| {
        Error::new(ErrorCode::Internal, format!("the history row of {} is not readable: {error}", row.xid))
            .about(row.xid)
    })?;
    let branches = detail.b.into_iter().map(|branch| branch_of(branch.into())).collect::<Option<Vec<_>>>();
    let timeline = detail
        .t
        .into_iter()
        .map(|(at, kind, branch, detail)| {
            Some(TimelineEntry {
                at: Timestamp(at),
                kind: TimelineKind::from_word(&kind)?,
                branch_id: (branch > 0).then_some(BranchId(branch)),
                detail: (!detail.is_empty()).then(|| detail.into()),
            })
        })
        .collect::<Option<Vec<_>>>();
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

fn branch_of(branch: DetailBranch) -> Option<BranchView> {
    let (id, key, target, status, attempts, error, by, reason, more) = branch;
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
        key,
        target,
        status: status.parse::<BranchStatus>().ok()?,
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
        branches: transaction.branches.iter().map(shown).collect(),
        timeline: transaction
            .timeline
            .iter()
            .map(|entry| TimelineEntry {
                detail: entry.detail.clone().filter(|detail| !detail.is_empty()),
                ..entry.clone()
            })
            .collect(),
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
        let now = r#"{"b":[[1,"k","a | b","compensating",2,"no","","",{"k":"step","p":true,"s":["pivot",[1],"r"]}],
            [2,"l","x","registered",0,"","","",{"l":["sku-7"]}]],"t":[]}"#;
        let view = view_of(row(now)).expect("readable");
        assert!(view.branches[0].parked && view.branches[0].kind == BranchKind::Step);
        assert_eq!(view.branches[1].lock_keys, ["sku-7"]);
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
