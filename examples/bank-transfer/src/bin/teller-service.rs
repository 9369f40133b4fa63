//! The teller as a process of its own: `teller-service --help`.

use bank_transfer::services::{Common, Role, cli};
use clap::Parser;

/// The teller, until Ctrl-C or SIGTERM.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    options: bank_transfer::teller::Options,
}

fn main() -> anyhow::Result<()> {
    let Cli { common, options } = Cli::parse();
    cli::init_logging("info");
    cli::main(&Role::Teller(options), &common)
}
