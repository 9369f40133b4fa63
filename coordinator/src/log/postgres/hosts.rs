//! Where the database is: one address, or those of a primary and its standbys, of which the primary is looked for.
//!
//! `postgres://user:password@db1:5432,db2:5432/unanimity` as libpq writes it. A connection is made to the host that
//! had the primary last, then to the others in their order; one that answers as a standby is left alone. So a
//! failover needs no change of configuration: connections to the old primary break, and new ones find the new one.
//! Decisions are never read from a standby (docs/operations.md).

use std::str::FromStr as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use tokio::time::timeout;

use super::error;
use crate::log::Error;

/// Hosts in one URL: a primary and its standbys.
const HOSTS_MAX: usize = 16;

const IN_RECOVERY: &str = "/* look_for_primary */ SELECT pg_is_in_recovery()";

/// The hosts of one URL.
#[derive(Debug)]
pub(super) struct Hosts {
    /// At least one; alike but for host and port.
    options: Vec<PgConnectOptions>,
    /// Which one had the primary last.
    last: AtomicUsize,
}

impl Hosts {
    /// Reads a URL. Its text, which may hold a password, is never part of an error.
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(Error::Refused("the database's URL must begin with postgres://".to_owned()));
        }
        let urls = split(url)?;
        let options = urls.iter().map(|url| {
            let options = PgConnectOptions::from_str(url)
                .map_err(|e| Error::Refused(format!("the database's URL cannot be read: {e}")))?;
            Ok(options.application_name("unanimity"))
        });
        Ok(Self { options: options.collect::<Result<_, Error>>()?, last: AtomicUsize::new(0) })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.options.len()
    }

    /// Where they are, for people, without secrets.
    pub(super) fn describe(&self) -> String {
        let places: Vec<String> = self
            .options
            .iter()
            .map(|options| {
                options.get_socket().map_or_else(
                    || format!("{}:{}", options.get_host(), options.get_port()),
                    |socket| socket.display().to_string(),
                )
            })
            .collect();
        let options = &self.options[0];
        let user = options.get_username();
        let database = options.get_database().unwrap_or(user);
        format!("PostgreSQL at {}, database {database}, role {user}", places.join(", "))
    }

    /// Connects to the primary, trying each host for at most `limit`.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: nothing was sent that could have changed anything.
    pub(super) async fn connect(&self, limit: Duration) -> Result<PgConnection, Error> {
        if let [only] = self.options.as_slice() {
            return connect(only, limit).await;
        }
        let first = self.last.load(Ordering::Relaxed);
        let mut failures = Vec::new();
        for place in (0..self.options.len()).map(|n| (first + n) % self.options.len()) {
            let options = &self.options[place];
            match primary(options, limit).await {
                Ok(connection) => {
                    self.last.store(place, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(why) => failures.push(format!("{}:{}: {why}", options.get_host(), options.get_port())),
            }
        }
        Err(Error::Unavailable(format!("no primary can be reached; {}", failures.join("; "))))
    }
}

async fn connect(options: &PgConnectOptions, limit: Duration) -> Result<PgConnection, Error> {
    match timeout(limit, PgConnection::connect_with(options)).await {
        Ok(connected) => connected.map_err(|e| error::not_sent(&e)),
        Err(_) => Err(Error::Unavailable(format!("no connection within {} s", limit.as_secs_f32()))),
    }
}

async fn primary(options: &PgConnectOptions, limit: Duration) -> Result<PgConnection, Error> {
    let mut connection = connect(options, limit).await?;
    let look = sqlx::query_scalar::<_, bool>(IN_RECOVERY).fetch_one(&mut connection);
    match timeout(limit, look).await {
        Ok(Ok(false)) => Ok(connection),
        Ok(Ok(true)) => Err(Error::Unavailable("a standby (in recovery)".to_owned())),
        Ok(Err(e)) => Err(error::reading(&e)),
        Err(_) => Err(Error::Unavailable("it does not answer".to_owned())),
    }
}

/// A URL for each host of a URL.
fn split(url: &str) -> Result<Vec<String>, Error> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Ok(vec![url.to_owned()]);
    };
    let (place, query) = match rest.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (rest, None),
    };
    // The last `@`: a password may have one of its own.
    let (credentials, place) = match place.rsplit_once('@') {
        Some((credentials, place)) => (format!("{credentials}@"), place),
        None => (String::new(), place),
    };
    let (hosts, database) = match place.split_once('/') {
        Some((hosts, database)) => (hosts, format!("/{database}")),
        None => (place, String::new()),
    };
    let query = options(query)?;
    let hosts: Vec<&str> = hosts.split(',').collect();
    if hosts.len() > 1 && hosts.iter().any(|host| host.is_empty()) {
        return Err(Error::Refused("the database's URL has an empty host between two commas".to_owned()));
    }
    if hosts.len() > HOSTS_MAX {
        return Err(Error::Refused(format!("the database's URL has more than {HOSTS_MAX} hosts")));
    }
    Ok(hosts.iter().map(|host| format!("{scheme}://{credentials}{host}{database}{query}")).collect())
}

/// The query of a URL without `target_session_attrs`, of which only what is done anyway can be asked for.
fn options(query: Option<&str>) -> Result<String, Error> {
    let Some(query) = query else { return Ok(String::new()) };
    let mut kept = Vec::new();
    for option in query.split('&') {
        match option.split_once('=') {
            Some(("target_session_attrs", "read-write" | "primary")) => {}
            Some(("target_session_attrs", _)) => {
                return Err(Error::Refused(
                    "target_session_attrs: the log needs the primary, so it can only be read-write or primary"
                        .to_owned(),
                ));
            }
            _ => kept.push(option),
        }
    }
    Ok(if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_printed() {
        for url in [
            "postgres://user:s3cr3t@host:notaport/db",
            "mysql://user:s3cr3t@host/db",
            "postgres://user:s3cr3t@host/db?sslmode=nonsense",
            "postgres://user:s3cr3t@[::1/db",
            "postgres://user:s3cr3t@a,,b/db",
            "postgres://user:s3cr3t@a,b:notaport/db",
            "postgres://user:s3cr3t@a,b/db?target_session_attrs=any",
        ] {
            let error = Hosts::parse(url).expect_err(url).to_string();
            assert!(!error.contains("s3cr3t"), "{error}");
        }
    }

    #[test]
    fn hosts_are_told_for_people() {
        let told = |url| Hosts::parse(url).expect(url).describe();
        assert_eq!(told("postgres://user:s3cr3t@host:1/db"), "PostgreSQL at host:1, database db, role user");
        let url = "postgres://user:p@ss@a:1,b,[::1]:3/db?target_session_attrs=read-write&sslmode=disable";
        assert_eq!(told(url), "PostgreSQL at a:1, b:5432, [::1]:3, database db, role user");
        assert_eq!(Hosts::parse(url).expect("good").count(), 3);
    }

    #[tokio::test]
    async fn every_host_that_fails_is_named() {
        let hosts = Hosts::parse("postgres://user:s3cr3t@127.0.0.1:1,127.0.0.1:2/db").expect("good");
        let error = hosts.connect(Duration::from_secs(5)).await.expect_err("nobody listens").to_string();
        assert!(error.contains("127.0.0.1:1:") && error.contains("127.0.0.1:2:"), "{error}");
        assert!(!error.contains("s3cr3t"), "{error}");
    }
}
