//! Tickets between the wire and the domain.

use std::time::Duration;

use unanimity_types::{Birth, DecideHash, Epoch, ErrorCode, Mode, Name, TICKETED_TIMEOUT_MAX, Ticket};

use crate::InvalidWire;
use crate::v1;

/// How long a transaction begun without a call may stay undecided if its birth does not say.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// The highest epoch that can be, as in positions.
const NUMBER_MAX: u64 = 1 << 62;

/// A ticket for the wire.
#[must_use]
pub fn ticket_to_wire(ticket: Ticket) -> v1::Ticket {
    v1::Ticket { epoch: ticket.epoch.0, epoch_tag: ticket.epoch_tag, generation: ticket.generation }
}

/// A ticket from the wire.
///
/// # Errors
/// If a number is impossible.
pub fn ticket_from_wire(ticket: &v1::Ticket) -> Result<Ticket, InvalidWire> {
    if ticket.epoch == 0 || ticket.epoch > NUMBER_MAX || ticket.generation > NUMBER_MAX {
        return Err(invalid("ticket: epoch or generation out of range"));
    }
    Ok(Ticket { epoch: Epoch(ticket.epoch), epoch_tag: ticket.epoch_tag, generation: ticket.generation })
}

/// A birth for the wire.
#[must_use]
pub fn birth_to_wire(birth: &Birth) -> v1::Birth {
    v1::Birth {
        ticket: Some(ticket_to_wire(birth.ticket)),
        decide_hash: birth.decide_hash.0.to_vec().into(),
        timeout_ms: u64::try_from(birth.timeout.as_millis()).unwrap_or(u64::MAX),
        name: birth.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        mode: v1::Mode::from(birth.mode).into(),
    }
}

/// A birth from the wire.
///
/// # Errors
/// If it is no birth: no ticket, a hash of another length, a timeout that needs a begin by call.
pub fn birth_from_wire(birth: v1::Birth) -> Result<Birth, InvalidWire> {
    let mode = match birth.mode() {
        v1::Mode::Unspecified | v1::Mode::Tcc => Mode::Tcc,
        v1::Mode::TwoPhase => Mode::TwoPhase,
        v1::Mode::Saga | v1::Mode::Message => {
            return Err(InvalidWire::new(ErrorCode::InvalidMode, "birth: sagas and messages begin by call"));
        }
    };
    let timeout = match birth.timeout_ms {
        0 => TIMEOUT_DEFAULT,
        millis => Duration::from_millis(millis),
    };
    if timeout > TICKETED_TIMEOUT_MAX {
        let message = format!(
            "birth: a transaction begun without a call has at most {} s; begin this one by call",
            TICKETED_TIMEOUT_MAX.as_secs()
        );
        return Err(InvalidWire::new(ErrorCode::InvalidTimeout, message));
    }
    let ticket = birth.ticket.as_ref().ok_or_else(|| invalid("birth: no ticket"))?;
    let hash = <[u8; 32]>::try_from(birth.decide_hash.as_ref())
        .map_err(|_| invalid("birth: decide_hash has 32 bytes"))?;
    Ok(Birth {
        ticket: ticket_from_wire(ticket)?,
        decide_hash: DecideHash(hash),
        timeout,
        name: if birth.name.is_empty() { None } else { Some(Name::new(birth.name)?) },
        mode,
    })
}

fn invalid(message: &str) -> InvalidWire {
    InvalidWire::new(ErrorCode::InvalidRequest, message)
}
