//! The body of a request.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use unanimity_types::{BranchKind, Name, Operation, StepRole};

use crate::engine::BranchCall;

/// Room for the fields around a payload, so that the body is written without growing.
const HEAD_BYTES: usize = 512;

/// The body. What is bytes to us stands in it as JSON if it is JSON, byte by byte (parsing and writing
/// it anew would change numbers and the order of keys); else it is `null`, and the field of the same name
/// with `_base64` has it.
#[derive(Serialize)]
struct Envelope<'a> {
    xid: String,
    branch_id: u32,
    key: &'a str,
    operation: &'a str,
    /// The transaction's name.
    name: Option<&'a str>,
    attempt: u32,
    epoch: u64,
    kind: &'a str,
    log_id: &'a str,
    /// How long the coordinator waits for the answer.
    timeout_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    payload: &'a RawValue,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    step: Option<StepPart<'a>>,
}

/// What only a saga's steps are told.
#[derive(Serialize)]
struct StepPart<'a> {
    /// A refusal of one that is not `forward_only` ends the step.
    role: &'a str,
    /// The results of the steps that come before.
    inputs: BTreeMap<&'a str, &'a RawValue>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    inputs_base64: BTreeMap<&'a str, String>,
    /// Compensate: the result of the step's own action, `null` if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_base64: Option<String>,
}

/// The request's body.
///
/// # Errors
/// None that is known: texts and numbers always serialise.
pub(crate) fn body(call: &BranchCall, log_id: &str, timeout: Duration) -> Result<Bytes, serde_json::Error> {
    let (payload, payload_base64) = value(&call.payload);
    let envelope = Envelope {
        xid: call.xid.to_string(),
        branch_id: call.branch_id.0,
        key: call.key.as_str(),
        operation: call.operation.as_str(),
        name: call.transaction_name.as_ref().map(Name::as_str),
        attempt: call.attempt,
        epoch: call.position.epoch.0,
        kind: call.kind.as_str(),
        log_id,
        timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        payload_base64,
        payload,
        step: (call.kind == BranchKind::Step).then(|| step(call)),
    };
    let mut text = Vec::with_capacity(HEAD_BYTES + call.payload.len());
    serde_json::to_writer(&mut text, &envelope)?;
    Ok(text.into())
}

fn step(call: &BranchCall) -> StepPart<'_> {
    let mut inputs = BTreeMap::new();
    let mut inputs_base64 = BTreeMap::new();
    for (step, result) in &call.inputs {
        let (json, base64) = value(result);
        inputs.insert(step.as_str(), json);
        inputs_base64.extend(base64.map(|text| (step.as_str(), text)));
    }
    let (result, result_base64) = match &call.result {
        Some(result) => value(result),
        None => (RawValue::NULL, None),
    };
    let result = (call.operation == Operation::Compensate).then_some(result);
    let role = call.role.unwrap_or(StepRole::Compensatable).as_str();
    StepPart { role, inputs, inputs_base64, result, result_base64 }
}

/// Bytes as JSON, or `null` and base64 if they are something else. Nothing at all is `null` too.
fn value(bytes: &[u8]) -> (&RawValue, Option<String>) {
    if bytes.is_empty() {
        return (RawValue::NULL, None);
    }
    // Looks at the UTF-8 of strings too.
    match serde_json::from_slice(bytes) {
        Ok(json) => (json, None),
        Err(_) => (RawValue::NULL, Some(base64(bytes))),
    }
}

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let index = (group >> (18 - 6 * place)) & 63;
            let digit = if place <= chunk.len() { ALPHABET[index as usize] } else { b'=' };
            text.push(char::from(digit));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe]), "//4=");
    }

    #[test]
    fn only_whole_json_in_utf8_is_put_in_as_it_is() {
        for json in ["{\"a\":1.10,\"a\":2}", "7", "\"x\"", "[1, 2]", "null"] {
            let (value, base64) = value(json.as_bytes());
            assert_eq!((value.get(), base64), (json, None));
        }
        for other in [&b"{\"a\":1"[..], b"x", b"{} {}", b"\"\xff\"", b"\x00", b"1,\"xid\":2"] {
            let (value, base64) = value(other);
            assert_eq!(value.get(), "null");
            assert!(base64.is_some(), "{other:?}");
        }
    }
}
