//! What can be configured: defaults < file < environment < flags.
//!
//! Every key is a field here, a line in [`keys::KEYS`] (which gives it its environment variable) and
//! a line in `docs/configuration.md`; a test holds the three together. Unknown keys are errors: a
//! typo must not pass for a setting.

mod database_url;
mod keys;
mod load;

pub use database_url::{DatabaseUrl, InvalidDatabaseUrl};
pub use keys::{KEYS, Key, Kind};
pub use load::{Error, Overrides, load};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use unanimity_types::{Limits as Hard, SLOTS};

/// Further servers of a log: each takes connections of every node.
const SERVERS_MAX: u64 = 64;

/// The default address.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:7460";

/// The whole configuration. `Debug` shows no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to listen: gRPC, HTTP/JSON, metrics and health on one port.
    pub listen: SocketAddr,
    /// The address that others reach this node at; the listen address if not set.
    pub advertise: Option<String>,
    /// This node's name; host name and process id if not set.
    pub node: Option<String>,
    /// The log's database.
    pub database_url: Option<DatabaseUrl>,
    /// Further databases of the log.
    pub database: Database,
    /// Where a SQLite log lives if no `database_url` is set: `<data_dir>/unanimity.db`.
    pub data_dir: Option<PathBuf>,
    /// How many partitions a new log gets, for ever: 16 in Postgres and 1 in SQLite if not set. Only
    /// `migrate` reads it.
    pub partitions: Option<u16>,
    /// Where callbacks may go.
    pub callbacks: Callbacks,
    /// What a node takes at once.
    pub limits: Limits,
    /// How operations are repeated.
    pub retry: Retry,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// What is kept of what is over.
    pub history: History,
    /// What the node writes to stderr.
    pub log: Log,
}

/// Further databases of the log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// Where the log's further servers are found, by the names under which `migrate` bore them. Which partition is
    /// where is data in the home database, the one of `database_url`.
    pub servers: BTreeMap<String, DatabaseUrl>,
}

/// Where callbacks may go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Callbacks {
    /// Patterns of the addresses that may be called. Empty: none.
    pub allow: Vec<String>,
}

/// What a node takes at once. More is answered `too_busy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Requests in hand at once, over all connections.
    pub in_flight_max: usize,
    /// Connections at once; more wait in the listener's queue.
    pub connections_max: usize,
    /// HTTP/2 streams of one connection.
    pub concurrent_streams_max: u32,
    /// Bytes of all headers of a request.
    pub header_bytes_max: u32,
    /// Bytes of a gRPC message or HTTP body.
    pub message_bytes_max: usize,
    /// Bytes of a branch's payload.
    pub payload_bytes_max: usize,
}

/// How operations are repeated: capped exponential backoff with full jitter, for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// The wait before the first repetition.
    pub initial_ms: u64,
    /// The longest wait.
    pub cap_ms: u64,
    /// After so many attempts of one operation somebody is told.
    pub attention_after: u32,
}

/// How long things may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// A request, whatever its own deadline says.
    pub request_ms: u64,
    /// A transaction whose begin names no timeout.
    pub transaction_ms: u64,
    /// A participant's answer to one operation.
    pub callback_ms: u64,
    /// From the signal to stop until what is in hand is given up.
    pub shutdown_ms: u64,
    /// How long a start waits for the log's database; 0 for not at all.
    pub start_ms: u64,
}

/// What is kept of what is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct History {
    /// For how many days.
    pub retention_days: u32,
}

/// What the node writes to stderr.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// A level, or directives such as `info,unanimity_coordinator=debug`.
    pub level: String,
    /// Lines for people or for machines.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7460)),
            advertise: None,
            node: None,
            database_url: None,
            database: Database::default(),
            data_dir: None,
            partitions: None,
            callbacks: Callbacks::default(),
            limits: Limits::default(),
            retry: Retry::default(),
            timeouts: Timeouts::default(),
            history: History::default(),
            log: Log::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // At a few KB each this is some 50 MB of requests in hand.
            in_flight_max: 10_000,
            // Well below the usual limit of open files (65,536 for services) with room for the rest.
            connections_max: 10_000,
            // gRPC clients multiplex; more than this from one of them is a runaway loop.
            concurrent_streams_max: 1_000,
            header_bytes_max: 16 * 1024,
            message_bytes_max: Hard::MESSAGE_BYTES_MAX,
            payload_bytes_max: Hard::PAYLOAD_BYTES_MAX,
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        let unanimity_core::RetryPolicy { initial, cap, attention_after } =
            unanimity_core::RetryPolicy::default();
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self { initial_ms: ms(initial), cap_ms: ms(cap), attention_after }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request_ms: 60_000,
            // One minute, as the protocol says.
            transaction_ms: 60_000,
            callback_ms: 10_000,
            // Below the 30 s that Kubernetes and systemd's operators commonly leave.
            shutdown_ms: 20_000,
            // A failover of the database, or a machine where both start at once.
            start_ms: 30_000,
        }
    }
}

impl Default for History {
    fn default() -> Self {
        Self { retention_days: 30 }
    }
}

impl History {
    /// `retention_days` as a duration.
    #[must_use]
    pub const fn retention(&self) -> Duration {
        Duration::from_secs(self.retention_days as u64 * 24 * 3_600)
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Timeouts {
    /// `request_ms` as a duration.
    #[must_use]
    pub fn request(&self) -> Duration {
        Duration::from_millis(self.request_ms)
    }

    /// `transaction_ms` as a duration.
    #[must_use]
    pub fn transaction(&self) -> Duration {
        Duration::from_millis(self.transaction_ms)
    }

    /// `callback_ms` as a duration.
    #[must_use]
    pub fn callback(&self) -> Duration {
        Duration::from_millis(self.callback_ms)
    }

    /// `shutdown_ms` as a duration.
    #[must_use]
    pub fn shutdown(&self) -> Duration {
        Duration::from_millis(self.shutdown_ms)
    }

    /// `start_ms` as a duration.
    #[must_use]
    pub fn start(&self) -> Duration {
        Duration::from_millis(self.start_ms)
    }
}

impl Config {
    /// The log's database: `database_url`, or the file in `data_dir`.
    #[must_use]
    pub fn database(&self) -> Option<DatabaseUrl> {
        self.database_url
            .clone()
            .or_else(|| self.data_dir.as_ref().map(|dir| DatabaseUrl::Sqlite(dir.join("unanimity.db"))))
    }

    /// The addresses of the log's further servers, with their passwords.
    #[must_use]
    pub fn servers(&self) -> BTreeMap<String, String> {
        self.database.servers.iter().map(|(name, url)| (name.clone(), url.expose())).collect()
    }

    /// What this node is called.
    #[must_use]
    pub fn node_name(&self) -> String {
        self.node.clone().unwrap_or_else(|| {
            let host = std::env::var("HOSTNAME")
                .ok()
                .or_else(|| std::fs::read_to_string("/etc/hostname").ok())
                .map(|host| host.trim().to_owned())
                .filter(|host| !host.is_empty())
                .unwrap_or_else(|| "node".to_owned());
            format!("{host}-{}", std::process::id())
        })
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn validate(&self) -> Result<(), String> {
        let within = |key: &str, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(format!("{key} is {value}; it must be from {min} to {max}"))
            }
        };
        let size = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        if let Some(partitions) = self.partitions {
            within("partitions", u64::from(partitions), 1, u64::from(SLOTS))?;
        }
        within("limits.in_flight_max", size(self.limits.in_flight_max), 1, 1_000_000)?;
        within("limits.connections_max", size(self.limits.connections_max), 1, 1_000_000)?;
        within("limits.concurrent_streams_max", u64::from(self.limits.concurrent_streams_max), 1, 100_000)?;
        within("limits.header_bytes_max", u64::from(self.limits.header_bytes_max), 8 * 1024, 1024 * 1024)?;
        // Configuration may lower the protocol's limits, never raise them.
        let message_max = size(Hard::MESSAGE_BYTES_MAX);
        within("limits.message_bytes_max", size(self.limits.message_bytes_max), 1024, message_max)?;
        let payload_max = size(Hard::PAYLOAD_BYTES_MAX).min(size(self.limits.message_bytes_max));
        within("limits.payload_bytes_max", size(self.limits.payload_bytes_max), 0, payload_max)?;
        let day_ms = 24 * 3_600 * 1_000;
        within("retry.initial_ms", self.retry.initial_ms, 1, self.retry.cap_ms)?;
        within("retry.cap_ms", self.retry.cap_ms, 1, day_ms)?;
        within("retry.attention_after", u64::from(self.retry.attention_after), 1, 1_000_000)?;
        within("timeouts.request_ms", self.timeouts.request_ms, 100, 600_000)?;
        let timeout_max = u64::try_from(Hard::TIMEOUT_MAX.as_millis()).unwrap_or(u64::MAX);
        within("timeouts.transaction_ms", self.timeouts.transaction_ms, 1, timeout_max)?;
        within("timeouts.callback_ms", self.timeouts.callback_ms, 10, 600_000)?;
        within("timeouts.shutdown_ms", self.timeouts.shutdown_ms, 100, 600_000)?;
        within("timeouts.start_ms", self.timeouts.start_ms, 0, 600_000)?;
        within("history.retention_days", u64::from(self.history.retention_days), 1, 3_650)?;
        within("database.servers", size(self.database.servers.len()), 0, SERVERS_MAX)?;
        for (name, url) in &self.database.servers {
            unanimity_types::Name::new(name.as_str())
                .map_err(|error| format!("database.servers: {error}"))?;
            if name == crate::log::HOME_SERVER {
                return Err("database.servers: home is the name of the database of database_url".to_owned());
            }
            let all_postgres = [Some(url), self.database_url.as_ref()]
                .into_iter()
                .all(|url| matches!(url, Some(DatabaseUrl::Postgres(_))));
            if !all_postgres {
                return Err(format!(
                    "database.servers.{name}: only a log in PostgreSQL has further servers, which are in PostgreSQL too"
                ));
            }
        }
        if let Some(node) = &self.node {
            unanimity_types::Name::new(node.as_str()).map_err(|error| format!("node: {error}"))?;
        }
        if let Some(advertise) = &self.advertise
            && !advertise.parse::<http::Uri>().is_ok_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https"))
                    && uri.host().is_some_and(|host| !host.is_empty())
            })
        {
            return Err(format!("advertise is {advertise:?}; it must be a URL such as http://10.0.0.5:7460"));
        }
        Ok(())
    }
}
