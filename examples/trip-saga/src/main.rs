//! The story: `cargo run --release -p trip-saga`. Wiring only.

use clap::{Parser, Subcommand};
use trip_saga::services::{Kind, cli};
use trip_saga::story;

/// Trips booked as sagas over four services, one of them killed in the middle, one compensation mended by hand.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    story: story::Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one service as this process, until Ctrl-C or SIGTERM.
    Service {
        kind: Kind,
        #[command(flatten)]
        args: cli::ServiceArgs,
    },
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    let Cli { story, command } = Cli::parse();
    // The story prints what matters; RUST_LOG=info shows the rest.
    cli::init_logging("off");
    match command {
        Some(Command::Service { kind, args }) => {
            cli::runtime()?.block_on(cli::run(kind, args))?;
            Ok(std::process::ExitCode::SUCCESS)
        }
        None => tokio::runtime::Runtime::new()?.block_on(story::run_and_print(story)),
    }
}
