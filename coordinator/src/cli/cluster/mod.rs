//! `unanimity cluster`

mod drain;
mod r#move;
mod show;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::client::Addr;
use super::output::Output;

/// The cluster: looked at, unless an action is named.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  unanimity cluster
  unanimity cluster --addr http://10.0.0.5:7460 --json
  unanimity cluster drain shop-2 --reason 'new kernel' --wait
  unanimity cluster undrain shop-2
  unanimity cluster move 3 b --reason 'home is full'

Any node answers for all. Exit status 1 if a partition does not run."
)]
pub(super) struct Cluster {
    #[command(flatten)]
    addr: Addr,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Have a node hand over what it owns, and give it nothing more; it goes on passing calls on.
    Drain(drain::Drain),
    /// Give a node its share again.
    Undrain(drain::Undrain),
    /// Move a partition's log to another PostgreSQL server, while it works.
    Move(r#move::Move),
}

impl Cluster {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        match self.action {
            None => show::run(&self.addr, output).await,
            Some(Action::Drain(command)) => command.run(output).await,
            Some(Action::Undrain(command)) => command.run(output).await,
            Some(Action::Move(command)) => command.run(output).await,
        }
    }
}
