//! Putting the layers together: defaults < file < environment < flags.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::keys::{KEYS, Kind};
use super::{Config, DatabaseUrl};

/// A configuration that cannot be used. Says which key, where it came from, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {why}")]
    Unreadable {
        /// Which file.
        path: String,
        /// What the system said.
        why: String,
    },
    /// The file has a key that does not exist, a value of the wrong type, or is no TOML.
    #[error("{path}: {why}")]
    File {
        /// Which file.
        path: String,
        /// Line, key and reason.
        why: String,
    },
    /// An environment variable is unknown or has an impossible value.
    #[error("environment variable {variable}: {why}")]
    Environment {
        /// Which one.
        variable: String,
        /// Why it cannot be used.
        why: String,
    },
    /// A value is out of its range, whatever layer it came from.
    #[error("configuration: {0}")]
    Invalid(String),
}

/// What flags set; they win over everything.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--listen`
    pub listen: Option<SocketAddr>,
    /// `--database-url`
    pub database_url: Option<DatabaseUrl>,
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--node`
    pub node: Option<String>,
    /// `--log-level`
    pub log_level: Option<String>,
}

/// Reads all layers. `environment` is all variables of the process (given in, so that tests need not
/// change the process' own).
///
/// # Errors
/// [`Error`] names the key and the file or variable.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: Overrides,
) -> Result<Config, Error> {
    let mut table = match file {
        Some(path) => read_file(path)?,
        None => toml::Table::new(),
    };
    overlay_environment(&mut table, environment)?;
    let mut config: Config = toml::Value::Table(table).try_into().map_err(|error: toml::de::Error| {
        // File and variables were checked one by one before; what is left is a bug or a clash.
        Error::Invalid(error.message().to_owned())
    })?;
    let Overrides { listen, database_url, data_dir, node, log_level } = flags;
    if let Some(listen) = listen {
        config.listen = listen;
    }
    // A flag for one of the two ways to name the database also wins over the other way.
    if let Some(data_dir) = data_dir {
        config.data_dir = Some(data_dir);
        config.database_url = None;
    }
    if let Some(url) = database_url {
        config.database_url = Some(url);
    }
    if let Some(node) = node {
        config.node = Some(node);
    }
    if let Some(level) = log_level {
        config.log.level = level;
    }
    config.validate().map_err(Error::Invalid)?;
    Ok(config)
}

fn read_file(path: &Path) -> Result<toml::Table, Error> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::Unreadable { path: shown.clone(), why: error.to_string() })?;
    let wrong = |error: toml::de::Error| Error::File {
        path: match error.span() {
            Some(span) => format!("{shown}:{}", line_of(&text, span.start)),
            None => shown.clone(),
        },
        // Not the error's `Display`: it quotes the line, and the line may hold a password.
        why: error.message().to_owned(),
    };
    // Checked alone, so that the error has the file's line.
    toml::from_str::<Config>(&text).map_err(wrong)?;
    toml::from_str::<toml::Table>(&text).map_err(wrong)
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn overlay_environment(
    table: &mut toml::Table,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<(), Error> {
    for (variable, text) in environment {
        let Some(rest) = variable.strip_prefix("UNANIMITY_") else { continue };
        if is_foreign(rest) {
            continue;
        }
        let Some(key) = KEYS.iter().find(|key| key.variable() == variable) else {
            let why = "no such setting; docs/configuration.md lists them all".to_owned();
            return Err(Error::Environment { variable, why });
        };
        let value = match key.kind {
            Kind::Text => toml::Value::String(text),
            Kind::Integer => match text.trim().parse() {
                Ok(number) => toml::Value::Integer(number),
                Err(_) => {
                    let why = format!("{text:?} is no whole number");
                    return Err(Error::Environment { variable, why });
                }
            },
            Kind::Pairs => {
                let pairs = text.split_whitespace().map(|pair| {
                    let (name, value) = pair.split_once('=')?;
                    Some((name.to_owned(), toml::Value::String(value.to_owned())))
                });
                match pairs.collect() {
                    Some(pairs) => toml::Value::Table(pairs),
                    // Not told back: it may hold a password.
                    None => {
                        let why = "it is NAME=URL, several separated by blanks".to_owned();
                        return Err(Error::Environment { variable, why });
                    }
                }
            }
            Kind::List => toml::Value::Array(
                text.split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                    .map(|item| toml::Value::String(item.to_owned()))
                    .collect(),
            ),
        };
        // Checked alone, so that the error names the variable.
        let mut alone = toml::Table::new();
        insert(&mut alone, key.path, value.clone());
        if let Err(error) = toml::Value::Table(alone).try_into::<Config>() {
            return Err(Error::Environment { variable, why: error.message().to_owned() });
        }
        insert(table, key.path, value);
    }
    Ok(())
}

/// Variables that begin like ours and are not settings: those of the command line and of the test
/// suites, and what Kubernetes sets in every pod beside a service called `unanimity…`.
fn is_foreign(rest: &str) -> bool {
    matches!(rest, "ADDR" | "CONFIG")
        // Read by the points themselves. A binary without them does not know the name.
        || cfg!(feature = "failpoints") && rest == "FAILPOINT"
        || rest.starts_with("TEST_")
        || rest.ends_with("SERVICE_HOST")
        || rest.contains("SERVICE_PORT")
        || rest == "PORT"
        || rest.ends_with("_PORT")
        || rest.contains("PORT_") && rest.contains("_TCP")
}

fn insert(table: &mut toml::Table, path: &str, value: toml::Value) {
    match path.split_once('.') {
        None => {
            table.insert(path.to_owned(), value);
        }
        Some((section, rest)) => {
            let entry =
                table.entry(section.to_owned()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            // The file was checked: a section is a table.
            if let toml::Value::Table(section) = entry {
                insert(section, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        file
    }

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn later_layers_win() {
        let file = file(
            "listen = \"127.0.0.1:1\"\nnode = \"file\"\n[limits]\nin_flight_max = 5\nconnections_max = 6\n",
        );
        let environment =
            env(&[("UNANIMITY_LIMITS_IN_FLIGHT_MAX", "7"), ("UNANIMITY_NODE", "env"), ("PATH", "/bin")]);
        let flags = Overrides { node: Some("flag".to_owned()), ..Overrides::default() };
        let config = load(Some(file.path()), environment, flags).expect("valid");
        assert_eq!(config.listen.port(), 1);
        assert_eq!((config.limits.in_flight_max, config.limits.connections_max), (7, 6));
        assert_eq!(config.node.as_deref(), Some("flag"));
        assert_eq!(config.timeouts, super::super::Timeouts::default());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_file_and_line() {
        let file = file("listen = \"127.0.0.1:1\"\n\n[limits]\nin_flite_max = 5\n");
        let error = load(Some(file.path()), env(&[]), Overrides::default()).expect_err("a typo").to_string();
        assert!(error.contains("in_flite_max"), "{error}");
        assert!(error.contains(&format!("{}:4", file.path().display())), "{error}");
    }

    #[test]
    fn an_unknown_variable_is_named() {
        let error = load(None, env(&[("UNANIMITY_LISTNE", "x")]), Overrides::default()).expect_err("a typo");
        assert!(error.to_string().contains("UNANIMITY_LISTNE"), "{error}");
        let kubernetes = env(&[
            ("UNANIMITY_SERVICE_HOST", "10.0.0.1"),
            ("UNANIMITY_PORT", "tcp://10.0.0.1:7460"),
            ("UNANIMITY_PORT_7460_TCP_ADDR", "10.0.0.1"),
            ("UNANIMITY_HEADLESS_SERVICE_PORT_GRPC", "7460"),
        ]);
        assert!(load(None, kubernetes, Overrides::default()).is_ok());
    }

    #[test]
    fn wrong_types_and_ranges_are_told() {
        for (variable, value) in [
            ("UNANIMITY_PARTITIONS", "many"),
            ("UNANIMITY_LISTEN", "here"),
            ("UNANIMITY_LOG_FORMAT", "xml"),
            ("UNANIMITY_DATABASE_URL", "mysql://u:s3cret@h/d"),
        ] {
            let error =
                load(None, env(&[(variable, value)]), Overrides::default()).expect_err("wrong").to_string();
            assert!(error.contains(variable), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let error =
            load(None, env(&[("UNANIMITY_PARTITIONS", "4097")]), Overrides::default()).expect_err("too many");
        assert!(error.to_string().contains("partitions is 4097"), "{error}");
    }

    #[test]
    fn a_password_in_a_broken_file_is_not_shown() {
        let file = file("database_url = \"mysql://u:s3cret@h/d\"\n");
        let error = load(Some(file.path()), env(&[]), Overrides::default()).expect_err("wrong").to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[test]
    fn lists_are_separated_by_commas() {
        let environment = env(&[("UNANIMITY_CALLBACKS_ALLOW", "https://a, https://b")]);
        let config = load(None, environment, Overrides::default()).expect("valid");
        assert_eq!(config.callbacks.allow, ["https://a", "https://b"]);
    }
}
