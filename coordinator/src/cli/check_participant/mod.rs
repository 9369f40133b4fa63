//! `unanimity check participant`: the conformance kit for participants in any language.
//!
//! ```text
//!  scenarios (what is called, what must be answered)          report (verdicts, guarantees)
//!        │                                                          ▲
//!        ▼                                                          │
//!  runner ──▶ caller ── POST, as the coordinator sends it ──▶ participant
//!        └──▶ observer ── GET: how often did the effect happen? ──▶ │
//! ```
//!
//! Nothing here talks to a coordinator: the kit plays it. Every transaction has an xid of its own, so that a run finds
//! nothing of an earlier one; what the participant does is real, so it belongs on a test system.

mod caller;
mod observer;
mod report;
mod runner;
mod scenario;
mod urls;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use reqwest::Url;
use serde_json::value::RawValue;
use unanimity_types::BranchKind;

use self::caller::Caller;
use self::observer::Observer;
use self::report::Report;
use self::runner::Runner;
use self::urls::{OperationUrl, Urls};
use super::Usage;
use super::output::Output;

/// What kind of branch the participant serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Mode {
    /// try, confirm, cancel
    Tcc,
    /// action, compensate
    Saga,
    /// prepare, commit, rollback
    TwoPhase,
    /// deliver: the receiver of messages
    Message,
    /// check_back: who prepares messages, and is asked whether the local transaction committed
    Sender,
}

impl Mode {
    /// As it is written on the command line.
    fn name(self) -> &'static str {
        match self {
            Self::Tcc => "tcc",
            Self::Saga => "saga",
            Self::TwoPhase => "two_phase",
            Self::Message => "message",
            Self::Sender => "sender",
        }
    }

    /// The kind of its branches.
    fn kind(self) -> BranchKind {
        match self {
            Self::Tcc => BranchKind::Tcc,
            Self::Saga => BranchKind::Step,
            Self::TwoPhase => BranchKind::TwoPhase,
            Self::Message => BranchKind::Message,
            Self::Sender => BranchKind::Sender,
        }
    }
}

/// Flags of `check participant`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unanimity check participant http://127.0.0.1:9001/ --mode tcc --payload '{\"amount\": 1}'
  unanimity check participant http://127.0.0.1:9001/ --mode saga --observe http://127.0.0.1:9001/booked
  unanimity check participant http://127.0.0.1:9001/ --mode two_phase --try http://127.0.0.1:9001/work
  unanimity check participant http://127.0.0.1:9001/ --mode tcc \\
      --operation-urls confirm=http://127.0.0.1:9001/ok,cancel=http://127.0.0.1:9001/undo

It acts for real: use a test system, with enough stock or money for some 30 times the payload.
What is called and what must be answered: docs/conformance.md
Exit status: 0 every guarantee is earned, 1 one is missing, 2 it was asked wrongly.")]
pub(super) struct CheckParticipant {
    /// Where the participant is called, for every operation that has no URL of its own.
    url: Url,
    /// What kind of branch it serves.
    #[arg(long)]
    mode: Mode,
    /// The payload of every call.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    payload: String,
    /// Operations with URLs of their own: confirm=http://…,cancel=http://…
    #[arg(long, value_name = "OPERATION=URL", value_delimiter = ',')]
    operation_urls: Vec<OperationUrl>,
    /// The application's own call that does the work: TCC's try, what a two-phase branch does before it is prepared, a
    /// sender's local transaction.
    #[arg(long = "try", value_name = "URL")]
    work: Option<Url>,
    /// A GET that answers a number which each effect changes by the same amount (pieces sold, a balance), so that
    /// doubled and left-over effects are seen. Nobody else may change it meanwhile.
    #[arg(long, value_name = "URL")]
    observe: Option<Url>,
    /// How long a call may take.
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    timeout_ms: u64,
}

impl CheckParticipant {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let payload = RawValue::from_string(self.payload)
            .map_err(|error| Usage(format!("--payload is not JSON: {error}")))?;
        let urls = Urls::new(self.mode, self.url, self.work, self.operation_urls)?;
        let timeout = Duration::from_millis(self.timeout_ms);
        let scenarios = scenario::all(self.mode, &urls);
        let observer = self.observe.map(|url| Observer::new(url, timeout)).transpose()?;
        let caller = Caller::new(self.mode.kind(), urls, &payload, timeout)?;
        let report =
            Report::new(self.mode, observer.is_some(), Runner::new(caller, observer).run(scenarios).await);
        output.answer(|| report.text(), || report.json());
        Ok(if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
