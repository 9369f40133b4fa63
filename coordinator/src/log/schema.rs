//! Which schema a database has, and whether this binary knows it.

use sqlx::FromRow;
use sqlx::migrate::{MigrateError, Migrator};

use super::{Error, LogIdentity};

/// Where applied migrations are recorded. Not sqlx's default: a participant's tables may live in the
/// same database, with migrations of their own.
pub(super) const MIGRATIONS_TABLE: &str = "log_migrations";

/// How many partitions a log is born with if nobody says otherwise.
pub const PARTITIONS_DEFAULT: u16 = 16;

/// What `migrate` found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// The log.
    pub identity: LogIdentity,
    /// Whether it was born just now.
    pub born: bool,
    /// How many migrations were applied just now.
    pub applied: usize,
}

/// A migration that the database says was applied.
#[derive(Debug, FromRow)]
pub(super) struct Applied {
    pub(super) version: i64,
    success: bool,
    checksum: Vec<u8>,
}

/// Checks that the database has exactly the migrations that this binary knows.
pub(super) fn check_applied(known: &Migrator, applied: &[Applied]) -> Result<(), Error> {
    for found in applied {
        let version = found.version;
        let Some(migration) = known.iter().find(|migration| migration.version == version) else {
            return Err(newer(version));
        };
        if !found.success {
            return Err(half(version));
        }
        if migration.checksum.as_ref() != found.checksum.as_slice() {
            return Err(changed(version));
        }
    }
    match known.iter().find(|migration| applied.iter().all(|found| found.version != migration.version)) {
        None => Ok(()),
        Some(_) if applied.is_empty() => Err(missing()),
        Some(migration) => Err(Error::Schema(format!(
            "the log's schema is older than this binary (migration {} is not applied): \
             run `unanimity migrate`",
            migration.version
        ))),
    }
}

/// What went wrong while migrating; `sql` says what an error of the database means.
pub(super) fn migration_failed(error: &MigrateError, sql: impl Fn(&sqlx::Error) -> Error) -> Error {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => sql(error),
        MigrateError::VersionMissing(version) => newer(*version),
        MigrateError::VersionMismatch(version) => changed(*version),
        MigrateError::Dirty(version) => half(*version),
        other => Error::Schema(other.to_string()),
    }
}

/// The number of partitions is chosen at birth, for ever: every xid's place depends on it.
pub(super) fn check_partitions(identity: LogIdentity, wanted: Option<u16>) -> Result<(), Error> {
    match wanted {
        Some(wanted) if wanted != identity.partitions => Err(Error::Schema(format!(
            "this log was born with {} partitions, which cannot be changed to {wanted}",
            identity.partitions
        ))),
        _ => Ok(()),
    }
}

/// A number of partitions that a log can be born with.
pub(super) fn check_birth(partitions: u16) -> Result<u16, Error> {
    if (1..=unanimity_types::SLOTS).contains(&partitions) {
        Ok(partitions)
    } else {
        Err(Error::Schema(format!("a log has 1 to {} partitions, not {partitions}", unanimity_types::SLOTS)))
    }
}

pub(super) fn missing() -> Error {
    Error::Schema("the database has no log yet: run `unanimity migrate`".to_owned())
}

fn newer(version: i64) -> Error {
    Error::Schema(format!(
        "the log's schema is newer than this binary (it has migration {version}): \
         use the version of Unanimity that migrated it, or a later one"
    ))
}

fn changed(version: i64) -> Error {
    Error::Schema(format!(
        "migration {version} of the log's schema is not the one that this binary knows: \
         the database was migrated by a build of another origin"
    ))
}

fn half(version: i64) -> Error {
    Error::Schema(format!(
        "migration {version} of the log's schema was begun and not finished: restore the database or undo it by hand"
    ))
}
