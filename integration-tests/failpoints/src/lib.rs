//! Points at which a test lets the process die: as abruptly as a crash, and exactly there.
//!
//! `UNANIMITY_FAILPOINT=append.after.decided@2` aborts the process (SIGABRT, nothing is unwound, flushed or answered)
//! when it comes to that point for the second time, after it said so on stderr. Points exist only in binaries that are
//! built with the feature `failpoints` of `unanimity-coordinator` and `unanimity-sdk`, which the crash-point matrix
//! (docs/testing.md) asks for; other builds do not have this crate, and refuse the variable.
//!
//! Not the crate `fail`: its actions sleep, panic and return, but none ends the process without unwinding, and whether a
//! point was registered is known only when it is reached. Here all points stand in a list, and a test holds the list
//! and the matrix together: a point that no test fires is an error (I12).

use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

mod clock;
mod points;

pub use clock::{CLOCK_VARIABLE, wall_clock};
pub use points::{COORDINATOR, SDK};

/// Names the point and the hit: `point@hit`, or `point` for the first.
pub const VARIABLE: &str = "UNANIMITY_FAILPOINT";

/// The point at which this process is to die.
#[derive(Debug)]
struct Armed {
    point: String,
    hit: u32,
    hits: AtomicU32,
}

/// Whether this is the name of a point.
#[must_use]
pub fn exists(point: &str) -> bool {
    COORDINATOR.contains(&point) || SDK.contains(&point)
}

/// The line that a process writes to stderr when it dies at a point.
#[must_use]
pub fn last_words(point: &str, hit: u32) -> String {
    format!("failpoint {point}@{hit}: aborting")
}

/// The process comes to a point. Ends it if that is the armed one.
///
/// # Panics
/// The point is not in the list, so no test can know of it; or the variable names none.
pub fn reach(point: &str) {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    assert!(exists(point), "the point {point} is not in the list of failpoints");
    let Some(armed) = ARMED.get_or_init(|| std::env::var(VARIABLE).ok().map(|text| parse(&text))) else {
        return;
    };
    if armed.point == point && armed.hits.fetch_add(1, Ordering::Relaxed) + 1 == armed.hit {
        // Written at once: stderr is not buffered.
        let _ = writeln!(std::io::stderr().lock(), "{}", last_words(point, armed.hit));
        std::process::abort();
    }
}

/// A typing error would let a test pass that fires nothing.
fn parse(text: &str) -> Armed {
    let (point, hit) = text.split_once('@').unwrap_or((text, "1"));
    assert!(exists(point), "{VARIABLE}: there is no point {point}");
    let hit = hit.parse().ok().filter(|hit| *hit > 0);
    let hit = hit.unwrap_or_else(|| panic!("{VARIABLE}: {text} does not end in a number from 1"));
    Armed { point: point.to_owned(), hit, hits: AtomicU32::new(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_and_its_hit_are_read() {
        let armed = parse("append.after.decided@2");
        assert_eq!((armed.point.as_str(), armed.hit), ("append.after.decided", 2));
        assert_eq!(parse("recover.after_read").hit, 1);
    }

    #[test]
    fn what_would_never_fire_is_refused() {
        for text in ["append.after.decide@1", "recover.after_read@0", "recover.after_read@", ""] {
            assert!(std::panic::catch_unwind(|| parse(text)).is_err(), "{text}");
        }
        assert!(std::panic::catch_unwind(|| reach("nowhere")).is_err());
    }

    #[test]
    fn no_point_is_listed_twice() {
        let mut all: Vec<_> = COORDINATOR.iter().chain(SDK).collect();
        all.sort_unstable();
        let listed = all.len();
        all.dedup();
        assert_eq!(all.len(), listed);
    }
}
