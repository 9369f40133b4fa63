//! `unanimity bench`: a thin call of the load generator.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use unanimity_bench::{Error, Launch, Options, run, work};

use super::Usage;
use super::output::Output;

/// Flags of `bench`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  unanimity bench                                          two-branch TCC, 64 at once, for 10 s
  unanimity bench --rate 2000 --duration 60                latencies at 2,000 a second, stalls seen
  unanimity bench --mode saga --participants http          two-step sagas over HTTP callbacks
  unanimity bench --mode message --branches 1 --payload 0
  unanimity bench --database sqlite:/tmp/bench.db          participants with a database and the SDK's fence
  unanimity bench --cpu database=$(head -1 data/postmaster.pid) --json

Load on a coordinator that runs: never aim at one that others use. Callbacks (--participants grpc, http) must
be allowed there for this machine; `unanimity dev` does.

How it is measured: latencies count from the moment when a transaction was to begin. Decided: the answer to
its commit, abort or submit was there; for a saga, the answer that all its steps are done or undone. Finished:
its last confirm, cancel, commit, rollback or delivery came to the participants' process, which reads when the
transaction was to begin in the payload (from 17 bytes on; else in its name). CPU time: of the generators'
processes, of the participants' process, of the coordinator as it says itself, and of what --cpu names with its
children; over the measured time. Blocks, bytes, rows and waited-for writes: the coordinator's own counters over
the whole run. What a coordinator does not count is shown as `-`.

Exit status 1 if transactions failed or were left unfinished."
)]
pub(super) struct Bench {
    #[command(subcommand)]
    worker: Option<Worker>,
    #[command(flatten)]
    options: Options,
}

/// What the bench starts itself again as.
#[derive(Debug, Subcommand)]
enum Worker {
    /// One of the bench's processes; told what to do over its stdin.
    #[command(hide = true)]
    Worker,
}

impl Bench {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        if matches!(self.worker, Some(Worker::Worker)) {
            work().await.context("the bench that started this process is gone")?;
            return Ok(ExitCode::SUCCESS);
        }
        let program = std::env::current_exe().context("cannot find this program to start it again")?;
        let arguments = ["bench", "worker"].map(str::to_owned).to_vec();
        let measured = run(&self.options, &Launch::Processes { program, arguments }).await;
        let report = measured.map_err(|error| match error {
            Error::Options(error) => anyhow::Error::new(Usage(error.to_string())),
            error => error.into(),
        })?;
        output.answer(|| report.table(), || json!(report));
        let is_clean = report.failed == 0 && report.unfinished == 0;
        Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
