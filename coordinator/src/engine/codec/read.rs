//! Reads a block's body of format 2. What the disk says is checked like what a stranger says.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use unanimity_core::{BranchTraits, Event};
use unanimity_proto::log;
use unanimity_types::{
    AbortReason, BranchId, BranchKey, BranchKind, BranchTargets, DecideHash, Decision, Digest, Mode, Name,
    Timestamp, Vote, Xid,
};

use super::compact::{Cursor, FLAG_HASH, FLAG_NAME, FLAG_REST, KIND, SAME, kind, unzigzag};
use super::decode::{
    Result, decode_event, decode_partition_event, decode_targets, decode_traits, invalid, optional_in,
    value_in,
};
use super::{CodecError, Logged, LoggedEvent};

/// What a block has said so far.
#[derive(Default)]
struct Said<'a> {
    xids: Vec<Xid>,
    texts: Vec<&'a str>,
    targets: Vec<Arc<BranchTargets>>,
}

/// The records of a body, in order.
pub(super) fn read(time: Timestamp, body: &[u8]) -> Result<Vec<Logged>> {
    let mut cursor = Cursor::new(body);
    let mut said = Said::default();
    let mut last = None;
    // A record has some 30 bytes on average.
    let mut records = Vec::with_capacity(body.len() / 32);
    while cursor.left() > 0 {
        let before = cursor.left();
        let (at, what) = read_record(&mut cursor, &mut said, time, &mut last)?;
        records.push(Logged { at, what, bytes: before - cursor.left() });
    }
    Ok(records)
}

fn read_record<'a>(
    cursor: &mut Cursor<'a>,
    said: &mut Said<'a>,
    time: Timestamp,
    last: &mut Option<(Xid, Timestamp)>,
) -> Result<(Timestamp, LoggedEvent)> {
    let head = cursor.byte()?;
    let known = match head & KIND {
        kind::PARTITION => 0,
        kind::BEGUN => SAME | FLAG_NAME | FLAG_HASH,
        kind::REGISTERED => SAME | FLAG_REST,
        kind::OTHER..=kind::PRESUMED => SAME,
        _ => 0,
    };
    // Before anything else: what follows it may be laid out otherwise.
    if head & KIND > kind::PRESUMED || head & !(KIND | known) != 0 {
        return Err(CodecError::Unknown(format!("a record's head is {head:#x}")));
    }
    if head & KIND == kind::PARTITION {
        *last = None;
        let at = Timestamp(time.0.saturating_add(cursor.number()?));
        let event = decode_partition_event(message::<log::Record>(cursor)?)?;
        return Ok((at, LoggedEvent::Partition(event)));
    }
    let (xid, at) = if head & SAME == 0 {
        let xid = said.xid(cursor)?;
        (xid, Timestamp(time.0.saturating_add(cursor.number()?)))
    } else {
        last.ok_or_else(|| invalid("a record without an xid"))?
    };
    *last = Some((xid, at));
    Ok((at, LoggedEvent::Transaction(xid, read_event(cursor, said, head, xid, at)?)))
}

fn read_event<'a>(
    cursor: &mut Cursor<'a>,
    said: &mut Said<'a>,
    head: u8,
    xid: Xid,
    at: Timestamp,
) -> Result<Event> {
    Ok(match head & KIND {
        kind::OTHER => decode_event(xid, message::<log::Record>(cursor)?)?,
        kind::BEGUN => {
            let mode = value_in(Mode::ALL, cursor.small()?, "mode")?;
            let digest = Digest(cursor.array()?);
            let deadline = Timestamp(at.0.wrapping_add_signed(unzigzag(cursor.number()?)));
            let name = if head & FLAG_NAME == 0 { None } else { Some(name(said.text(cursor)?)?) };
            let decide_hash =
                if head & FLAG_HASH == 0 { None } else { Some(Box::new(DecideHash(cursor.array()?))) };
            Event::Begun { mode, name, digest, deadline, decide_hash }
        }
        kind::REGISTERED => {
            let branch_id = branch(cursor)?;
            let key = BranchKey::new(cursor.text()?).map_err(|error| invalid(&error.to_string()))?;
            let targets = said.targets(cursor)?;
            // A copy: what stays in memory must not hold on to the whole block.
            let payload = Bytes::copy_from_slice(cursor.bytes()?);
            let digest = Digest(cursor.array()?);
            let traits = if head & FLAG_REST == 0 {
                BranchTraits::of(BranchKind::Tcc)
            } else {
                decode_traits(&message::<log::Registered>(cursor)?)?
            };
            Event::Registered { branch_id, key, targets, payload, digest, traits: Box::new(traits) }
        }
        kind::DECIDED => Event::Decided {
            decision: value_in(Decision::ALL, cursor.small()?, "decision")?,
            reason: optional_in(AbortReason::ALL, cursor.small()?, "abort reason")?,
            branches: cursor.small()?,
            by: None,
        },
        kind::VOTED => {
            Event::Voted { branch_id: branch(cursor)?, vote: value_in(Vote::ALL, cursor.small()?, "vote")? }
        }
        kind::SETTLED => Event::BranchSettled { branch_id: branch(cursor)?, attempts: cursor.small()? },
        kind::DONE => Event::ActionDone {
            branch_id: branch(cursor)?,
            attempts: cursor.small()?,
            result: Bytes::copy_from_slice(cursor.bytes()?),
        },
        kind::FAILED => Event::AttemptFailed {
            branch_id: branch(cursor)?,
            attempts: cursor.small()?,
            error: said.text(cursor)?.into(),
            next_at: Timestamp(0),
        },
        kind::ACCEPTED => Event::PlanAccepted { branches: cursor.small()? },
        kind::FINISHED => Event::Finished,
        kind::PRESUMED => Event::Presumed,
        unknown => return Err(CodecError::Unknown(format!("a record of kind {unknown}"))),
    })
}

impl<'a> Said<'a> {
    fn xid(&mut self, cursor: &mut Cursor<'a>) -> Result<Xid> {
        match place(cursor)? {
            Some(place) => self.xids.get(place).copied().ok_or_else(unsaid),
            None => {
                let xid = Xid::from_slice(&cursor.array::<16>()?).ok_or_else(|| invalid("a nil xid"))?;
                self.xids.push(xid);
                Ok(xid)
            }
        }
    }

    fn text(&mut self, cursor: &mut Cursor<'a>) -> Result<&'a str> {
        match place(cursor)? {
            Some(place) => self.texts.get(place).copied().ok_or_else(unsaid),
            None => {
                let text = cursor.text()?;
                self.texts.push(text);
                Ok(text)
            }
        }
    }

    fn targets(&mut self, cursor: &mut Cursor<'a>) -> Result<Arc<BranchTargets>> {
        match place(cursor)? {
            Some(place) => self.targets.get(place).cloned().ok_or_else(unsaid),
            None => {
                let targets = Arc::new(decode_targets(message::<log::Targets>(cursor)?)?);
                self.targets.push(Arc::clone(&targets));
                Ok(targets)
            }
        }
    }
}

/// The place in a table; `None` for what follows and is to be added to it.
fn place(cursor: &mut Cursor<'_>) -> Result<Option<usize>> {
    let number = cursor.number()?;
    Ok(number.checked_sub(1).and_then(|place| usize::try_from(place).ok()))
}

fn branch(cursor: &mut Cursor<'_>) -> Result<BranchId> {
    cursor.small().map(BranchId)
}

fn name(text: &str) -> Result<Name> {
    Name::new(text).map_err(|error| invalid(&error.to_string()))
}

fn message<T: Message + Default>(cursor: &mut Cursor<'_>) -> Result<T> {
    T::decode(cursor.bytes()?).map_err(|error| CodecError::Malformed(error.to_string()))
}

fn unsaid() -> CodecError {
    CodecError::Malformed("a record names what its block has not said".to_owned())
}
