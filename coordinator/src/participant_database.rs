//! A look at a participant's database, for `unanimity check --participant-database`: whether it can prepare
//! transactions at all, and which prepared ones of ours stand there.
//!
//! A room of its own beside the log, the only other one that knows SQL: it is somebody else's database, which
//! this looks at and never writes to. To finish a prepared transaction takes the coordinator's word and the
//! participant's ledger, and both are the participant's affair.

mod mysql;
mod postgres;

use std::time::Duration;

/// What the gids of our SDK's resource managers begin with: `una1:log:xid:key`.
const GID_PREFIX: &str = "una1:";
/// A prepared transaction that stands longer holds its locks, and on PostgreSQL the vacuum horizon, for no
/// good reason: a decision takes seconds.
const OLD: Duration = Duration::from_secs(3_600);
/// Opening a connection and asking three questions.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(15);

/// What was found.
#[derive(Debug, Clone)]
pub(crate) struct Findings {
    /// The server, for people.
    pub(crate) server: String,
    /// What makes two-phase branches impossible here.
    pub(crate) problems: Vec<String>,
    /// What will hurt.
    pub(crate) warnings: Vec<String>,
    /// The prepared transactions of our form, oldest first.
    pub(crate) prepared: Vec<Prepared>,
    /// Prepared transactions of others.
    pub(crate) foreign: usize,
}

/// A prepared transaction of our form. Its log may be another coordinator's.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    /// `una1:log:xid:key`.
    pub(crate) gid: String,
    /// The coordinator's log, as a UUID.
    pub(crate) log_id: String,
    /// The global transaction, as a UUID.
    pub(crate) xid: String,
    /// How long it has stood there; MariaDB and MySQL do not tell.
    pub(crate) age: Option<Duration>,
    /// The database that it belongs to, and who may finish it.
    pub(crate) place: Option<String>,
}

/// Why nothing was found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The URL names no such database.
    #[error("a participant's database is postgres://…, mysql://… or mariadb://…")]
    Scheme,
    /// It cannot be reached or asked. The text has no URL in it.
    #[error("{0}")]
    Unreachable(String),
}

/// Looks.
///
/// # Errors
/// If the URL is none of ours, or the database does not answer.
pub(crate) async fn look(url: &str) -> Result<Findings, Error> {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    let looked = async {
        match scheme {
            "postgres" | "postgresql" => postgres::look(url).await,
            "mysql" | "mariadb" => mysql::look(url).await,
            _ => return Err(Error::Scheme),
        }
        .map_err(|error| Error::Unreachable(error.to_string()))
    };
    match tokio::time::timeout(LOOK_WAIT_MAX, looked).await {
        Ok(findings) => findings,
        Err(_) => Err(Error::Unreachable(format!("no answer within {} s", LOOK_WAIT_MAX.as_secs()))),
    }
}

/// What stands there too long.
fn old(prepared: &[Prepared]) -> Option<String> {
    let old = prepared.iter().filter(|prepared| prepared.age.is_some_and(|age| age > OLD)).count();
    (old > 0).then(|| {
        format!(
            "{old} prepared transactions are older than an hour: they hold their locks, and keep the database from \
             cleaning up. Look at their xids (unanimity tx show); their participants finish them once they run. Never \
             finish one by hand before you know what was decided"
        )
    })
}

/// The parts of a gid of ours; `None` for anything else.
fn parts(gid: &str) -> Option<(String, String)> {
    let mut fields = gid.strip_prefix(GID_PREFIX)?.split(':');
    let (log, xid, key) = (fields.next()?, fields.next()?, fields.next()?);
    let is_hex = |text: &str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if fields.next().is_some() || ![log, xid, key].into_iter().all(is_hex) {
        return None;
    }
    let uuid = |text: &str| uuid::Uuid::try_parse(text).ok().map(|uuid| uuid.to_string());
    Some((uuid(log)?, uuid(xid)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_gids_of_our_form_are_ours() {
        let (log, key) = ("0191e7a45c1b7d3e8f001a2b3c4d5e6f", "5d41402abc4b2a76b9719d911017c592");
        let found = parts(&format!("una1:{log}:{log}:{key}")).expect("ours");
        assert_eq!(found.0, "0191e7a4-5c1b-7d3e-8f00-1a2b3c4d5e6f");
        for other in [
            "",
            "una1:",
            "una1:x:y:z",
            &format!("una2:{log}:{log}:{key}"),
            &format!("una1:{log}:{log}:{key}:"),
        ] {
            assert!(parts(other).is_none(), "{other}");
        }
    }

    #[tokio::test]
    async fn other_databases_are_refused_without_their_url() {
        let error = look("oracle://u:s3cret@h/d").await.expect_err("no such database").to_string();
        assert!(error.contains("postgres://") && !error.contains("s3cret"), "{error}");
        let error = look("postgres://u:s3cret@127.0.0.1:1/d").await.expect_err("nobody there").to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }
}
