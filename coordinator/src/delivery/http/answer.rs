//! What the body of an answer says.

use bytes::Bytes;
use reqwest::Response;
use serde_json::Value;
use unanimity_core::ResultOutcome;
use unanimity_types::{Limits, Operation, Vote};

use crate::delivery::text::printable;

/// What is read of an answer whose body only explains: an error's text, never a document.
pub(super) const TEXT_BYTES_MAX: usize = 64 * 1024;

/// How much of a good answer's body is looked at; none where the status says all. One byte more than a
/// result may have, so that whoever judges it sees that it is too large.
pub(super) const fn bytes_max(operation: Operation) -> Option<usize> {
    match operation {
        Operation::Action => Some(Limits::RESULT_BYTES_MAX + 1),
        Operation::Prepare => Some(TEXT_BYTES_MAX),
        _ => None,
    }
}

/// The body's first bytes. Reads to the end if that is near; a longer body is left alone, and its
/// connection with it.
///
/// # Errors
/// If the body breaks off.
pub(super) async fn read(mut response: Response, bytes_max: usize) -> Result<Bytes, reqwest::Error> {
    let Some(first) = response.chunk().await? else { return Ok(Bytes::new()) };
    if first.len() >= bytes_max {
        return Ok(first.slice(..bytes_max));
    }
    let Some(second) = response.chunk().await? else { return Ok(first) };
    let mut body = Vec::from(first);
    let mut next = Some(second);
    while let Some(chunk) = next {
        let room = bytes_max - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() >= room {
            break;
        }
        next = response.chunk().await?;
    }
    Ok(body.into())
}

/// Reads a body that nobody looks at, as far as [`read`] does: that it is whole is a part of the answer,
/// and its connection can be used again.
///
/// # Errors
/// If the body breaks off.
pub(super) async fn skip(mut response: Response) -> Result<Bytes, reqwest::Error> {
    let mut bytes = 0;
    while bytes < TEXT_BYTES_MAX
        && let Some(chunk) = response.chunk().await?
    {
        bytes += chunk.len();
    }
    Ok(Bytes::new())
}

/// A 2xx.
pub(crate) fn accepted(operation: Operation, body: Bytes) -> ResultOutcome {
    match operation {
        Operation::Action if !body.is_empty() => ResultOutcome::Result(body),
        Operation::Prepare => vote(&body),
        _ => ResultOutcome::Done,
    }
}

/// A 2xx to a prepare is the vote Prepared, unless its body says another one, or begins to say something
/// that cannot be read: "prepared" cannot be taken back.
fn vote(body: &[u8]) -> ResultOutcome {
    let unreadable = |error: &str| ResultOutcome::Unknown { error: printable(error), retry_after: None };
    if body.len() >= TEXT_BYTES_MAX {
        // The rest, which may have the vote, was not read.
        return unreadable("the answer to a prepare is too long to look for its vote");
    }
    let Ok(document) = serde_json::from_slice::<Value>(body) else {
        let is_object = body.trim_ascii_start().first() == Some(&b'{');
        return if is_object {
            unreadable("the answer to a prepare begins as a JSON object and is none")
        } else {
            ResultOutcome::Voted(Vote::Prepared)
        };
    };
    let Some(vote) = document.get("vote") else { return ResultOutcome::Voted(Vote::Prepared) };
    match vote.as_str().and_then(|word| word.parse().ok()) {
        Some(Vote::Refused) => ResultOutcome::Refused { error: "it voted refused".into() },
        Some(vote) => ResultOutcome::Voted(vote),
        // Whoever writes a word that we do not know did not mean "prepared".
        None => unreadable(&format!(
            "the answer to a prepare has the vote {vote}; known: prepared, read_only, refused"
        )),
    }
}

/// Whether a refused action says that no attempt of it takes effect any more (protocol H2).
pub(super) fn is_sealed(body: &[u8]) -> bool {
    serde_json::from_slice::<Value>(body)
        .is_ok_and(|document| document.get("sealed") == Some(&Value::Bool(true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prepare_is_answered_by_its_status_or_by_a_vote() {
        for (body, vote) in [
            ("", Vote::Prepared),
            ("OK", Vote::Prepared),
            ("{}", Vote::Prepared),
            ("[1]", Vote::Prepared),
            (r#"{"vote": "prepared", "more": 1}"#, Vote::Prepared),
            (r#"{"vote": "read_only"}"#, Vote::ReadOnly),
        ] {
            assert_eq!(accepted(Operation::Prepare, body.into()), ResultOutcome::Voted(vote), "{body}");
        }
        // The last one counts, as most parsers have it.
        for body in [r#"{"vote":"refused"}"#, r#"{"vote":"prepared","vote":"refused"}"#] {
            let refused = accepted(Operation::Prepare, body.into());
            assert!(matches!(refused, ResultOutcome::Refused { .. }), "{body}: {refused:?}");
        }
        let padding = "x".repeat(TEXT_BYTES_MAX);
        let long = format!(r#"{{"work": "{padding}", "vote": "refused"}}"#);
        let cut = &long.as_bytes()[..TEXT_BYTES_MAX];
        for body in [
            br#"{"vote": "no"}"#,
            br#"{"vote": null}"#,
            &br#"{"vote": 1}"#[..],
            br#"{"vote": "refused""#,
            b" {\"why\": \"\xe4\", \"vote\": \"refused\"}",
            cut,
        ] {
            let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
            let outcome = accepted(Operation::Prepare, Bytes::copy_from_slice(body));
            assert!(matches!(outcome, ResultOutcome::Unknown { .. }), "{shown}: {outcome:?}");
        }
        assert_eq!(accepted(Operation::Commit, r#"{"vote":"refused"}"#.into()), ResultOutcome::Done);
    }
}
