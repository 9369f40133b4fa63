//! Rules for history rows that all implementations share: which row wins, and what can be stored.

use std::time::Duration;

use serde::de::IgnoredAny;
use serde_json::Value;
use unanimity_types::mutant::{self, Mutant};
use unanimity_types::{Decision, PartitionId, Seq, Timestamp};

use super::{Error, HistoryBatch, HistoryFilter, HistoryRow};

/// The attention code of a row that lost text which no database can store (protocol M5).
pub const UNSTORABLE_TEXT: &str = "unstorable_text";

/// The most rows of a page: what a page of a list shows, with room.
pub const HISTORY_PAGE_MAX: u32 = 1_000;

/// Whether `new` replaces `old` (protocol H12): only upwards by (epoch, seq); a terminal row only
/// by a recorded heuristic that leaves the status as it is.
pub(super) fn replaces(old: &HistoryRow, new: &HistoryRow) -> bool {
    let upwards = (new.epoch, new.seq) > (old.epoch, old.seq);
    if mutant::is(Mutant::StaleProjectionWins) {
        return true;
    }
    upwards && (!old.status.is_terminal() || (new.heuristic && new.status == old.status))
}

/// Checks what the tables' CHECK constraints say, so that the memory log is as strict as they are.
pub(super) fn check_batch(partitions: u16, batch: &HistoryBatch) -> Result<(), Error> {
    if batch.partition.0 >= partitions {
        return Err(no_partition(batch.partition));
    }
    let mut seen = std::collections::HashSet::with_capacity(batch.rows.len());
    for row in &batch.rows {
        let wrong = if row.partition != batch.partition {
            "belongs to another partition"
        } else if row.status.decision() != row.decision {
            "has a decision that is not its status's"
        } else if row.abort_reason.is_some() && row.decision != Some(Decision::Abort) {
            "has an abort reason without an abort"
        } else if !seen.insert(row.xid) {
            "is there twice"
        } else {
            continue;
        };
        return Err(Error::Refused(format!("the history row of {} {wrong}", row.xid)));
    }
    Ok(())
}

/// How many rows a page of this filter has at most.
pub(super) fn page_limit(filter: &HistoryFilter) -> usize {
    usize::try_from(filter.limit.clamp(1, HISTORY_PAGE_MAX)).unwrap_or(1)
}

/// The error for a partition that the log does not have.
pub(super) fn no_partition(partition: PartitionId) -> Error {
    Error::Refused(format!("this log has no partition {partition}"))
}

/// The error for rows about a log that is not this one, or not any more (protocol C8, H6).
pub(super) fn not_on_this_line(partition: PartitionId, seq: Seq) -> Error {
    Error::Refused(format!(
        "history is not written: partition {partition} does not hold the block {seq} that it would speak of; the log \
         lost its tail, or another owner went on and trimmed it"
    ))
}

/// The error for a trim of blocks that no durable block says are not needed (protocol H17).
pub(super) fn trim_above_floor(partition: PartitionId, floor: Seq, recorded: Seq) -> Error {
    Error::Refused(format!(
        "partition {partition} cannot be trimmed below {floor}: its last block records the floor {recorded}"
    ))
}

/// The row as it can be stored: without U+0000, which neither `text` nor `json` take, and with a
/// detail that is a JSON object (protocol M5). What had to be changed gets attention.
pub(super) fn storable(mut row: HistoryRow) -> HistoryRow {
    let texts = [Some(&row.name), row.attention.as_ref()];
    let clean_texts = texts.into_iter().flatten().chain(&row.participants).all(|text| !text.contains('\0'));
    // Escapes of U+0000 and of halves of a pair, which only a parser can tell from whole ones.
    let suspicious = ["\\u0000", "\\ud", "\\uD"].iter().any(|escape| row.detail.contains(escape));
    let clean_detail = is_object(&row.detail) && !suspicious;
    if clean_texts && clean_detail {
        return row;
    }
    let mut lost = !clean_texts;
    row.name = strip(&row.name);
    for participant in &mut row.participants {
        *participant = strip(participant);
    }
    if !clean_detail {
        lost |= clean_json(&mut row);
    }
    if lost {
        row.attention = Some(UNSTORABLE_TEXT.to_owned());
    }
    row
}

/// The row with nothing in it that a database could object to: the last resort for a row that the
/// database refused for its data. What matters stays: xid, status, decision, times.
pub(crate) fn bare(row: &HistoryRow) -> HistoryRow {
    HistoryRow {
        name: String::new(),
        participants: Vec::new(),
        detail: bare_detail(row.begun_at),
        attention: Some(UNSTORABLE_TEXT.to_owned()),
        ..row.clone()
    }
}

/// The row as lists show it: of its detail only what needs attention.
pub(super) fn brief(row: &HistoryRow) -> HistoryRow {
    let attention = serde_json::from_str::<Value>(&row.detail).ok().and_then(|mut detail| {
        let attention = detail.as_object_mut()?.remove("a").filter(|_| row.attention.is_some())?;
        Some(serde_json::json!({ "a": attention }).to_string())
    });
    HistoryRow { detail: attention.unwrap_or_else(|| "{}".to_owned()), ..row.clone() }
}

/// The moment before which history that finished is dropped.
pub(super) fn cut(now: Timestamp, retention: Duration) -> Timestamp {
    Timestamp(now.0.saturating_sub(u64::try_from(retention.as_millis()).unwrap_or(u64::MAX)))
}

fn bare_detail(since: Timestamp) -> String {
    format!(
        "{{\"b\":[],\"t\":[],\"a\":[\"{UNSTORABLE_TEXT}\",\
         \"the database cannot store a text of this transaction\",{},0]}}",
        since.0
    )
}

pub(super) fn strip(text: &str) -> String {
    text.replace('\0', "")
}

fn is_object(text: &str) -> bool {
    text.starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Cleans the detail; answers whether something was lost. (`\\u0000`, an escaped backslash before
/// `u0000`, looks suspicious and is harmless.)
fn clean_json(row: &mut HistoryRow) -> bool {
    match serde_json::from_str::<Value>(&row.detail) {
        Ok(mut value @ Value::Object(_)) => {
            let lost = clean_value(&mut value);
            if lost {
                row.detail = value.to_string();
            }
            lost
        }
        Ok(_) | Err(_) => {
            row.detail = bare_detail(row.begun_at);
            true
        }
    }
}

fn clean_value(value: &mut Value) -> bool {
    match value {
        Value::String(text) => {
            let lost = text.contains('\0');
            if lost {
                *text = strip(text);
            }
            lost
        }
        // `filter` and `count`, not `any`: every item is to be cleaned, not only the first.
        Value::Array(items) => {
            items.iter_mut().filter_map(|item| clean_value(item).then_some(())).count() > 0
        }
        Value::Object(fields) => {
            let poisoned: Vec<String> = fields.keys().filter(|key| key.contains('\0')).cloned().collect();
            for key in &poisoned {
                fields.remove(key);
            }
            let cleaned = fields.values_mut().filter_map(|field| clean_value(field).then_some(())).count();
            cleaned > 0 || !poisoned.is_empty()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimity_types::{Digest, Epoch, Mode, PartitionId, Seq, Status, Xid};
    use uuid::Uuid;

    fn row(detail: &str) -> HistoryRow {
        HistoryRow {
            xid: Xid::new(Uuid::from_u128(1)),
            partition: PartitionId(0),
            mode: Some(Mode::Tcc),
            name: "order".into(),
            status: Status::Active,
            decision: None,
            abort_reason: None,
            digest: Digest::default(),
            begun_at: Timestamp(5),
            deadline: Timestamp(9),
            decided_at: None,
            finished_at: None,
            attention: None,
            heuristic: false,
            participants: vec!["stock".into()],
            detail: detail.into(),
            epoch: Epoch(1),
            seq: Seq(2),
        }
    }

    #[test]
    fn m5_what_no_database_takes_is_stripped_and_said() {
        let fine = row(r#"{"b":[],"t":[[1,"x",null,"a\\u0000b"]]}"#);
        assert_eq!(storable(fine.clone()), fine);

        let poisoned = row(r#"{"b":[],"t":[[1,"x",null,"a\u0000b"]]}"#);
        let clean = storable(poisoned);
        assert_eq!(clean.detail, r#"{"b":[],"t":[[1,"x",null,"ab"]]}"#);
        assert_eq!(clean.attention.as_deref(), Some(UNSTORABLE_TEXT));

        let paired = row(r#"{"b":["\ud83d\ude00"]}"#);
        assert_eq!(storable(paired.clone()), paired);

        for broken in ["", "[]", "{", "null", "{\"b\":\"\0\"}", r#"{"b":["\ud800"]}"#] {
            let clean = storable(row(broken));
            assert!(is_object(&clean.detail), "{broken:?}");
            assert_eq!(clean.attention.as_deref(), Some(UNSTORABLE_TEXT));
        }

        let mut named = row("{}");
        named.name = "a\0b".into();
        named.participants = vec!["\0".into()];
        let clean = storable(named);
        assert_eq!((clean.name.as_str(), clean.participants.as_slice()), ("ab", &[String::new()][..]));
    }

    #[test]
    fn h12_rows_change_upwards_and_terminal_ones_only_by_a_heuristic() {
        let old = row("{}");
        let mut new = row("{}");
        assert!(!replaces(&old, &new), "the same row again");
        new.seq = Seq(1);
        new.epoch = Epoch(2);
        assert!(replaces(&old, &new), "a later epoch");
        assert!(!replaces(&new, &old));
        let mut over = row("{}");
        over.status = Status::Aborted;
        assert!(!replaces(&over, &new), "terminal");
        new.heuristic = true;
        assert!(!replaces(&over, &new), "terminal to active");
        new.status = Status::Aborted;
        assert!(replaces(&over, &new), "a recorded heuristic");
    }
}
