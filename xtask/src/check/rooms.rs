//! Which files of a crate may know which library.
//!
//! The engine of the coordinator sees traits: SQL stays behind the log, gRPC at the edges. `server.rs` puts the routes
//! of both protocols on one port, and the commands of `cli` that talk to a running node are gRPC clients, so both are
//! edges. `participant_database` looks at a participant's database for an operator: another database than the log's, so
//! another room, and nothing but `cli` asks it. In the SDK the database is known to what writes into the participant's
//! own transaction, nothing else.

use std::path::Path;

use crate::files;

pub(super) const REMEDY: &str = "put the code behind a trait or function of the room that owns the library \
(ARCHITECTURE.md, the map of the crates); the rooms are listed in xtask/src/check/rooms.rs";

/// Only the rooms may mention the library, or one whose name begins with its name and `_`.
struct Rule {
    source: &'static str,
    library: &'static str,
    /// A room `x` is `x.rs` and everything in `x/`; a `*` at the end stands for any further letters.
    rooms: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        source: "coordinator/src",
        library: "sqlx",
        rooms: &["log", "engine/projection*", "participant_database"],
    },
    Rule {
        source: "coordinator/src",
        library: "tonic",
        rooms: &["api", "delivery", "cluster", "cli", "server"],
    },
    Rule { source: "participant-sdk/src", library: "sqlx", rooms: &["fence", "xa", "outbox"] },
];

pub(super) fn find(root: &Path) -> anyhow::Result<Vec<String>> {
    Ok(violations(&files::read(root, |file| file.ends_with(".rs"))?))
}

fn violations(sources: &[(String, String)]) -> Vec<String> {
    let mut problems = Vec::new();
    for rule in RULES {
        let outside = sources.iter().filter_map(|(path, text)| {
            let inner = path.strip_prefix(rule.source)?.strip_prefix('/')?;
            let allowed = rule.rooms.iter().any(|room| is_in_room(inner, room));
            (!allowed).then_some((path, text))
        });
        for (path, text) in outside {
            for (number, line) in text.lines().enumerate() {
                if mentions(files::code_of(line), rule.library) {
                    let rooms = rule.rooms.join(", ");
                    let (library, line) = (rule.library, number + 1);
                    problems.push(format!("{path}:{line} mentions {library}, which only {rooms} may"));
                }
            }
        }
    }
    problems
}

fn is_in_room(path: &str, room: &str) -> bool {
    match room.strip_suffix('*') {
        Some(beginning) => path.starts_with(beginning),
        None => path.strip_prefix(room).is_some_and(|rest| rest == ".rs" || rest.starts_with('/')),
    }
}

/// Whether a line has a path into `library`, or into a crate of its family such as `tonic_health`.
fn mentions(code: &str, library: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(library).any(|(at, _)| {
        let before = &code[..at];
        let rest = &code[at + library.len()..];
        let name_end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (suffix, after) = rest.split_at(name_end);
        let is_name = !before.ends_with(is_word) && (suffix.is_empty() || suffix.starts_with('_'));
        let imported = before.trim_end().ends_with("use") || before.trim_end().ends_with("extern crate");
        is_name && (after.starts_with("::") || imported)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_found(path: &str, text: &str) -> usize {
        violations(&[(path.to_owned(), text.to_owned())]).len()
    }

    #[test]
    fn the_engine_mentions_neither() {
        assert_eq!(
            lines_found("coordinator/src/engine/partition.rs", "use sqlx::Pool;\nuse tonic::Status;"),
            2
        );
        assert_eq!(lines_found("coordinator/src/engine/partition.rs", "fn f(e: sqlx::Error) {}"), 1);
        assert_eq!(lines_found("coordinator/src/engine.rs", "use tonic_health::server;"), 1);
        assert_eq!(lines_found("coordinator/src/engine.rs", "use sqlx;"), 1);
    }

    #[test]
    fn the_rooms_may() {
        for room in ["log.rs", "log/postgres.rs", "engine/projection.rs", "engine/projection_sql/rows.rs"] {
            assert_eq!(lines_found(&format!("coordinator/src/{room}"), "use sqlx::Pool;"), 0, "{room}");
        }
        for room in ["api.rs", "api/grpc.rs", "delivery/stream.rs", "cli/tx.rs", "server.rs"] {
            assert_eq!(lines_found(&format!("coordinator/src/{room}"), "use tonic::Status;"), 0, "{room}");
        }
        assert_eq!(lines_found("coordinator/src/login.rs", "use sqlx::Pool;"), 1, "a name that begins alike");
    }

    #[test]
    fn the_sdk_knows_sql_in_its_fence_alone() {
        assert_eq!(lines_found("participant-sdk/src/client.rs", "use sqlx::Pool;"), 1);
        assert_eq!(lines_found("participant-sdk/src/fence/postgres.rs", "use sqlx::Pool;"), 0);
        assert_eq!(lines_found("participant-sdk/testing/src/lib.rs", "use sqlx::Pool;"), 0, "another crate");
    }

    #[test]
    fn words_are_no_mentions() {
        for line in ["// sqlx::query", "let my_sqlx = 1;", "supersqlx::a", "let level = \"sqlx=warn\";"] {
            assert_eq!(lines_found("coordinator/src/engine.rs", line), 0, "{line}");
        }
    }
}
