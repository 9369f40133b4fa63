//! `cargo xtask check`: one line per check, and what to do where one fails.
//!
//! A check is a pure function from files or metadata to the list of what is wrong, with a planted violation in its
//! tests: a check that cannot fail is worth nothing. Those that run a tool are in [`tools`].

pub(crate) mod directions;
mod error_pages;
mod failpoints;
mod links;
pub(crate) mod migrations;
mod mutants;
mod rooms;
mod tools;
mod words;

use std::path::Path;
use std::time::Instant;

use anyhow::bail;

use crate::files;

/// One check: what is wrong, one line each; nothing where all is well.
struct Check {
    name: &'static str,
    /// What to do about a failure.
    remedy: &'static str,
    find: fn(&Path) -> anyhow::Result<Vec<String>>,
}

/// The quick ones first: a slip should not have to wait for clippy.
const CHECKS: &[Check] = &[
    Check { name: "words", remedy: words::REMEDY, find: words::find },
    Check { name: "migrations", remedy: migrations::REMEDY, find: migrations::find },
    Check { name: "error-pages", remedy: error_pages::REMEDY, find: error_pages::find },
    Check { name: "links", remedy: links::REMEDY, find: links::find },
    Check { name: "directions", remedy: directions::REMEDY, find: directions::find },
    Check { name: "failpoints", remedy: failpoints::REMEDY, find: failpoints::find },
    Check { name: "mutants", remedy: mutants::REMEDY, find: mutants::find },
    Check { name: "rooms", remedy: rooms::REMEDY, find: rooms::find },
    Check { name: "format", remedy: "run `cargo fmt --all`", find: tools::format },
    Check { name: "dependencies", remedy: tools::DENY_REMEDY, find: tools::deny },
    Check { name: "advisories", remedy: tools::DENY_REMEDY, find: tools::advisories },
    Check {
        name: "clippy",
        remedy: "mend what clippy says; an `expect` needs its reason",
        find: tools::clippy,
    },
    Check { name: "docs", remedy: "mend what rustdoc says", find: tools::docs },
];

/// Runs the checks and says whether all passed.
pub(crate) fn run(only: &[String]) -> anyhow::Result<bool> {
    if let Some(unknown) = only.iter().find(|name| CHECKS.iter().all(|check| check.name != name.as_str())) {
        let names: Vec<&str> = CHECKS.iter().map(|check| check.name).collect();
        bail!("there is no check {unknown}; there are {}", names.join(", "));
    }
    let root = files::root();
    let mut failed = Vec::new();
    for check in CHECKS.iter().filter(|check| only.is_empty() || only.iter().any(|name| name == check.name)) {
        let started = Instant::now();
        // A check that cannot be carried out has not passed.
        let problems = (check.find)(&root).unwrap_or_else(|error| vec![format!("{error:#}")]);
        let verdict = if problems.is_empty() { "ok" } else { "failed" };
        println!("{:<14} {verdict:<8} {:>6.1} s", check.name, started.elapsed().as_secs_f64());
        if !problems.is_empty() {
            for problem in &problems {
                println!("    {}", problem.replace('\n', "\n    "));
            }
            println!("    → {}", check.remedy);
            failed.push(check.name);
        }
    }
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
    }
    Ok(failed.is_empty())
}
