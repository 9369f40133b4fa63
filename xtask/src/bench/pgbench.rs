//! The yardstick: one durable insert per transaction, by PostgreSQL's own pgbench.
//!
//! A row of 200 bytes into a table with a primary key, prepared statements, the same number of clients over
//! the same loopback interface. Latencies come from its log of every single transaction.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::process::finish;

/// What pgbench may take beyond the seconds that it was asked for.
const SPARE: Duration = Duration::from_secs(60);
/// Payload of a row.
const ROW_BYTES: usize = 200;

/// Runs it, after a warm-up.
pub(super) fn run(cluster: &Cluster, database: &str, clients: u32, seconds: u32) -> anyhow::Result<Value> {
    cluster.query(database, "CREATE TABLE yardstick (id bigserial PRIMARY KEY, body text NOT NULL)")?;
    let directory = tempfile::tempdir_in(cluster.home())?;
    let script = directory.path().join("insert.sql");
    fs::write(&script, format!("INSERT INTO yardstick (body) VALUES ('{}');\n", "x".repeat(ROW_BYTES)))?;
    let pgbench = |seconds: u32, log: Option<&Path>| {
        let mut command = cluster.client("pgbench");
        command.current_dir(directory.path()).args(["-n", "-M", "prepared", "-f"]).arg(&script);
        // A thread for each core that the load generators of the others would use too.
        command.args([
            "-c",
            &clients.to_string(),
            "-j",
            &clients.min(2).to_string(),
            "-T",
            &seconds.to_string(),
        ]);
        if let Some(prefix) = log {
            command.arg("-l").arg(format!("--log-prefix={}", prefix.display()));
        }
        command.arg(database);
        finish(command, Duration::from_secs(u64::from(seconds)) + SPARE)
    };
    pgbench((seconds / 3).max(1), None)?;
    let said = pgbench(seconds, Some(&directory.path().join("latency")))?;
    let per_second = rate(&said).with_context(|| format!("pgbench says no rate:\n{said}"))?;
    let mut latencies = Vec::new();
    for file in fs::read_dir(directory.path())? {
        let file = file?;
        if file.file_name().to_string_lossy().starts_with("latency.") {
            read_log(&fs::read_to_string(file.path())?, &mut latencies)?;
        }
    }
    if latencies.is_empty() {
        bail!("pgbench logged no transaction");
    }
    latencies.sort_unstable();
    Ok(json!({
        "driver": "pgbench",
        "started": latencies.len(),
        "committed": latencies.len(),
        "seconds": seconds,
        "per_second": { "decided": per_second, "finished": per_second },
        "latency_us": { "decided": {
            "p50": quantile(&latencies, 50), "p90": quantile(&latencies, 90), "p99": quantile(&latencies, 99),
            "max": latencies.last(),
        } },
    }))
}

/// From `tps = 12345.6 (without initial connection time)`.
fn rate(said: &str) -> Option<f64> {
    said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
}

/// Lines of `client transaction time_us script epoch us`.
fn read_log(text: &str, latencies: &mut Vec<u64>) -> anyhow::Result<()> {
    for line in text.lines() {
        let time = line.split(' ').nth(2).and_then(|time| time.parse().ok());
        latencies.push(time.with_context(|| format!("a line of pgbench's log that is none: {line:?}"))?);
    }
    Ok(())
}

/// The value that so many of a hundred do not exceed.
fn quantile(sorted: &[u64], percent: usize) -> u64 {
    let place = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(place).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pgbench_says_is_read() {
        let said = "latency average = 4.7 ms\ninitial connection time = 31.4 ms\ntps = 13512.25 (without initial connection time)\n";
        assert_eq!(rate(said), Some(13_512.25));
        assert_eq!(rate("pgbench: error"), None);
        let mut latencies = Vec::new();
        read_log("0 1 4211 0 1700000000 12\n1 1 77 0 1700000000 13\n", &mut latencies).unwrap();
        assert_eq!(latencies, [4_211, 77]);
        assert!(read_log("0 1 failed 0 1 2\n", &mut latencies).is_err());
    }

    #[test]
    fn quantiles_are_ranks() {
        let sorted: Vec<u64> = (1..=200).collect();
        assert_eq!((quantile(&sorted, 50), quantile(&sorted, 99)), (100, 198));
        assert_eq!(quantile(&[7], 99), 7);
    }
}
