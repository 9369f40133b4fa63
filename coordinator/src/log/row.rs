//! Rows as the databases hold them, and the way from there to blocks and history.
//!
//! Databases have signed 64-bit numbers; ours are unsigned. Writing stays at the end of the range
//! (deadlines may be the end of time), reading never goes below 0.

use bytes::Bytes;
use sqlx::FromRow;
use unanimity_types::{Digest, Epoch, PartitionId, Seq, Timestamp, Xid};

use super::{Block, BlockKind, Checksum, Error, HistoryRow, Tip, chain, codes, known_format};

/// A number as a database takes it.
pub(super) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number as a database gave it.
pub(super) fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A row of `log_blocks`.
#[derive(Debug, FromRow)]
pub(super) struct BlockRow {
    partition: i64,
    seq: i64,
    version: i64,
    kind: i64,
    epoch: i64,
    floor: i64,
    time_ms: i64,
    previous: Vec<u8>,
    checksum: Vec<u8>,
    body: Vec<u8>,
}

impl BlockRow {
    /// The block, unverified.
    pub(super) fn into_block(self) -> Result<Block, Error> {
        let partition = PartitionId(u16::try_from(self.partition).unwrap_or(u16::MAX));
        let seq = Seq(from_sql(self.seq));
        let damaged = |what: &str| Error::Damaged { partition, seq, what: what.to_owned() };
        let version = u16::try_from(self.version).map_err(|_| damaged("its version is no version"))?;
        if version > known_format() {
            return Err(chain::newer_format(partition, seq, version));
        }
        let kind = u8::try_from(self.kind).ok().and_then(BlockKind::from_number);
        let checksums = (Checksum::from_slice(&self.previous), Checksum::from_slice(&self.checksum));
        let (Some(previous), Some(checksum)) = checksums else {
            return Err(damaged("a checksum has not 16 bytes"));
        };
        Ok(Block {
            version,
            kind: kind.ok_or_else(|| damaged("its kind is no kind"))?,
            partition,
            seq,
            epoch: Epoch(from_sql(self.epoch)),
            floor: Seq(from_sql(self.floor)),
            time: Timestamp(from_sql(self.time_ms)),
            previous,
            body: Bytes::from(self.body),
            checksum,
        })
    }
}

/// The last row of a partition, without its body.
#[derive(Debug, FromRow)]
pub(super) struct TipRow {
    seq: i64,
    epoch: i64,
    floor: i64,
    time_ms: i64,
    checksum: Vec<u8>,
}

impl TipRow {
    /// The tip and the floor that it records.
    pub(super) fn into_tip(self, partition: PartitionId) -> Result<(Tip, Seq), Error> {
        let seq = Seq(from_sql(self.seq));
        let checksum = Checksum::from_slice(&self.checksum).ok_or_else(|| Error::Damaged {
            partition,
            seq,
            what: "its checksum has not 16 bytes".to_owned(),
        })?;
        let epoch = Epoch(from_sql(self.epoch));
        let tip = Tip { seq, epoch, checksum, time: Timestamp(from_sql(self.time_ms)) };
        Ok((tip, Seq(from_sql(self.floor))))
    }
}

/// A row of `history`.
#[derive(Debug, FromRow)]
pub(super) struct HistoryRecord {
    xid: Vec<u8>,
    partition: i64,
    mode: Option<i64>,
    name: String,
    status: i64,
    abort_reason: Option<String>,
    digest: Vec<u8>,
    begun_at_ms: i64,
    deadline_ms: i64,
    decided_at_ms: Option<i64>,
    finished_at_ms: Option<i64>,
    attention: Option<String>,
    heuristic: bool,
    participants: String,
    detail: String,
    epoch: i64,
    seq: i64,
}

impl HistoryRecord {
    /// The row; `participants` says how its list of them is written. A number or word that this binary
    /// does not know is an error: a later version wrote it.
    pub(super) fn into_row(
        self,
        participants: impl FnOnce(&str) -> Option<Vec<String>>,
    ) -> Result<HistoryRow, Error> {
        let Some(xid) = Xid::from_slice(&self.xid) else {
            return Err(Error::Schema("a history row has an xid that is none".to_owned()));
        };
        let unreadable =
            |what: &str| Error::Schema(format!("the history row of {xid} cannot be read: {what}"));
        let digest: [u8; 16] =
            self.digest.as_slice().try_into().map_err(|_| unreadable("its digest has not 16 bytes"))?;
        let status = codes::to_status(self.status).ok_or_else(|| unreadable("its status is unknown"))?;
        let mode = match self.mode {
            Some(mode) => Some(codes::to_mode(mode).ok_or_else(|| unreadable("its mode is unknown"))?),
            None => None,
        };
        Ok(HistoryRow {
            xid,
            partition: PartitionId(u16::try_from(self.partition).unwrap_or(u16::MAX)),
            mode,
            status,
            decision: status.decision(),
            abort_reason: self.abort_reason.as_deref().map(word).transpose().map_err(|e| unreadable(&e))?,
            name: self.name,
            digest: Digest(digest),
            begun_at: moment(self.begun_at_ms),
            deadline: moment(self.deadline_ms),
            decided_at: self.decided_at_ms.map(moment),
            finished_at: self.finished_at_ms.map(moment),
            attention: self.attention,
            heuristic: self.heuristic,
            participants: participants(&self.participants)
                .ok_or_else(|| unreadable("its participants are no list of texts"))?,
            detail: self.detail,
            epoch: Epoch(from_sql(self.epoch)),
            seq: Seq(from_sql(self.seq)),
        })
    }
}

fn moment(ms: i64) -> Timestamp {
    Timestamp(from_sql(ms))
}

fn word<T: std::str::FromStr<Err = unanimity_types::UnknownWord>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|unknown: unanimity_types::UnknownWord| unknown.to_string())
}
