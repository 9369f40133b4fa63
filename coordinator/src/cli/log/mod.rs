//! `unanimity log`: the log itself, past the coordinator.

mod accept_loss;
mod dump;
mod event;
mod restored;
mod verify;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Subcommand;

use super::Usage;
use super::output::Output;
use super::settings::Settings;
use crate::config::{Config, DatabaseUrl};
use crate::log::{Error, PlacedLog, PostgresOptions, SqliteLog, TransactionLog};

/// Commands about the log.
#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Check every block: checksums, the chain, the floor, and that none is missing. Reads only.
    Verify(verify::Verify),
    /// Print blocks and the events in them. Reads only.
    Dump(dump::Dump),
    /// Go on with a partition that stopped because its log lost its tail.
    AcceptLoss(accept_loss::AcceptLoss),
    /// Say that the log was restored from a backup: nothing from before is presumed aborted.
    Restored(restored::Restored),
}

impl LogCommand {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        match self {
            Self::Verify(command) => command.run(output).await,
            Self::Dump(command) => command.run(output).await,
            Self::AcceptLoss(command) => command.run(output).await,
            Self::Restored(command) => command.run(output).await,
        }
    }
}

/// Opens a log to look at it, without becoming an owner of anything in it.
pub(super) async fn open(config: &Config) -> anyhow::Result<Arc<dyn TransactionLog>> {
    open_on(config, None).await
}

/// The same, or one of its servers alone.
async fn open_on(config: &Config, server: Option<&str>) -> anyhow::Result<Arc<dyn TransactionLog>> {
    let database = &Settings::database(config)?;
    if let (Some(server), DatabaseUrl::Postgres(_)) = (server, database) {
        let log =
            placed(config, database).await.with_context(|| format!("cannot open the log at {database}"))?;
        let alone = log.server(server).await.with_context(|| format!("cannot open server {server}"))?;
        return Ok(alone);
    }
    if let Some(server) = server {
        return Err(Usage(format!("--server {server}: only a log in PostgreSQL has several")).into());
    }

    let opened: Result<Arc<dyn TransactionLog>, _> = match database {
        DatabaseUrl::Postgres(_) => {
            placed(config, database).await.map(|log| Arc::new(log) as Arc<dyn TransactionLog>)
        }
        DatabaseUrl::Sqlite(path) => {
            SqliteLog::open_read_only(path).await.map(|log| Arc::new(log) as Arc<dyn TransactionLog>)
        }
        DatabaseUrl::Memory => {
            return Err(
                Usage("a log in memory can be looked at by nobody but its own process".to_owned()).into()
            );
        }
    };
    opened.with_context(|| format!("cannot open the log at {database}"))
}

async fn placed(config: &Config, home: &DatabaseUrl) -> Result<PlacedLog, Error> {
    PlacedLog::open(&home.expose(), config.servers(), PostgresOptions::default()).await
}

/// Whether nothing of a partition is there: its log is on another server.
fn is_elsewhere(server: Option<&str>, error: &Error) -> bool {
    server.is_some() && matches!(error, Error::Damaged { seq, .. } if seq.0 == 0)
}
