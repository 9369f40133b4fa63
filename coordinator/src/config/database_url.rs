//! Where the log is: a URL that may hold a password, and never shows it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What stands in place of a password.
const REDACTED: &str = "***";
/// The whole name: nobody gets a log in memory by a slip in a path.
const MEMORY: &str = "memory:";

/// The log's database. `Debug`, `Display` and `Serialize` hide the password;
/// [`DatabaseUrl::expose`] gives it to whoever connects.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A Postgres server: `postgres://user:password@host:port/database`.
    Postgres(String),
    /// A SQLite file: `sqlite:path`, `sqlite://path`, or a plain path.
    Sqlite(PathBuf),
    /// `memory:`, a log that forgets everything with its process. For measuring what a log costs, never for
    /// transactions that anybody needs.
    Memory,
}

/// A text that names no database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidDatabaseUrl(String);

impl DatabaseUrl {
    /// The URL with its password, for connecting only.
    #[must_use]
    pub fn expose(&self) -> String {
        match self {
            Self::Postgres(url) => url.clone(),
            Self::Sqlite(path) => format!("sqlite:{}", path.display()),
            Self::Memory => MEMORY.to_owned(),
        }
    }
}

impl FromStr for DatabaseUrl {
    type Err = InvalidDatabaseUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(text.to_owned()));
        }
        if text == MEMORY {
            return Ok(Self::Memory);
        }
        let path = match text.strip_prefix("sqlite:") {
            Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
            // The scheme alone is told back: what follows it may be a secret.
            None if text.contains("://") => {
                let scheme = text.split("://").next().unwrap_or_default();
                return Err(InvalidDatabaseUrl(format!(
                    "a database URL begins with postgres:// or sqlite:, not with {scheme}://"
                )));
            }
            None => text,
        };
        if path.is_empty() || path == ":memory:" || path.contains('?') {
            return Err(InvalidDatabaseUrl(
                "a SQLite log needs a file: sqlite:PATH, without options (a log in memory would forget)"
                    .to_owned(),
            ));
        }
        Ok(Self::Sqlite(PathBuf::from(path)))
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(url) => f.write_str(&redact(url)),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Memory => f.write_str(MEMORY),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DatabaseUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A URL without what it keeps secret: the password before the host, and a `password` option.
fn redact(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return REDACTED.to_owned();
    };
    let (before_query, query) = match rest.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (rest, None),
    };
    // The last `@`: a password that was not percent-encoded may have one of its own, or a slash.
    let place = match before_query.rsplit_once('@') {
        Some((credentials, place)) => {
            let user = credentials.split(':').next().unwrap_or_default();
            let secret = if credentials.contains(':') { format!(":{REDACTED}") } else { String::new() };
            format!("{user}{secret}@{place}")
        }
        None => before_query.to_owned(),
    };
    let query = query.map(|query| {
        let options: Vec<String> = query
            .split('&')
            .map(|option| match option.split_once('=') {
                Some((key, _)) if key.contains("password") => format!("{key}={REDACTED}"),
                _ => option.to_owned(),
            })
            .collect();
        format!("?{}", options.join("&"))
    });
    format!("{scheme}://{place}{}", query.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for url in [
            "postgres://unanimity:s3cret@db.example:5432/unanimity",
            "postgresql://u:s3cret@h/d?sslmode=require",
            "postgres://h/d?user=u&password=s3cret",
            "postgres://u:s3cret@with@at@h/d",
            "postgres://u:s3cret/slash@h/d",
        ] {
            let parsed: DatabaseUrl = url.parse().expect("valid");
            for shown in
                [format!("{parsed}"), format!("{parsed:?}"), serde_json::to_string(&parsed).expect("json")]
            {
                assert!(!shown.contains("s3cret"), "{shown}");
            }
            assert!(parsed.expose().contains("s3cret"));
        }
    }

    #[test]
    fn the_rest_of_a_url_is_shown() {
        let parsed: DatabaseUrl = "postgres://u:p@h:5432/d?sslmode=require".parse().expect("valid");
        assert_eq!(parsed.to_string(), "postgres://u:***@h:5432/d?sslmode=require");
        let parsed: DatabaseUrl = "postgres://u@h/d".parse().expect("valid");
        assert_eq!(parsed.to_string(), "postgres://u@h/d");
    }

    #[test]
    fn memory_is_said_outright() {
        let parsed: DatabaseUrl = "memory:".parse().expect("valid");
        assert_eq!((&parsed, parsed.to_string().as_str()), (&DatabaseUrl::Memory, "memory:"));
        // Anything else is what it was: a file, or an error.
        assert_eq!("memory".parse(), Ok(DatabaseUrl::Sqlite("memory".into())));
        assert!("sqlite::memory:".parse::<DatabaseUrl>().is_err());
    }

    #[test]
    fn files_are_sqlite() {
        for text in ["sqlite:/tmp/u.db", "sqlite:///tmp/u.db", "/tmp/u.db"] {
            assert_eq!(text.parse(), Ok(DatabaseUrl::Sqlite("/tmp/u.db".into())), "{text}");
        }
        for text in ["", "sqlite:", "sqlite::memory:", "mysql://h/d", "sqlite:x.db?mode=ro"] {
            assert!(text.parse::<DatabaseUrl>().is_err(), "{text}");
        }
        let error = "mysql://u:s3cret@h/d".parse::<DatabaseUrl>().expect_err("unknown").to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }
}
