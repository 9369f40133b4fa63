//! `unanimity check`

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::Usage;
use super::check_database;
use super::check_participant::CheckParticipant;
use super::log::open;
use super::output::Output;
use super::settings::Settings;
use crate::config::Config;
use crate::delivery::AllowList;
use crate::log::TransactionLog;
use crate::wall_clock;

/// A clock that is further away than this makes people read timelines wrongly. Correctness does not
/// hang on it (protocol M2).
const CLOCK_DRIFT_MAX: Duration = Duration::from_secs(5);

/// Flags of `check`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  unanimity check --config /etc/unanimity.toml
  unanimity check --json && systemctl restart unanimity
  unanimity check --participant-database postgres://unanimity@bank.internal/bank
  unanimity check participant http://127.0.0.1:9001/ --mode tcc

Works beside a running coordinator: takes no lock, writes nothing.
Exit status: 0 it can be used (there may be warnings), 1 it cannot, 2 the configuration is wrong."
)]
pub(super) struct Check {
    #[command(flatten)]
    settings: Settings,
    /// Look at a participant's database instead: whether transactions can be prepared there, and which of ours
    /// are. Nothing is changed. postgres://…, mysql://… or mariadb://…
    #[arg(long, value_name = "URL")]
    participant_database: Option<String>,
    #[command(subcommand)]
    what: Option<What>,
}

/// What else can be checked.
#[derive(Debug, Subcommand)]
enum What {
    /// Call a participant twice, late, out of order and with the answer dropped, and say what it can be relied on for.
    Participant(Box<CheckParticipant>),
}

impl Check {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        if let Some(What::Participant(participant)) = self.what {
            return participant.run(output).await;
        }
        if let Some(url) = self.participant_database {
            return check_database::run(&url, output).await;
        }
        let config = self.settings.load(None)?;
        AllowList::parse(&config.callbacks.allow).map_err(|error| Usage(error.to_string()))?;
        let log = open(&config).await?;
        let mut warnings = settings_warnings(&config);
        warnings.extend(clock_warning(log.as_ref()).await?);
        warnings.extend(log.warnings().await?);
        let identity = log.identity();
        let place = log.describe();
        log.close().await;
        output.answer(
            || {
                let mut text = format!(
                    "The configuration and the log can be used.\n\n  log         {place}\n  log id      {}\n  partitions  {}\n",
                    identity.log_id, identity.partitions
                );
                for warning in &warnings {
                    text.push_str(&format!("\nwarning: {warning}"));
                }
                text
            },
            || {
                json!({
                    "ok": true,
                    "log": place,
                    "log_id": identity.log_id.to_string(),
                    "partitions": identity.partitions,
                    "warnings": warnings,
                })
            },
        );
        Ok(ExitCode::SUCCESS)
    }
}

/// What the configuration itself says that will hurt.
fn settings_warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if !config.listen.ip().is_loopback() {
        warnings.push(format!(
            "listen is {}: there is no TLS and no login yet; keep the port on a private network",
            config.listen
        ));
    }
    if config.callbacks.allow.is_empty() {
        warnings.push("callbacks.allow is empty: only participants that attach can be reached".to_owned());
    }
    if config.node.is_none() {
        warnings.push(
            "node is not set: a restarted node gets another name and waits for the lease of its former self"
                .to_owned(),
        );
    }
    warnings
}

async fn clock_warning(log: &dyn TransactionLog) -> anyhow::Result<Option<String>> {
    let theirs = log.now().await?;
    let ours = wall_clock::since_epoch();
    let drift = ours.abs_diff(Duration::from_millis(theirs.0));
    Ok((drift > CLOCK_DRIFT_MAX).then(|| {
        format!(
            "the clocks of this machine and of the database are {} s apart: timelines will confuse",
            drift.as_secs()
        )
    }))
}
