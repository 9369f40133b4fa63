//! One outgoing call that carries the context.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use unanimity_proto::{CONTEXT_HEADER, VOTES_HEADER};

use crate::context::Context;
use crate::wire::{CallId, parse_votes};

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// gRPC codes that say nothing about what the callee did, when no votes came with them:
/// cancelled, unknown, deadline exceeded, internal, unavailable.
const GRPC_NO_ANSWER: [&str; 5] = ["1", "2", "4", "13", "14"];

/// A call under way. Dropped before [`OutgoingCall::answered`] it counts as a call without an
/// answer: the callee may have done anything (protocol 1.3).
#[derive(Debug)]
pub(crate) struct OutgoingCall {
    context: Context,
    id: CallId,
    answered: bool,
}

impl OutgoingCall {
    pub(crate) fn new(context: Context) -> Self {
        Self { context, id: CallId::mint(), answered: false }
    }

    /// Adds the context to the request's headers.
    pub(crate) fn write_to(&self, headers: &mut HeaderMap) {
        match HeaderValue::from_str(&self.context.header_for_call(&self.id)) {
            Ok(value) => {
                headers.insert(CONTEXT_HEADER, value);
            }
            // Cannot be: everything in it was checked when it was read. Without its header the
            // call is outside of the transaction, so that must not commit.
            Err(_) => self.context.call_failed("the context cannot be written as a header"),
        }
        if let Some(trace) = self.context.traceparent() {
            headers.entry(TRACEPARENT).or_insert_with(|| trace.clone());
        }
    }

    /// Takes the votes out of the answer's head, and judges whether it is an answer at all.
    pub(crate) fn answered(mut self, status: StatusCode, headers: &HeaderMap) {
        self.answered = true;
        let mut voted = false;
        for value in headers.get_all(VOTES_HEADER) {
            match value.to_str().ok().and_then(parse_votes) {
                Some(keys) => {
                    voted = true;
                    self.context.add_votes(keys);
                }
                None => self.context.call_failed("the answer's votes cannot be read"),
            }
        }
        if voted {
            return;
        }
        let grpc = headers.get("grpc-status").and_then(|code| code.to_str().ok());
        if status.is_server_error() {
            self.context.call_failed(format!("HTTP status {}", status.as_u16()));
        } else if let Some(code) = grpc.filter(|code| GRPC_NO_ANSWER.contains(code)) {
            self.context.call_failed(format!("gRPC status {code}"));
        }
    }

    /// The call ended without an answer.
    pub(crate) fn failed(mut self, why: &dyn std::fmt::Display) {
        self.answered = true;
        self.context.call_failed(crate::error::shorten(&why.to_string()));
    }
}

impl Drop for OutgoingCall {
    fn drop(&mut self) {
        if !self.answered {
            self.context.call_failed("the caller stopped waiting for a call");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        Context::from_header("0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f;call=c1").expect("valid")
    }

    fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> Context {
        let context = context();
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let status = StatusCode::from_u16(status).expect("valid");
        OutgoingCall::new(context.clone()).answered(status, &headers);
        context
    }

    #[test]
    fn answers_and_non_answers_are_told_apart() {
        for (status, headers, aborts, votes) in [
            (200, &[][..], false, 0),
            (200, &[(VOTES_HEADER, "a,b")][..], false, 2),
            (409, &[][..], false, 0),
            // The service itself answered: its branches tell the coordinator what they did.
            (500, &[(VOTES_HEADER, "")][..], false, 0),
            (502, &[][..], true, 0),
            (200, &[("grpc-status", "14")][..], true, 0),
            (200, &[("grpc-status", "9")][..], false, 0),
            (200, &[("grpc-status", "14"), (VOTES_HEADER, "a")][..], false, 1),
            (200, &[(VOTES_HEADER, "%zz")][..], true, 0),
        ] {
            let context = answer(status, headers);
            assert_eq!(context.must_abort().is_some(), aborts, "{status} {headers:?}");
            assert_eq!(context.votes().len(), votes, "{status} {headers:?}");
        }
    }

    #[test]
    fn a_call_that_is_dropped_must_abort() {
        let context = context();
        drop(OutgoingCall::new(context.clone()));
        assert!(context.must_abort().is_some());
    }

    #[test]
    fn each_call_has_its_own_id_and_keeps_it() {
        let context = context();
        let call = OutgoingCall::new(context.clone());
        let written = |call: &OutgoingCall| {
            let mut headers = HeaderMap::new();
            call.write_to(&mut headers);
            headers[CONTEXT_HEADER].clone()
        };
        assert_eq!(written(&call), written(&call));
        assert_ne!(written(&call), written(&OutgoingCall::new(context)));
        call.answered(StatusCode::OK, &HeaderMap::new());
    }
}
