//! Words and positions between the wire and the domain.

use unanimity_types::{Epoch, ErrorCode, LogPosition, NameError, PartitionId, Seq, Status};

use crate::v1;

/// A message that says something impossible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidWire {
    /// The stable code for the answer.
    pub code: ErrorCode,
    /// What is wrong, for whoever sent it.
    pub message: String,
}

impl InvalidWire {
    /// A message without a code of its own.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl std::fmt::Display for InvalidWire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for InvalidWire {}

impl From<NameError> for InvalidWire {
    fn from(error: NameError) -> Self {
        Self::new(ErrorCode::InvalidName, error.to_string())
    }
}

impl From<Status> for v1::Status {
    fn from(status: Status) -> Self {
        match status {
            Status::Active => Self::Active,
            Status::Preparing => Self::Preparing,
            Status::Committing => Self::Committing,
            Status::Committed => Self::Committed,
            Status::Aborting => Self::Aborting,
            Status::Aborted => Self::Aborted,
        }
    }
}

impl v1::Status {
    /// The domain's status; `None` if unspecified.
    #[must_use]
    pub fn to_domain(self) -> Option<Status> {
        match self {
            Self::Unspecified => None,
            Self::Active => Some(Status::Active),
            Self::Preparing => Some(Status::Preparing),
            Self::Committing => Some(Status::Committing),
            Self::Committed => Some(Status::Committed),
            Self::Aborting => Some(Status::Aborting),
            Self::Aborted => Some(Status::Aborted),
        }
    }
}

/// A position for the wire.
#[must_use]
pub fn position_to_wire(position: LogPosition) -> v1::LogPosition {
    v1::LogPosition {
        partition: u32::from(position.partition.0),
        epoch: position.epoch.0,
        epoch_tag: position.epoch_tag,
        seq: position.seq.0,
    }
}

/// The highest epoch or seq that can be: what the databases store, with room to count on.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// A position from the wire.
///
/// # Errors
/// If a number is impossible.
pub fn position_from_wire(position: &v1::LogPosition) -> Result<LogPosition, InvalidWire> {
    let partition = u16::try_from(position.partition)
        .map_err(|_| InvalidWire::new(ErrorCode::InvalidRequest, "position: partition out of range"))?;
    if position.epoch > NUMBER_MAX || position.seq > NUMBER_MAX {
        return Err(InvalidWire::new(ErrorCode::InvalidRequest, "position: epoch or seq out of range"));
    }
    Ok(LogPosition {
        partition: PartitionId(partition),
        epoch: Epoch(position.epoch),
        epoch_tag: position.epoch_tag,
        seq: Seq(position.seq),
    })
}
