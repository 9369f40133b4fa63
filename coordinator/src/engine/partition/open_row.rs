//! Rows of history that say "open" of what the log does not hold (protocol C8, H6).

use std::collections::HashMap;

use serde_json::{Value, json};
use unanimity_core::Command;
use unanimity_types::{LogPosition, Xid};

use super::life::Life;
use super::writer::Release;
use crate::engine::mailbox::{AsOf, ReplyTo};
use crate::engine::refuse::forgotten;
use crate::entropy::HashState;
use crate::log::HistoryRow;

/// What needs attention about a transaction that was open when the log lost it.
const LOST: &str = "log_lost_tail";

/// Rows of transactions that are presumed aborted after their loss was accepted, until their own row is written.
#[derive(Debug, Default)]
pub(super) struct LostRows(HashMap<Xid, Box<HistoryRow>, HashState>);

impl LostRows {
    /// The row of a presumed abort takes the place of the row that was left open, and keeps what that one knew.
    pub(super) fn settle(&self, new: HistoryRow) -> HistoryRow {
        let Some(old) = self.0.get(&new.xid) else { return new };
        let mut detail = serde_json::from_str(&old.detail).unwrap_or_else(|_| json!({}));
        if let Value::Object(fields) = &mut detail {
            let message = "it was open when the log lost its end, and an operator accepted that: what it was decided \
                           afterwards, if it was, is not known; it was aborted when it was asked about";
            fields.insert("a".to_owned(), json!([LOST, message, new.begun_at.0, 0]));
        }
        HistoryRow {
            mode: old.mode,
            name: old.name.clone(),
            digest: old.digest,
            begun_at: old.begun_at,
            deadline: old.deadline,
            participants: old.participants.clone(),
            attention: Some(LOST.to_owned()),
            detail: detail.to_string(),
            ..new
        }
    }

    pub(super) fn forget(&mut self, xid: Xid) {
        self.0.remove(&xid);
    }
}

impl Life {
    /// Judges an open row of a transaction that memory did not hold at the moment `as_of`, before the row was read.
    pub(super) fn open_row(&mut self, row: Box<HistoryRow>, as_of: AsOf, reply: ReplyTo<()>) {
        let (xid, epoch, seq) = (row.xid, row.epoch, row.seq);
        let is_known = self.memory.transaction(xid).is_some();
        if is_known || self.memory.may_have_left_since(xid, self.epoch, as_of) {
            drop(reply.send(Ok(())));
            return;
        }
        if self.restored.is_some_and(|restored| epoch <= restored.epoch) {
            drop(reply.send(Err(forgotten(xid))));
            return;
        }
        if !self.epochs.is_forgiven(epoch) {
            let position = LogPosition { partition: self.partition, epoch, epoch_tag: 0, seq };
            let why = format!(
                "history has {xid} as {} in block {seq} of epoch {epoch}, and this log does not hold it",
                row.status
            );
            return self.lost_tail(&position, &why, reply);
        }
        // The operator's word covers exactly this: it is gone, and like all that nobody knows it is aborted.
        if self.memory.entries.len() >= self.config.open_max {
            drop(reply.send(Err(self.full())));
            return;
        }
        tracing::warn!(partition = %self.partition, %xid, %epoch, %seq, "aborted: it was open in what the log lost");
        if let Some((_, gate)) = self.judge(xid, Command::Inquire) {
            self.lost_rows.0.insert(xid, row);
            self.release(gate, Release::LookAgain(reply));
        }
    }
}
