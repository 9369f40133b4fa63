//! What comes from outside, at random: bytes, texts, messages, bodies, files, commands in any order. Nothing may
//! panic, and nothing may be taken for what it is not.
//!
//! A failure is shrunk, its seed is printed and kept in a file beside the source (`*.regressions`, to be committed), and
//! is tried first from then on. `UNANIMITY_FUZZ_CASES` makes it longer.
#![allow(clippy::unwrap_used, reason = "a test")]

mod blocks;
mod bodies;
mod configuration;
mod dice;
mod machine;
mod parsers;
mod wire;

use proptest::test_runner::{Config, FileFailurePersistence};

/// So many cases, or as many as `UNANIMITY_FUZZ_CASES` says.
fn cases(ordinarily: u32) -> Config {
    let asked = std::env::var("UNANIMITY_FUZZ_CASES").ok();
    let cases = asked.map_or(ordinarily, |cases| cases.parse().expect("UNANIMITY_FUZZ_CASES is a number"));
    let failure_persistence = Some(Box::new(FileFailurePersistence::WithSource("regressions")) as _);
    Config { cases, failure_persistence, max_shrink_iters: 20_000, ..Config::default() }
}
