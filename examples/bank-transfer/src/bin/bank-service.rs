//! A bank as a process of its own: `bank-service --help`.

use bank_transfer::services::{Common, Role, cli};
use clap::Parser;

/// A bank, until Ctrl-C or SIGTERM.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    options: bank_transfer::bank::Options,
}

fn main() -> anyhow::Result<()> {
    let Cli { common, options } = Cli::parse();
    cli::init_logging("info");
    cli::main(&Role::Bank(options), &common)
}
