//! The story: `cargo run --release -p outbox-example`; with a command, one of its services. Wiring only.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use outbox_example::services::{Kind, cli};
use outbox_example::story;

/// A shop that writes its messages beside its orders, relays that are killed in the middle, and a
/// warehouse that hears each message once.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    story: story::Options,
    #[command(subcommand)]
    service: Option<Service>,
}

#[derive(Debug, Subcommand)]
enum Service {
    /// Runs the shop
    Shop(cli::ServiceArgs),
    /// Runs a relay of the shop's outbox
    Relay(cli::ServiceArgs),
    /// Runs the warehouse
    Warehouse(cli::ServiceArgs),
}

fn main() -> anyhow::Result<ExitCode> {
    let Cli { story, service } = Cli::parse();
    // The story prints what matters; RUST_LOG=info shows the rest.
    cli::init_logging(if service.is_some() { "warn" } else { "off" });
    let (kind, args) = match service {
        None => return tokio::runtime::Runtime::new()?.block_on(story::run_and_print(story)),
        Some(Service::Shop(args)) => (Kind::Shop, args),
        Some(Service::Relay(args)) => (Kind::Relay, args),
        Some(Service::Warehouse(args)) => (Kind::Warehouse, args),
    };
    cli::runtime()?.block_on(cli::run(kind, args))?;
    Ok(ExitCode::SUCCESS)
}
