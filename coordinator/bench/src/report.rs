//! What came of a run: for people a table, for programs JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

use crate::measure::Quantiles;
use crate::options::Options;

/// What was measured. Its JSON is what `--json` prints.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// What was asked for, and of which coordinator.
    pub config: Value,
    /// Which product was measured.
    pub driver: String,
    /// Transactions that were begun, warm-up included, like the four counts that follow.
    pub started: u64,
    /// Of those, committed.
    pub committed: u64,
    /// Aborted.
    pub aborted: u64,
    /// Begun and not settled when the time to wait was over.
    pub unfinished: u64,
    /// Those whose driver had an error: not begun, or their outcome not known.
    pub failed: u64,
    /// Open at the coordinator at the end, beyond those that were open before.
    pub left_open: u64,
    /// Operations that the participants were asked for again.
    pub repeated_operations: u64,
    /// What went wrong, the first few of each kind.
    pub errors: Vec<String>,
    /// How long was measured.
    pub seconds: f64,
    /// Throughput in the measured time.
    pub per_second: PerSecond,
    /// Of transactions that were to begin in the measured time; from the intended start, in microseconds.
    pub latency_us: Latency,
    /// CPU time in the measured time, for each transaction decided in it, in microseconds.
    pub cpu_us_per_transaction: CpuPerTransaction,
    /// What the coordinator counted, for each transaction, warm-up included.
    pub per_transaction: PerTransaction,
}

/// Transactions a second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PerSecond {
    /// Decided.
    pub decided: f64,
    /// Finished: every branch had its operation.
    pub finished: f64,
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// Until the decision was known.
    pub decided: Option<Quantiles>,
    /// Until the last branch had its operation.
    pub finished: Option<Quantiles>,
}

/// Microseconds of CPU time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CpuPerTransaction {
    /// Of all generators.
    pub generator: Option<f64>,
    /// Of the participants.
    pub participants: Option<f64>,
    /// Of the coordinator, as it says, or of the process named so by `--cpu`.
    pub coordinator: Option<f64>,
    /// Of the process named `database` by `--cpu`, with its children.
    pub database: Option<f64>,
    /// Of the others that were named.
    #[serde(flatten)]
    pub others: BTreeMap<String, Option<f64>>,
}

/// What one transaction costs the coordinator's log.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PerTransaction {
    /// Blocks.
    pub blocks: Option<f64>,
    /// Bytes of block rows.
    pub log_bytes: Option<f64>,
    /// Of those, bytes that cleaning wrote again.
    pub rewritten_bytes: Option<f64>,
    /// Rows of history.
    pub history_rows: Option<f64>,
    /// Bytes of history rows.
    pub history_bytes: Option<f64>,
    /// Answers to callers that waited for a block, for each committed one; only if none aborted.
    pub waited_writes_committed: Option<f64>,
    /// The same for each aborted one; only if none committed.
    pub waited_writes_aborted: Option<f64>,
}

/// What was asked for, as it stands in the result.
pub(crate) fn config(options: &Options, version: &str, partitions: u32) -> Value {
    json!({
        "coordinator": options.coordinator,
        "coordinator_version": version,
        "partitions": partitions,
        "mode": options.mode,
        "branches": options.branches,
        "participants": options.participants,
        "services": options.services(),
        "database": options.database.kind(),
        "concurrency": options.rate.is_none().then_some(options.concurrency),
        "rate": options.rate,
        "payload": options.payload,
        "aborts": options.aborts,
        "stuck": options.stuck,
        "slow": options.slow,
        "sequential": options.sequential,
        "warm_up": options.warm_up,
        "duration": options.duration,
        "drain": options.drain,
        "generators": options.generators,
        "connections": options.connections,
    })
}

impl Report {
    /// The result for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        let word = |key: &str| match &self.config[key] {
            Value::String(word) => word.clone(),
            other => other.to_string(),
        };
        let load = match &self.config["rate"] {
            Value::Null => format!("{} at once", word("concurrency")),
            rate => format!("{rate} a second (open loop)"),
        };
        let writes = match word("database").as_str() {
            "none" => "that write nothing".to_owned(),
            database => format!("with {database}"),
        };
        let is_burdened = |key: &str| self.config[key].as_u64().is_some_and(|count| count > 0);
        let beside = if is_burdened("stuck") || is_burdened("slow") {
            format!(", beside {} stuck and {} at a slow participant", word("stuck"), word("slow"))
        } else {
            String::new()
        };
        // A String takes everything.
        let mut line = |label: &str, rest: String| {
            let _ = writeln!(text, "{label:<14}{rest}");
        };
        line(
            "load",
            format!(
                "{} by {}, {} branches of {} bytes, {} participants {writes}, {load}, {} % aborts{beside}",
                word("mode"),
                self.driver,
                word("branches"),
                word("payload"),
                word("participants"),
                word("aborts"),
            ),
        );
        line(
            "transactions",
            format!(
                "{} started, {} committed, {} aborted, {} unfinished, {} failed (warm-up included)",
                self.started, self.committed, self.aborted, self.unfinished, self.failed
            ),
        );
        line(
            "per second",
            format!(
                "{:.0} decided, {:.0} finished, over {:.1} s",
                self.per_second.decided, self.per_second.finished, self.seconds
            ),
        );
        line("latency ms", "     p50      p90      p99    p99.9      max".to_owned());
        for (label, quantiles) in
            [("  decided", self.latency_us.decided), ("  finished", self.latency_us.finished)]
        {
            line(label, quantiles.map_or_else(|| "       -".to_owned(), row));
        }
        let cpu = &self.cpu_us_per_transaction;
        let mut times = vec![
            ("generator", cpu.generator),
            ("participants", cpu.participants),
            ("coordinator", cpu.coordinator),
            ("database", cpu.database),
        ];
        times.extend(cpu.others.iter().map(|(name, time)| (name.as_str(), *time)));
        line("CPU µs each", figures(&times, 1));
        let each = &self.per_transaction;
        line(
            "log each",
            figures(
                &[
                    ("blocks", each.blocks),
                    ("bytes", each.log_bytes),
                    ("history rows", each.history_rows),
                    ("history bytes", each.history_bytes),
                ],
                2,
            ),
        );
        line(
            "waited writes",
            figures(
                &[
                    ("for a committed one", each.waited_writes_committed),
                    ("for an aborted one", each.waited_writes_aborted),
                ],
                2,
            ),
        );
        if self.left_open > 0 {
            line("left open", format!("{} at the coordinator", self.left_open));
        }
        if self.repeated_operations > 0 {
            line("repeated", format!("{} operations", self.repeated_operations));
        }
        for error in &self.errors {
            line("error", error.clone());
        }
        text
    }
}

fn row(quantiles: Quantiles) -> String {
    let Quantiles { p50, p90, p99, p99_9, max } = quantiles;
    [p50, p90, p99, p99_9, max].map(|micros| format!("{:8.2}", millis(micros))).join(" ")
}

/// Exact for everything below an hour.
#[allow(clippy::cast_precision_loss)]
fn millis(micros: u64) -> f64 {
    micros as f64 / 1_000.0
}

fn figures(figures: &[(&str, Option<f64>)], digits: usize) -> String {
    let shown = figures.iter().map(|(name, figure)| match figure {
        Some(figure) => format!("{name} {figure:.digits$}"),
        None => format!("{name} -"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// One figure for each of so many; `None` for none of them.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn each(sum: u64, count: u64) -> Option<f64> {
    // Counts and sums of a day are far below 2^53.
    (count > 0).then(|| sum as f64 / count as f64)
}
