//! Counting and timing.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Latencies up to an hour: what took longer counts as an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// A relative error of a thousandth.
const DIGITS: u8 = 3;
/// Different errors that are remembered: enough to see what is wrong.
const ERRORS_MAX: usize = 8;

/// The time that is measured: what begins in `from..to`. Microseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Window {
    /// When transactions begin to be started: the warm-up.
    pub(crate) start_us: u64,
    /// When the warm-up ends.
    pub(crate) from_us: u64,
    /// When no more are started.
    pub(crate) to_us: u64,
}

impl Window {
    pub(crate) const fn holds(&self, moment_us: u64) -> bool {
        self.from_us <= moment_us && moment_us < self.to_us
    }
}

/// Latencies in microseconds.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS);
        Self(histogram.expect("1 µs to an hour with 3 digits are bounds of a histogram"))
    }
}

impl Latencies {
    pub(crate) fn record(&mut self, micros: u64) {
        self.0.saturating_record(micros.max(1));
    }

    /// Takes in what another process measured.
    pub(crate) fn add(&mut self, counts: &Counts) {
        for &(value, count) in &counts.0 {
            self.0.saturating_record_n(value.max(1), count);
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts(self.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect())
    }

    pub(crate) fn quantiles(&self) -> Option<Quantiles> {
        let at = |quantile| self.0.value_at_quantile(quantile);
        (!self.0.is_empty()).then(|| Quantiles {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: self.0.max(),
        })
    }
}

/// A histogram on its way between processes: values in microseconds, each with how often it came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts(Vec<(u64, u64)>);

/// Quantiles of latencies, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// The median.
    pub p50: u64,
    /// Nine of ten were as fast.
    pub p90: u64,
    /// 99 of 100 were as fast.
    pub p99: u64,
    /// 999 of 1,000 were as fast.
    pub p99_9: u64,
    /// The slowest.
    pub max: u64,
}

/// How a transaction ended, as its driver saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It was committed.
    Committed,
    /// It was aborted.
    Aborted,
    /// The driver could not learn how it ended, or could not begin it. Why, for people.
    Failed(String),
}

/// What a driver brings of one transaction. Moments are microseconds since the epoch, of
/// [`now_us`](crate::now_us).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// When the answer with the decision was there.
    pub decided_us: u64,
    /// When every branch was settled, if the driver waited for that. `None`: the participants tell.
    pub finished_us: Option<u64>,
}

/// What one generator counted.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    counted: Counted,
    decided: Latencies,
    finished: Latencies,
}

/// What was counted, warm-up included unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counted {
    pub(crate) started: u64,
    pub(crate) committed: u64,
    pub(crate) aborted: u64,
    pub(crate) failed: u64,
    /// Decided while it was measured.
    pub(crate) decided_in_window: u64,
    /// Finished while it was measured, as far as the driver waited for that.
    pub(crate) finished_in_window: u64,
    /// Finished at all, as far as the driver waited for that.
    pub(crate) finished: u64,
    pub(crate) errors: Vec<String>,
}

impl Recorder {
    pub(crate) const fn started(&mut self) {
        self.counted.started += 1;
    }

    /// Counts what came of a transaction that was to begin at `intended_us`.
    pub(crate) fn ended(&mut self, window: &Window, intended_us: u64, outcome: Outcome) {
        match outcome.end {
            End::Committed => self.counted.committed += 1,
            End::Aborted => self.counted.aborted += 1,
            End::Failed(error) => {
                self.counted.failed += 1;
                self.counted.remember(error);
                return;
            }
        }
        let measured = window.holds(intended_us);
        self.counted.decided_in_window += u64::from(window.holds(outcome.decided_us));
        if measured {
            self.decided.record(outcome.decided_us.saturating_sub(intended_us));
        }
        if let Some(finished_us) = outcome.finished_us {
            self.counted.finished += 1;
            self.counted.finished_in_window += u64::from(window.holds(finished_us));
            if measured {
                self.finished.record(finished_us.saturating_sub(intended_us));
            }
        }
    }

    pub(crate) fn result(self) -> Generated {
        let (decided, finished) = (self.decided.counts(), self.finished.counts());
        Generated { counted: self.counted, decided, finished }
    }
}

impl Counted {
    fn remember(&mut self, error: String) {
        if self.errors.len() < ERRORS_MAX && !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    /// Takes in what another generator counted.
    pub(crate) fn add(&mut self, other: Self) {
        self.started += other.started;
        self.committed += other.committed;
        self.aborted += other.aborted;
        self.failed += other.failed;
        self.decided_in_window += other.decided_in_window;
        self.finished_in_window += other.finished_in_window;
        self.finished += other.finished;
        for error in other.errors {
            self.remember(error);
        }
    }
}

/// What a generator tells at its end.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Generated {
    pub(crate) counted: Counted,
    pub(crate) decided: Counts,
    pub(crate) finished: Counts,
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { start_us: 0, from_us: 1_000, to_us: 2_000 };

    fn outcome(end: End, decided_us: u64, finished_us: Option<u64>) -> Outcome {
        Outcome { end, decided_us, finished_us }
    }

    #[test]
    fn the_warm_up_is_counted_and_not_timed() {
        let mut recorder = Recorder::default();
        recorder.started();
        recorder.ended(&WINDOW, 500, outcome(End::Committed, 1_500, Some(1_600)));
        recorder.started();
        recorder.ended(&WINDOW, 1_900, outcome(End::Aborted, 2_500, Some(2_600)));
        let Generated { counted, decided, finished } = recorder.result();
        assert_eq!((counted.started, counted.committed, counted.aborted, counted.finished), (2, 1, 1, 2));
        // The first was decided in the window, the second began in it.
        assert_eq!((counted.decided_in_window, counted.finished_in_window), (1, 1));
        assert_eq!(decided.0, [(600, 1)]);
        assert_eq!(finished.0, [(700, 1)]);
    }

    #[test]
    fn a_failure_is_no_latency() {
        let mut recorder = Recorder::default();
        for n in 0..20 {
            recorder.ended(&WINDOW, 1_500, outcome(End::Failed(format!("error {}", n % 10)), 1_600, None));
        }
        let generated = recorder.result();
        assert_eq!((generated.counted.failed, generated.counted.decided_in_window), (20, 0));
        assert_eq!((generated.counted.errors.len(), generated.decided.0.len()), (ERRORS_MAX, 0));
    }

    #[test]
    fn histograms_add_up_over_processes() {
        let (mut one, mut all) = (Latencies::default(), Latencies::default());
        (1..=1_000).for_each(|value| one.record(value));
        all.add(&one.counts());
        let mut slow = Latencies::default();
        slow.record(u64::MAX);
        slow.record(0);
        all.add(&slow.counts());
        let quantiles = all.quantiles().expect("values");
        assert_eq!((quantiles.p50, quantiles.p99), (500, 991));
        // An hour, as exactly as three digits are.
        assert!(quantiles.max >= LATENCY_US_MAX && quantiles.max < LATENCY_US_MAX / 1_000 * 1_002);
        assert_eq!(Latencies::default().quantiles(), None);
    }
}
