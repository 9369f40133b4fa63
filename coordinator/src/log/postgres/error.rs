//! What an error of PostgreSQL or of the way to it says about what was done.
//!
//! The line between "not written" and "unknown" is drawn on the safe side: "not written" only where
//! the server answered an error in the statement itself, which undoes an autocommit statement, or
//! where nothing was sent. A termination (57P01) may come after the commit, while the server waits
//! for its standby: unknown.

use crate::log::Error;

/// Before anything was sent: no connection could be had.
pub(super) fn not_sent(error: &sqlx::Error) -> Error {
    Error::Unavailable(describe(error))
}

/// While a statement that reads was under way: nothing can have been written.
pub(super) fn reading(error: &sqlx::Error) -> Error {
    match writing(error) {
        Error::Unknown(text) => Error::Unavailable(text),
        other => other,
    }
}

/// While a statement that writes was under way.
pub(super) fn writing(error: &sqlx::Error) -> Error {
    let text = describe(error);
    match error {
        sqlx::Error::Database(error) => by_state(error.code().as_deref().unwrap_or(""), text),
        // These are found before anything is sent.
        sqlx::Error::Encode(_) | sqlx::Error::Configuration(_) | sqlx::Error::InvalidArgument(_) => {
            Error::Refused(text)
        }
        _ => Error::Unknown(text),
    }
}

/// Whether the server objected to the data of a statement, not to the statement.
pub(super) fn is_about_data(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    // Data exception, constraint violation, program limit exceeded.
    code.is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
}

fn by_state(state: &str, text: String) -> Error {
    match state {
        // Rolled back and worth another try: serialisation, deadlock, lock timeout, no memory, a
        // server that starts up, stops or became a standby, a prepared statement that a pooler lost.
        "40001" | "40P01" | "55P03" | "53200" | "53300" | "57P03" | "25006" | "26000" | "0A000" => {
            Error::Unavailable(text)
        }
        "53100" => Error::Refused(format!("{text}: free disk space on the database server")),
        "42501" => Error::Refused(format!("{text}: grant the role the rights on the log's tables")),
        // Missing tables and columns: somebody dropped or changed them.
        "42P01" | "42703" => Error::Schema(format!("{text}: run `unanimity migrate`")),
        // "Statement completion unknown", cancelled or terminated, broken connections, system errors
        // and internal errors: the answer does not say what became of it.
        _ if state.is_empty() || is_unclear(state) => Error::Unknown(text),
        _ => Error::Refused(text),
    }
}

fn is_unclear(state: &str) -> bool {
    state == "40003" || ["08", "57", "58", "F0", "XX"].iter().any(|class| state.starts_with(class))
}

/// The error's words. sqlx puts neither URL nor password into them.
pub(super) fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => match error.code() {
            Some(code) => format!("{} (SQLSTATE {code})", error.message()),
            None => error.message().to_owned(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c4_only_an_answer_to_the_statement_itself_counts_as_not_written() {
        for state in ["53100", "42501", "23514", "22021", "54000", "0L000"] {
            assert!(matches!(by_state(state, String::new()), Error::Refused(_)), "{state}");
        }
        for state in ["40001", "40P01", "53300", "57P03", "25006"] {
            assert!(matches!(by_state(state, String::new()), Error::Unavailable(_)), "{state}");
        }
        for state in ["", "40003", "08006", "57014", "57P01", "57P02", "58030", "XX000", "XX001"] {
            assert!(matches!(by_state(state, String::new()), Error::Unknown(_)), "{state}");
        }
        let broken = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert!(matches!(writing(&broken), Error::Unknown(_)));
        assert!(matches!(reading(&broken), Error::Unavailable(_)));
        assert!(matches!(not_sent(&broken), Error::Unavailable(_)));
    }
}
