//! The story: `cargo run --release -p order-payment`. Wiring only.

use clap::{Parser, Subcommand};
use order_payment::services::{Kind, cli};
use order_payment::story;

/// Orders that reserve stock and debit accounts in three services, with one of them killed in the middle.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    story: story::Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one service: what the story starts as child processes.
    #[command(hide = true)]
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
