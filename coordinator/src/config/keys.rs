//! The list of keys: what the environment may set, and what the documentation must name.

/// How an environment variable's text becomes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As it is.
    Text,
    /// A whole number.
    Integer,
    /// Separated by commas.
    List,
    /// `name=value` pairs, separated by white space.
    Pairs,
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its place in the file: `limits.in_flight_max`.
    pub path: &'static str,
    /// What it holds.
    pub kind: Kind,
}

impl Key {
    /// Its environment variable: `UNANIMITY_LIMITS_IN_FLIGHT_MAX`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("UNANIMITY_{}", self.path.replace('.', "_").to_uppercase())
    }
}

const fn text(path: &'static str) -> Key {
    Key { path, kind: Kind::Text }
}

const fn integer(path: &'static str) -> Key {
    Key { path, kind: Kind::Integer }
}

/// Every key.
pub const KEYS: &[Key] = &[
    text("listen"),
    text("advertise"),
    text("node"),
    text("database_url"),
    Key { path: "database.servers", kind: Kind::Pairs },
    text("data_dir"),
    integer("partitions"),
    Key { path: "callbacks.allow", kind: Kind::List },
    integer("limits.in_flight_max"),
    integer("limits.connections_max"),
    integer("limits.concurrent_streams_max"),
    integer("limits.header_bytes_max"),
    integer("limits.message_bytes_max"),
    integer("limits.payload_bytes_max"),
    integer("retry.initial_ms"),
    integer("retry.cap_ms"),
    integer("retry.attention_after"),
    integer("timeouts.request_ms"),
    integer("timeouts.transaction_ms"),
    integer("timeouts.callback_ms"),
    integer("timeouts.shutdown_ms"),
    integer("timeouts.start_ms"),
    integer("history.retention_days"),
    text("log.level"),
    text("log.format"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::{Config, DatabaseUrl};

    fn flatten(prefix: &str, table: &toml::Table, into: &mut BTreeSet<String>) {
        for (key, value) in table {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                // A key itself, whose names are somebody else's choice.
                toml::Value::Table(_) if path == "database.servers" => {
                    into.insert(path);
                }
                toml::Value::Table(table) => flatten(&path, table, into),
                _ => {
                    into.insert(path);
                }
            }
        }
    }

    #[test]
    fn the_list_is_complete_and_documented() {
        // Every optional key set, so that it shows.
        let config = Config {
            advertise: Some("http://a".to_owned()),
            node: Some("n".to_owned()),
            database_url: Some(DatabaseUrl::Sqlite("x".into())),
            data_dir: Some("d".into()),
            partitions: Some(16),
            ..Config::default()
        };
        let mut fields = BTreeSet::new();
        flatten("", &toml::Table::try_from(&config).expect("a table"), &mut fields);
        let keys: BTreeSet<String> = KEYS.iter().map(|key| key.path.to_owned()).collect();
        assert_eq!(fields, keys);

        let page = include_str!("../../../docs/configuration.md");
        for key in KEYS {
            assert!(
                page.contains(&format!("`{}`", key.path)),
                "docs/configuration.md does not name {}",
                key.path
            );
            assert!(page.contains(&key.variable()), "docs/configuration.md does not name {}", key.variable());
        }
    }
}
