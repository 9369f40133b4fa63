//! Which fault comes when: by a script, or by dice with a seed.

use std::collections::VecDeque;
use std::time::Duration;

macro_rules! faults {
    ($($(#[$meta:meta])* $variant:ident),+ $(,)?) => {
        /// What can go wrong with a log.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Fault { $($(#[$meta])* $variant),+ }

        impl Fault {
            /// Every fault, to demand that each was hit (I12).
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
        }
    };
}

faults! {
    /// An append is definitely not written, for a reason that passes.
    AppendFailed,
    /// An append is definitely not written and will not be (disk full: protocol H16).
    AppendRefused,
    /// An append is written, its caller is told "unknown".
    AppendDoneUnknown,
    /// An append is never written, its caller is told "unknown".
    AppendLostUnknown,
    /// An append's caller is told "unknown", and it is carried out later (protocol C4).
    AppendLate,
    /// A late append was carried out and wrote its block.
    LateLanded,
    /// A late append was carried out and found its block there, or its place taken.
    LateRefused,
    /// A late append ran through a trim: it saw its predecessor before, and took its place after
    /// (protocol C7).
    TrimRaced,
    /// A trim stops half-way with an error.
    TrimInterrupted,
    /// A call takes long.
    Slow,
    /// A read (of blocks, the tip, the clock, history) fails.
    ReadFailed,
    /// A lease call fails.
    LeaseFailed,
    /// A node cannot say that it lives, or what is to become of one.
    BeatFailed,
    /// History is not written, and its writer is told so.
    HistoryFailed,
    /// History is written, its writer is told "unknown".
    HistoryDoneUnknown,
    /// A call came while the log was switched off.
    Unavailable,
}

/// How likely each fault is, from 0 to 1, at each call that it fits. All 0 by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct FaultRates {
    /// [`Fault::AppendFailed`]
    pub append_failed: f64,
    /// [`Fault::AppendRefused`]
    pub append_refused: f64,
    /// [`Fault::AppendDoneUnknown`]
    pub append_done_unknown: f64,
    /// [`Fault::AppendLostUnknown`]
    pub append_lost_unknown: f64,
    /// [`Fault::AppendLate`]
    pub append_late: f64,
    /// After each call: that one late append is carried out.
    pub late_lands: f64,
    /// [`Fault::TrimRaced`], where a late append waits for it.
    pub trim_raced: f64,
    /// [`Fault::TrimInterrupted`]
    pub trim_interrupted: f64,
    /// [`Fault::Slow`]
    pub slow: f64,
    /// How long a slow call takes at most.
    pub slow_max: Duration,
    /// [`Fault::ReadFailed`]
    pub read_failed: f64,
    /// [`Fault::LeaseFailed`]
    pub lease_failed: f64,
    /// [`Fault::BeatFailed`]
    pub beat_failed: f64,
    /// [`Fault::HistoryFailed`]
    pub history_failed: f64,
    /// [`Fault::HistoryDoneUnknown`]
    pub history_done_unknown: f64,
}

impl FaultRates {
    /// Every fault with the same likelihood; slow calls take up to 10 ms.
    #[must_use]
    pub const fn all(rate: f64) -> Self {
        Self {
            append_failed: rate,
            append_refused: rate,
            append_done_unknown: rate,
            append_lost_unknown: rate,
            append_late: rate,
            late_lands: rate,
            trim_raced: rate,
            trim_interrupted: rate,
            slow: rate,
            slow_max: Duration::from_millis(10),
            read_failed: rate,
            lease_failed: rate,
            beat_failed: rate,
            history_failed: rate,
            history_done_unknown: rate,
        }
    }

    const fn of(&self, fault: Fault) -> f64 {
        match fault {
            Fault::AppendFailed => self.append_failed,
            Fault::AppendRefused => self.append_refused,
            Fault::AppendDoneUnknown => self.append_done_unknown,
            Fault::AppendLostUnknown => self.append_lost_unknown,
            Fault::AppendLate => self.append_late,
            Fault::LateLanded | Fault::LateRefused => self.late_lands,
            Fault::TrimRaced => self.trim_raced,
            Fault::TrimInterrupted => self.trim_interrupted,
            Fault::Slow => self.slow,
            Fault::ReadFailed => self.read_failed,
            Fault::LeaseFailed => self.lease_failed,
            Fault::BeatFailed => self.beat_failed,
            Fault::HistoryFailed => self.history_failed,
            Fault::HistoryDoneUnknown => self.history_done_unknown,
            // A switch, not dice.
            Fault::Unavailable => 0.0,
        }
    }
}

/// Script, dice and the count of what was hit.
#[derive(Debug)]
pub(super) struct Plan {
    random: fastrand::Rng,
    rates: FaultRates,
    script: VecDeque<Fault>,
    fired: [u64; Fault::ALL.len()],
}

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            rates: FaultRates::default(),
            script: VecDeque::new(),
            fired: [0; Fault::ALL.len()],
        }
    }

    pub(super) fn set_rates(&mut self, rates: FaultRates) {
        self.rates = rates;
    }

    pub(super) fn script(&mut self, fault: Fault) {
        self.script.push_back(fault);
    }

    /// Whether one of these faults comes now. The script goes first: its front waits for a call that
    /// it fits.
    pub(super) fn choose(&mut self, fitting: &[Fault]) -> Option<Fault> {
        if let Some(front) = self.script.front().copied().filter(|front| fitting.contains(front)) {
            self.script.pop_front();
            return Some(front);
        }
        fitting.iter().copied().find(|fault| {
            let rate = self.rates.of(*fault);
            rate > 0.0 && self.random.f64() < rate
        })
    }

    pub(super) fn slowness(&mut self) -> Duration {
        self.rates.slow_max.mul_f64(self.random.f64())
    }

    /// A number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.random.usize(..end)
    }

    pub(super) fn hit(&mut self, fault: Fault) {
        self.fired[fault as usize] += 1;
    }

    pub(super) fn fired(&self, fault: Fault) -> u64 {
        self.fired[fault as usize]
    }
}
