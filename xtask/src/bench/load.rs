//! One run of `unanimity bench` against something that runs.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::process::finish;
use super::subject::Running;

/// What a run may take beyond its seconds: starting, draining, counting.
const SPARE: Duration = Duration::from_secs(90);
/// How long the last transactions are waited for, in seconds.
const DRAIN: &str = "60";
/// The goals are for payloads of this size, in bytes.
const PAYLOAD: &str = "64";

/// What to run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) seconds: u32,
    /// Closed loop: so many at once.
    pub(super) clients: u32,
    /// Open loop instead: so many begin each second.
    pub(super) rate: Option<u32>,
    /// Of a hundred so many abort.
    pub(super) aborts: u32,
    /// Two-step sagas with HTTP participants instead of TCC with two attached branches.
    pub(super) saga: bool,
}

impl Load {
    pub(super) fn tcc(seconds: u32) -> Self {
        Self { seconds, clients: 64, rate: None, aborts: 0, saga: false }
    }

    fn arguments(&self) -> Vec<String> {
        let (mode, participants) = if self.saga { ("saga", "http") } else { ("tcc", "attached") };
        let mut arguments: Vec<String> =
            ["bench", "--json", "--branches", "2", "--payload", PAYLOAD, "--drain", DRAIN]
                .map(str::to_owned)
                .to_vec();
        let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        add("--mode", mode.to_owned());
        add("--participants", participants.to_owned());
        add("--warm-up", self.warm_up().to_string());
        add("--duration", self.seconds.to_string());
        add("--aborts", self.aborts.to_string());
        match self.rate {
            Some(rate) => add("--rate", rate.to_string()),
            None => add("--concurrency", self.clients.to_string()),
        }
        arguments
    }

    fn warm_up(&self) -> u32 {
        (self.seconds / 3).max(1)
    }

    /// Runs it, with PostgreSQL's CPU time counted by its first process' id.
    pub(super) fn run(&self, program: &Path, running: &Running, postmaster: u32) -> anyhow::Result<Value> {
        let mut command = Command::new(program);
        command
            .args(self.arguments())
            .args(["--coordinator", &running.url])
            .arg("--cpu")
            .arg(format!("database={postmaster}"));
        if !running.is_unanimity {
            command.args(["--driver", "dtm", "--cpu"]).arg(format!("coordinator={}", running.server.pid()));
        }
        let limit = Duration::from_secs(u64::from(self.seconds + self.warm_up())) + SPARE;
        let said = finish(command, limit).with_context(|| format!("the load on {running}"))?;
        let result: Value = serde_json::from_str(&said).with_context(|| format!("no JSON: {said}"))?;
        // A product that drops part of the load is not fast.
        for lost in ["failed", "unfinished"] {
            ensure!(
                result[lost].as_u64() == Some(0),
                "{} transactions {lost}: {}",
                result[lost],
                result["errors"]
            );
        }
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_loop_has_no_concurrency() {
        let closed = Load::tcc(9).arguments().join(" ");
        assert!(closed.contains("--mode tcc --participants attached --warm-up 3 --duration 9"), "{closed}");
        assert!(closed.ends_with("--concurrency 64"), "{closed}");
        let open = Load { rate: Some(100), saga: true, ..Load::tcc(1) }.arguments().join(" ");
        assert!(open.ends_with("--rate 100") && open.contains("--mode saga --participants http"), "{open}");
    }
}
