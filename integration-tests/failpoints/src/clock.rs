//! A wall clock that is wrong: the clocks of a cluster's machines may be minutes apart, and nothing may hang on them.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

/// How far the process's wall clock is ahead, in milliseconds; behind, if negative.
pub const CLOCK_VARIABLE: &str = "UNANIMITY_TEST_CLOCK_OFFSET_MS";

/// The wall clock of this process.
///
/// # Panics
/// The variable is no whole number.
#[must_use]
pub fn wall_clock() -> SystemTime {
    static OFFSET_MS: OnceLock<i64> = OnceLock::new();
    let offset = *OFFSET_MS.get_or_init(|| std::env::var(CLOCK_VARIABLE).map_or(0, |text| parse(&text)));
    shifted(SystemTime::now(), offset)
}

fn shifted(clock: SystemTime, offset_ms: i64) -> SystemTime {
    let offset = Duration::from_millis(offset_ms.unsigned_abs());
    let shifted = if offset_ms < 0 { clock.checked_sub(offset) } else { clock.checked_add(offset) };
    shifted.unwrap_or(clock)
}

/// A typing error would let a test pass whose clocks are all right.
fn parse(text: &str) -> i64 {
    text.parse().unwrap_or_else(|_| panic!("{CLOCK_VARIABLE}: {text} is no whole number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_ahead_or_behind() {
        let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        assert_eq!(shifted(clock, 600_000), clock + Duration::from_secs(600));
        assert_eq!(shifted(clock, -600_000), clock - Duration::from_secs(600));
        assert_eq!((parse("-600000"), parse("0")), (-600_000, 0));
        assert!(std::panic::catch_unwind(|| parse("ten minutes")).is_err());
    }
}
