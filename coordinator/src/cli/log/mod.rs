//! `unanimity log`: the log itself, past the coordinator.

mod accept_loss;
mod dump;
mod event;
mod verify;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Subcommand;

use super::Usage;
use super::output::Output;
use crate::config::DatabaseUrl;
use crate::log::{PostgresLog, PostgresOptions, SqliteLog, TransactionLog};

/// Commands about the log.
#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Check every block: checksums, the chain, the floor, and that none is missing. Reads only.
    Verify(verify::Verify),
    /// Print blocks and the events in them. Reads only.
    Dump(dump::Dump),
    /// Go on with a partition that stopped because its log lost its tail.
    AcceptLoss(accept_loss::AcceptLoss),
}

impl LogCommand {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        match self {
            Self::Verify(command) => command.run(output).await,
            Self::Dump(command) => command.run(output).await,
            Self::AcceptLoss(command) => command.run(output).await,
        }
    }
}

/// Opens a log to look at it, without becoming an owner of anything in it.
pub(super) async fn open(database: &DatabaseUrl) -> anyhow::Result<Arc<dyn TransactionLog>> {
    let opened: Result<Arc<dyn TransactionLog>, _> = match database {
        DatabaseUrl::Postgres(_) => PostgresLog::open(&database.expose(), PostgresOptions::default())
            .await
            .map(|log| Arc::new(log) as Arc<dyn TransactionLog>),
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
