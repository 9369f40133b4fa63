//! What an error of SQLite says about what was done.
//!
//! SQLite undoes a statement that fails, so nearly everything is "not written". Only an input/output
//! error is unclear: the write-ahead log may hold the commit although its flush failed.

use crate::log::Error;

const SQLITE_PERM: i32 = 3;
const SQLITE_BUSY: i32 = 5;
const SQLITE_LOCKED: i32 = 6;
const SQLITE_NOMEM: i32 = 7;
const SQLITE_READONLY: i32 = 8;
const SQLITE_IOERR: i32 = 10;
const SQLITE_CORRUPT: i32 = 11;
const SQLITE_FULL: i32 = 13;
const SQLITE_CANTOPEN: i32 = 14;
const SQLITE_TOOBIG: i32 = 18;
const SQLITE_CONSTRAINT: i32 = 19;
const SQLITE_MISMATCH: i32 = 20;
const SQLITE_NOTADB: i32 = 26;
/// The shared-memory file could not grow: comes before anything is written, on a full disk.
const SQLITE_IOERR_SHMSIZE: i32 = 10 | (19 << 8);

/// While a statement that writes was under way.
pub(super) fn writing(error: &sqlx::Error) -> Error {
    let text = describe(error);
    let Some(code) = extended_code(error) else {
        return match error {
            sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) => Error::Refused(text),
            _ => Error::Unknown(text),
        };
    };
    match code & 0xff {
        _ if code == SQLITE_IOERR_SHMSIZE => Error::Refused(format!("{text}: is the disk full?")),
        SQLITE_BUSY | SQLITE_LOCKED | SQLITE_NOMEM => Error::Unavailable(text),
        SQLITE_IOERR => Error::Unknown(text),
        SQLITE_FULL => Error::Refused(format!("{text}: free space on the disk of the log's directory")),
        SQLITE_PERM | SQLITE_READONLY | SQLITE_CANTOPEN => {
            Error::Refused(format!("{text}: check the rights on the log's file and directory"))
        }
        SQLITE_CORRUPT | SQLITE_NOTADB => {
            Error::Schema(format!("{text}: the file is damaged or no SQLite database"))
        }
        _ => Error::Refused(text),
    }
}

/// While a statement that reads was under way: nothing can have been written.
pub(super) fn reading(error: &sqlx::Error) -> Error {
    match writing(error) {
        Error::Unknown(text) => Error::Unavailable(text),
        other => other,
    }
}

/// Whether SQLite objected to the data of a statement, not to the statement.
pub(super) fn is_about_data(error: &sqlx::Error) -> bool {
    extended_code(error)
        .is_some_and(|code| matches!(code & 0xff, SQLITE_TOOBIG | SQLITE_CONSTRAINT | SQLITE_MISMATCH))
}

fn extended_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

pub(super) fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => match error.code() {
            Some(code) => format!("{} (SQLite {code})", error.message()),
            None => error.message().to_owned(),
        },
        other => other.to_string(),
    }
}
