//! What a client heard, what is in the databases, and what the coordinator's history says must be one story.

use crate::orders::{Heard, Told};

/// What does not fit in what a client heard of a transaction to what became of it.
pub(crate) fn of_hearsay(heard: &Heard, committed: bool) -> Vec<&'static str> {
    let mut problems = Vec::new();
    if heard.has(Told::Committed) && heard.has(Told::Aborted) {
        problems.push("its client saw two outcomes");
    }
    if heard.has(if committed { Told::Aborted } else { Told::Committed }) {
        problems.push("its client heard something else than what is");
    }
    if !heard.has_outcome() {
        problems.push("its client never heard");
    }
    problems
}

/// What does not fit in history, status and whether it is a heuristic one, to what became of a transaction.
pub(crate) fn of_history(recorded: Option<&(String, bool)>, committed: bool) -> Option<&'static str> {
    match recorded {
        Some((status, false)) if status == if committed { "committed" } else { "aborted" } => None,
        Some((_, true)) => Some("a heuristic outcome that nobody asked for"),
        _ => Some("history says something else"),
    }
}
