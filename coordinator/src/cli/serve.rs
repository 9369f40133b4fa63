//! `unanimity serve`

use std::pin::pin;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::Usage;
use super::output::Output;
use super::settings::{NodeSettings, Settings};
use crate::config::{Config, DatabaseUrl};
use crate::node::{Node, NodeBuilder};
use crate::{shutdown, telemetry};

/// Flags of `serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unanimity serve --config /etc/unanimity.toml
  UNANIMITY_DATABASE_URL=postgres://unanimity@db/unanimity unanimity serve --listen 0.0.0.0:7460

The database must be migrated: unanimity migrate. SIGTERM stops it in good order.")]
pub(super) struct Serve {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    node: NodeSettings,
}

impl Serve {
    pub(super) async fn run(self, _: &Output) -> anyhow::Result<ExitCode> {
        let config = self.settings.load(Some(&self.node))?;
        let database = Settings::database(&config)?;
        telemetry::init(&config.log).map_err(Usage)?;
        let builder = Node::builder().listen(config.listen).config(config.clone());
        let builder = match &database {
            DatabaseUrl::Postgres(_) => builder.postgres(database.expose()),
            DatabaseUrl::Memory => {
                tracing::warn!("the log is in memory: every transaction is forgotten with this process");
                // As in Postgres: what is compared shall differ in the log alone.
                builder.memory_with_partitions(config.partitions.unwrap_or(crate::log::PARTITIONS_DEFAULT))
            }
            // Not made here: a typo in the path must not start an empty log (protocol C8).
            DatabaseUrl::Sqlite(path) => {
                let log = crate::log::SqliteLog::open(path)
                    .await
                    .with_context(|| format!("cannot open the log at {database}"))?;
                builder.log(std::sync::Arc::new(log))
            }
        };
        until_signal(builder, &config, |node| {
            tracing::info!(
                address = %node.url().unwrap_or_default(),
                log = %database,
                log_id = %node.coordinator().log_id(),
                version = env!("CARGO_PKG_VERSION"),
                "the coordinator listens"
            );
        })
        .await
    }
}

/// Starts a node, tells that it runs, waits for a signal and stops it in good order.
pub(super) async fn until_signal(
    builder: NodeBuilder,
    config: &Config,
    tell: impl FnOnce(&Node),
) -> anyhow::Result<ExitCode> {
    // Installed first: a signal during the start stops it too.
    let mut signal = pin!(shutdown::signal().context("cannot listen for signals")?);
    let node = tokio::select! {
        started = builder.start() => started?,
        name = &mut signal => {
            tracing::info!(signal = name, "stopping before the start was over");
            return Ok(ExitCode::SUCCESS);
        }
    };
    tell(&node);
    let name = signal.await;
    tracing::info!(signal = name, limit_ms = config.timeouts.shutdown_ms, "stopping");
    node.shutdown().await;
    Ok(ExitCode::SUCCESS)
}
