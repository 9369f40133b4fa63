//! `unanimity dev`

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::output::Output;
use super::{Usage, settings};
use crate::config::{Config, Overrides};
use crate::delivery::AllowList;
use crate::node::Node;
use crate::{shutdown, telemetry};

/// Long enough for a log of some size on a slow disk.
const READY_MAX: Duration = Duration::from_secs(60);

/// Flags of `dev`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unanimity dev                              a temporary log: gone when it stops
  unanimity dev --data-dir ./unanimity-data  a log that lasts
  unanimity dev --listen 127.0.0.1:0 --json  any free port, told as JSON

docs/http-api.md runs a transaction against it with nothing but curl.")]
pub(super) struct Dev {
    /// Where the log lives. A temporary directory if not given, deleted at the end.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where to listen; port 0 for any free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// What to log: error, warn, info, debug, trace, or directives.
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log_level: String,
}

impl Dev {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let overrides = Overrides {
            listen: self.listen,
            log_level: Some(self.log_level.clone()),
            ..Overrides::default()
        };
        let config = settings::load(None, overrides)?;
        if config.database_url.is_some() {
            return Err(Usage(
                "dev has a SQLite log of its own; UNANIMITY_DATABASE_URL is for `unanimity serve`".to_owned(),
            )
            .into());
        }
        telemetry::init(&config.log).map_err(Usage)?;
        // Installed first: a signal during the start must not leave a temporary directory behind.
        let signal = shutdown::signal().context("cannot listen for signals")?;
        let (directory, temporary) = match self.data_dir.or_else(|| config.data_dir.clone()) {
            Some(directory) => (directory, None),
            None => {
                let temporary = tempfile::Builder::new()
                    .prefix("unanimity-dev-")
                    .tempdir()
                    .context("no temporary directory")?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let node = start(&directory, &config).await?;
        tell(output, &node, &directory, temporary.is_some());
        let name = signal.await;
        tracing::info!(signal = name, "stopping");
        node.shutdown().await;
        drop(temporary);
        Ok(ExitCode::SUCCESS)
    }
}

async fn start(directory: &Path, config: &Config) -> anyhow::Result<Node> {
    let mut patterns = config.callbacks.allow.clone();
    // Callbacks to this machine: what somebody tries first.
    patterns.push("loopback".to_owned());
    let allow = AllowList::parse(&patterns).map_err(|error| Usage(error.to_string()))?;
    let mut config = config.clone();
    // Always the same name: after a crash the lease of the former self is taken back at once. The lock
    // on the file keeps a second one away.
    config.node.get_or_insert_with(|| "dev".to_owned());
    let node = Node::builder()
        .sqlite(directory.join("unanimity.db"))
        .listen(config.listen)
        .config(config)
        .allow_callbacks(allow)
        .start()
        .await?;
    node.ready(READY_MAX).await.context("the log cannot be used")?;
    Ok(node)
}

fn tell(output: &Output, node: &Node, directory: &Path, is_temporary: bool) {
    let url = node.url().unwrap_or_default();
    let log_id = node.coordinator().log_id();
    let text = || {
        let consequence = if is_temporary {
            "      Temporary: it is deleted at the end. Participants that still point at this coordinator then find\n      \
             another log; what they have open stays open until somebody looks. Keep it: --data-dir DIR\n"
        } else {
            ""
        };
        format!(
            "Unanimity {version} runs.\n\n  at  {url}\n      gRPC, HTTP/JSON, /openapi.json, /metrics, /healthz, /readyz\n  \
             log {directory}\n{consequence}\n\
             Begin a transaction:\n\n  curl --json '{{\"mode\": \"tcc\", \"name\": \"hello\"}}' {url}/v1/transactions\n\n\
             docs/http-api.md goes on from there. Ctrl-C stops it.",
            version = env!("CARGO_PKG_VERSION"),
            directory = directory.display(),
        )
    };
    let value = || {
        json!({
            "url": url,
            "log_id": log_id.to_string(),
            "data_dir": directory.display().to_string(),
            "temporary": is_temporary,
        })
    };
    // One line also as JSON: whoever waits for it reads a line.
    output.line(text, value);
}
