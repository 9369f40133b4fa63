//! A whole run: start the processes, let them work, wait until all is over, put the result together.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::burden::Burden;
use crate::clock::{micros, now_us, until};
use crate::counters::{Observer, Snapshot, minus};
use crate::cpu;
use crate::error::Error;
use crate::measure::{Counted, Generated, Latencies, Window};
use crate::options::{Options, Product, Workload};
use crate::participants::Tallied;
use crate::report::{self, CpuPerTransaction, Latency, PerSecond, PerTransaction, Report, each};
use crate::worker::{Launch, Worker};

/// From the order until the load begins: every worker has read its order by then.
const LEAD: Duration = Duration::from_millis(200);
/// How often the end is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Beyond a generator's own wait: for its last line.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Measures: starts the workers, and returns when all transactions are over or the time to wait for that
/// is. Needs a tokio runtime.
///
/// # Errors
/// [`Error`], if it could not be measured. That transactions failed stands in the report.
pub async fn run(options: &Options, launch: &Launch) -> Result<Report, Error> {
    options.check()?;
    let observer = match options.driver {
        Product::Unanimity => Observer::connect(&options.coordinator).await?,
        Product::Dtm => Observer::of_a_stranger(&options.coordinator),
    };
    let (mut participants, places) = Worker::participants(launch, options).await?;
    let mut generators = Vec::new();
    for generator in 0..options.generators {
        generators.push(Worker::generator(launch, &options.share(generator), &places).await?);
    }
    let _burden = Burden::lay(options).await?;
    let before = observer.snapshot().await?;

    let start_us = now_us() + micros(LEAD);
    let from_us = start_us + micros(Duration::from_secs_f64(options.warm_up));
    let window =
        Window { start_us, from_us, to_us: from_us + micros(Duration::from_secs_f64(options.duration)) };
    participants.set_window(window).await?;
    for generator in &mut generators {
        generator.set_window(window).await?;
    }
    let pids: Vec<_> = generators.iter().map(Worker::pid).collect();
    let times = Times { observer: &observer, options, generators: &pids, participants: participants.pid() };
    tokio::time::sleep(until(window.from_us)).await;
    let times_before = times.look().await?;
    tokio::time::sleep(until(window.to_us)).await;
    let times_after = times.look().await?;

    let drained_by = Instant::now() + options.drain_for();
    let (counted, mut decided, mut finished) = gather(&mut generators, drained_by).await?;
    wait_for_the_end(options, &counted, &mut participants, &observer, &before, drained_by).await?;
    let (tallied, errors) = participants.tallied().await?;
    let after = observer.snapshot().await?;
    finished.add(&tallied.latencies);

    let result = Outcome { options, window, counted, tallied, errors, before, after };
    Ok(result.report(&mut decided, &mut finished, times_before.until(&times_after)))
}

/// Is one of the processes that [`run`] started, until its stdin is closed.
///
/// # Errors
/// If its pipes break.
pub async fn work() -> std::io::Result<()> {
    crate::worker::serve(tokio::io::stdin(), tokio::io::stdout()).await
}

/// What the generators counted, together.
async fn gather(
    generators: &mut [Worker],
    drained_by: Instant,
) -> Result<(Counted, Latencies, Latencies), Error> {
    let mut counted = Counted::default();
    let (mut decided, mut finished) = (Latencies::default(), Latencies::default());
    for generator in generators {
        let late = Error::Worker { process: "a generator".to_owned(), why: "it does not end".to_owned() };
        let generated = tokio::time::timeout_at(drained_by + LAST_WORDS, generator.generated()).await;
        let Generated { counted: its, decided: its_decided, finished: its_finished } =
            generated.map_err(|_| late)??;
        counted.add(its);
        decided.add(&its_decided);
        finished.add(&its_finished);
    }
    Ok((counted, decided, finished))
}

/// Waits until the participants saw every transaction's end and the coordinator has no more open ones than
/// before, or until the time is over.
async fn wait_for_the_end(
    options: &Options,
    counted: &Counted,
    participants: &mut Worker,
    observer: &Observer,
    before: &Snapshot,
    drained_by: Instant,
) -> Result<(), Error> {
    let expected = (counted.committed + counted.aborted).saturating_sub(counted.finished);
    loop {
        let all_came = options.mode == Workload::Saga || participants.finished().await? >= expected;
        if all_came && observer.snapshot().await?.open <= before.open {
            return wait_for_history(observer, drained_by).await;
        }
        if Instant::now() >= drained_by {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until the rows of history are written, which nobody waits for: until there come no more.
async fn wait_for_history(observer: &Observer, drained_by: Instant) -> Result<(), Error> {
    /// Longer than from one batch of rows to the next.
    const STILL: Duration = Duration::from_millis(300);
    let rows = async || {
        let snapshot = observer.snapshot().await?;
        Ok::<_, Error>(snapshot.counters.map(|counters| (counters.finished, counters.history_rows)))
    };
    let mut known = rows().await?;
    while known.is_some() && Instant::now() < drained_by {
        tokio::time::sleep(STILL).await;
        let now = rows().await?;
        if now == known {
            break;
        }
        known = now;
    }
    Ok(())
}

/// Looks at the processes' CPU time.
struct Times<'a> {
    observer: &'a Observer,
    options: &'a Options,
    generators: &'a [Option<u32>],
    participants: Option<u32>,
}

/// CPU time that was used until a moment, in microseconds.
#[derive(Debug, Default)]
struct Used {
    generator: Option<u64>,
    participants: Option<u64>,
    coordinator: Option<u64>,
    named: BTreeMap<String, Option<u64>>,
}

impl Times<'_> {
    async fn look(&self) -> Result<Used, Error> {
        let coordinator = self.observer.snapshot().await?.cpu_us;
        let named = self.options.cpu.iter().map(|of| (of.name.clone(), cpu::of_process_and_children(of.pid)));
        Ok(Used {
            generator: self.generators.iter().map(|pid| cpu::of_process((*pid)?)).sum(),
            participants: self.participants.and_then(cpu::of_process),
            coordinator,
            named: named.collect(),
        })
    }
}

impl Used {
    fn until(&self, after: &Self) -> Self {
        let used = |before: Option<u64>, after: Option<u64>| Some(after?.saturating_sub(before?));
        let named = after.named.iter();
        Self {
            generator: used(self.generator, after.generator),
            participants: used(self.participants, after.participants),
            coordinator: used(self.coordinator, after.coordinator),
            named: named
                .map(|(name, time)| (name.clone(), used(self.named.get(name).copied().flatten(), *time)))
                .collect(),
        }
    }

    fn each(mut self, transactions: u64) -> CpuPerTransaction {
        let per = |time: Option<u64>| time.and_then(|time| each(time, transactions));
        let named = self.named.remove("coordinator").flatten();
        let database = self.named.remove("database").flatten();
        CpuPerTransaction {
            generator: per(self.generator),
            participants: per(self.participants),
            coordinator: per(self.coordinator.or(named)),
            database: per(database),
            others: self.named.into_iter().map(|(name, time)| (name, per(time))).collect(),
        }
    }
}

/// Everything that a run brought.
struct Outcome<'a> {
    options: &'a Options,
    window: Window,
    counted: Counted,
    tallied: Tallied,
    errors: Vec<String>,
    before: Snapshot,
    after: Snapshot,
}

impl Outcome<'_> {
    fn report(self, decided: &mut Latencies, finished: &mut Latencies, used: Used) -> Report {
        let Counted { started, committed, aborted, failed, .. } = self.counted;
        let settled = committed + aborted;
        // What failed may be settled too; nobody knows it by its number.
        let seen = (self.counted.finished + self.tallied.finished).min(settled);
        let ended = settled + failed;
        let seconds = Duration::from_micros(self.window.to_us - self.window.from_us).as_secs_f64();
        let in_window = self.counted.decided_in_window;
        let finished_in_window = self.counted.finished_in_window + self.tallied.finished_in_window;
        let per_second =
            PerSecond { decided: rate(in_window, seconds), finished: rate(finished_in_window, seconds) };
        let mut errors: Vec<String> = self.counted.errors.clone();
        errors.extend(self.errors.iter().cloned());
        Report {
            config: report::config(self.options, &self.before.version, self.before.partitions),
            driver: self.options.driver.name().to_owned(),
            started,
            committed,
            aborted,
            unfinished: started.saturating_sub(ended) + (settled - seen),
            failed,
            left_open: self.after.open.saturating_sub(self.before.open),
            repeated_operations: self.tallied.repeated,
            errors: errors.into_iter().map(|error| printable(&error)).collect(),
            seconds,
            per_second,
            latency_us: Latency { decided: decided.quantiles(), finished: finished.quantiles() },
            cpu_us_per_transaction: used.each(in_window),
            per_transaction: self.per_transaction(),
        }
    }

    fn per_transaction(&self) -> PerTransaction {
        let Counted { committed, aborted, .. } = self.counted;
        let sums = match (self.before.counters, self.after.counters) {
            (Some(before), Some(after)) => Some(minus(after, before)),
            _ => None,
        };
        let per = |sum: fn(&unanimity_proto::v1::PartitionCounters) -> u64| {
            sums.as_ref().and_then(|sums| each(sum(sums), committed + aborted))
        };
        let waited = per(|sums| sums.held_answers);
        PerTransaction {
            blocks: per(|sums| sums.blocks),
            log_bytes: per(|sums| sums.block_bytes),
            rewritten_bytes: per(|sums| sums.rewritten_bytes),
            history_rows: per(|sums| sums.history_rows),
            history_bytes: per(|sums| sums.history_bytes),
            // The counter does not tell whose answers they were.
            waited_writes_committed: waited.filter(|_| aborted == 0),
            waited_writes_aborted: waited.filter(|_| committed == 0),
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn rate(count: u64, seconds: f64) -> f64 {
    // Counts of a day are far below 2^53.
    count as f64 / seconds
}

/// Without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}
