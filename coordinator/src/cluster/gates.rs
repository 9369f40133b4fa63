//! Who may try an owner that did not take a call: one at a time, more and more seldom.
//!
//! Thousands of calls may wait for one partition while it goes from one node to another. Each of them would ask
//! the owner that it knows again and again. Behind a gate one of them asks; the others wait until that one was
//! answered, or the owner is another one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use unanimity_types::PartitionId;

/// A hand-over takes some tens of milliseconds.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// A gate that nobody asked for so long belongs to an owner that is none any more.
const FORGET_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Gate {
    pause: Duration,
    opens_at: Instant,
}

/// The gates of all partitions whose owners did not take a call.
#[derive(Debug, Default)]
pub(super) struct Gates {
    closed: Mutex<HashMap<(PartitionId, String), Gate>>,
    /// Rings when a gate is taken away.
    bell: watch::Sender<()>,
}

impl Gates {
    /// Whether a call may go to this owner now; else when to ask again. Who may go has the gate for itself until it
    /// says how it went, or for the length of a pause.
    pub(super) fn pass(&self, partition: PartitionId, address: &str) -> Result<(), Instant> {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if closed.is_empty() {
            return Ok(());
        }
        let Some(gate) = closed.get_mut(&(partition, address.to_owned())) else { return Ok(()) };
        let now = Instant::now();
        if now < gate.opens_at {
            return Err(gate.opens_at);
        }
        gate.opens_at = now + gate.pause;
        gate.pause = (gate.pause * 2).min(PAUSE_MAX);
        Ok(())
    }

    /// The owner did not take a call.
    pub(super) fn close(&self, partition: PartitionId, address: &str) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        closed.retain(|_, gate| now.saturating_duration_since(gate.opens_at) < FORGET_AFTER);
        let gate = || Gate { pause: PAUSE_MIN * 2, opens_at: now + PAUSE_MIN };
        closed.entry((partition, address.to_owned())).or_insert_with(gate);
    }

    /// It took one.
    pub(super) fn open(&self, partition: PartitionId, address: &str) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if !closed.is_empty() && closed.remove(&(partition, address.to_owned())).is_some() {
            self.bell.send_replace(());
        }
    }

    /// What rings when a gate is taken away.
    pub(super) fn bell(&self) -> watch::Receiver<()> {
        self.bell.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_call_at_a_time_tries_an_owner_that_took_none() {
        let (gates, p) = (Gates::default(), PartitionId(3));
        assert!(gates.pass(p, "a").is_ok() && gates.pass(p, "a").is_ok());
        gates.close(p, "a");
        gates.close(p, "a");
        let opens_at = gates.pass(p, "a").expect_err("closed");
        assert!(gates.pass(p, "b").is_ok() && gates.pass(PartitionId(4), "a").is_ok());
        tokio::time::sleep_until(opens_at).await;
        assert!(gates.pass(p, "a").is_ok(), "the first may try");
        let again_at = gates.pass(p, "a").expect_err("the second waits for it");
        assert!(again_at > Instant::now());
        let mut bell = gates.bell();
        gates.open(p, "a");
        assert!(bell.has_changed().expect("it lives") && gates.pass(p, "a").is_ok());
        bell.mark_unchanged();
        gates.open(p, "a");
        assert!(!bell.has_changed().expect("it lives"), "an open gate rings no bell");
    }
}
