//! Which format blocks are written in: the one that every node of the cluster reads (protocol M18).

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use super::FORMAT_VERSION;

/// The newest format that this process reads and writes: [`FORMAT_VERSION`], unless a test plays an older binary.
#[must_use]
pub fn known_format() -> u16 {
    older_for_a_test().unwrap_or(FORMAT_VERSION)
}

/// `UNANIMITY_TEST_FORMAT=1` lets a binary with failpoints know no more than format 1.
#[cfg(feature = "failpoints")]
fn older_for_a_test() -> Option<u16> {
    static OLDER: std::sync::OnceLock<Option<u16>> = std::sync::OnceLock::new();
    let read = || std::env::var("UNANIMITY_TEST_FORMAT").ok()?.parse().ok();
    OLDER.get_or_init(read).filter(|format| (1..=FORMAT_VERSION).contains(format))
}

#[cfg(not(feature = "failpoints"))]
const fn older_for_a_test() -> Option<u16> {
    None
}

/// The format that the cluster agreed on, shared by all who write blocks. It only grows; a clone sees the same.
#[derive(Debug, Clone)]
pub struct AgreedFormat(Arc<AtomicU16>);

impl AgreedFormat {
    /// Agreed from the start: what a log with one node has, or what the cluster said first.
    #[must_use]
    pub fn at(format: u16) -> Self {
        Self(Arc::new(AtomicU16::new(format.clamp(1, FORMAT_VERSION))))
    }

    /// The format to write now.
    #[must_use]
    pub fn get(&self) -> u16 {
        self.0.load(Ordering::Acquire)
    }

    /// The cluster agreed on this one. An older word than the last is not heard.
    pub fn raise(&self, format: u16) {
        self.0.fetch_max(format.min(FORMAT_VERSION), Ordering::AcqRel);
    }
}

impl Default for AgreedFormat {
    fn default() -> Self {
        Self::at(known_format())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m18_what_was_agreed_only_grows_and_never_beyond_what_is_known() {
        let agreed = AgreedFormat::at(1);
        let clone = agreed.clone();
        assert_eq!(clone.get(), 1);
        agreed.raise(2);
        agreed.raise(1);
        assert_eq!(clone.get(), 2);
        agreed.raise(99);
        assert_eq!(clone.get(), FORMAT_VERSION);
        assert_eq!(AgreedFormat::default().get(), FORMAT_VERSION);
    }
}
