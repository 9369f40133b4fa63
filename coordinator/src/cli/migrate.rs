//! `unanimity migrate`

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::Usage;
use super::output::Output;
use super::settings::Settings;
use crate::config::DatabaseUrl;
use crate::log;

/// Flags of `migrate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unanimity migrate --database-url postgres://unanimity@db/unanimity
  unanimity migrate --data-dir /var/lib/unanimity

The further servers of `database.servers` are migrated too, and join the log.

May run any number of times; a database that is up to date is left as it is. Nodes of the
version before go on meanwhile, but cannot be started again. How many partitions a new log gets is the setting `partitions`: it stays for ever.")]
pub(super) struct Migrate {
    #[command(flatten)]
    settings: Settings,
}

impl Migrate {
    pub(super) async fn run(self, output: &Output) -> anyhow::Result<ExitCode> {
        let config = self.settings.load(None)?;
        let database = Settings::database(&config)?;
        let migrated = match &database {
            DatabaseUrl::Postgres(_) => log::migrate_postgres(&database.expose(), config.partitions).await,
            DatabaseUrl::Sqlite(path) => log::migrate_sqlite(path, config.partitions).await,
            DatabaseUrl::Memory => {
                return Err(
                    Usage("a log in memory has no tables: `unanimity serve` makes it".to_owned()).into()
                );
            }
        }
        .with_context(|| format!("cannot migrate {database}"))?;
        let mut servers = Vec::new();
        for (name, url) in &config.database.servers {
            let server = log::migrate_postgres_server(&database.expose(), name, &url.expose())
                .await
                .with_context(|| format!("cannot migrate server {name} at {url}"))?;
            servers.push((name.as_str(), url.to_string(), server));
        }
        let identity = migrated.identity;
        output.answer(
            || {
                let what = match (migrated.born, migrated.applied) {
                    (true, _) => "A new log was born".to_owned(),
                    (false, 0) => "The log is up to date".to_owned(),
                    (false, count) => format!("{count} migrations were applied"),
                };
                let mut text = format!(
                    "{what}.\n\n  at          {database}\n  log id      {}\n  partitions  {}",
                    identity.log_id, identity.partitions
                );
                for (name, url, server) in &servers {
                    let what = if server.born { "it joined the log" } else { "it is of this log" };
                    text.push_str(&format!("\n  server      {name} at {url}: {what}"));
                }
                text
            },
            || {
                json!({
                    "database": database.to_string(),
                    "log_id": identity.log_id.to_string(),
                    "partitions": identity.partitions,
                    "born": migrated.born,
                    "applied": migrated.applied,
                    "servers": servers.iter().map(|(name, url, server)| json!({
                        "name": name,
                        "database": url,
                        "born": server.born,
                        "applied": server.applied,
                    })).collect::<Vec<_>>(),
                })
            },
        );
        Ok(ExitCode::SUCCESS)
    }
}
