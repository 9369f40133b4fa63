//! The command line: one file for each command.
//!
//! Answers go to stdout, everything else to stderr. Exit status: 0 done, 1 it failed, 2 it was asked
//! wrongly (an unknown flag, a broken configuration).

mod bench;
mod check;
mod check_database;
mod check_participant;
mod client;
mod cluster;
mod dev;
mod log;
mod migrate;
mod output;
mod serve;
mod settings;
mod tx;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use output::Output;

/// What was asked cannot be done as it was asked: exit status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// A distributed transaction coordinator: several services each do a part of one operation, and either
/// every part takes effect or none does.
#[derive(Debug, Parser)]
#[command(name = "unanimity", version, after_help = EXAMPLES, propagate_version = true)]
struct Cli {
    /// Print one JSON value instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  unanimity dev                                    try it: no set-up, SQLite in a temporary directory
  unanimity migrate --database-url postgres://…    make or upgrade the log's tables
  unanimity serve --config unanimity.toml          run it
  unanimity tx list --attention                    what needs somebody
  unanimity tx show 0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f

Settings come from --config, UNANIMITY_… variables and flags, later ones win: docs/configuration.md";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a coordinator for development: SQLite, callbacks to this machine allowed, no set-up.
    Dev(dev::Dev),
    /// Run a coordinator.
    Serve(serve::Serve),
    /// Make or upgrade the log's tables; bear the log if it is new.
    Migrate(migrate::Migrate),
    /// Check the configuration and the database, and warn of settings that will hurt; or check a participant.
    Check(check::Check),
    /// Look at transactions, and act on them.
    #[command(subcommand)]
    Tx(tx::Tx),
    /// Look at the log itself.
    #[command(subcommand)]
    Log(log::LogCommand),
    /// The nodes and the partitions, and which node is to own none.
    Cluster(cluster::Cluster),
    /// Put load on a running coordinator, and measure it.
    Bench(bench::Bench),
}

/// Runs the command that the process' arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output.error(&anyhow::Error::new(error).context("cannot start"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(cli.command, &output));
    // What blocks (a database's worker thread) shall not hold up the end.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            if error.downcast_ref::<Usage>().is_some() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

async fn run(command: Command, output: &Output) -> anyhow::Result<ExitCode> {
    match command {
        Command::Dev(command) => command.run(output).await,
        Command::Serve(command) => command.run(output).await,
        Command::Migrate(command) => command.run(output).await,
        Command::Check(command) => command.run(output).await,
        Command::Tx(command) => command.run(output).await,
        Command::Log(command) => command.run(output).await,
        Command::Cluster(command) => command.run(output).await,
        Command::Bench(command) => command.run(output).await,
    }
}
