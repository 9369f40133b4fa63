//! The context of a global transaction inside a process: which one the current work belongs to,
//! and what comes back from the calls made for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;
use unanimity_proto::{birth_to_wire, v1};
use unanimity_types::{BranchKey, Limits, LogId, Xid};

use crate::wire::{CallId, InvalidContext, WireContext, print_votes};

tokio::task_local! {
    static CURRENT: Context;
}

/// A vote under a key that no branch has: says up the chain that a call failed without an answer,
/// so that the commit becomes an abort even at a TM that does not know this word (`branch_missing`).
const FAILED_CALL_PREFIX: &str = "unanimity:call-failed@";

/// The context of a global transaction: travels with calls, gathers what comes back.
///
/// The layers of this crate make it the task's own, so that most code never sees it:
/// [`Context::current`] finds it, [`Context::scope`] takes it into a task that you spawn. Clones
/// are the same context.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    wire: WireContext,
    call: CallId,
    deadline: Option<Instant>,
    traceparent: Option<HeaderValue>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    votes: BTreeSet<BranchKey>,
    ordinals: BTreeMap<String, u32>,
    failed_call: Option<String>,
    tolerates_failed_calls: bool,
}

impl Context {
    /// The context of the task that runs now, if it belongs to a transaction.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// Runs a future with this context as the current one: for tasks that you spawn, which do not
    /// inherit it.
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self.clone(), future)
    }

    /// Runs a function with this context as the current one.
    pub(crate) fn sync_scope<T>(&self, action: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), action)
    }

    /// Reads a context header, for transports that this crate has no layer for. Answer the request
    /// with [`Context::votes_header`] in the header `unanimity-votes`.
    ///
    /// # Errors
    /// [`InvalidContext`] if it is not one. Refuse the request then: work that should have been
    /// part of a transaction must not happen outside of it.
    pub fn from_header(value: &str) -> Result<Self, InvalidContext> {
        value.parse().map(Self::from_wire)
    }

    pub(crate) fn from_wire(wire: WireContext) -> Self {
        Self::with_traceparent(wire, None)
    }

    pub(crate) fn with_traceparent(wire: WireContext, traceparent: Option<HeaderValue>) -> Self {
        // A month at most, like a transaction's own timeout: keeps the sum below from overflowing.
        let deadline = wire.timeout.map(|left| Instant::now() + left.min(Limits::TIMEOUT_MAX));
        let call = wire.call.clone().unwrap_or_else(CallId::mint);
        let inner = Inner { wire, call, deadline, traceparent, state: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// The transaction.
    #[must_use]
    pub fn xid(&self) -> Xid {
        self.inner.wire.xid
    }

    /// The log that the transaction lives in, as far as the caller knew.
    #[must_use]
    pub fn log_id(&self) -> Option<LogId> {
        self.inner.wire.log_id
    }

    /// What the transaction is, for a call that may be the first that the coordinator hears of it.
    pub(crate) fn birth(&self) -> Option<v1::Birth> {
        self.inner.wire.birth.as_ref().map(birth_to_wire)
    }

    /// The time left until the transaction's deadline; `None` if the caller did not say. Only a
    /// hint: the deadline itself is the coordinator's.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.inner.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The header value for one outgoing call. Mint one for each call, and use it again when the
    /// same call is repeated: the callee's branch keys are derived from it (protocol H8).
    #[must_use]
    pub fn header_for_call(&self, call: &CallId) -> String {
        let wire = WireContext {
            xid: self.inner.wire.xid,
            call: Some(call.clone()),
            timeout: self.remaining(),
            log_id: self.inner.wire.log_id,
            birth: self.inner.wire.birth.clone(),
            others: self.inner.wire.others.clone(),
        };
        wire.to_string()
    }

    /// The value for the answer's header `unanimity-votes`.
    #[must_use]
    pub fn votes_header(&self) -> String {
        let mut keys = Vec::new();
        if self.must_abort().is_some() {
            // First, so that it has room. Prefix and call id are far below the limit of a key's length.
            keys.extend(BranchKey::new(format!("{FAILED_CALL_PREFIX}{}", self.inner.call.as_str())).ok());
        }
        keys.extend(self.votes());
        let (text, left_out) = print_votes(&keys);
        if left_out > 0 {
            tracing::error!(xid = %self.xid(), left_out, "too many votes for one answer: the transaction will abort");
        }
        text
    }

    /// Adds the votes of an answer.
    pub(crate) fn add_votes(&self, keys: impl IntoIterator<Item = BranchKey>) {
        let mut state = self.state();
        for key in keys {
            if key.as_str().starts_with(FAILED_CALL_PREFIX) {
                state.failed_call.get_or_insert_with(|| "a call further down had no answer".to_owned());
            } else if state.votes.len() < Limits::BRANCHES_MAX || state.votes.contains(&key) {
                state.votes.insert(key);
            } else {
                state
                    .failed_call
                    .get_or_insert_with(|| "more votes than a transaction has branches".to_owned());
            }
        }
    }

    /// The votes gathered so far.
    pub(crate) fn votes(&self) -> Vec<BranchKey> {
        self.state().votes.iter().cloned().collect()
    }

    /// Remembers that a call that carried the context ended without a well-formed answer.
    pub(crate) fn call_failed(&self, why: impl Into<String>) {
        let why = why.into();
        tracing::debug!(xid = %self.xid(), %why, "a call of the transaction had no answer");
        self.state().failed_call.get_or_insert(why);
    }

    /// Why the transaction must not be committed, if so.
    pub(crate) fn must_abort(&self) -> Option<String> {
        let state = self.state();
        state.failed_call.clone().filter(|_| !state.tolerates_failed_calls)
    }

    /// Lets the transaction commit although calls that carried its context had no answer.
    ///
    /// Safe for branches: those that registered and did not vote still abort it. What is lost is
    /// the notice that a call may never have arrived.
    pub fn tolerate_failed_calls(&self) {
        self.state().tolerates_failed_calls = true;
    }

    /// The key of the next branch of a participant's operation in this call. The same sequence of
    /// branches in a repetition of the call gets the same keys.
    pub(crate) fn next_key(&self, participant: &str, operation: &str) -> BranchKey {
        let name = format!("{participant}/{operation}");
        let ordinal = {
            let mut state = self.state();
            let ordinal = state.ordinals.entry(name.clone()).or_insert(0);
            *ordinal += 1;
            *ordinal
        };
        self.key(&name, &ordinal.to_string())
    }

    /// The key of a branch that the caller tells apart by a label of its own.
    pub(crate) fn labelled_key(&self, participant: &str, operation: &str, label: &str) -> BranchKey {
        self.key(&format!("{participant}/{operation}"), &format!("={label}"))
    }

    fn key(&self, name: &str, suffix: &str) -> BranchKey {
        let call = self.inner.call.as_str();
        BranchKey::new(format!("{name}#{suffix}@{call}")).unwrap_or_else(|_| {
            // Too long, or a label with characters that a key must not have: a digest instead.
            let digest = <sha2::Sha256 as sha2::Digest>::digest(format!("{name}#{suffix}"));
            let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
            // 32 + 1 + at most 32 characters, all of them printable.
            BranchKey::new(format!("{hex}@{call}")).expect("a digest and a call id are a valid key")
        })
    }

    pub(crate) fn traceparent(&self) -> Option<&HeaderValue> {
        self.inner.traceparent.as_ref()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, so a poisoned lock still guards sound data.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRef<Context> for Context {
    fn as_ref(&self) -> &Context {
        self
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("xid", &self.xid())
            .field("call", &self.inner.call)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::parse_votes;

    fn context() -> Context {
        Context::from_header("0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f;call=c1;timeout=1000").expect("valid")
    }

    #[test]
    fn h8_a_repeated_call_gets_the_same_keys() {
        let keys = |context: &Context| {
            [
                context.next_key("inv", "reserve"),
                context.next_key("inv", "reserve"),
                context.next_key("inv", "x"),
            ]
        };
        let first = keys(&context());
        assert_eq!(first, keys(&context()));
        assert_eq!(first[0].as_str(), "inv/reserve#1@c1");
        assert_eq!(first[1].as_str(), "inv/reserve#2@c1");
    }

    #[test]
    fn long_names_give_a_digest() {
        let name = "n".repeat(128);
        let key = context().next_key(&name, &name);
        assert!(key.as_str().len() < 70 && key.as_str().ends_with("@c1"));
        assert_ne!(key, context().labelled_key(&name, &name, "1\0"));
    }

    #[test]
    fn a_failed_call_further_down_reaches_the_tm() {
        let (hop, tm) = (context(), context());
        hop.call_failed("connection reset");
        tm.add_votes(parse_votes(&hop.votes_header()).expect("readable"));
        assert!(tm.must_abort().is_some());
        assert!(tm.votes().is_empty());
        tm.tolerate_failed_calls();
        assert!(tm.must_abort().is_none());
    }

    #[test]
    fn a_failed_call_is_told_even_if_the_votes_fill_the_header() {
        let (hop, tm) = (context(), context());
        // 64 bytes and a comma each: they fill it to the last bytes, and all of them fit.
        hop.add_votes((0..189).map(|n| BranchKey::new(format!("{n:0>64}")).expect("valid")));
        assert_eq!(parse_votes(&hop.votes_header()).expect("readable").len(), 189);
        hop.call_failed("connection reset");
        tm.add_votes(parse_votes(&hop.votes_header()).expect("readable"));
        assert!(tm.must_abort().is_some());
    }

    #[tokio::test]
    async fn the_context_is_the_tasks_own() {
        assert!(Context::current().is_none());
        let xid = context().scope(async { Context::current().map(|c| c.xid()) }).await;
        assert_eq!(xid, Some(context().xid()));
    }
}
