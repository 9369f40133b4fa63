//! What commands print: tables for people, JSON for programs.

use std::io::Write as _;

use serde_json::json;
use unanimity_types::Timestamp;

use super::client::CallError;
use crate::api::rfc3339;
use crate::wall_clock;

/// Where answers go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    is_json: bool,
}

impl Output {
    pub(super) fn new(is_json: bool) -> Self {
        Self { is_json }
    }

    /// Text for people, or the value for programs.
    pub(super) fn answer(self, text: impl FnOnce() -> String, value: impl FnOnce() -> serde_json::Value) {
        let shown = if self.is_json { format!("{:#}", value()) } else { text() };
        write_line(&shown);
    }

    /// A line of an answer that has many: text, or one JSON object a line.
    pub(super) fn line(self, text: impl FnOnce() -> String, value: impl FnOnce() -> serde_json::Value) {
        let shown = if self.is_json { value().to_string() } else { text() };
        write_line(&shown);
    }

    /// What went wrong, on stderr.
    pub(super) fn error(self, error: &anyhow::Error) {
        let text = if self.is_json {
            let code = error.downcast_ref::<CallError>().and_then(|error| error.code.clone());
            json!({ "error": { "message": format!("{error:#}"), "code": code } }).to_string()
        } else {
            format!("error: {error:#}")
        };
        // Nobody is left to tell if stderr is closed.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// A closed pipe (`unanimity tx list | head`) is no error.
fn write_line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.trim_end_matches('\n'));
    let _ = out.flush();
}

/// Rows in aligned columns, two spaces apart. The last column is not padded.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if at > 0 {
                line.push_str("  ");
            }
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What a participant, a hook or a caller wrote, safe to print: no control character reaches the
/// terminal.
pub(super) fn safe(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}

/// A moment, absolute and relative: `2026-11-21T12:00:00.123Z (5m ago)`. `-` for 0.
pub(super) fn moment(at_ms: u64) -> String {
    if at_ms == 0 {
        return "-".to_owned();
    }
    format!("{} ({})", rfc3339(Timestamp(at_ms)), relative(at_ms, now_ms()))
}

/// A moment as JSON: RFC 3339, or null for 0.
pub(super) fn moment_json(at_ms: u64) -> Option<String> {
    (at_ms > 0).then(|| rfc3339(Timestamp(at_ms)))
}

/// A moment relative to now. `-` for 0.
pub(super) fn ago(at_ms: u64) -> String {
    if at_ms == 0 { "-".to_owned() } else { relative(at_ms, now_ms()) }
}

fn now_ms() -> u64 {
    u64::try_from(wall_clock::since_epoch().as_millis()).unwrap_or(u64::MAX)
}

fn relative(at_ms: u64, now_ms: u64) -> String {
    let (span, is_future) = if at_ms > now_ms { (at_ms - now_ms, true) } else { (now_ms - at_ms, false) };
    let text = match span {
        0..1_000 => return "now".to_owned(),
        1_000..120_000 => format!("{}s", span / 1_000),
        120_000..7_200_000 => format!("{}m", span / 60_000),
        7_200_000..172_800_000 => format!("{}h", span / 3_600_000),
        _ => format!("{}d", span / 86_400_000),
    };
    if is_future { format!("in {text}") } else { format!("{text} ago") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows =
            vec![vec!["a".to_owned(), "long one".to_owned()], vec!["längste".to_owned(), String::new()]];
        assert_eq!(table(&["X", "Y"], &rows), "X        Y\na        long one\nlängste\n");
    }

    #[test]
    fn times_are_relative() {
        let now = 10_000_000_000;
        for (at, text) in [
            (now, "now"),
            (now - 5_000, "5s ago"),
            (now + 90_000, "in 90s"),
            (now - 180_000, "3m ago"),
            (now - 10_800_000, "3h ago"),
            (now - 259_200_000, "3d ago"),
        ] {
            assert_eq!(relative(at, now), text);
        }
    }

    #[test]
    fn hostile_text_does_not_reach_the_terminal() {
        assert_eq!(safe("a\u{1b}[31mb\nc"), "a\u{FFFD}[31mb\u{FFFD}c");
    }
}
