//! The flags behind which the configuration's layers lie.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::Usage;
use crate::config::{self, Config, DatabaseUrl, Overrides};

/// Where the configuration comes from.
#[derive(Debug, Args)]
pub(super) struct Settings {
    /// A TOML file, see docs/configuration.md.
    #[arg(long, env = "UNANIMITY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The log's database: postgres://user:password@host/database or sqlite:PATH.
    /// Better in UNANIMITY_DATABASE_URL, where no process list shows it.
    #[arg(long, value_name = "URL")]
    database_url: Option<DatabaseUrl>,
    /// A directory for a SQLite log, instead of a database URL.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// What only a running node needs.
#[derive(Debug, Args)]
pub(super) struct NodeSettings {
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// This node's name.
    #[arg(long)]
    node: Option<String>,
    /// What to log: error, warn, info, debug, trace, or directives.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl Settings {
    /// All layers together.
    pub(super) fn load(&self, node: Option<&NodeSettings>) -> anyhow::Result<Config> {
        let overrides = Overrides {
            listen: node.and_then(|node| node.listen),
            database_url: self.database_url.clone(),
            data_dir: self.data_dir.clone(),
            node: node.and_then(|node| node.node.clone()),
            log_level: node.and_then(|node| node.log_level.clone()),
        };
        load(self.config.as_deref(), overrides)
    }

    /// The log's database, which the command cannot do without.
    pub(super) fn database(config: &Config) -> anyhow::Result<DatabaseUrl> {
        config.database().context(Usage(
            "no database is configured: set UNANIMITY_DATABASE_URL, database_url in the file, or --database-url \
             (postgres://… or sqlite:PATH). Just trying? `unanimity dev` needs none."
                .to_owned(),
        ))
    }
}

/// Reads the layers from the process' own environment.
pub(super) fn load(file: Option<&std::path::Path>, overrides: Overrides) -> anyhow::Result<Config> {
    // A variable that is no text cannot be one of ours.
    let environment = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    config::load(file, environment, overrides).map_err(|error| Usage(error.to_string()).into())
}
