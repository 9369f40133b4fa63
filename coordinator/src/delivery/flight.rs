//! A call on its way, which answers for itself whatever happens to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use unanimity_core::ResultOutcome;
use unanimity_types::{Name, Target};

use super::addresses::Address;
use super::text::printable;
use crate::engine::{BranchCall, BranchReply, ResultSink};

/// After how long a call that found no room may be offered again. Spread, so that a full queue is not
/// stormed by all at once.
pub(super) fn come_back_later() -> Duration {
    Duration::from_millis(fastrand::u64(1_000..2_000))
}

/// From this attempt on an absence lasts: with the default back-off some 13 s have passed.
const ABSENCE_LASTS_FROM: u32 = 8;
/// When one that lasts is looked at again, should nobody attach, in milliseconds.
const ABSENT_RETRY_MS: std::ops::Range<u64> = 60_000..180_000;

/// How many of something there are, and a bell for when there are none.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    count: AtomicUsize,
    none_left: Notify,
}

impl Gauge {
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// One more, whatever there is.
    fn enter(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    /// One more if there are fewer than `max`.
    pub(super) fn enter_below(&self, max: usize) -> bool {
        let one_more = |count| (count < max).then_some(count + 1);
        self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok()
    }

    /// One less.
    pub(super) fn leave(&self) {
        if self.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.none_left.notify_waiters();
        }
    }

    /// Waits until there are none.
    pub(super) async fn none_left(&self) {
        loop {
            let bell = self.none_left.notified();
            tokio::pin!(bell);
            // Registered before the look at the count, so a bell between the two is not missed.
            bell.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            bell.await;
        }
    }
}

/// What a bulkhead counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) done: AtomicU64,
    pub(super) failed: AtomicU64,
}

/// The participant that a call goes to, if it goes to one that attaches.
pub(super) fn participant_of(call: &BranchCall) -> Option<&Name> {
    match &call.target {
        Target::Participant { participant, .. } => Some(participant),
        Target::Grpc(_) | Target::Http(_) => None,
    }
}

/// A call that is owed its one reply. Dropping it is a reply too: *not sent* if it never left, else
/// *unknown*. So no path, not a panic and not a runtime that stops, can lose a call or answer twice.
#[derive(Debug)]
pub(super) struct Flight {
    call: BranchCall,
    /// A callback's; a participant that attaches has none.
    address: Option<Arc<Address>>,
    results: ResultSink,
    gauge: Arc<Gauge>,
    counters: Option<Arc<Counters>>,
    taken_at: Instant,
    sent_at: Option<Instant>,
    answered: bool,
}

impl Flight {
    pub(super) fn new(call: BranchCall, results: ResultSink, gauge: Arc<Gauge>) -> Self {
        gauge.enter();
        Self {
            call,
            address: None,
            results,
            gauge,
            counters: None,
            taken_at: Instant::now(),
            sent_at: None,
            answered: false,
        }
    }

    pub(super) fn call(&self) -> &BranchCall {
        &self.call
    }

    pub(super) fn participant(&self) -> Option<&Name> {
        participant_of(&self.call)
    }

    pub(super) fn address(&self) -> Option<&Address> {
        self.address.as_deref()
    }

    /// Where it goes, found allowed.
    pub(super) fn addressed_to(&mut self, address: Arc<Address>) {
        self.address = Some(address);
    }

    /// Where its end is counted.
    pub(super) fn counted_by(&mut self, counters: &Arc<Counters>) {
        self.counters = Some(Arc::clone(counters));
    }

    /// How long it has been here.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.taken_at)
    }

    /// Whether it may still leave: it may have waited here for longer than its owner's lease, and what
    /// goes forward without a lease could arrive after another owner undid it (protocol H3).
    pub(super) fn may_leave(&self) -> bool {
        self.results.may_send(self.call.operation)
    }

    /// Answers that its owner's lease ended while it waited.
    pub(super) fn outlived_lease(self) {
        self.not_sent("the partition's lease ended while the call waited for its turn");
    }

    /// From here on, nobody knows whether the participant saw it.
    pub(super) fn mark_sent(&mut self, now: Instant) {
        self.sent_at = Some(now);
    }

    /// Answers.
    pub(super) fn finish(mut self, outcome: ResultOutcome) {
        self.answer(outcome);
    }

    /// Answers that nothing is known.
    pub(super) fn unknown(self, error: &str) {
        self.finish(ResultOutcome::Unknown { error: printable(error), retry_after: None });
    }

    /// Answers that its participant has no instance. It does not wait here: the engine retries with its
    /// back-off, is told as soon as an instance attaches, and shows the reason meanwhile; a queue here would
    /// hide it and hold the call twice.
    ///
    /// Since an instance that attaches is heard of, an absence that lasts is not asked about at the pace of a
    /// callback, which nobody announces: of a large outage's transactions there are very many.
    pub(super) fn nobody(self) {
        let lasts = self.call.attempt >= ABSENCE_LASTS_FROM && !self.call.own_pace;
        let retry_after = lasts.then(|| fastrand::u64(ABSENT_RETRY_MS)).map(Duration::from_millis);
        let participant = self.participant().map_or("", Name::as_str);
        let error = printable(&format!("no instance of participant {participant} is attached"));
        self.finish(ResultOutcome::Unknown { error, retry_after });
    }

    /// Answers that it was not sent.
    pub(super) fn not_sent(self, error: &str) {
        self.finish(ResultOutcome::NotSent { error: printable(error), retry_after: come_back_later() });
    }

    fn answer(&mut self, outcome: ResultOutcome) {
        self.answered = true;
        if let Some(counters) = &self.counters {
            let counter = match outcome {
                ResultOutcome::Done | ResultOutcome::Result(_) | ResultOutcome::Voted(_) => {
                    Some(&counters.done)
                }
                // Neither is the participant's failure.
                ResultOutcome::NotYet { .. } | ResultOutcome::NotSent { .. } => None,
                ResultOutcome::Refused { .. }
                | ResultOutcome::Sealed { .. }
                | ResultOutcome::Unknown { .. }
                | ResultOutcome::Unusable { .. } => Some(&counters.failed),
            };
            if let Some(counter) = counter {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.results.send(BranchReply {
            xid: self.call.xid,
            branch_id: self.call.branch_id,
            operation: self.call.operation,
            attempt: self.call.attempt,
            position: self.call.position,
            outcome,
            took: self.sent_at.unwrap_or(self.taken_at).elapsed(),
        });
        self.gauge.leave();
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let error: Box<str> = "delivery let go of the call".into();
        self.answer(match self.sent_at {
            Some(_) => ResultOutcome::Unknown { error, retry_after: None },
            None => ResultOutcome::NotSent { error, retry_after: come_back_later() },
        });
    }
}
