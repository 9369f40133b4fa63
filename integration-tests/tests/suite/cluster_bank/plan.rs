//! How large a run is, and when it has had enough.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration_tests::wait::until;

use super::clients::Clients;

/// For how many minutes faults go on, at most: set by `cargo xtask soak`, and what follows as well.
const MINUTES_VARIABLE: &str = "UNANIMITY_TEST_SOAK_MINUTES";
/// With so many faults and transfers it ends earlier.
const FAULTS_VARIABLE: &str = "UNANIMITY_TEST_SOAK_FAULTS";
const TRANSFERS_VARIABLE: &str = "UNANIMITY_TEST_SOAK_TRANSFERS";
/// How many transfers a run of the suite makes, at least.
const TRANSFERS: usize = 3_000;
/// How many faults hit, at least, where all servers are ours.
pub(super) const FAULTS: usize = 20;
/// The limit of a run of the suite until everything works again, for a machine that is busy with other tests.
const STORY_LIMIT: Duration = Duration::from_secs(600);
/// Of each transfer a client remembers some 500 bytes; beyond, a soak ends, however long it was to be.
const TRANSFERS_MAX: usize = 2_000_000;

/// What a soak stops at.
#[derive(Debug, Clone, Copy)]
struct Soak {
    time: Duration,
    /// Both of these together, if there are any.
    faults: Option<usize>,
    transfers: Option<usize>,
}

/// How large a run is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    soak: Option<Soak>,
}

impl Plan {
    /// Enough for every run of the tests, or what `cargo xtask soak` asks for.
    pub(super) fn from_environment() -> anyhow::Result<Self> {
        let Some(minutes) = number(MINUTES_VARIABLE)? else { return Ok(Self { soak: None }) };
        let time = Duration::from_secs(60 * u64::try_from(minutes)?);
        Ok(Self {
            soak: Some(Soak {
                time,
                faults: number(FAULTS_VARIABLE)?,
                transfers: number(TRANSFERS_VARIABLE)?,
            }),
        })
    }

    /// Faults in two lanes, and nothing told of each.
    pub(super) fn is_soak(self) -> bool {
        self.soak.is_some()
    }

    /// Who makes transfers at a time. Most of a soak's wait for something that is away.
    pub(super) fn clients(self) -> usize {
        if self.is_soak() { 48 } else { 16 }
    }

    /// Accounts of each bank: enough that transfers seldom wait for each other, few enough that they sometimes do.
    pub(super) fn accounts(self) -> u32 {
        if self.is_soak() { 400 } else { 48 }
    }

    /// Whether no other round of faults is due.
    pub(super) fn is_fulfilled(self, elapsed: Duration, faults: usize, transfers: usize) -> bool {
        match self.soak {
            None => faults > 0,
            Some(_) => self.is_over(elapsed, faults, transfers),
        }
    }

    /// Whether not even another fault is due.
    pub(super) fn is_over(self, elapsed: Duration, faults: usize, transfers: usize) -> bool {
        let Some(soak) = self.soak else { return elapsed >= STORY_LIMIT };
        let counted = soak.faults.is_some() || soak.transfers.is_some();
        let reached = soak.faults.is_none_or(|goal| faults >= goal)
            && soak.transfers.is_none_or(|goal| transfers >= goal);
        elapsed >= soak.time || transfers >= TRANSFERS_MAX || (counted && reached)
    }

    /// Waits for what is missing after the faults.
    pub(super) async fn enough(self, clients: &Clients, started: Instant) -> anyhow::Result<()> {
        if self.is_soak() {
            return Ok(());
        }
        until("there are transfers enough", STORY_LIMIT.saturating_sub(started.elapsed()), async || {
            ensure!(clients.made() >= TRANSFERS, "{} of {TRANSFERS}", clients.made());
            Ok(())
        })
        .await
    }
}

fn number(variable: &str) -> anyhow::Result<Option<usize>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    Ok(Some(text.parse().with_context(|| format!("{variable}={text} is no whole number"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soak_ends_with_its_time_or_with_all_that_was_asked_for() {
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(100));
        let soak = |faults, transfers| Plan {
            soak: Some(Soak { time: Duration::from_secs(60), faults, transfers }),
        };
        for (plan, elapsed, over) in [
            (soak(None, None), short, false),
            (soak(None, None), long, true),
            (soak(Some(10), None), short, true),
            (soak(Some(10), Some(500)), short, true),
            (soak(Some(10), Some(501)), short, false),
            (soak(Some(11), Some(500)), long, true),
        ] {
            assert_eq!(plan.is_over(elapsed, 10, 500), over, "{plan:?} after {elapsed:?}");
        }
        assert!(soak(None, None).is_over(short, 0, TRANSFERS_MAX));
        assert!(!Plan { soak: None }.is_over(long, 10, 500));
    }
}
