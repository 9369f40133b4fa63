//! Tickets between the wire and the domain.

use std::fmt::Write as _;
use std::time::Duration;

use unanimity_types::{Birth, DecideHash, Epoch, ErrorCode, LogId, Mode, Name, TICKETED_TIMEOUT_MAX, Ticket};

use crate::InvalidWire;
use crate::convert::NUMBER_MAX;
use crate::v1;

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
        timeout_ms: birth.timeout.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        name: birth.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        mode: v1::Mode::from(birth.mode).into(),
        log_id: birth.log_id.to_string(),
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
    let timeout = (birth.timeout_ms > 0).then(|| Duration::from_millis(birth.timeout_ms));
    if timeout.is_some_and(|timeout| timeout > TICKETED_TIMEOUT_MAX) {
        let message = format!(
            "birth: a transaction begun without a call has at most {} s; begin this one by call",
            TICKETED_TIMEOUT_MAX.as_secs()
        );
        return Err(InvalidWire::new(ErrorCode::InvalidTimeout, message));
    }
    let ticket = birth.ticket.as_ref().ok_or_else(|| invalid("birth: no ticket"))?;
    let hash = <[u8; 32]>::try_from(birth.decide_hash.as_ref())
        .map_err(|_| invalid("birth: decide_hash has 32 bytes"))?;
    let log_id = uuid::Uuid::try_parse(&birth.log_id).map_err(|_| invalid("birth: log_id is no UUID"))?;
    Ok(Birth {
        log_id: LogId(log_id),
        ticket: ticket_from_wire(ticket)?,
        decide_hash: DecideHash(hash),
        timeout,
        name: if birth.name.is_empty() { None } else { Some(Name::new(birth.name)?) },
        mode,
    })
}

/// A birth as one word for the context header: log, ticket, hash, timeout, mode and name with points between.
#[must_use]
pub fn birth_to_text(birth: &Birth) -> String {
    let Birth { log_id, ticket, decide_hash, timeout, name, mode } = birth;
    let mut text = format!("{log_id}.{ticket}.");
    for byte in decide_hash.0 {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    let _ = write!(text, ".{}.{mode}.", timeout.map_or(0, |timeout| timeout.as_millis()));
    percent_encode(&mut text, name.as_ref().map_or("", Name::as_str), b"-_");
    text
}

/// A birth from the context header.
///
/// # Errors
/// If it is none, or as [`birth_from_wire`].
pub fn birth_from_text(text: &str) -> Result<Birth, InvalidWire> {
    let shape = || invalid("birth: not log, ticket, hash, timeout, mode and name with points between");
    let parts: Vec<&str> = text.split('.').collect();
    let [log_id, epoch, tag, generation, hash, timeout, mode, name] = parts[..] else { return Err(shape()) };
    let ticket: Ticket = format!("{epoch}.{tag}.{generation}").parse().map_err(|_| shape())?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(epoch) || !digits(generation) || !digits(timeout) {
        return Err(shape());
    }
    let mode: Mode = mode.parse().map_err(|_| shape())?;
    let wire = v1::Birth {
        ticket: Some(ticket_to_wire(ticket)),
        decide_hash: from_hex(hash).ok_or_else(shape)?.into(),
        timeout_ms: timeout.parse().map_err(|_| shape())?,
        name: percent_decode(name).ok_or_else(shape)?,
        mode: v1::Mode::from(mode).into(),
        log_id: log_id.to_owned(),
    };
    birth_from_wire(wire)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let nibble = |byte: u8| char::from(byte).to_digit(16);
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::try_from(nibble(pair[0])? * 16 + nibble(*pair.get(1)?)?).ok())
        .collect()
}

/// Adds a text, percent-encoded but for letters, digits and what is to be kept.
pub fn percent_encode(out: &mut String, text: &str, keep: &[u8]) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || keep.contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// Reads what is percent-encoded; `None` if it is not, or not UTF-8.
#[must_use]
pub fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn invalid(message: &str) -> InvalidWire {
    InvalidWire::new(ErrorCode::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn birth() -> Birth {
        Birth {
            log_id: LogId(uuid::Uuid::from_u128(77)),
            ticket: Ticket { epoch: Epoch(3), epoch_tag: 0x00ba_dcaf, generation: 175_000_000 },
            decide_hash: DecideHash([0xab; 32]),
            timeout: Some(Duration::from_secs(9)),
            name: Some(Name::new("order 7.ä%;").expect("valid")),
            mode: Mode::TwoPhase,
        }
    }

    #[test]
    fn a_birth_reads_what_it_writes() {
        for birth in [birth(), Birth { timeout: None, name: None, mode: Mode::Tcc, ..birth() }] {
            assert_eq!(birth_from_wire(birth_to_wire(&birth)), Ok(birth.clone()));
            let text = birth_to_text(&birth);
            assert!(text.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b';'), "{text}");
            assert_eq!(birth_from_text(&text), Ok(birth));
        }
    }

    #[test]
    fn hostile_births_are_refused() {
        let good = birth_to_text(&birth());
        for text in [
            String::new(),
            "......".to_owned(),
            good.replace(".3.", ".-3."),
            good.replace("-0000-", "-"),
            good.replace(".3.00", ".0.00"),
            good.replace("abab.", "aba."),
            good.replace("abab.", "abzz."),
            good.replace("9000", "300001"),
            good.replace("9000", "+9000"),
            good.replace("two_phase", "saga"),
            good.replace("two_phase", "xa"),
            format!("{good}%"),
            format!("{good}%00"),
            format!("{good}.x"),
            good[..good.len() / 2].to_owned(),
        ] {
            assert!(birth_from_text(&text).is_err(), "{text:?}");
        }
    }
}
