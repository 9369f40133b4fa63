//! Orders from the coordinator (or from the in-doubt loop), and what is answered.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use unanimity_proto::v1;
use unanimity_proto::v1::branch_result::Outcome;
use unanimity_types::{
    BranchKey, BranchKind, Limits, LogId, LogPosition, Name, Operation, StepRole, Vote, Xid,
};

use crate::client::parse_log_id;
use crate::error::shorten;
use crate::fence::{FenceRow, NewRow};

/// How long an attempt may take if the coordinator does not say.
const ATTEMPT_DEFAULT: Duration = Duration::from_secs(30);

/// An operation to do.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) operation: Operation,
    pub(super) xid: Xid,
    pub(super) key: BranchKey,
    /// The hooks' name; empty if the coordinator calls an address.
    pub(super) name: String,
    pub(super) payload: Vec<u8>,
    pub(super) log_id: Option<LogId>,
    pub(super) position: Option<LogPosition>,
    /// Saga: the results of the steps before.
    pub(super) inputs: BTreeMap<String, Bytes>,
    /// A step's role, if the coordinator said it.
    pub(super) role: Option<StepRole>,
    /// Compensate: the action's result, as the coordinator knows it.
    pub(super) result: Bytes,
    pub(super) attempt: u32,
    pub(super) received: Instant,
    /// Until when the coordinator waits for the answer.
    pub(super) deadline: Instant,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The effect is there, or was before, or there is nothing to undo.
    Done,
    /// An action is done, and brought this.
    Result(Vec<u8>),
    /// A prepare is answered with this vote.
    Voted(Vote),
    /// A clear no.
    Refused(String),
    /// A clear no to an action, of which no attempt takes effect any more.
    Sealed(String),
    /// Not possible yet, with the reason.
    NotYet(String),
    /// Nothing is known.
    Unknown(String),
}

impl Answer {
    pub(super) fn to_wire(&self, call_id: u64) -> v1::BranchResult {
        let (outcome, error) = match self {
            Self::Done | Self::Result(_) | Self::Voted(_) => (Outcome::Done, ""),
            Self::Refused(error) => (Outcome::Refused, error.as_str()),
            Self::Sealed(error) => (Outcome::Sealed, error.as_str()),
            Self::NotYet(error) => (Outcome::NotYet, error.as_str()),
            Self::Unknown(error) => (Outcome::Unknown, error.as_str()),
        };
        let result = match self {
            // One byte more than it may have shows that it is too large; nobody needs the rest.
            Self::Result(result) => {
                Bytes::copy_from_slice(&result[..result.len().min(Limits::RESULT_BYTES_MAX + 1)])
            }
            _ => Bytes::new(),
        };
        let vote = if let Self::Voted(vote) = self { (*vote).into() } else { v1::Vote::Unspecified };
        v1::BranchResult {
            call_id,
            outcome: outcome.into(),
            error: shorten(error),
            result,
            vote: vote.into(),
        }
    }
}

impl Order {
    /// Reads an operation from the wire. The error is what the coordinator is told.
    pub(super) fn from_wire(operation: v1::BranchOperation) -> Result<Self, Answer> {
        let asked = operation.operation().to_domain();
        let malformed = |what: &str| {
            let why = format!("the operation cannot be understood: {what}");
            match asked {
                // Their refusals are decisions, and only what is written down is one (protocol H4, H5).
                Some(Operation::CheckBack | Operation::CommitOnePhase) => Answer::Unknown(why),
                _ => Answer::Refused(why),
            }
        };
        let kind = match asked {
            Some(Operation::Try) => return Err(malformed("a try comes from the application")),
            Some(
                kind @ (Operation::Confirm
                | Operation::Cancel
                | Operation::Action
                | Operation::Compensate
                | Operation::Prepare
                | Operation::Commit
                | Operation::Rollback
                | Operation::CommitOnePhase
                | Operation::Deliver
                | Operation::CheckBack),
            ) => kind,
            None => return Err(malformed("operation")),
        };
        if !operation.name.is_empty() {
            Name::new(operation.name.as_str()).map_err(|_| malformed("name"))?;
        }
        let received = Instant::now();
        let timeout = match operation.timeout_ms {
            0 => ATTEMPT_DEFAULT,
            millis => Duration::from_millis(millis).min(Limits::CALL_TIMEOUT_MAX),
        };
        Ok(Self {
            role: operation.role().to_domain(),
            operation: kind,
            xid: operation.xid.parse().map_err(|_| malformed("xid"))?,
            key: BranchKey::new(operation.key).map_err(|_| malformed("key"))?,
            name: operation.name,
            payload: operation.payload.to_vec(),
            log_id: parse_log_id(&operation.log_id),
            position: operation.position.as_ref().and_then(|p| unanimity_proto::position_from_wire(p).ok()),
            inputs: operation.inputs.into_iter().collect(),
            result: operation.result,
            attempt: operation.attempt,
            received,
            deadline: received + timeout,
        })
    }

    /// What the in-doubt loop does with a row.
    pub(super) fn from_row(operation: Operation, row: &FenceRow) -> Self {
        let received = Instant::now();
        Self {
            operation,
            xid: row.xid,
            key: row.key.clone(),
            name: row.operation.clone(),
            payload: row.payload.clone(),
            log_id: row.log_id,
            position: row.witness,
            inputs: BTreeMap::new(),
            role: None,
            result: Bytes::new(),
            attempt: 0,
            received,
            deadline: received + ATTEMPT_DEFAULT,
        }
    }

    /// The row that it inserts if it comes first.
    pub(super) fn row(&self, kind: BranchKind, participant: &str, operation: &str) -> NewRow {
        NewRow {
            kind,
            xid: self.xid,
            key: self.key.clone(),
            participant: participant.to_owned(),
            operation: operation.to_owned(),
            log_id: self.log_id,
            payload: self.payload.clone(),
            witness: self.position,
        }
    }
}
