//! The first message of a session, checked.

use std::collections::BTreeSet;

use unanimity_proto::{InvalidWire, position_from_wire, v1};
use unanimity_types::{ErrorCode, LogId, LogPosition, Name};

use super::instance::NewInstance;
use crate::delivery::config::DeliveryConfig;
use crate::delivery::text::printable;

/// The version of the sessions' protocol that we speak.
pub(super) const PROTOCOL_VERSION: u32 = 1;
/// Hook sets of one instance: more than any program has, few enough to keep per session.
const OPERATIONS_MAX: usize = 1_000;
/// Witnesses in one message: a partition has at least one slot, and there are 4,096 of them.
pub(super) const WITNESSES_MAX: usize = 4_096;
/// What is kept of the SDK's name and version.
const SDK_CHARS_MAX: usize = 128;

/// A hello that makes sense.
#[derive(Debug)]
pub(super) struct CheckedHello {
    pub(super) participant: Name,
    pub(super) instance: NewInstance,
    pub(super) witnesses: Vec<LogPosition>,
}

/// Checks a hello against this log, this node's name and our limits.
///
/// # Errors
/// What is wrong with it, and the code for the answer.
pub(super) fn check(
    hello: v1::Hello,
    (log_id, node): (LogId, &str),
    config: &DeliveryConfig,
) -> Result<CheckedHello, InvalidWire> {
    let invalid = |message: String| InvalidWire::new(ErrorCode::InvalidRequest, message);
    if hello.protocol_version != PROTOCOL_VERSION {
        return Err(invalid(format!(
            "hello: protocol version {} is not spoken here, only {PROTOCOL_VERSION}: use a matching SDK",
            hello.protocol_version
        )));
    }
    let participant = name("participant", hello.participant)?;
    let instance = name("instance", hello.instance)?;
    if hello.operations.len() > OPERATIONS_MAX {
        return Err(invalid(format!("hello: more than {OPERATIONS_MAX} operations")));
    }
    let serves = hello
        .operations
        .into_iter()
        .map(|operation| name("operation", operation))
        .collect::<Result<BTreeSet<_>, _>>()?;
    // Compared as text: whatever is not exactly our log's id is another log's.
    if !hello.log_id.is_empty() && hello.log_id != log_id.to_string() {
        let theirs = printable(&hello.log_id);
        let message = format!(
            "the participant belongs to log {theirs:.64}, this coordinator's log is {log_id}: \
             one of them is configured for another environment"
        );
        return Err(InvalidWire::new(ErrorCode::NotMine, message));
    }
    // Before anything is done for it: an instance that looks for another node has its session with this one
    // elsewhere, and a second one would end it.
    if !hello.node.is_empty() && hello.node != node {
        let theirs = printable(&hello.node);
        let message =
            format!("this is the node {node}, not {theirs:.128}: look for that one at another address");
        return Err(InvalidWire::new(ErrorCode::Unavailable, message));
    }
    let witnesses = witnesses(&hello.witnesses)?;
    let wished = usize::try_from(hello.concurrency).unwrap_or(usize::MAX);
    let concurrency = if wished == 0 { config.session_concurrency } else { wished };
    Ok(CheckedHello {
        participant,
        instance: NewInstance {
            name: instance,
            sdk: printable(&hello.sdk).chars().take(SDK_CHARS_MAX).collect(),
            serves,
            concurrency: concurrency.clamp(1, config.session_concurrency_max),
        },
        witnesses,
    })
}

/// Positions that a participant shows.
pub(super) fn witnesses(positions: &[v1::LogPosition]) -> Result<Vec<LogPosition>, InvalidWire> {
    if positions.len() > WITNESSES_MAX {
        let message = format!("more than {WITNESSES_MAX} positions");
        return Err(InvalidWire::new(ErrorCode::InvalidRequest, message));
    }
    positions.iter().map(position_from_wire).collect()
}

fn name(what: &str, text: String) -> Result<Name, InvalidWire> {
    Name::new(text)
        .map_err(|error| InvalidWire::new(ErrorCode::InvalidName, format!("hello: {what}: {error}")))
}
