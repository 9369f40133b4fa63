//! Starting transactions: so many at once, or so many each second.
//!
//! ```text
//!   closed loop   one task for each place: run, run, run …
//!   open loop     a thread that keeps time ──► one task for each transaction
//! ```
//!
//! The open loop does not wait for anybody: what the product holds up piles up, and each of those
//! counts from the moment when it was to begin ("coordinated omission" otherwise hides a stall: only
//! those that were under way would see it).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::clock::{now_us, until};
use crate::driver::{Driver, Shot, is_abort};
use crate::measure::{Generated, Recorder, Window};
use crate::options::CONCURRENCY_MAX;

/// How finely an open loop keeps time: a thread that wakes for each transaction of 50,000 a second takes
/// more time than it measures.
const GRAIN: Duration = Duration::from_micros(200);

/// How much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// So many under way at every moment.
    Closed { concurrency: u32 },
    /// So many begin each second, evenly spaced.
    Open { rate: u32 },
}

/// Runs the load from the window's start to its end, and until what is under way has ended: at most
/// `drain` longer.
pub(crate) async fn run<D: Driver>(
    driver: Arc<D>,
    pace: Pace,
    aborts: u32,
    window: Window,
    drain: Duration,
) -> Generated {
    let shared = Arc::new(Shared { driver, aborts, window, recorder: Mutex::default() });
    tokio::time::sleep(until(window.start_us)).await;
    let mut under_way = match pace {
        Pace::Closed { concurrency } => closed(&shared, concurrency),
        Pace::Open { rate } => open(&shared, rate).await,
    };
    let end = tokio::time::Instant::now() + until(window.to_us) + drain;
    while let Ok(Some(_)) = tokio::time::timeout_at(end, under_way.join_next()).await {}
    // What is under way now is started and not ended: unfinished.
    under_way.abort_all();
    let mut recorder = shared.recorder.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *recorder).result()
}

/// What the tasks share.
struct Shared<D> {
    driver: Arc<D>,
    aborts: u32,
    window: Window,
    recorder: Mutex<Recorder>,
}

impl<D: Driver> Shared<D> {
    async fn run_one(&self, number: u64, intended_us: u64) {
        self.record(|recorder| recorder.started());
        let shot = Shot { number, intended_us, abort: is_abort(number, self.aborts) };
        let outcome = self.driver.run(shot).await;
        self.record(|recorder| recorder.ended(&self.window, intended_us, outcome));
    }

    fn record(&self, change: impl FnOnce(&mut Recorder)) {
        // Counters: sound even if a panic poisoned the lock.
        change(&mut self.recorder.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn closed<D: Driver>(shared: &Arc<Shared<D>>, concurrency: u32) -> JoinSet<()> {
    let numbers = Arc::new(AtomicU64::new(0));
    let mut places = JoinSet::new();
    for _ in 0..concurrency {
        let (shared, numbers) = (Arc::clone(shared), Arc::clone(&numbers));
        places.spawn(async move {
            loop {
                let now = now_us();
                if now >= shared.window.to_us {
                    return;
                }
                shared.run_one(numbers.fetch_add(1, Ordering::Relaxed), now).await;
            }
        });
    }
    places
}

/// Returns when the last one was started.
async fn open<D: Driver>(shared: &Arc<Shared<D>>, rate: u32) -> JoinSet<()> {
    /// Due and not started yet: beyond, the thread waits, and the moments when they were to begin stay.
    const DUE_MAX: usize = 1_024;
    let (due, mut shots) = mpsc::channel(DUE_MAX);
    let window = shared.window;
    let keeper = std::thread::spawn(move || keep_time(window, rate, &due));
    // So many may pile up; the memory of a machine has an end.
    let room = Arc::new(Semaphore::new(usize::try_from(CONCURRENCY_MAX).unwrap_or(usize::MAX)));
    let mut under_way = JoinSet::new();
    while let Some((number, intended_us)) = shots.recv().await {
        while under_way.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { break };
        let shared = Arc::clone(shared);
        under_way.spawn(async move {
            shared.run_one(number, intended_us).await;
            drop(permit);
        });
    }
    // It ended before the channel did.
    let _ = keeper.join();
    under_way
}

/// Says when a transaction is due. A thread, because a timer of tokio has a grain of a millisecond, which
/// would stand in every latency.
fn keep_time(window: Window, rate: u32, due: &mpsc::Sender<(u64, u64)>) {
    for number in 0.. {
        let intended_us = window.start_us + number * 1_000_000 / u64::from(rate);
        if intended_us >= window.to_us {
            return;
        }
        let left = until(intended_us);
        if !left.is_zero() {
            std::thread::sleep(left.max(GRAIN));
        }
        if due.blocking_send((number, intended_us)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{End, Latencies, Outcome};

    /// Answers at once, and stands still for everybody from one moment to another.
    struct Stalling {
        from_us: u64,
        to_us: u64,
    }

    impl Driver for Stalling {
        async fn run(&self, shot: Shot) -> Outcome {
            if (self.from_us..self.to_us).contains(&now_us()) {
                tokio::time::sleep(until(self.to_us)).await;
            }
            let end = if shot.abort { End::Aborted } else { End::Committed };
            Outcome { end, decided_us: now_us(), finished_us: None }
        }
    }

    fn window() -> Window {
        let start_us = now_us() + 20_000;
        Window { start_us, from_us: start_us + 100_000, to_us: start_us + 1_100_000 }
    }

    #[tokio::test]
    async fn an_open_loop_shows_a_stall_in_all_that_it_held_up() {
        let window = window();
        // 300 of 1,000 ms: three of ten transactions were to begin in it.
        let driver = Stalling { from_us: window.from_us + 400_000, to_us: window.from_us + 700_000 };
        let generated =
            run(Arc::new(driver), Pace::Open { rate: 1_000 }, 10, window, Duration::from_secs(5)).await;
        let counted = &generated.counted;
        assert_eq!((counted.started, counted.failed), (1_100, 0));
        assert_eq!((counted.committed, counted.aborted), (990, 110));
        let mut latencies = Latencies::default();
        latencies.add(&generated.decided);
        let quantiles = latencies.quantiles().expect("values");
        // Evenly spread over 0 to 300 ms: the last hundredth waited at least 270 ms, whatever the machine
        // does besides. Waits for a machine that stood still only make it more.
        assert!(quantiles.p99 >= 270_000, "{quantiles:?}");
        // And it is a matter of the stall alone: the driver itself counts from when it was called.
        assert!(quantiles.max >= 299_000, "{quantiles:?}");
    }

    #[tokio::test]
    async fn a_closed_loop_keeps_its_places_busy_and_ends() {
        let start_us = now_us();
        let window = Window { start_us, from_us: start_us, to_us: start_us + 100_000 };
        let driver = Stalling { from_us: 0, to_us: 0 };
        let generated =
            run(Arc::new(driver), Pace::Closed { concurrency: 4 }, 50, window, Duration::from_secs(5)).await;
        let counted = generated.counted;
        assert_eq!(counted.committed + counted.aborted, counted.started);
        assert!(counted.started >= 4, "{counted:?}");
    }

    #[tokio::test]
    async fn what_does_not_end_is_left_after_the_drain() {
        let start_us = now_us();
        let window = Window { start_us, from_us: start_us, to_us: start_us + 50_000 };
        let driver = Stalling { from_us: 0, to_us: u64::MAX };
        let generated =
            run(Arc::new(driver), Pace::Open { rate: 100 }, 0, window, Duration::from_millis(50)).await;
        assert_eq!((generated.counted.started, generated.counted.committed), (5, 0));
    }
}
