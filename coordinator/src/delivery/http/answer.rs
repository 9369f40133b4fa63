//! What the body of an answer says.

use bytes::Bytes;
use reqwest::Response;
use serde::Deserialize;
use unanimity_core::ResultOutcome;
use unanimity_types::{Limits, Operation, Vote};

use crate::delivery::text::printable;

/// What is read of an answer whose body only explains: an error's text, never a document.
pub(super) const TEXT_BYTES_MAX: usize = 64 * 1024;

/// How much of a good answer's body is looked at. One byte more than a result may have, so that
/// whoever judges it sees that it is too large.
pub(super) const fn bytes_max(operation: Operation) -> usize {
    match operation {
        Operation::Action => Limits::RESULT_BYTES_MAX + 1,
        _ => TEXT_BYTES_MAX,
    }
}

/// The body's first bytes. Reads to the end if that is near; a longer body is left alone, and its
/// connection with it.
///
/// # Errors
/// If the body breaks off.
pub(super) async fn read(mut response: Response, bytes_max: usize) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = bytes_max - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() >= room {
            break;
        }
    }
    Ok(body)
}

/// A 2xx.
pub(super) fn accepted(operation: Operation, body: Vec<u8>) -> ResultOutcome {
    match operation {
        Operation::Action if !body.is_empty() => ResultOutcome::Result(Bytes::from(body)),
        Operation::Prepare => vote(&body),
        _ => ResultOutcome::Done,
    }
}

#[derive(Deserialize)]
struct VoteBody {
    vote: serde_json::Value,
}

/// A 2xx to a prepare is the vote Prepared, unless its body says another one.
fn vote(body: &[u8]) -> ResultOutcome {
    let Ok(VoteBody { vote }) = serde_json::from_slice(body) else {
        return ResultOutcome::Voted(Vote::Prepared);
    };
    match vote.as_str().and_then(|word| word.parse().ok()) {
        Some(Vote::Refused) => ResultOutcome::Refused { error: "it voted refused".into() },
        Some(vote) => ResultOutcome::Voted(vote),
        // Whoever writes a word that we do not know did not mean "prepared".
        None => {
            let error =
                format!("the answer to a prepare has the vote {vote}; known: prepared, read_only, refused");
            ResultOutcome::Unknown { error: printable(&error), retry_after: None }
        }
    }
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
        let refused = accepted(Operation::Prepare, br#"{"vote":"refused"}"#.to_vec());
        assert!(matches!(refused, ResultOutcome::Refused { .. }));
        for body in [r#"{"vote": "no"}"#, r#"{"vote": null}"#, r#"{"vote": 1}"#] {
            let outcome = accepted(Operation::Prepare, body.into());
            assert!(matches!(outcome, ResultOutcome::Unknown { .. }), "{body}: {outcome:?}");
        }
        assert_eq!(accepted(Operation::Commit, br#"{"vote":"refused"}"#.to_vec()), ResultOutcome::Done);
    }
}
