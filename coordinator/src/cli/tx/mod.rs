//! `unanimity tx`

mod act;
mod list;
mod show;

use std::process::ExitCode;

use clap::Subcommand;

use super::output::Output;

/// Commands about transactions.
#[derive(Debug, Subcommand)]
pub(super) enum Tx {
    /// A page of transactions, newest first.
    List(list::List),
    /// One transaction with its branches and its timeline.
    Show(show::Show),
    /// Try what is owed again now.
    Retry(act::Retry),
    /// Abort a transaction that is not decided yet.
    Abort(act::Abort),
    /// Settle a branch by hand: a heuristic outcome, recorded for ever.
    Resolve(act::Resolve),
}

impl Tx {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(command) => command.run(output).await,
            Self::Show(command) => command.run(output).await,
            Self::Retry(command) => command.run(output).await,
            Self::Abort(command) => command.run(output).await,
            Self::Resolve(command) => command.run(output).await,
        }
    }
}
