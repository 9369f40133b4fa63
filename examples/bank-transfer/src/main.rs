//! The story: `cargo run --release -p bank-transfer`. Wiring only.

use bank_transfer::services::{Common, Role, cli};
use bank_transfer::{bank, story, teller};
use clap::{Parser, Subcommand};

/// Transfers between banks in PostgreSQL and MariaDB databases, a service killed in the middle.
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
    /// Runs a bank as this process, until Ctrl-C or SIGTERM
    Bank {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        options: bank::Options,
    },
    /// Runs the teller as this process, until Ctrl-C or SIGTERM
    Teller {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        options: teller::Options,
    },
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    let Cli { story, command } = Cli::parse();
    // The story prints what matters; RUST_LOG=info shows the rest.
    cli::init_logging("off");
    match command {
        Some(Command::Bank { common, options }) => cli::main(&Role::Bank(options), &common)?,
        Some(Command::Teller { common, options }) => cli::main(&Role::Teller(options), &common)?,
        None => return tokio::runtime::Runtime::new()?.block_on(story::run_and_print(story)),
    }
    Ok(std::process::ExitCode::SUCCESS)
}
