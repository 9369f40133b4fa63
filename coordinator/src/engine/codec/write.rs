//! Writes a block's body, record by record, into one buffer, in the format that its block was begun in.
//! Format 2 is in `compact.rs`; format 1 is one protobuf message with all records (`Body`), which is the same as
//! one field after the other.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use unanimity_core::Event;
use unanimity_proto::log;
use unanimity_types::{
    AbortReason, BranchKind, BranchTargets, CallPolicy, Decision, Mode, Timestamp, Vote, Xid,
};

use super::PartitionEvent;
use super::compact::{FLAG_HASH, FLAG_NAME, FLAG_REST, SAME, kind, put_bytes, put_number, zigzag};
use super::encode::{encode_event, encode_partition_event, encode_targets, encode_traits, number_in};
use crate::entropy::HashState;
use crate::log::FORMAT_VERSION;

/// A buffer that was larger is let go of: about the largest block under load without large payloads.
const BUFFER_KEPT: usize = 256 * 1024;

/// What a block has said already, by its number there.
type Said<T> = HashMap<T, u32, HashState>;

/// A body that grows. One is used for block after block, so that its tables are not built anew.
#[derive(Debug, Default)]
pub struct BodyWriter {
    body: Vec<u8>,
    format: u16,
    /// The block's partition time.
    time: Timestamp,
    xids: Said<Xid>,
    texts: Said<Box<str>>,
    targets: Said<Arc<BranchTargets>>,
    last: Option<(Xid, u64)>,
}

impl BodyWriter {
    /// Begins a body of a block of that partition time, in the newest format.
    pub fn start(&mut self, time: Timestamp) {
        self.start_in(FORMAT_VERSION, time);
    }

    /// Begins a body of a block of that partition time, in the format that the cluster agreed on.
    pub fn start_in(&mut self, format: u16, time: Timestamp) {
        self.format = format;
        self.time = time;
        self.body.clear();
        self.xids.clear();
        self.texts.clear();
        self.targets.clear();
        self.last = None;
    }

    /// The format that its body is in.
    #[must_use]
    pub const fn format(&self) -> u16 {
        self.format
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Its bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// The body.
    #[must_use]
    pub fn finish(&mut self) -> Bytes {
        // A copy of the right size: the buffer is for the next block, and grew as large as the largest one.
        let body = Bytes::copy_from_slice(&self.body);
        self.body.clear();
        self.body.shrink_to(BUFFER_KEPT);
        body
    }

    /// Adds an event of a transaction and answers its size; `None` for a volatile one, which is not
    /// written.
    pub fn event(&mut self, xid: Xid, at: Timestamp, event: &Event) -> Option<usize> {
        if self.format < 2 {
            let xid = xid.as_bytes().to_vec().into();
            return Some(self.record(at, log::Record { xid, ..encode_event(event)? }));
        }
        let start = self.body.len();
        match event {
            Event::Begun { mode, name, digest, deadline, decide_hash } => {
                let flag = if name.is_some() { FLAG_NAME } else { 0 }
                    | if decide_hash.is_some() { FLAG_HASH } else { 0 };
                let at = self.head(kind::BEGUN | flag, xid, at);
                self.number(number_in(Mode::ALL, *mode));
                self.body.extend_from_slice(&digest.0);
                // Both lie within the 63 bits that partition time has.
                put_number(&mut self.body, zigzag(deadline.0.wrapping_sub(at) as i64));
                if let Some(name) = name {
                    self.text(name.as_str());
                }
                if let Some(hash) = decide_hash {
                    self.body.extend_from_slice(&hash.0);
                }
            }
            Event::Registered { branch_id, key, targets, payload, digest, traits } => {
                let is_plain = traits.kind == BranchKind::Tcc
                    && traits.lock_keys.is_empty()
                    && traits.step.is_none()
                    && traits.two_phase == unanimity_core::TwoPhase::default()
                    && traits.policy == CallPolicy::default();
                self.head(kind::REGISTERED | if is_plain { 0 } else { FLAG_REST }, xid, at);
                self.number(branch_id.0);
                put_bytes(&mut self.body, key.as_str().as_bytes());
                self.targets(targets);
                put_bytes(&mut self.body, payload);
                self.body.extend_from_slice(&digest.0);
                if !is_plain {
                    let mut rest = log::Registered::default();
                    encode_traits(&mut rest, traits);
                    self.message(&rest);
                }
            }
            Event::Decided { decision, reason, branches, by: None } => {
                self.head(kind::DECIDED, xid, at);
                self.number(number_in(Decision::ALL, *decision));
                self.number(reason.map_or(0, |reason| number_in(AbortReason::ALL, reason)));
                self.number(*branches);
            }
            Event::Voted { branch_id, vote } => {
                self.head(kind::VOTED, xid, at);
                self.number(branch_id.0);
                self.number(number_in(Vote::ALL, *vote));
            }
            Event::BranchSettled { branch_id, attempts } => {
                self.head(kind::SETTLED, xid, at);
                self.number(branch_id.0);
                self.number(*attempts);
            }
            Event::ActionDone { branch_id, attempts, result } => {
                self.head(kind::DONE, xid, at);
                self.number(branch_id.0);
                self.number(*attempts);
                put_bytes(&mut self.body, result);
            }
            Event::AttemptFailed { branch_id, attempts, error, .. } => {
                self.head(kind::FAILED, xid, at);
                self.number(branch_id.0);
                self.number(*attempts);
                self.text(error);
            }
            Event::PlanAccepted { branches } => {
                self.head(kind::ACCEPTED, xid, at);
                self.number(*branches);
            }
            Event::Finished => drop(self.head(kind::FINISHED, xid, at)),
            Event::Presumed => drop(self.head(kind::PRESUMED, xid, at)),
            rare => {
                let record = encode_event(rare)?;
                self.head(kind::OTHER, xid, at);
                self.message(&record);
            }
        }
        Some(self.body.len() - start)
    }

    /// Adds an event of the partition itself and answers its size.
    pub fn partition_event(&mut self, at: Timestamp, event: &PartitionEvent) -> usize {
        if self.format < 2 {
            return self.record(at, encode_partition_event(event));
        }
        let start = self.body.len();
        self.body.push(kind::PARTITION);
        put_number(&mut self.body, at.0.saturating_sub(self.time.0));
        self.message(&encode_partition_event(event));
        self.last = None;
        self.body.len() - start
    }

    /// Adds a record of format 1 and answers its size: of the message alone, as its reader counts.
    fn record(&mut self, at: Timestamp, record: log::Record) -> usize {
        // Later than that its block would be for 49 days.
        let at_delta_ms = u32::try_from(at.0.saturating_sub(self.time.0)).unwrap_or(u32::MAX);
        let record = log::Record { at_delta_ms, ..record };
        let size = record.encoded_len();
        prost::encoding::message::encode(1, &record, &mut self.body);
        size
    }

    /// Adds a record's head and answers the time that its reader will know.
    fn head(&mut self, kind: u8, xid: Xid, at: Timestamp) -> u64 {
        let delay = at.0.saturating_sub(self.time.0);
        if self.last == Some((xid, delay)) {
            self.body.push(kind | SAME);
        } else {
            self.body.push(kind);
            match said(&mut self.xids, &xid, |xid| *xid) {
                Some(number) => self.number(number),
                None => {
                    self.body.push(0);
                    self.body.extend_from_slice(xid.as_bytes());
                }
            }
            put_number(&mut self.body, delay);
            self.last = Some((xid, delay));
        }
        self.time.0 + delay
    }

    fn number(&mut self, number: u32) {
        put_number(&mut self.body, u64::from(number));
    }

    fn text(&mut self, text: &str) {
        match said(&mut self.texts, text, |text| text.into()) {
            Some(number) => self.number(number),
            None => {
                self.body.push(0);
                put_bytes(&mut self.body, text.as_bytes());
            }
        }
    }

    fn targets(&mut self, targets: &Arc<BranchTargets>) {
        match said(&mut self.targets, targets, Arc::clone) {
            Some(number) => self.number(number),
            None => {
                self.body.push(0);
                self.message(&encode_targets(targets));
            }
        }
    }

    fn message(&mut self, message: &impl Message) {
        put_number(&mut self.body, message.encoded_len() as u64);
        message.encode_raw(&mut self.body);
    }
}

/// The number of what was said before, from 1; `None` if this is the first time.
fn said<Q, T>(table: &mut Said<T>, what: &Q, own: impl FnOnce(&Q) -> T) -> Option<u32>
where
    Q: Hash + Eq + ?Sized,
    T: Hash + Eq + std::borrow::Borrow<Q>,
{
    if let Some(number) = table.get(what) {
        return Some(*number);
    }
    // A body has far fewer than 2^32 bytes.
    let number = u32::try_from(table.len() + 1).unwrap_or(u32::MAX);
    table.insert(own(what), number);
    None
}
