//! Texts of others, made fit for logs and pages; locks that survive a panic; errors with their causes.

use std::error::Error;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use unanimity_types::Limits;

/// At most [`Limits::ERROR_BYTES_MAX`] bytes of a text, on one line and without invisible characters.
pub(super) fn printable(text: &str) -> Box<str> {
    let mut clean = String::with_capacity(text.len().min(Limits::ERROR_BYTES_MAX));
    let mut gap = false;
    for c in text.chars() {
        if is_hidden(c) {
            gap = !clean.is_empty();
            continue;
        }
        if clean.len() + usize::from(gap) + c.len_utf8() > Limits::ERROR_BYTES_MAX {
            break;
        }
        if std::mem::take(&mut gap) {
            clean.push(' ');
        }
        clean.push(c);
    }
    clean.into_boxed_str()
}

/// Whether a character shows nothing, or turns around what stands beside it.
pub(super) fn is_hidden(c: char) -> bool {
    c.is_control()
        || c.is_whitespace()
        || matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}')
}

/// [`printable`] of bytes that should be text.
pub(super) fn printable_bytes(bytes: &[u8]) -> Box<str> {
    // Four times the limit is enough for any UTF-8, and keeps the copy small.
    let head = &bytes[..bytes.len().min(4 * Limits::ERROR_BYTES_MAX)];
    printable(&String::from_utf8_lossy(head))
}

/// An error and its causes in one line. `reqwest` and `tonic` say what happened only in the last one.
pub(super) fn chain(error: &dyn Error) -> Box<str> {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    printable(&text)
}

/// Locks. What the locks of delivery guard is consistent between any two statements that could
/// panic, and a lost lock would lose calls.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_texts_become_one_short_line() {
        assert_eq!(&*printable("  no\r\nstock\u{202E}\0 "), "no stock");
        assert_eq!(printable(&"ä".repeat(2_000)).len(), 1_024);
        assert_eq!(printable_bytes(&[0xff; 9_000]).len(), 1_023);
        assert_eq!(&*printable_bytes(b""), "");
    }
}
