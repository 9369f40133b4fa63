//! Whether an owner may still believe that it owns its partition.
//!
//! The log decides who wins; this only keeps an owner that slept from sending what no decision stands
//! behind (protocol H3): an action that arrives after its compensation is not undone by anybody.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;
use unanimity_types::mutant::{self, Mutant};

/// A lease as its holder may count on it: by its own monotonic clock, from the moment when the renewal
/// was *asked for*. Clones look at the same lease. The default one never ends.
#[derive(Debug, Clone, Default)]
pub(super) struct Ownership(Option<Arc<Mutex<Instant>>>);

impl Ownership {
    /// A lease that ends then.
    pub(super) fn until(end: Instant) -> Self {
        Self(Some(Arc::new(Mutex::new(end))))
    }

    /// The lease was renewed until then: later than before, or it stays as it is.
    pub(super) fn renewed(&self, until: Instant) {
        self.change(|end| end.max(until));
    }

    /// It is over: deposed, or shut down.
    pub(super) fn end(&self) {
        self.change(|end| end.min(Instant::now()));
    }

    fn change(&self, change: impl FnOnce(Instant) -> Instant) {
        if let Some(end) = &self.0 {
            let mut end = end.lock().unwrap_or_else(PoisonError::into_inner);
            *end = change(*end);
        }
    }

    /// Whether it holds now.
    pub(super) fn holds(&self) -> bool {
        let end = self.0.as_ref().map(|end| *end.lock().unwrap_or_else(PoisonError::into_inner));
        end.is_none_or(|end| Instant::now() < end) || mutant::is(Mutant::LeaseIgnored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn h3_a_lease_ends_by_the_clock_and_is_never_shortened_by_a_late_renewal() {
        let now = Instant::now();
        let ownership = Ownership::until(now + Duration::from_secs(6));
        let clone = ownership.clone();
        ownership.renewed(now + Duration::from_secs(3));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(clone.holds());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!clone.holds());
        ownership.renewed(Instant::now() + Duration::from_secs(6));
        assert!(clone.holds());
        ownership.end();
        assert!(!clone.holds() && Ownership::default().holds());
    }
}
